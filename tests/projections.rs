//! Projections: the same rows however the log is cut into batches, and none twice.

use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use domain::product::{self, Details};
use domain::{CartId, CommandId, Event, Money, OrderId, RecordedEvent, Sku, cart, stock};
use futures_util::StreamExt;
use infra::clock::Clock;
use infra::execute::{Executors, Request, Settings};
use infra::feed::{Entry, Feed};
use infra::log::{EventLog, MemoryLog};
use infra::read_models::{self, ReadModels};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Writer};
use projections::projection::Happened;
use projections::{Builds, set_up};
use proptest::strategy::{Strategy, ValueTree};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::projecting::{Running, Units, live, project, reaches, rows};
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
    let mut follower = Feed::new(log).follow(0);
    let mut read: Vec<Arc<Entry>> = Vec::new();
    while read.last().is_none_or(|last| last.sequence < end) {
        read.extend(follower.batch(100).await);
    }
    for happened in read.iter().flat_map(|entry| Happened::all_of(entry)) {
        let happened = happened.expect("decoded");
        let version = versions.entry(happened.stream.clone()).or_insert(0);
        *version += 1;
        assert_eq!(happened.version, *version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_code_builds_its_read_model_by_itself_and_can_be_rolled_back() {
    let pool = PgPool::connect(&servers::database_url().await).await.expect("Postgres answers");
    let log = story().await;
    let (old, new) = (Units::times(1), Units::times(2));
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

    let builds = Builds::new(both.to_vec(), Feed::new(log.clone()), pool.clone());
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
