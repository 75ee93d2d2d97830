//! Full checkouts over HTTP: a cart, two lines, the checkout, and the order confirmed and visible. Everything
//! is on this machine, the load included, and every commit is synced.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::baskets;
use crate::load::{self, Connection, Load, Requests, Until};
use crate::report::{Figure, Plan, Report, Target};
use crate::servers::{Instance, Servers};

pub const GROUP: &str = "checkout";

const PRODUCTS: u64 = 2_000;
const ROLES: [&str; 4] = ["command-api", "query-api", "projections", "sagas"];

/// Buyers at a time, at saturation: so many that with more of them there are hardly more orders.
const BUYERS: usize = 1024;

pub async fn measure(plan: &Plan, report: &mut Report) {
    if plan.wants(GROUP, "orders") {
        saturation(plan, report).await;
    }
    if plan.wants(GROUP, "visible-p50") || plan.wants(GROUP, "visible-p99") {
        visible(plan, report).await;
    }
    if plan.wants(GROUP, "rush") {
        rush(plan, report).await;
    }
    if plan.wants(GROUP, "open-sagas") {
        open_sagas(plan, report).await;
    }
    if plan.wants(GROUP, "cart-1114-lines") || plan.wants(GROUP, "checkout-1114-lines") {
        baskets::measure(plan, report).await;
    }
}

pub fn sku(number: u64) -> String {
    format!("SKU-{}", number % PRODUCTS)
}

/// Another for each product, so that a long page packs as one of a shop does.
fn title(number: u64) -> String {
    const HOW: [&str; 13] = [
        "Vintage",
        "Ivory",
        "Retro spot",
        "Small",
        "Hanging",
        "Set of six",
        "Antique",
        "Pink",
        "Folding",
        "Jumbo",
        "Painted",
        "Woodland",
        "Enamel",
    ];
    const OF: [&str; 11] = [
        "metal", "glass", "wooden", "paper", "ceramic", "wicker", "felt", "zinc", "cotton", "paisley",
        "heart",
    ];
    const WHAT: [&str; 14] = [
        "mug",
        "lantern",
        "cake stand",
        "lunch bag",
        "bunting",
        "tea light holder",
        "photo frame",
        "doormat",
        "clock",
        "coat rack",
        "egg cup",
        "tissue box",
        "wall sign",
        "gift tape",
    ];
    let mut random = fastrand::Rng::with_seed(number);
    let [how, of, what] = [&HOW[..], &OF, &WHAT].map(|words| random.choice(words).expect("words"));
    format!("{how} {of} {what} no. {}", random.u16(1..1_000))
}

/// A shop with products of which there is enough.
pub async fn shop(servers: &Servers) -> Instance {
    let shop = Instance::start(servers, &ROLES).await;
    let product: Requests = Arc::new(|number| {
        let (sku, title, price) = (sku(number), title(number), 250 + number * 37 % 4_000);
        let body = format!(
            "{{\"sku\": \"{sku}\", \"title\": \"{title}\", \"description\": \"\", \"brand\": \"Clayworth\", \"category\": [\"Mugs\"], \"price\": {{\"amount\": {price}, \"currency\": \"GBP\"}}}}",
        );
        load::post("/v1/products", &body, crate::write::fresh())
    });
    load::run(&shop.address, 64, Until::Answered(PRODUCTS), product).await;
    let receipt: Requests = Arc::new(|number| receipt(&sku(number), 1_000_000));
    load::run(&shop.address, 64, Until::Answered(PRODUCTS), receipt).await;
    shop
}

fn receipt(sku: &str, units: u64) -> String {
    let path = format!("/v1/stock/{sku}/receipts");
    load::post(&path, &format!("{{\"quantity\": {units}}}"), crate::write::fresh())
}

/// A buyer's connection.
pub struct Buyer(pub Connection);

impl Buyer {
    pub async fn open(shop: &Instance) -> Self {
        Self(Connection::open(&shop.address).await)
    }

