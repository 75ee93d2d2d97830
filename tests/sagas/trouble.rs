//! What the sagas can't get done: it shows while that is so, wherever it is done in the end, and not any longer.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use rustix::process::{Signal, kill_process};
use serde_json::json;
use sqlx::PgPool;

use super::world::World;
use super::{SHARE_LIMIT, shared_by};
use crate::support::metrics::metric;
use crate::support::sandboxed::Scene;
use crate::support::shop::{Roles, operate_sagas};
use crate::support::{eventually, within};

/// As many attempts as it takes until it shows, or, with the longest pause between two, until it's done.
const LIMIT: Duration = Duration::from_secs(60);

/// How many sagas are in trouble, as a process tells it.
async fn in_trouble(sagas: &Roles) -> Option<u64> {
    metric(&sagas.admin, "cartulary_sagas_in_trouble").await
}

/// Where timers are set.
async fn timers(world: &World) -> Stream {
    world.log.context().get_stream("TIMERS").await.expect("timers")
}

/// No timer can be set any more, or they can again.
async fn are_out_of_order(world: &World, is_so: bool) {
    let mut config = timers(world).await.cached_info().config.clone();
    config.max_message_size = if is_so { 1 } else { -1 };
    world.log.context().update_stream(config).await.expect("updated");
}

/// Until every process says that so many are in trouble.
async fn all_say(sagas: &[&Roles], count: u64) {
    within(LIMIT, &format!("all say that {count} are in trouble"), async || {
        for sagas in sagas {
            if in_trouble(sagas).await != Some(count) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Whose lane the order is in.
async fn has(pool: &PgPool, order: &str, sagas: &Roles) -> bool {
    let query = "select name from cartulary.sagas join cartulary.lanes on reader = 'sagas'
                     and partition between first_partition and last_partition
                 join cartulary.workers on workers.id = holder where sagas.id = $1::uuid limit 1";
    let name: String = sqlx::query_scalar(query).bind(order).fetch_one(pool).await.expect("a holder");
    name.ends_with(&format!(":{}", sagas.pid().as_raw_nonzero()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_trouble_shows_until_it_is_done_whoever_does_it() {
    let world = World::start().await;
    let (one, other) = (world.roles(&["sagas"], &[]).await, world.roles(&["sagas"], &[]).await);
    shared_by(&world.pool, &[&one, &other], SHARE_LIMIT).await;
    let sku = world.client.product("trouble", 5).await;
    all_say(&[&one, &other], 0).await;

    are_out_of_order(&world, true).await;
    let order = world.client.check_out(&world.client.cart(&sku, 1).await, "tok_approve").await;
    all_say(&[&one, &other], 1).await;
    let (fine, printed) = operate_sagas(&one.admin, &["stuck"]).await;
    assert!(!fine && printed.contains(&order), "{printed}");
    are_out_of_order(&world, false).await;
    assert_eq!(world.client.settled(&order).await["status"], "confirmed");
    all_say(&[&one, &other], 0).await;

    are_out_of_order(&world, true).await;
    let order = world.client.check_out(&world.client.cart(&sku, 1).await, "tok_approve").await;
    all_say(&[&one, &other], 1).await;
    let (at_it, heir) = if has(&world.pool, &order, &one).await { (one, other) } else { (other, one) };
    // It dies before it can do what it could now.
    kill_process(at_it.pid(), Signal::STOP).expect("it runs");
    are_out_of_order(&world, false).await;
    drop(at_it);
    assert_eq!(world.client.settled(&order).await["status"], "confirmed");
    all_say(&[&heir], 0).await;
    // The table says so a moment after the metric.
    eventually("nothing is stuck", async || operate_sagas(&heir.admin, &["stuck"]).await.0.then_some(()))
        .await;
    let left: i64 = sqlx::query_scalar("select count(*) from cartulary.saga_troubles")
        .fetch_one(&world.pool)
        .await
        .expect("troubles");
    assert_eq!(left, 0, "whoever starts next would tell of it for ever");
}

/// What the parcel is worth is asked for, in vain: so often.
async fn is_stuck_after(scene: &Scene, order: &str, times: usize) {
    within(LIMIT, &format!("capture {times} is declined, and it shows"), async || {
        let ledger = scene.ledger(order).await;
        let declined =
            ledger.iter().filter(|(operation, why)| operation == "capture" && why.is_some()).count();
        assert!(declined <= times, "{ledger:?}");
        let (fine, printed) = scene.operate(&["stuck"]).await;
        (declined == times && !fine && printed.contains("capture_stuck")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_stuck_is_asked_for_each_time_that_a_person_says_so() {
    let scene = Scene::start(&["--capture-at", "shipment"]).await;
    let sku = scene.shop.product("stuck", 5).await;
    let order = scene.buy(&sku, "tok_capture_declined").await;
    scene.shows(&order, "confirmed", "authorized").await;
    let shipped = scene.shop.post(&format!("/v1/orders/{order}/shipments"), &json!({})).await;
    assert_eq!(shipped.status, 201, "{shipped:?}");
    is_stuck_after(&scene, &order, 1).await;
    for times in 2..=4 {
        let (retried, printed) = scene.operate(&["retry", &order]).await;
        assert!(retried, "{printed}");
        is_stuck_after(&scene, &order, times).await;
    }

    // Somebody takes it by hand, at the provider.
    sqlx::query(
        "insert into sandbox.operations
         select 'by hand', order_id, 'capture', provider_reference, amount, currency, null, now(), now()
         from sandbox.operations where order_id = $1::uuid and operation = 'authorize'",
    )
    .bind(&order)
    .execute(&scene.pool)
    .await
    .expect("inserted");
    assert_eq!(scene.differences(&order).await, ["missed"]);
    scene.shows(&order, "completed", "captured").await;
    eventually("nothing is stuck", async || scene.operate(&["stuck"]).await.0.then_some(())).await;
}
