//! Commits that this build can't read: what they tell waits for another build, and all else arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::product::Product;
use domain::{CommandId, StreamId};
use infra::clock::Clock;
use infra::feed::Feed;
use infra::log::{EventLog, Message, Stored};
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;
use webhooks::replays::From;
use webhooks::{Endpoints, Keys, Rules, Settings, Worker};

use crate::support::customer::Client;
use crate::support::eventually;
use crate::support::poisoned::Poisoned;
use crate::support::receiver::{Received, Receiver};
use crate::support::servers::{Nats, database_url};
use crate::support::shop::Roles;

/// Is part of the SKU of what this build can't read.
const POISON: &str = "poison";

fn settings() -> Settings {
    Settings {
        rules: Rules { loopback: true, private: false },
        keys: Keys::new(vec!["5e".repeat(32).parse().expect("a key")]),
        in_flight_max: 4,
        time_limit: Duration::from_secs(10),
        retry_first: Duration::from_millis(100),
        retry_max: Duration::from_millis(500),
        give_up_after: Duration::from_secs(600),
        keep: Duration::from_secs(600),
    }
}

async fn unreadable(endpoints: &Endpoints, id: Uuid) -> i64 {
    endpoints.get(id).await.expect("an endpoint").unreadable
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_what_this_build_can_not_read_is_sent_by_one_that_can() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let roles = Roles::start(nats.url(), &database, &["command-api", "query-api", "projections"]).await;
    let pool = PgPool::connect(&database).await.expect("Postgres answers");
    let shop = Client::new(&roles.url, &database);
    let is_mended: Arc<AtomicBool> = Arc::default();
    let is_poison = |stored: &Stored| stored.commit.stream.id().contains(POISON);
    let nats_log: Arc<dyn EventLog> = Arc::new(nats.log().await);
    let log = Poisoned { log: nats_log.clone(), is_mended: is_mended.clone(), is_poison };
    let log: Arc<dyn EventLog> = Arc::new(log);
    webhooks::set_up(&pool).await.expect("tables");
    let endpoints = Endpoints::new(pool.clone(), log.clone(), settings().rules, settings().keys);
    let receiver = Receiver::start().await;
    let added = endpoints.add(&receiver.url, &["product.*".to_owned()]).await.expect("added");
    let id = added.endpoint.id;
    let start = || {
        let worker = Worker::new(Feed::new(log.clone()), pool.clone(), Clock::system(), settings());
        let (stop, stopped) = watch::channel(false);
        (stop, tokio::spawn(async move { worker.run(stopped).await }))
    };
    let (stop, working) = start();

    // Each product is two commits: it is created, and some of it comes in.
    shop.product(POISON, 1).await;
    let fine = shop.product("fine", 1).await;
    shop.product("fine", 1).await;
    receiver.has(2).await;
    assert_eq!(unreadable(&endpoints, id).await, 2);

    // An event of a type that only a later build knows.
    let stream = StreamId::of::<Product>(&fine);
    let last = nats_log.load(&stream, 0).await.expect("readable").pop().expect("a commit");
    let mut commit = last.commit.clone();
    (commit.version, commit.previous, commit.id) = (2, Some(last.hash()), CommandId(Uuid::now_v7()));
    (commit.events[0].kind, commit.events[0].id) = ("product.teleported".to_owned(), Uuid::now_v7());
    nats_log.append(&Message::from(&commit), last.sequence).await.expect("appended");
    eventually("it waits", async || (unreadable(&endpoints, id).await == 3).then_some(())).await;

    // Asked for once more, all that is readable comes once more, and what is not waits on.
    endpoints.replay(id, From::Position(1)).await.expect("begun");
    receiver.has(4).await;
    let under_way = "select count(*) from cartulary.webhook_replays";
    eventually("it is gone through", async || {
        let left: i64 = sqlx::query_scalar(under_way).fetch_one(&pool).await.expect("counted");
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(unreadable(&endpoints, id).await, 3);

    // Another build, which can't read it either.
    let another = "update cartulary.webhook_unreadable set build = 'another build'";
    sqlx::query(another).execute(&pool).await.expect("changed");
    let by_another = "select count(*) from cartulary.webhook_unreadable where build = 'another build'";
    eventually("it was tried", async || {
        let left: i64 = sqlx::query_scalar(by_another).fetch_one(&pool).await.expect("counted");
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(unreadable(&endpoints, id).await, 3);
    assert_eq!(receiver.got().len(), 4);

    // And one that can; but for the type that it does not know either.
    stop.send_replace(true);
    working.await.expect("it ended");
    is_mended.store(true, Ordering::Relaxed);
    sqlx::query(another).execute(&pool).await.expect("changed");
    let (stop, working) = start();
    eventually("all else is sent", async || (unreadable(&endpoints, id).await == 1).then_some(())).await;
    receiver.has(5).await;
    let told = |received: &Received| received.body.contains(POISON);
    assert_eq!(receiver.got().iter().filter(|received| told(received)).count(), 1, "once");
    stop.send_replace(true);
    working.await.expect("it ended");
}
