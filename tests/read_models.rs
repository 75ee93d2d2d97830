//! Read models under way: shared by processes that die, built anew while people read and write, compared,
//! switched, and put back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use infra::feed::Feed;
use infra::lanes::{Advance, Worker};
use infra::log::{Append, EventLog, Expected, MemoryLog};
use infra::read_models;
use projections::Builds;
use projections::builds::Purpose;
use reqwest::Method;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::load::Load;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, operate};
use crate::support::stock::{commit, message};

/// How soon a worker's lanes are to be somebody else's, whatever happened to it.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);

/// How soon who comes new is to have its share; it may have to start first, on a busy machine.
const SHARE_LIMIT: Duration = Duration::from_secs(30);

/// Servers and an instance that takes commands and answers queries.
struct Place {
    nats: Nats,
    database: String,
    api: Roles,
}

impl Place {
    async fn new(roles: &[&str]) -> Self {
        let (nats, database) = (Nats::start().await, database_url().await);
        let api = Roles::start(nats.url(), &database, roles).await;
        Self { nats, database, api }
    }

    async fn worker(&self) -> Roles {
        Roles::start(self.nats.url(), &self.database, &["projections"]).await
    }

    async fn pool(&self) -> PgPool {
        PgPool::connect(&self.database).await.expect("Postgres answers")
    }
}

/// What the admin API says of all read models.
async fn status(admin: &str) -> Vec<Value> {
    let (succeeded, printed) = operate(admin, &["status", "--json"]).await;
    assert!(succeeded, "{printed}");
    let status: Value = serde_json::from_str(&printed).expect("JSON");
    status["data"].as_array().expect("a list").clone()
}

/// How many lanes each process has.
async fn lanes_by_holder(admin: &str) -> BTreeMap<String, usize> {
    let mut lanes = BTreeMap::new();
    for model in status(admin).await {
        for lane in model["lanes"].as_array().expect("lanes") {
            *lanes.entry(lane["holder"].as_str().unwrap_or("nobody").to_owned()).or_default() += 1;
        }
    }
    lanes
}

