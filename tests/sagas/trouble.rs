//! What the sagas can't get done: it shows while that is so, wherever it is done in the end, and not any longer.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use rustix::process::{Signal, kill_process};
use sqlx::PgPool;

use super::world::World;
use super::{SHARE_LIMIT, shared_by};
use crate::support::metrics::metric;
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
