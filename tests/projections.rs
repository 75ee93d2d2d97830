//! Projections: the same rows however the log is cut into batches, and none twice.

use std::sync::Arc;
use std::time::Duration;

use domain::product::{self};
use domain::{Event, RecordedEvent, Sku, stock};
use infra::feed::{Entry, Feed};
use infra::log::{EventLog, MemoryLog};
use infra::read_models::{self, ReadModels};
use projections::projection::Happened;
use projections::{Builds, set_up};
use sqlx::PgPool;

use crate::support::projecting::{Running, Units, live, project, reaches};
use crate::support::story::{create, executors, request, story};
use crate::support::{eventually, servers};

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

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_hears_from_the_lanes_of_the_own_process_without_a_look_at_the_table() {
    let pool = servers::database().await;
    let log = story().await;
    let units = Units::times(1);
    set_up(std::slice::from_ref(&units), &pool).await.expect("tables");
    let models = Arc::new(ReadModels::new(pool.clone(), [("units", 1)].into()));
    let running = Running::telling(&models, &units, &log, &pool);
    let end = log.end().await.expect("an end");
    reaches("units", &pool, end).await;
    tokio::select! {
        () = models.run() => {}
        reached = models.wait("units", end, Duration::from_secs(10)) => assert!(reached),
    }
    // Nobody looks any more.
    let sku: Sku = "LATE".parse().expect("a SKU");
    let late = stock::Command::Receive { quantity: 100 };
    let executed = executors(&log).stock.execute(&sku, &request(), late).await.expect("done");
    assert!(models.wait("units", executed.sequence, Duration::from_secs(10)).await, "nobody told");
    assert_eq!(models.seen("units").map(|model| model.position.0), Some(executed.sequence));
    assert!(live("units", &pool).await.position.0 >= executed.sequence, "it is so");
    running.stop().await;
}
