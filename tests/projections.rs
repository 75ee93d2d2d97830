//! Projections: the same rows however the log is cut into batches, and none twice.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use domain::product::{self, Details};
use domain::{CartId, CommandId, Event, Money, OrderId, RecordedEvent, Sku, cart, stock};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use infra::clock::Clock;
use infra::execute::{Executors, Request, Settings};
use infra::log::{EventLog, MemoryLog};
use infra::read_models::{self, ReadModel, ReadModels};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Writer};
use projections::projection::{Happened, Projection};
use projections::{Builds, Worker, set_up};
use proptest::strategy::{Strategy, ValueTree};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{eventually, servers};

fn request() -> Request {
    let command_id = CommandId(Uuid::now_v7());
    Request {
        command_id,
        hash: Hash::of(b""),
        actor: "test".into(),
        correlation: command_id,
        causation: None,
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
    }
}

fn executors(log: &Arc<dyn EventLog>) -> Executors {
    let settings = Settings { idempotency_keep: Duration::from_secs(60), cached_aggregates_max: 1_000 };
    let writer = Writer::new(log.clone(), writer::Settings::default());
    let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
    Executors::new(&writer, &snapshots, &Clock::system(), &settings)
}

fn create(sku: &Sku, title: &str, amount: i64) -> product::Command {
    let details = Details {
        title: title.into(),
        description: "Holds tea, and more.".into(),
        brand: "Clayworth".into(),
        category: vec!["Home".into(), "Mugs".into()],
        attributes: [("Colour".to_owned(), "Blue".to_owned())].into(),
        images: vec![],
        gtins: vec![],
    };
    let price = Money::new(amount, "GBP".parse().expect("a currency"));
    product::Command::Create { sku: sku.clone(), details, price }
}

/// A log with a bit of everything.
async fn story() -> Arc<dyn EventLog> {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let shop = executors(&log);
    for index in 0..12_u32 {
        let sku: Sku = format!("MUG-{index}").parse().expect("a SKU");
        if index % 3 == 0 {
            // Stock may come before its product is known to a projection.
            shop.stock
                .execute(&sku, &request(), stock::Command::Receive { quantity: 5 })
                .await
                .expect("done");
        }
        shop.products
            .execute(&sku, &request(), create(&sku, &format!("Mug {index}"), 100))
            .await
            .expect("done");
        shop.stock
            .execute(&sku, &request(), stock::Command::Receive { quantity: index + 1 })
            .await
            .expect("done");
        let order_id = OrderId(Uuid::from_u128(u128::from(index)));
        let reserve = stock::Command::Reserve { order_id, quantity: 2 };
        shop.stock.execute(&sku, &request(), reserve).await.expect("done");
        let cart_id = CartId(Uuid::from_u128(u128::from(index % 4)));
        shop.carts.execute(cart_id, &request(), cart::Command::Create).await.expect("done");
        for quantity in [1, 0, index + 2] {
            let offer = cart::Offer {
                title: "Mug".into(),
                price: Money::new(100, "GBP".parse().expect("a currency")),
            };
            let set = cart::Command::SetLine { sku: sku.clone(), quantity, offer: Some(offer) };
            shop.carts.execute(cart_id, &request(), set).await.expect("done");
        }
        if index % 4 == 1 {
            let changes =
                product::Changes { title: Some(format!("Beaker {index}")), ..product::Changes::default() };
            shop.products.execute(&sku, &request(), product::Command::Change(changes)).await.expect("done");
        }
        if index % 5 == 4 {
            shop.products.execute(&sku, &request(), product::Command::Withdraw).await.expect("done");
        }
    }
    log
}

/// All rows of a projection's tables, as text, in order.
async fn rows(projection: &dyn Projection, pool: &PgPool) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, _) in projection.tables() {
        let query = format!("select t::text from {}.{table} t order by 1", projection.name());
        let found: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(pool).await.expect("rows");
        rows.extend(found.into_iter().map(|row| format!("{table} {row}")));
    }
    rows
}

/// A process's share of one projection, without the process.
struct Running {
    worker: Arc<Worker>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(projection: &Arc<dyn Projection>, log: &Arc<dyn EventLog>, pool: &PgPool) -> Self {
        let builds = Builds::new(vec![projection.clone()], log.clone(), pool.clone());
        let worker = Arc::new(Worker::new(builds));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn({
            let worker = worker.clone();
            async move { worker.run(stopped).await }
        });
        Self { worker, stop, task }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("it ends cleanly");
    }
}

/// The projection's live read model.
async fn live(name: &str, pool: &PgPool) -> ReadModel {
    let all = read_models::all(pool).await.expect("read models");
    all.into_iter().find(|model| model.projection == name && model.state == "live").expect("a live one")
}

