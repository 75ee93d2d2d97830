//! Commits that this build can't read: what they tell waits for another build, and all else arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use infra::clock::Clock;
use infra::feed::Feed;
use infra::log::{EventLog, Stored};
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
    let log = Poisoned { log: Arc::new(nats.log().await), is_mended: is_mended.clone(), is_poison };
    let log: Arc<dyn EventLog> = Arc::new(log);
    webhooks::set_up(&pool).await.expect("tables");
    let endpoints = Endpoints::new(pool.clone(), log.clone(), settings().rules, settings().keys);
    let receiver = Receiver::start().await;
    let added = endpoints.add(&receiver.url, &["product.created".to_owned()]).await.expect("added");
    let id = added.endpoint.id;
    let start = || {
        let worker = Worker::new(Feed::new(log.clone()), pool.clone(), Clock::system(), settings());
        let (stop, stopped) = watch::channel(false);
        (stop, tokio::spawn(async move { worker.run(stopped).await }))
    };
    let (stop, working) = start();

    // Each product is two commits: it is created, and some of it comes in.
    shop.product(POISON, 1).await;
    shop.product("fine", 1).await;
    shop.product("fine", 1).await;
    receiver.has(2).await;
    assert_eq!(unreadable(&endpoints, id).await, 2);

    // Asked for once more, all that is readable comes once more, and what is not waits once more.
    endpoints.replay(id, From::Position(1)).await.expect("begun");
    receiver.has(4).await;
    eventually("it is gone through", async || (unreadable(&endpoints, id).await == 4).then_some(())).await;

    // Another build, which can't read it either.
    let another = "update cartulary.webhook_replays set unreadable_by = 'another build'";
    sqlx::query(another).execute(&pool).await.expect("changed");
    let by_another = "select count(*) from cartulary.webhook_replays where unreadable_by = 'another build'";
    eventually("it was tried", async || {
        let left: i64 = sqlx::query_scalar(by_another).fetch_one(&pool).await.expect("counted");
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(unreadable(&endpoints, id).await, 4);
    assert_eq!(receiver.got().len(), 4);

    // And one that can.
    stop.send_replace(true);
    working.await.expect("it ended");
    is_mended.store(true, Ordering::Relaxed);
    sqlx::query(another).execute(&pool).await.expect("changed");
    let (stop, working) = start();
    eventually("nothing waits any more", async || (unreadable(&endpoints, id).await == 0).then_some(()))
        .await;
    eventually("it arrives", async || {
        let told = |received: &Received| received.body.contains(POISON);
        receiver.got().iter().any(told).then_some(())
    })
    .await;
    stop.send_replace(true);
    working.await.expect("it ended");
}
