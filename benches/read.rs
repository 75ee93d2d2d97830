//! Queries: how fast, and how soon they show what happened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::baseline::Baseline;
use crate::load::{self, Connection, Load, Requests, Until};
use crate::report::{Figure, Plan, Report, Target, interleaved};
use crate::servers::{Instance, Servers};

const GROUP: &str = "read";

const PRODUCTS: u64 = 2_000;

/// Events that happen each second while it's measured how soon they show.
const EVENTS_PER_S: u64 = 1_000;

/// Clients that share them.
const CLIENTS: u64 = 50;

pub async fn measure(plan: &Plan, report: &mut Report) {
    if plan.wants(GROUP, "product") || plan.wants(GROUP, "product-while-stock-moves") {
        products(plan, report).await;
    }
    if plan.wants(GROUP, "visible-p50") || plan.wants(GROUP, "visible-p99") {
        visible(plan, report).await;
    }
    if plan.wants(GROUP, "searchable-p50") || plan.wants(GROUP, "searchable-p99") {
        searchable(plan, report).await;
    }
}

/// Products that are made each second while it's measured how soon the search has them.
const NEW_PER_S: u64 = 50;

fn sku(number: u64) -> String {
    format!("SKU-{}", number % PRODUCTS)
}

/// An instance with products, and the position at which all of them are there.
async fn shop(servers: &Servers) -> Instance {
    let shop = Instance::start(servers, &["command-api", "query-api", "projections"]).await;
    let products: Requests = Arc::new(|number| product(&sku(number), "A mug"));
    load::run(&shop.address, 64, Until::Answered(PRODUCTS), products).await;
    let mut connection = Connection::open(&shop.address).await;
    let last = connection.send(&receipt(0)).await.expect("a position");
    connection.send(&load::get_at(&format!("/v1/products/{}", sku(0)), last)).await;
    shop
}

fn product(sku: &str, title: &str) -> String {
    let description = "It holds tea. ".repeat(20);
    let body = format!(
        "{{\"sku\": \"{sku}\", \"title\": \"{title}\", \"description\": \"{description}\", \
         \"brand\": \"Clayworth\", \"category\": [\"Mugs\"], \"price\": {{\"amount\": 1250, \"currency\": \"GBP\"}}}}"
    );
    load::post("/v1/products", &body, crate::write::fresh())
}

fn receipt(number: u64) -> String {
    let path = format!("/v1/stock/{}/receipts", sku(number));
    load::post(&path, "{\"quantity\": 1}", crate::write::fresh())
}

/// A product's page, from the platform and from a handler that only selects the row: alone, and while
/// stock of all products moves.
async fn products(plan: &Plan, report: &mut Report) {
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    let baseline = Baseline::start(servers.postgres.local_url()).await;
    let until = Until::Elapsed(plan.round());
    let pages: Requests = Arc::new(|number| load::get(&format!("/v1/products/{}", sku(scattered(number)))));
    let rows: Requests = Arc::new(|number| load::get(&format!("/{}", sku(scattered(number)))));
    let figure = Figure { group: GROUP, name: "product", unit: "/s", target: Target::RatioAtLeast(4.0) };
    let rounds = interleaved(
        plan,
        async || load::run(&shop.address, 64, until, pages.clone()).await.per_second(),
        async || load::run(&baseline.address, 64, until, rows.clone()).await.per_second(),
    );
    report.note(&figure, &rounds.await);
    let figure = Figure { group: GROUP, name: "product-while-stock-moves", unit: "/s", target: Target::None };
    let rounds = interleaved(
        plan,
        async || {
            let reading = load::run(&shop.address, 64, until, pages.clone());
            let moving = paced(&shop.address, plan.round(), 200, 4, async |connection, number| {
                connection.send(&receipt(scattered(number))).await;
                None
            });
            tokio::join!(reading, moving).0.per_second()
        },
        async || load::run(&baseline.address, 64, until, rows.clone()).await.per_second(),
    );
    report.note(&figure, &rounds.await);
    shop.stop().await;
    servers.stop().await;
}

/// Another order of the numbers, in which neighbours are far apart.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

/// How long after a command's answer a query shows what it did, at a steady rate of commands.
async fn visible(plan: &Plan, report: &mut Report) {
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds() {
        let load = paced(&shop.address, plan.round(), EVENTS_PER_S, CLIENTS, async |connection, number| {
            let position = connection.send(&receipt(number)).await.expect("a position");
            let acknowledged = Instant::now();
            connection.send(&load::get_at(&format!("/v1/products/{}", sku(number)), position)).await;
            Some(acknowledged.elapsed())
        });
        let load = load.await;
        println!("      {:.0} events/s, longest {:.1} ms", load.per_second(), load.percentile_ms(100));
        p50.push((load.percentile_ms(50), None));
        p99.push((load.percentile_ms(99), None));
    }
    let target = Target::ValueAtMost(10.0);
    report.note(&Figure { group: GROUP, name: "visible-p50", unit: "ms", target }, &p50);
    let target = Target::ValueAtMost(50.0);
    report.note(&Figure { group: GROUP, name: "visible-p99", unit: "ms", target }, &p99);
    shop.stop().await;
    servers.stop().await;
}

/// How long after a product's creation is answered the search has it, while stock of all products moves.
async fn searchable(plan: &Plan, report: &mut Report) {
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds() {
        let making = paced(&shop.address, plan.round(), NEW_PER_S, 8, async |connection, number| {
            let word = format!("new{round}x{number}");
            let position = connection.send(&product(&word, &word)).await.expect("a position");
            let acknowledged = Instant::now();
            connection.send(&load::get_at(&format!("/v1/search?q={word}"), position)).await;
            Some(acknowledged.elapsed())
        });
        let moving = paced(&shop.address, plan.round(), EVENTS_PER_S, CLIENTS, async |connection, number| {
            connection.send(&receipt(number)).await;
            None
        });
        let (load, _) = tokio::join!(making, moving);
        println!("      {:.0} products/s, longest {:.1} ms", load.per_second(), load.percentile_ms(100));
        p50.push((load.percentile_ms(50), None));
        p99.push((load.percentile_ms(99), None));
    }
    let target = Target::None;
    report.note(&Figure { group: GROUP, name: "searchable-p50", unit: "ms", target }, &p50);
    let target = Target::ValueAtMost(100.0);
    report.note(&Figure { group: GROUP, name: "searchable-p99", unit: "ms", target }, &p99);
    shop.stop().await;
    servers.stop().await;
}

/// Does something so many times a second, however long it takes: each at its time, or at once if that has
/// passed. Notes the times that come of it.
pub async fn paced(
    address: &str,
    length: Duration,
    per_second: u64,
    clients: u64,
    act: impl AsyncFn(&mut Connection, u64) -> Option<Duration>,
) -> Load {
    let (began, act) = (Instant::now(), &act);
    let all = futures_util::future::join_all((0..clients).map(|client| async move {
        let mut connection = Connection::open(address).await;
        let mut times = Vec::new();
        for number in (client..).step_by(usize::try_from(clients).expect("a count")) {
            let due = began + Duration::from_secs_f64(number as f64 / per_second as f64);
            if due > began + length {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            times.extend(act(&mut connection, number).await);
        }
        times
    }));
    let mut load = Load { latencies: all.await.concat(), took: began.elapsed(), ..Load::default() };
    load.answered = load.latencies.len() as u64;
    load.latencies.sort_unstable();
    load
}