    async fn ask(&mut self, request: &str) -> Value {
        let (_, body) = self.0.ask(request).await;
        serde_json::from_str(&body).expect("JSON")
    }

    /// A cart with one of each, and the position at which it is full.
    pub async fn cart(&mut self, skus: impl IntoIterator<Item = String>) -> (String, u64) {
        let cart = self.ask(&load::post("/v1/carts", "", crate::write::fresh())).await;
        let cart = cart["id"].as_str().expect("an id").to_owned();
        let mut position = 0;
        for sku in skus {
            let set =
                self.0.send(&load::put(&format!("/v1/carts/{cart}/lines/{sku}"), "{\"quantity\": 1}")).await;
            position = set.expect("a position");
        }
        (cart, position)
    }

    /// Waits until the order is confirmed and visible, or cancelled; for nothing, without a time.
    pub async fn check_out(&mut self, cart: &str, wait_s: u32) -> Value {
        let body = "{\"email\": \"ann@example.com\", \"shipping_address\": {\"name\": \"Ann\", \
                    \"line1\": \"1 High Street\", \"city\": \"Leeds\", \"postal_code\": \"LS1 1AA\", \
                    \"country\": \"GB\"}, \"payment\": {\"method\": \"sandbox\", \"token\": \"tok_approve\"}}";
        let request = load::post(&format!("/v1/carts/{cart}/checkout"), body, crate::write::fresh());
        let prefer = format!("\r\nprefer: wait={wait_s}\r\nhost:");
        self.ask(&if wait_s > 0 { request.replacen("\r\nhost:", &prefer, 1) } else { request }).await
    }

    /// All of it; how long it took from the checkout until the order was visible as confirmed.
    async fn buy(&mut self, number: u64) -> Duration {
        let (cart, _) = self.cart([sku(number * 2), sku(number * 2 + 1)]).await;
        let began = Instant::now();
        let order = self.check_out(&cart, 60).await;
        assert_eq!(order["status"], "confirmed", "{order}");
        began.elapsed()
    }
}

/// Buyers who come again at once, for so long or so often.
async fn saturate(shop: &Instance, until: Until) -> Load {
    let (began, next) = (Instant::now(), Arc::new(AtomicU64::new(fastrand::u64(0..1 << 32))));
    let done = Arc::new(AtomicU64::new(0));
    let mut buyers = JoinSet::new();
    for _ in 0..BUYERS {
        let mut buyer = Buyer::open(shop).await;
        let (next, done) = (next.clone(), done.clone());
        buyers.spawn(async move {
            let mut latencies = Vec::new();
            while match until {
                Until::Elapsed(limit) => began.elapsed() < limit,
                Until::Answered(count) => done.fetch_add(1, Ordering::Relaxed) < count,
            } {
                latencies.push(buyer.buy(next.fetch_add(1, Ordering::Relaxed)).await);
            }
            latencies
        });
    }
    let mut load = Load::default();
    while let Some(latencies) = buyers.join_next().await {
        load.latencies.extend(latencies.expect("every order is confirmed"));
    }
    load.took = began.elapsed();
    load.answered = load.latencies.len() as u64;
    load.latencies.sort_unstable();
    load
}

async fn saturation(plan: &Plan, report: &mut Report) {
    let figure = Figure { group: GROUP, name: "orders", unit: "/s", target: Target::ValueAtLeast(600.0) };
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    let meter = crate::cpu::Meter::new(&shop, &servers);
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds() {
        rounds.push((meter.of(saturate(&shop, Until::Elapsed(plan.round()))).await.per_second(), None));
    }
    report.note(&figure, &rounds);
    println!("{meter}");
    shop.stop().await;
    servers.stop().await;
}