async fn shared_by(admin: &str, workers: &[&Roles], limit: Duration) {
    let wanted: BTreeSet<String> =
        workers.iter().map(|roles| roles.pid().as_raw_nonzero().to_string()).collect();
    let deadline = Instant::now() + limit;
    loop {
        let lanes = lanes_by_holder(admin).await;
        let holders = lanes.keys().map(|name| name.rsplit(':').next().unwrap_or_default().to_owned());
        let fair =
            lanes.values().max().zip(lanes.values().min()).is_some_and(|(most, least)| most - least <= 1);
        if holders.collect::<BTreeSet<_>>() == wanted && fair {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted:?} don't share all lanes: {lanes:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every read model is what the log makes of it.
async fn all_verified(admin: &str) {
    for name in ["catalog", "search", "orders", "carts", "sales"] {
        let (same, printed) = operate(admin, &["verify", name]).await;
        assert!(same, "{name}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_lanes_and_replace_each_other() {
    let place = Place::new(&["command-api", "query-api"]).await;
    let (first, second) = (place.worker().await, place.worker().await);
    let load = Load::start(&[&place.api.url], 8).await;
    shared_by(&first.admin, &[&first, &second], SHARE_LIMIT).await;
    let third = place.worker().await;
    shared_by(&first.admin, &[&first, &second, &third], SHARE_LIMIT).await;

    kill_process(second.pid(), Signal::KILL).expect("it runs");
    shared_by(&first.admin, &[&first, &third], TAKEOVER_LIMIT).await;
    kill_process(third.pid(), Signal::STOP).expect("it runs");
    shared_by(&first.admin, &[&first], TAKEOVER_LIMIT).await;
    // What was paused wakes up, in the middle of whatever it was at, and has no right to it any more.
    kill_process(third.pid(), Signal::CONT).expect("it runs");
    shared_by(&first.admin, &[&first, &third], SHARE_LIMIT).await;
    load.finish().await;
    all_verified(&first.admin).await;
}

/// Somebody who reads again and again, and never wants to see less than before.
async fn read(url: String, path: String, enough: Arc<AtomicBool>, reads: Arc<AtomicU64>) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut seen = 0_u64;
    while !enough.load(Ordering::Relaxed) {
        let request = client.get(format!("{url}{path}")).header("Min-Log-Position", seen);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path} after position {seen}");
        let position = answer.headers()["log-position"].to_str().expect("text").parse().expect("a position");
        assert!(position >= seen, "{path} went back from {seen} to {position}");
        let body: Value = answer.json().await.expect("JSON");
        assert!(body["sku"].is_string() || !body["data"].as_array().expect("a list").is_empty(), "{body}");
        seen = position;
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_rebuild_and_a_rollback_are_not_noticed_by_those_who_read() {
    let place = Place::new(&["command-api", "query-api", "projections"]).await;
    let (url, admin) = (&place.api.url, &place.api.admin);
    let load = Load::start(&[url], 2).await;
    let page = eventually("there are products", async || {
        let (_, page) = place.api.send(Method::GET, "/v1/products?limit=100").await;
        (page["data"].as_array()?.len() >= 24).then_some(page)
    })
    .await;
    let sku = page["data"][0]["sku"].as_str().expect("a SKU");
    eventually("they are found", async || {
        let (_, found) = place.api.send(Method::GET, "/v1/search?q=mug").await;
        (found["total"].as_u64()? >= 24).then_some(())
    })
    .await;
    let (enough, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = JoinSet::new();
    for path in
        [format!("/v1/products/{sku}"), "/v1/products?limit=100".to_owned(), "/v1/search?q=mug".to_owned()]
    {
        readers.spawn(read(url.clone(), path, enough.clone(), reads.clone()));
    }
    for arguments in [
        vec!["rebuild", "catalog"],
        vec!["rebuild", "search", "--verify"],
        vec!["rollback", "catalog"],
        vec!["rebuild", "--all", "--verify"],
        vec!["rollback", "search"],
    ] {
        let before = reads.load(Ordering::Relaxed);
        let (succeeded, printed) = operate(admin, &arguments).await;
        assert!(succeeded, "{arguments:?}: {printed}");
        eventually("they read on", async || (reads.load(Ordering::Relaxed) > before + 20).then_some(()))
            .await;
    }
    enough.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.expect("no read failed");
    }
    load.finish().await;
    all_verified(admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_drift_is_found_named_and_mended() {
    let place = Place::new(&["command-api", "query-api", "projections"]).await;
    let admin = &place.api.admin;
    let load = Load::start(&[&place.api.url], 2).await;
    eventually("they work", async || (load.acknowledged() > 50).then_some(())).await;
    load.finish().await;
    let (same, printed) = operate(admin, &["verify", "catalog"]).await;
    assert!(same, "{printed}");
    let by_hand = "update catalog.products set on_hand = on_hand + 5
                   where sku = (select min(sku) from catalog.products) returning sku";
    let sku: String = sqlx::query_scalar(by_hand).fetch_one(&place.pool().await).await.expect("a product");
    let (same, printed) = operate(admin, &["verify", "catalog"]).await;
    assert!(!same && printed.contains(&format!("products {sku}\n")), "{printed}");
    let (switched, printed) = operate(admin, &["rebuild", "catalog", "--verify"]).await;
    assert!(!switched && printed.contains("in 1 rows") && printed.contains("cut-over"), "{printed}");
    let (begun, printed) = operate(admin, &["rebuild", "catalog"]).await;
    assert!(!begun && printed.contains("is building already"), "{printed}");
    let (switched, printed) = operate(admin, &["cut-over", "catalog"]).await;
    assert!(switched, "{printed}");
    let (same, printed) = operate(admin, &["verify", "catalog"]).await;
    assert!(same, "{printed}");
    let (cancelled, printed) = operate(admin, &["cancel", "catalog"]).await;
    assert!(!cancelled && printed.contains("no build of catalog is under way"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_on_where_it_was_when_its_worker_was_killed() {
    const COMMITS: u64 = 15_000;
    let place = Place::new(&["projections"]).await;
    let log = place.nats.log().await;
    for first in (0..COMMITS).step_by(1_000) {
        let append = |number: u64| {
            let stream = format!("stock/SKU-{number}").parse().expect("a stream");
            Append { message: message(&commit(&stream, 1, 1)), expected: Expected::Position(0) }
        };
        let batch: Vec<Append> = (first..first + 1_000).map(append).collect();
        log.append_batch(&batch).await.expect("appended");
    }
    let pool = place.pool().await;
    let position = async |state: &str| {
        let models = read_models::all(&pool).await.expect("read models");
        models.into_iter().find(|model| model.projection == "catalog" && model.state == state)
    };
    eventually("it has caught up", async || (position("live").await?.position.0 == COMMITS).then_some(()))
        .await;
    let (begun, printed) = operate(&place.api.admin, &["rebuild", "catalog", "--no-wait"]).await;
    assert!(begun, "{printed}");
    let killed_at = eventually("it's under way", async || {
        let position = position("building").await.expect("it's building").position.0;
        (position > 1_000).then_some(position)
    });
    let killed_at = killed_at.await;
    kill_process(place.api.pid(), Signal::KILL).expect("it runs");
    assert!(killed_at < COMMITS, "it was over before the kill");
    let before = position("building").await.expect("it's there").position.0;
    assert!(before > 0);
    let other = place.worker().await;
    eventually("it's live", async || position("live").await.filter(|model| model.version == 2)).await;
    let (same, printed) = operate(&other.admin, &["verify", "catalog"]).await;
    assert!(same, "{printed}");
    let events: i64 =
        sqlx::query_scalar("select max(events) from cartulary.lanes where reader = 'catalog_v2'")
            .fetch_one(&pool)
            .await
            .expect("a lane");
    assert_eq!(events.cast_unsigned(), COMMITS, "every event was come by once");
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_a_lease_that_was_lost_moves_nothing() {
    let pool = crate::support::servers::database().await;
    let readers = ["catalog_v1".to_owned()];
    let mut paused = Worker::new(pool.clone(), "paused".to_owned());
    let old = paused.share(&readers).await.expect("shared").remove(0);
    let mut connection = pool.acquire().await.expect("a connection");
    assert_eq!(old.advance(&mut connection, 0, 5, None, 5).await.expect("answers"), Advance::Done);
    // Its connection is gone, and with it its claim; it does not know that.
    drop(paused);
    let mut other = Worker::new(pool.clone(), "other".to_owned());
    let new =
        eventually("the lane is free", async || other.share(&readers).await.expect("shared").pop()).await;
    assert!(new.epoch > old.epoch);
    assert_eq!(old.advance(&mut connection, 5, 6, None, 1).await.expect("answers"), Advance::Lost);
    assert_eq!(old.begin(&mut connection).await.expect("answers"), None);
    assert_eq!(new.begin(&mut connection).await.expect("answers"), Some(5));
    assert_eq!(new.advance(&mut connection, 0, 6, None, 1).await.expect("answers"), Advance::Lost);
    assert_eq!(new.advance(&mut connection, 5, 6, None, 1).await.expect("answers"), Advance::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_anew_gives_other_rights_than_the_last_of_its_name() {
    let pool = crate::support::servers::database().await;
    let readers = ["catalog_v1".to_owned()];
    let mut worker = Worker::new(pool.clone(), "one".to_owned());
    let old = worker.share(&readers).await.expect("shared").remove(0);
    let mut connection = pool.acquire().await.expect("a connection");
    let dropped = "delete from cartulary.lanes where reader = 'catalog_v1'";
    sqlx::query(dropped).execute(&mut *connection).await.expect("dropped");
    infra::lanes::add(&mut connection, "catalog_v1", 1).await.expect("added");
    let new = worker.share(&readers).await.expect("shared").remove(0);
    assert!(new.epoch > old.epoch, "{new:?} after {old:?}");
    assert_eq!(old.advance(&mut connection, 0, 5, None, 5).await.expect("answers"), Advance::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_begun_or_none() {
    let pool = crate::support::servers::database().await;
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let builds = Builds::new(projections::all(), Feed::new(log), pool.clone());
    let purpose = Purpose::Replace { verify: false, keep: Duration::ZERO };
    builds.begin("sales", purpose).await.expect("begun");
    let refused = builds.begin_all(purpose).await.expect_err("one is under way");
    assert_eq!(refused.to_string(), "sales_v2 is building already");
    let building = async || {
        let models = read_models::all(&pool).await.expect("read models");
        models.iter().filter(|model| model.state == "building").count()
    };
    assert_eq!(building().await, 1);
    builds.cancel("sales").await.expect("cancelled");
    let begun = builds.begin_all(purpose).await.expect("begun");
    assert_eq!((begun.len(), building().await), (projections::all().len(), projections::all().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_still_looks_at_an_old_one_holds_up_nothing() {
    let place = Place::new(&["command-api", "query-api", "projections"]).await;
    let pool = place.pool().await;
    let mut looking = pool.begin().await.expect("begun");
    sqlx::query("select from catalog_v1.products").execute(&mut *looking).await.expect("looked at");
    let (live, printed) = operate(&place.api.admin, &["rebuild", "--all", "--keep-old", "0s"]).await;
    assert!(live, "{printed}");
    let is_there = async |schema: &str| {
        let there: bool = sqlx::query_scalar("select to_regnamespace($1) is not null")
            .bind(schema)
            .fetch_one(&pool)
            .await
            .expect("an answer");
        there
    };
    for others in ["search_v1", "orders_v1", "carts_v1", "sales_v1"] {
        eventually("the others are dropped", async || (!is_there(others).await).then_some(())).await;
    }
    assert!(is_there("catalog_v1").await, "somebody looks at it");
    looking.rollback().await.expect("ended");
    eventually("it is dropped as well", async || (!is_there("catalog_v1").await).then_some(())).await;
}

/// In a rolling upgrade, some lanes can be worked on by one process alone; its share must not be full of others.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_can_do_is_done_by_that_one() {
    let pool = crate::support::servers::database().await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (older, newer) = (
        names(&["carts_v1", "catalog_v1", "orders_v1", "sales_v1", "search_v1"]),
        names(&["carts_v1", "catalog_v1", "orders_v1", "sales_v1", "another_v2"]),
    );
    let mut connection = pool.acquire().await.expect("a connection");
    infra::lanes::add(&mut connection, "another_v2", 1).await.expect("added");
    let (mut first, mut second) =
        (Worker::new(pool.clone(), "first".to_owned()), Worker::new(pool.clone(), "second".to_owned()));
    assert_eq!(first.share(&older).await.expect("shared").len(), 6);
    let mut have = Vec::new();
    for _ in 0..4 {
        let of_second = second.share(&newer).await.expect("shared");
        have = vec![first.share(&older).await.expect("shared"), of_second];
    }
    let has = |worker: usize, reader: &str| have[worker].iter().any(|lease| lease.reader == reader);
    assert!(has(0, "search_v1") && has(1, "another_v2"), "{have:?}");
    assert_eq!(have.iter().map(Vec::len).sum::<usize>(), 7, "{have:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_of_builds_that_kept_checkpoints_are_taken_over() {
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    let all = projections::all();
    projections::set_up(&all, &pool).await.expect("tables");
    let as_it_was = "drop table cartulary.read_models; drop table cartulary.lanes;
        create table cartulary.checkpoints (reader text primary key, version int not null default 1,
            position bigint not null default 0, moved_at timestamptz not null default now());
        insert into cartulary.checkpoints (reader, position)
            values ('catalog', 7), ('search', 8), ('orders', 9), ('carts', 10), ('sagas', 11);
        insert into catalog_v1.products (sku, category, for_sale, version, stock_version, on_hand, held)
            values ('OLD', '', true, 1, 1, 1, 0)";
    sqlx::raw_sql(as_it_was).execute(&pool).await.expect("as it was");
    for _ in 0..2 {
        projections::set_up(&all, &pool).await.expect("taken over");
        let models = read_models::all(&pool).await.expect("read models");
        let mut positions: Vec<(String, u64)> =
            models.into_iter().map(|model| (model.schema(), model.position.0)).collect();
        positions.sort_unstable();
        // Carts and orders have newer code than those builds had, which is built beside.
        let expected = [
            ("carts_v1", 10),
            ("carts_v2", 0),
            ("catalog_v1", 7),
            ("orders_v1", 9),
            ("orders_v2", 0),
            ("sales_v1", 0),
            ("search_v1", 8),
        ];
        assert_eq!(positions, expected.map(|(schema, position)| (schema.to_owned(), position)));
    }
    let mut connection = pool.acquire().await.expect("a connection");
    assert_eq!(infra::lanes::position(&mut connection, "sagas").await.expect("a lane"), 11);
    let rows: i64 = sqlx::query_scalar("select count(*) from catalog.products")
        .fetch_one(&mut *connection)
        .await
        .expect("the view");
    assert_eq!(rows, 1);
}
