//! Whatever dies, every event arrives at least once, and by one id.

use std::time::Duration;

use futures_util::future::join_all;
use infra::fail_points;

use super::{QUICK, add, logged};
use crate::support::customer::Client;
use crate::support::receiver::Receiver;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, Shop};
use crate::support::{Folder, eventually};

/// Flags of a process that only sends.
const SENDS: [&str; 7] = [
    "webhooks",
    "--webhooks-to-loopback",
    "true",
    "--webhooks-retry-first-ms",
    "100",
    "--webhooks-time-limit-ms",
    "500",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_platform_is_killed() {
    let receiver = Receiver::start().await;
    let mut shop = Shop::start_with(Folder::new(), &QUICK).await;
    add(&shop.addresses.admin, &receiver.url, "order.*,payment.*,stock.*").await;
    for round in 0..4 {
        let sku = shop.product("killed", 50).await;
        let orders = join_all((0..8).map(async |index| {
            let token = if index % 4 == 3 { "tok_decline" } else { "tok_approve" };
            shop.check_out(&shop.cart(&sku, 1).await, token).await
        }));
        let (_, so_far) = (orders.await, receiver.got().len());
        // In the middle of what follows from that, at another place each time.
        receiver.has(so_far + 5 * round).await;
        shop = Shop::start_with(shop.kill(), &QUICK).await;
    }
    let nats = shop.addresses.nats.clone();
    eventually("every order is settled", async || {
        let placed = logged(&nats, 0, &["order.placed"]).await.len();
        let ended = logged(&nats, 0, &["payment.captured", "order.cancelled"]).await.len();
        (placed == 32 && ended == 32).then_some(())
    })
    .await;
    eventually("all that happened has arrived", async || {
        let wanted = logged(&nats, 0, &["order.", "payment.", "stock."]).await;
        (receiver.events().len() >= wanted.len()).then_some(())
    })
    .await;
    assert_eq!(receiver.events(), logged(&nats, 0, &["order.", "payment.", "stock."]).await);
}

/// Dies there at the third event, and another process goes on; how often the event came that it died at.
async fn dies_at(place: &str) -> usize {
    let (nats, database) = (Nats::start().await, database_url().await);
    let receiver = Receiver::start().await;
    let api = Roles::start(nats.url(), &database, &["command-api"]).await;
    let mut dying =
        Roles::start_to_die(nats.url(), &database, &SENDS, &format!("{place}=2*off->return")).await;
    let client = Client::new(&api.url, &database);
    add(&dying.admin, &receiver.url, "product.created").await;
    for index in 0..2 {
        client.product("dies", 0).await;
        receiver.has(index + 1).await;
    }
    // What was done there before is done with.
    let pool = sqlx::PgPool::connect(&database).await.expect("Postgres answers");
    eventually("both are known to be delivered", async || {
        let query = "select count(*) from cartulary.webhook_deliveries where state = 'delivered'";
        let count: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.expect("a count");
        (count == 2).then_some(())
    })
    .await;
    client.product("dies", 0).await;
    eventually(place, async || dying.ended().then_some(())).await;
    let _next = Roles::start(nats.url(), &database, &SENDS).await;
    receiver.knows(&logged(nats.url(), 0, &["product.created"]).await).await;
    let times = |received: usize| received - 2;
    if place == fail_points::WEBHOOK_SENT {
        receiver.has(4).await;
    }
    times(receiver.got().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_does_not_pass_what_is_not_in_the_outbox() {
    assert_eq!(dies_at(fail_points::WEBHOOK_CHECKPOINT).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_had_claimed_is_sent() {
    assert_eq!(dies_at(fail_points::WEBHOOK_CLAIMED).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_and_was_not_written_down_comes_again_by_its_id() {
    assert_eq!(dies_at(fail_points::WEBHOOK_SENT).await, 2);
}

/// Two processes send, and one of them has the lane; when it's killed, the other takes over.
#[tokio::test(flavor = "multi_thread")]
async fn processes_share_the_sending_and_replace_each_other() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let receiver = Receiver::start().await;
    let api = Roles::start(nats.url(), &database, &["command-api"]).await;
    let first = Roles::start(nats.url(), &database, &SENDS).await;
    let client = Client::new(&api.url, &database);
    add(&first.admin, &receiver.url, "product.created").await;
    client.product("shared", 0).await;
    receiver.has(1).await;
    let second = Roles::start(nats.url(), &database, &SENDS).await;
    client.product("shared", 0).await;
    receiver.has(2).await;
    drop(first);
    let begun_at = std::time::Instant::now();
    client.product("shared", 0).await;
    receiver.has(3).await;
    assert!(begun_at.elapsed() < Duration::from_secs(10), "{:?}", begun_at.elapsed());
    receiver.knows(&logged(nats.url(), 0, &["product.created"]).await).await;
    drop(second);
}
