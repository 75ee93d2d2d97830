//! The write side: a full HTTP command, fsynced and findable, against a bare client's fsynced publish.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use domain::StreamId;
use domain::commit::Hash;
use futures_util::{StreamExt, stream as futures};
use infra::log::{Append, EventLog, Expected, JetStreamLog, Message};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::cpu::Meter;
use crate::load::{self, Requests, Until};
use crate::report::{Figure, Plan, Report, Target, interleaved, median};
use crate::servers::{Instance, Servers};

const GROUP: &str = "write";

/// Bytes of the commit that a new cart is.
const COMMIT_BYTES: usize = 560;

pub async fn measure(plan: &Plan, report: &mut Report) {
    if plan.wants(GROUP, "batches") {
        batches(plan).await;
    }
    if plan.wants(GROUP, "distinct-carts") {
        distinct_carts(plan, report, Servers::start().await).await;
    }
    if plan.wants(GROUP, "distinct-carts-r3") {
        distinct_carts(plan, report, Servers::start_cluster().await).await;
    }
    if plan.wants(GROUP, "one-at-a-time") {
        one_at_a_time(plan, report).await;
    }
    if plan.wants(GROUP, "hot-sku") {
        hot_sku(plan, report).await;
    }
    if plan.wants(GROUP, "hot-sku-two-processes") {
        hot_sku_two_processes(plan, report).await;
    }
    if plan.wants(GROUP, "long-log") {
        long_log(plan, report).await;
    }
    if plan.wants(GROUP, "cold-aggregate") {
        cold_aggregate(plan, report).await;
    }
    if plan.wants(GROUP, "memory") {
        memory(plan, report).await;
    }
}

/// Numbers that no other request of this run has.
pub fn fresh() -> u128 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    u128::from(std::process::id()) << 64 | u128::from(number)
}

fn new_carts() -> Requests {
    Arc::new(|_| load::post("/v1/carts", "", fresh()))
}

async fn distinct_carts(plan: &Plan, report: &mut Report, servers: Servers) {
    let (name, target) = match servers.replicas {
        1 => ("distinct-carts", Target::RatioAtLeast(2.0)),
        _ => ("distinct-carts-r3", Target::RatioAtLeast(0.7)),
    };
    let figure = Figure { group: GROUP, name, unit: "/s", target };
    let commands = Instance::commands(&servers).await;
    let raw = Raw::open(&servers).await;
    let meter = Meter::new(&commands, &servers);
    let rounds = interleaved(
        plan,
        async || {
            let until = Until::Elapsed(plan.round());
            meter.of(load::run(&commands.address, 256, until, new_carts())).await.per_second()
        },
        async || raw.publish(512, plan.round()).await.per_second(),
    );
    report.note(&figure, &rounds.await);
    println!("{meter}");
    commands.stop().await;
    servers.stop().await;
}

async fn one_at_a_time(plan: &Plan, report: &mut Report) {
    let figure = Figure { group: GROUP, name: "one-at-a-time", unit: "ms", target: Target::MoreAtMost(0.3) };
    let servers = Servers::start().await;
    let commands = Instance::commands(&servers).await;
    let raw = Raw::open(&servers).await;
    let rounds = interleaved(
        plan,
        async || load::run(&commands.address, 1, Until::Elapsed(plan.round()), new_carts()).await.p50_ms(),
        async || raw.publish(1, plan.round()).await.p50_ms(),
    );
    report.note(&figure, &rounds.await);
    commands.stop().await;
    servers.stop().await;
}

async fn hot_sku(plan: &Plan, report: &mut Report) {
    let figure = Figure { group: GROUP, name: "hot-sku", unit: "/s", target: Target::RatioAtLeast(5.0) };
    let servers = Servers::start().await;
    let commands = Instance::commands(&servers).await;
    let row = HotRow::create(&servers).await;
    product(&commands, "HOT").await;
    let receipts: Requests = Arc::new(|_| receipt("HOT"));
    let meter = Meter::new(&commands, &servers);
    let rounds = interleaved(
        plan,
        async || {
            let until = Until::Elapsed(plan.round());
            meter.of(load::run(&commands.address, 64, until, receipts.clone())).await.per_second()
        },
        async || row.update(64, plan.round()).await,
    );
    report.note(&figure, &rounds.await);
    println!("{meter}");
    commands.stop().await;
    servers.stop().await;
}