/// A hundred orders a second, whether the ones before are done or not.
async fn visible(plan: &Plan, report: &mut Report) {
    let target = Target::ValueAtMost;
    let p50 = Figure { group: GROUP, name: "visible-p50", unit: "ms", target: target(30.0) };
    let p99 = Figure { group: GROUP, name: "visible-p99", unit: "ms", target: target(150.0) };
    let servers = Servers::start().await;
    let shop = Arc::new(shop(&servers).await);
    let (mut halves, mut most) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds() {
        let load = paced(&shop, 100, plan.round()).await;
        halves.push((load.p50_ms(), None));
        most.push((load.percentile_ms(99), None));
    }
    report.note(&p50, &halves);
    report.note(&p99, &most);
    Arc::into_inner(shop).expect("nobody buys any more").stop().await;
    servers.stop().await;
}

async fn paced(shop: &Arc<Instance>, orders_per_s: u64, limit: Duration) -> Load {
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / orders_per_s));
    let mut buyers = JoinSet::new();
    let first = fastrand::u64(0..1 << 32);
    for number in first.. {
        tick.tick().await;
        if began.elapsed() >= limit {
            break;
        }
        let shop = shop.clone();
        buyers.spawn(async move { Buyer::open(&shop).await.buy(number).await });
    }
    let mut load = Load { took: began.elapsed(), ..Load::default() };
    while let Some(latency) = buyers.join_next().await {
        load.latencies.push(latency.expect("it is confirmed"));
    }
    load.answered = load.latencies.len() as u64;
    load.latencies.sort_unstable();
    load
}

