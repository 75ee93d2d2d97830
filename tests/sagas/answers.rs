//! What answers a checkout's steps is heard together: a large order costs its saga no more commits than a small one.

use domain::{RecordedEvent, StreamId};
use infra::log::EventLog;
use sagas::Checkout;
use serde_json::json;

use super::world::World;

const LINES: usize = 300;

/// Most answers that are heard together.
const TOGETHER_MAX: usize = 256;

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_held_at_once_are_recorded_at_once() {
    let world = World::start().await;
    let _sagas = world.roles(&["sagas"], &[]).await;
    let first = world.client.product("answered", 5).await;
    let cart = world.client.cart(&first, 1).await;
    for _ in 1..LINES {
        let sku = world.client.product("answered", 5).await;
        let line =
            world.client.put(&format!("/v1/carts/{cart}/lines/{sku}"), &json!({ "quantity": 1 })).await;
        assert_eq!(line.status, 200);
    }
    let order = world.client.check_out(&cart, "tok_approve").await;
    assert_eq!(world.client.settled(&order).await["status"], "confirmed");
    let commits = world.log.load(&StreamId::of::<Checkout>(&order), 0).await.expect("readable");
    let is_held = |event: &&RecordedEvent| event.kind == "checkout.line_held";
    let held = commits.iter().map(|stored| stored.commit.events.iter().filter(is_held).count());
    let held: Vec<usize> = held.filter(|lines| *lines > 0).collect();
    // The first answer is that the order is placed.
    assert_eq!(held, [TOGETHER_MAX - 1, LINES + 1 - TOGETHER_MAX]);
    world.settles().await;
    let again = world.log.load(&StreamId::of::<Checkout>(&order), 0).await.expect("readable");
    let recorded = again.iter().flat_map(|stored| &stored.commit.events).filter(is_held).count();
    assert_eq!(recorded, LINES, "what the log tells once more changes nothing");
}