/// The same SKU through two processes, that are in each other's way, and through one.
async fn hot_sku_two_processes(plan: &Plan, report: &mut Report) {
    let figure =
        Figure { group: GROUP, name: "hot-sku-two-processes", unit: "/s", target: Target::RatioAtLeast(0.3) };
    let servers = Servers::start().await;
    let (one, other) = (Instance::commands(&servers).await, Instance::commands(&servers).await);
    product(&one, "HOT").await;
    let receipts: Requests = Arc::new(|_| receipt("HOT"));
    let until = Until::Elapsed(plan.round());
    let rounds = interleaved(
        plan,
        async || {
            let (of_one, of_other) = tokio::join!(
                load::run(&one.address, 32, until, receipts.clone()),
                load::run(&other.address, 32, until, receipts.clone()),
            );
            of_one.per_second() + of_other.per_second()
        },
        async || load::run(&one.address, 64, until, receipts.clone()).await.per_second(),
    );
    report.note(&figure, &rounds.await);
    one.stop().await;
    other.stop().await;
    servers.stop().await;
}

/// A command at a time, on a log that is long and on one that is short.
async fn long_log(plan: &Plan, report: &mut Report) {
    let figure = Figure { group: GROUP, name: "long-log", unit: "ms", target: Target::RatioAtMost(1.2) };
    let (long, short) = (Servers::start().await, Servers::start().await);
    fill(&long.log().await, if plan.quick { 200_000 } else { 2_000_000 }).await;
    fill(&short.log().await, 10_000).await;
    let (of_long, of_short) = (Instance::commands(&long).await, Instance::commands(&short).await);
    let p50 = async |commands: &Instance| {
        load::run(&commands.address, 1, Until::Elapsed(plan.round()), new_carts()).await.p50_ms()
    };
    let rounds = interleaved(plan, async || p50(&of_long).await, async || p50(&of_short).await);
    report.note(&figure, &rounds.await);
    for (commands, servers) in [(of_long, long), (of_short, short)] {
        commands.stop().await;
        servers.stop().await;
    }
}

/// Appends so many commits, ten to a stream.
async fn fill(log: &JetStreamLog, commits: u64) {
    let batches = futures::iter(0..commits / 1_000).map(|_| async {
        let mut batch = Vec::with_capacity(1_000);
        for _ in 0..100 {
            let stream: StreamId =
                format!("cart/{}", uuid::Uuid::from_u128(fresh())).parse().expect("a stream");
            batch.push(append(&stream, Expected::Position(0)));
            batch.extend((1..10).map(|_| append(&stream, Expected::AfterPrevious)));
        }
        log.append_batch(&batch).await.expect("appended");
    });
    batches.buffer_unordered(2).collect::<()>().await;
}

fn append(stream: &StreamId, expected: Expected) -> Append {
    let body = Bytes::from(format!("{:x}{}", fresh(), "x".repeat(COMMIT_BYTES - 20)));
    Append { message: Message { stream: stream.clone(), hash: Hash::of(&body), body }, expected }
}