/// All want the same thing, of which there is enough for a tenth of them.
async fn rush(plan: &Plan, report: &mut Report) {
    let figure = Figure { group: GROUP, name: "rush", unit: "s", target: Target::ValueAtMost(20.0) };
    let buyers: u64 = if plan.quick { 2_000 } else { 10_000 };
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    Connection::open(&shop.address)
        .await
        .send(&load::post(
            "/v1/products",
            "{\"sku\": \"HOT\", \"title\": \"Hot\", \"description\": \"\", \"brand\": \"Clayworth\", \"category\": [\"Mugs\"], \"price\": {\"amount\": 1250, \"currency\": \"GBP\"}}",
            crate::write::fresh(),
        ))
        .await;
    Connection::open(&shop.address).await.send(&receipt("HOT", buyers / 10)).await;
    let carts = fill_carts(&shop, buyers).await;
    let began = Instant::now();
    check_out_all(&shop, carts).await;
    let pool = PgPool::connect(servers.postgres.local_url()).await.expect("Postgres answers");
    let confirmed = loop {
        let counts: Vec<(String, i64)> =
            sqlx::query_as("select status, count(*) from orders.orders group by 1")
                .fetch_all(&pool)
                .await
                .expect("counts");
        let of =
            |wanted: &str| counts.iter().find(|(status, _)| status == wanted).map_or(0, |(_, count)| *count);
        if of("confirmed") + of("cancelled") == i64::try_from(buyers).expect("few") {
            break of("confirmed");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    report.note(&figure, &[(began.elapsed().as_secs_f64(), None)]);
    println!("      {buyers} buyers, {} in stock: {confirmed} confirmed", buyers / 10);
    assert_eq!(confirmed, i64::try_from(buyers / 10).expect("few"), "all that there was, and no more");
    pool.close().await;
    shop.stop().await;
    servers.stop().await;
}

/// So many carts, each with one of the thing that all want.
async fn fill_carts(shop: &Instance, count: u64) -> Vec<String> {
    let next = Arc::new(AtomicU64::new(0));
    let mut buyers = JoinSet::new();
    for _ in 0..BUYERS {
        let (mut buyer, next) = (Buyer::open(shop).await, next.clone());
        buyers.spawn(async move {
            let mut carts = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                carts.push(buyer.cart(["HOT".to_owned()]).await.0);
            }
            carts
        });
    }
    buyers.join_all().await.into_iter().flatten().collect()
}

/// Checks all of them out, and waits for none.
async fn check_out_all(shop: &Instance, carts: Vec<String>) {
    let carts = Arc::new(std::sync::Mutex::new(carts));
    let mut buyers = JoinSet::new();
    for _ in 0..BUYERS {
        let (mut buyer, carts) = (Buyer::open(shop).await, carts.clone());
        buyers.spawn(async move {
            loop {
                let cart = carts.lock().expect("no panic").pop();
                let Some(cart) = cart else { return };
                buyer.check_out(&cart, 0).await;
            }
        });
    }
    buyers.join_all().await;
}

/// What an order costs while many others wait in the sagas (confirmed, and not shipped): beside what it costs in a shop
/// that has had as many, which were shipped as they came; and beside a new shop, for what the age of one does: the mean
/// of before and after, for these machines get faster and slower by themselves.
async fn open_sagas(plan: &Plan, report: &mut Report) {
    const FEW: u64 = 100;
    let many = if plan.quick { 10_000 } else { 100_000 };
    let target = Target::RatioAtMost(1.2);
    let beside_over = Figure { group: GROUP, name: "open-sagas", unit: "ms", target };
    let beside_new = Figure { group: GROUP, name: "open-sagas-beside-new", unit: "ms", target };
    let before = cost_with_open(plan, 0, FEW).await;
    let open = cost_with_open(plan, 0, many).await;
    let over = cost_with_open(plan, many, FEW).await;
    let after = cost_with_open(plan, 0, FEW).await;
    report.note(&beside_over, &[(open, Some(over))]);
    println!("      {before:.3} ms in a new shop before that, and {after:.3} ms after");
    report.note(&beside_new, &[(open, Some(f64::midpoint(before, after)))]);
}

/// Milliseconds that an order takes at saturation where so many were shipped as they came, and so many more are open.
async fn cost_with_open(plan: &Plan, shipped: u64, open: u64) -> f64 {
    let servers = Servers::start().await;
    let shop = shop(&servers).await;
    if shipped > 0 {
        let is_placed = AtomicBool::new(false);
        let placing = async {
            saturate(&shop, Until::Answered(shipped)).await;
            is_placed.store(true, Ordering::Relaxed);
        };
        tokio::join!(placing, ship_all(&shop, &servers, &is_placed));
    }
    let opened = saturate(&shop, Until::Answered(open)).await;
    let memory_mb = shop.memory_mb();
    println!(
        "      {shipped} orders were shipped, and {} are open; the process has {memory_mb:.0} MB",
        opened.answered
    );
    let meter = crate::cpu::Meter::new(&shop, &servers);
    let load = meter.of(saturate(&shop, Until::Elapsed(plan.round()))).await;
    println!("{meter}");
    shop.stop().await;
    servers.stop().await;
    load.took.as_secs_f64() * 1e3 / load.answered as f64
}

/// Ships orders as they come, until no more are placed and all are over.
async fn ship_all(shop: &Instance, servers: &Servers, is_placed: &AtomicBool) {
    let pool = PgPool::connect(servers.postgres.local_url()).await.expect("Postgres answers");
    let open = "select id, stage = 'shipping' from cartulary.sagas where saga = 'checkout' and not is_over";
    let mut shipped: HashSet<Uuid> = HashSet::new();
    loop {
        let was_placed = is_placed.load(Ordering::Relaxed);
        let open: Vec<(Uuid, bool)> = sqlx::query_as(open).fetch_all(&pool).await.expect("ids");
        if was_placed && open.is_empty() {
            return pool.close().await;
        }
        let new = open.into_iter().filter(|(order, is_due)| *is_due && shipped.insert(*order));
        let new: Arc<[Uuid]> = new.map(|(order, _)| order).collect();
        let count = new.len() as u64;
        let shipment: Requests = Arc::new(move |number| {
            let order = new[usize::try_from(number).expect("few")];
            load::post(&format!("/v1/orders/{order}/shipments"), "{}", crate::write::fresh())
        });
        load::run(&shop.address, 64, Until::Answered(count), shipment).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