async fn reaches(name: &str, pool: &PgPool, to: u64) {
    eventually("the projection is there", async || (live(name, pool).await.position.0 >= to).then_some(()))
        .await;
}

/// Runs the projection until it has come to the position.
async fn project(projection: &Arc<dyn Projection>, log: &Arc<dyn EventLog>, pool: &PgPool, to: u64) {
    let running = Running::start(projection, log, pool);
    reaches(projection.name(), pool, to).await;
    running.stop().await;
}

/// The first commits of a log, as another log.
async fn prefix(log: &Arc<dyn EventLog>, length: u64) -> Arc<dyn EventLog> {
    let short = MemoryLog::default();
    let mut ends = std::collections::HashMap::new();
    let mut commits = log.follow(0);
    for _ in 0..length {
        let stored = commits.next().await.expect("a commit").expect("readable");
        let expected = ends.get(&stored.commit.stream).copied().unwrap_or(0);
        let appended = short.append(&(&stored.commit).into(), expected).await.expect("appended");
        ends.insert(stored.commit.stream.clone(), appended);
    }
    Arc::new(short)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_cut_into_batches_gives_the_same_rows() {
    let log = story().await;
    let end = log.end().await.expect("an end");
    let whole = servers::database().await;
    for projection in projections::all() {
        project(&projection, &log, &whole, end).await;
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..3 {
        let cuts =
            proptest::collection::btree_set(1..end, 1..6).new_tree(&mut runner).expect("cuts").current();
        let pool = servers::database().await;
        for projection in projections::all() {
            // Each prefix ends in a stop, as a crash between two batches would.
            for cut in cuts.iter().copied().chain([end]) {
                project(&projection, &prefix(&log, cut).await, &pool, cut).await;
            }
            let (in_one, in_parts) =
                (rows(projection.as_ref(), &whole).await, rows(projection.as_ref(), &pool).await);
            assert!(!in_one.is_empty() || projection.name() == "orders", "{}", projection.name());
            assert_eq!(in_one, in_parts, "{} cut at {cuts:?}", projection.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_write_no_row_twice() {
    let log = story().await;
    let end = log.end().await.expect("an end");
    let pool = servers::database().await;
    let alone = servers::database().await;
    for projection in projections::all() {
        project(&projection, &log, &alone, end).await;
        let workers: Vec<_> = (0..3).map(|_| Running::start(&projection, &log, &pool)).collect();
        reaches(projection.name(), &pool, end).await;
        for worker in workers {
            worker.stop().await;
        }
        assert_eq!(rows(projection.as_ref(), &pool).await, rows(projection.as_ref(), &alone).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_not_readable_stops_its_readers_and_is_not_skipped() {
    let log = story().await;
    let pool = servers::database().await;
    let end = log.end().await.expect("an end");
    let catalog = &projections::all()[0];
    project(catalog, &log, &pool, end).await;
    let stored = log.read(1).await.expect("readable").expect("there");
    let mut poison = stored.commit.clone();
    poison.stream = "stock/POISON".parse().expect("a stream");
    poison.version = 1;
    poison.events[0].kind = "stock.teleported".into();
    log.append(&(&poison).into(), 0).await.expect("appended");
    let running = Running::start(catalog, &log, &pool);
    let stopped = eventually("its lanes stop", async || {
        let statuses = running.worker.statuses()?;
        statuses.into_iter().find_map(|(.., status)| Some((status.position, status.stopped?)))
    });
    let (position, reason) = stopped.await;
    assert_eq!(position, end);
    assert!(reason.contains(&format!("position {}", end + 1)), "{reason}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_postgres_refuses_does_not_stop_a_projection() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = servers::database().await;
    let shop = executors(&log);
    let sku: Sku = "NUL".parse().expect("a SKU");
    shop.products.execute(&sku, &request(), create(&sku, "Mug", 100)).await.expect("done");
    let stored = log.read(1).await.expect("readable").expect("there");
    let Ok(Some(Event::Product(product::Event::Created { sku, mut details, price }))) =
        Event::decode(&stored.commit.events[0])
    else {
        panic!("a product")
    };
    // The rules refuse it; a log written by others may have it all the same.
    details.title = "M\0ug".into();
    details.attributes.insert("Col\0our".into(), "Bl\0ue".into());
    let event = product::Event::Created { sku, details, price };
    let mut hostile = stored.commit.clone();
    hostile.stream = "product/NUL-2".parse().expect("a stream");
    hostile.events = vec![RecordedEvent::encode(&event, hostile.id, 0, hostile.recorded_at)];
    log.append(&(&hostile).into(), 0).await.expect("appended");
    for projection in projections::all() {
        project(&projection, &log, &pool, 2).await;
    }
    let (found, _) =
        projections::catalog::product(&pool, &live("catalog", &pool).await, "NUL-2").await.expect("rows");
    assert_eq!(found.expect("there").details.title, "M\u{FFFD}ug");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_sees_versions_as_the_streams_have_them() {
    let log = story().await;
    let mut versions = std::collections::HashMap::new();
    let end = log.end().await.expect("an end");
    let mut commits = log.follow(0);
    for _ in 0..end {
        for happened in
            Happened::all_of(&commits.next().await.expect("a commit").expect("readable")).expect("decoded")
        {
            let version = versions.entry(happened.stream.clone()).or_insert(0);
            *version += 1;
            assert_eq!(happened.version, *version);
        }
    }
}

/// A projection as small as they come, in two versions of its code: the second counts double.
struct Units(i32);

impl Projection for Units {
    fn name(&self) -> &'static str {
        "units"
    }

    fn version(&self) -> i32 {
        self.0
    }

    fn categories(&self) -> &'static [&'static str] {
        &[stock::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[("units", "sku")]
    }

    fn definition(&self) -> &'static str {
        "create table units (sku text primary key, units bigint not null)"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &["create index on units (units)"]
    }

    fn lanes(&self) -> u64 {
        4
    }

    fn key<'a>(&self, happened: &'a Happened) -> Option<Cow<'a, str>> {
        Some(happened.stream.id().into())
    }

    fn apply<'a>(
        &'a self,
        batch: &'a [Happened],
        transaction: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            for happened in batch {
                if let Event::Stock(stock::Event::Received { quantity }) = &happened.event {
                    let add = "insert into units values ($1, $2)
                               on conflict (sku) do update set units = units.units + excluded.units";
                    let units = i64::from(*quantity) * i64::from(self.0);
                    sqlx::query(add)
                        .bind(happened.stream.id())
                        .bind(units)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
            Ok(())
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_code_builds_its_read_model_by_itself_and_can_be_rolled_back() {
    let pool = PgPool::connect(&servers::database_url().await).await.expect("Postgres answers");
    let log = story().await;
    let (old, new): (Arc<dyn Projection>, Arc<dyn Projection>) = (Arc::new(Units(1)), Arc::new(Units(2)));
    let units = async |code: i32| {
        let models = ReadModels::new(pool.clone(), [("units", code)].into());
        let model = tokio::select! {
            () = models.run() => None,
            model = models.at("units", 0, Duration::from_secs(5)) => model,
        };
        let model = model.expect("a read model");
        let sum = model.sql("select sum(units)::bigint from {schema}.units");
        let sum: i64 = sqlx::query_scalar(sum).fetch_one(&pool).await.expect("rows");
        (model.version, sum)
    };
    set_up(std::slice::from_ref(&old), &pool).await.expect("tables");
    project(&old, &log, &pool, log.end().await.expect("an end")).await;
    let (version, counted) = units(1).await;
    assert!(version == 1 && counted > 0);

    // Both builds run for a while: each queries what it knows, and the old one goes on.
    let both = [old.clone(), new.clone()];
    set_up(&both, &pool).await.expect("tables");
    set_up(&both, &pool).await.expect("tables");
    let (running, old_running) = (Running::start(&new, &log, &pool), Running::start(&old, &log, &pool));
    eventually("the new one is live", async || (live("units", &pool).await.code == 2).then_some(())).await;
    let sku: Sku = "LATE".parse().expect("a SKU");
    let late = stock::Command::Receive { quantity: 100 };
    executors(&log).stock.execute(&sku, &request(), late).await.expect("done");
    let end = log.end().await.expect("an end");
    eventually("both follow", async || {
        let models = read_models::all(&pool).await.expect("read models");
        (models.len() == 2 && models.iter().all(|model| model.position.0 == end)).then_some(())
    })
    .await;
    assert_eq!((units(1).await, units(2).await), ((1, counted + 100), (2, 2 * (counted + 100))));

    let builds = Builds::new(both.to_vec(), log.clone(), pool.clone());
    assert_eq!(builds.roll_back("units").await.expect("rolled back"), 1);
    assert_eq!(live("units", &pool).await.position.0, end);
    assert_eq!(units(2).await, (1, counted + 100), "who rolls back means everybody");
    set_up(&both, &pool).await.expect("tables");
    let models = read_models::all(&pool).await.expect("read models");
    assert!(models.iter().all(|model| model.state != "building"), "it does not come back by itself");
    // Nobody follows for the one that would be put back, so it's refused.
    running.stop().await;
    executors(&log)
        .stock
        .execute(&sku, &request(), stock::Command::Receive { quantity: 1 })
        .await
        .expect("done");
    reaches("units", &pool, end + 1).await;
    let refused = builds.roll_back("units").await.expect_err("it's behind").to_string();
    assert!(refused.contains("units_v2 is behind the live one"), "{refused}");
    old_running.stop().await;
}