/// The first command of a process to an aggregate with many events, and to one with few.
async fn cold_aggregate(plan: &Plan, report: &mut Report) {
    let figure =
        Figure { group: GROUP, name: "cold-aggregate", unit: "ms", target: Target::RatioAtMost(3.0) };
    let skus = if plan.quick { 5 } else { 20 };
    let servers = Servers::start().await;
    let commands = Instance::commands(&servers).await;
    for sku in 0..skus {
        for (size, events) in [("MANY", 10_000), ("FEW", 10)] {
            let sku = format!("{size}-{sku}");
            product(&commands, &sku).await;
            let receipts: Requests = Arc::new(move |_| receipt(&sku));
            load::run(&commands.address, 64, Until::Answered(events), receipts).await;
        }
    }
    // A due snapshot is put off for a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    commands.stop().await;
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds() {
        let commands = Instance::commands(&servers).await;
        let mut connection = load::Connection::open(&commands.address).await;
        let (mut many, mut few) = (Vec::new(), Vec::new());
        for sku in 0..skus {
            for (size, latencies) in [("FEW", &mut few), ("MANY", &mut many)] {
                let sent = Instant::now();
                connection.send(&receipt(&format!("{size}-{sku}"))).await;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
        }
        rounds.push((median(many), Some(median(few))));
        commands.stop().await;
    }
    report.note(&figure, &rounds);
    servers.stop().await;
}

async fn memory(plan: &Plan, report: &mut Report) {
    let figure = Figure { group: GROUP, name: "memory", unit: "MB", target: Target::ValueAtMost(300.0) };
    let servers = Servers::start().await;
    let commands = Instance::commands(&servers).await;
    let aggregates = if plan.quick { 200_000 } else { 1_000_000 };
    load::run(&commands.address, 256, Until::Answered(aggregates), new_carts()).await;
    report.note(&figure, &[(commands.memory_mb(), None)]);
    commands.stop().await;
    servers.stop().await;
}

fn receipt(sku: &str) -> String {
    load::post(&format!("/v1/stock/{sku}/receipts"), "{\"quantity\": 1}", fresh())
}

async fn product(commands: &Instance, sku: &str) {
    let body = format!(
        "{{\"sku\": \"{sku}\", \"title\": \"A mug\", \"brand\": \"Clayworth\", \"category\": [\"Mugs\"], \
         \"price\": {{\"amount\": 1250, \"currency\": \"GBP\"}}}}"
    );
    let mut connection = load::Connection::open(&commands.address).await;
    connection.send(&load::post("/v1/products", &body, fresh())).await;
}

/// A bare client of JetStream, with a stream like the log's.
struct Raw {
    context: jetstream::Context,
}

impl Raw {
    async fn open(servers: &Servers) -> Self {
        let connection = infra::nats::connect(&servers.nats_url).await.expect("nats-server answers");
        let context = jetstream::ContextBuilder::new().max_ack_inflight(1_000).build(connection.client);
        let config = stream::Config {
            name: "RAW".into(),
            subjects: vec!["raw.>".into()],
            storage: stream::StorageType::File,
            allow_direct: true,
            num_replicas: servers.replicas,
            ..Default::default()
        };
        context.create_stream(config).await.expect("a stream");
        Self { context }
    }

    /// Publishes with so many in flight, each acknowledged, each to a subject of its own.
    async fn publish(&self, in_flight: usize, limit: Duration) -> load::Load {
        let (began, body) = (Instant::now(), Bytes::from(vec![b'x'; COMMIT_BYTES]));
        let publishes = futures::repeat_with(|| {
            let (context, body) = (self.context.clone(), body.clone());
            async move {
                let sent = Instant::now();
                let acknowledged =
                    context.publish(format!("raw.{}", fresh()), body).await.expect("published");
                acknowledged.await.expect("acknowledged");
                sent.elapsed()
            }
        });
        let until = publishes.take_while(|_| std::future::ready(began.elapsed() < limit));
        let mut latencies: Vec<Duration> = until.buffer_unordered(in_flight).collect().await;
        latencies.sort_unstable();
        load::Load { answered: latencies.len() as u64, took: began.elapsed(), latencies }
    }
}

/// One row in Postgres that everybody wants.
struct HotRow {
    pool: PgPool,
}

impl HotRow {
    async fn create(servers: &Servers) -> Self {
        let options = PgPoolOptions::new().max_connections(64).test_before_acquire(false);
        let pool = options.connect(servers.postgres.local_url()).await.expect("Postgres answers");
        let create = "create table stock (sku text primary key, qty bigint not null);
                      insert into stock values ('HOT', 1000000000)";
        sqlx::raw_sql(create).execute(&pool).await.expect("a table");
        Self { pool }
    }

    /// Updates a second, over so many connections.
    async fn update(&self, connections: usize, limit: Duration) -> f64 {
        let began = Instant::now();
        let clients = (0..connections).map(|_| async {
            let mut connection = self.pool.acquire().await.expect("a connection");
            sqlx::query("set synchronous_commit = on").execute(&mut *connection).await.expect("set");
            let mut done = 0_u64;
            while began.elapsed() < limit {
                let update = sqlx::query("update stock set qty = qty - 1 where sku = 'HOT'");
                update.execute(&mut *connection).await.expect("updated");
                done += 1;
            }
            done
        });
        let done: u64 = futures_util::future::join_all(clients).await.into_iter().sum();
        done as f64 / began.elapsed().as_secs_f64()
    }
}

/// What a batch costs, by its size: what the writer's thresholds come from.
async fn batches(plan: &Plan) {
    let servers = Servers::start().await;
    let log = servers.log().await;
    for (size, in_flight) in [
        (1, 1),
        (1, 16),
        (8, 1),
        (16, 1),
        (64, 1),
        (64, 2),
        (128, 1),
        (128, 2),
        (256, 1),
        (1_000, 1),
        (1_000, 2),
    ] {
        let began = Instant::now();
        let limit = plan.round() / 2;
        let appends = futures::repeat_with(|| async {
            let sent = Instant::now();
            let stream = || format!("cart/{}", uuid::Uuid::from_u128(fresh())).parse().expect("a stream");
            let batch: Vec<Append> = (0..size).map(|_| append(&stream(), Expected::Position(0))).collect();
            match batch.as_slice() {
                [single] => log.append(&single.message, 0).await.expect("appended"),
                batch => log.append_batch(batch).await.expect("appended"),
            };
            sent.elapsed()
        });
        let until = appends.take_while(|_| std::future::ready(began.elapsed() < limit));
        let mut latencies: Vec<Duration> = until.buffer_unordered(in_flight).collect().await;
        latencies.sort_unstable();
        let load = load::Load { answered: latencies.len() as u64, took: began.elapsed(), latencies };
        println!(
            "{size:>5} commits, {in_flight:>2} in flight: {:>8.0} commits/s, p50 {:.2} ms",
            load.per_second() * f64::from(size),
            load.p50_ms()
        );
    }
    servers.stop().await;
}
