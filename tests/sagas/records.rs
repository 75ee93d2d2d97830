//! What a process recorded and did not act on, because it came late, and died: whoever has the lane does.

use std::sync::Arc;

use domain::commit::Hash;
use domain::{CommandId, OrderId};
use infra::clock::Clock;
use infra::execute::{self, Executor, Request};
use infra::log::EventLog;
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Priority, Writer};
use sagas::Checkout;
use sagas::checkout::Told;
use sagas::saga::Input;
use uuid::Uuid;

use super::world::World;
use crate::support::{eventually, far_deadlines};

/// Checkouts, as a process has them that does nothing else.
fn checkouts(world: &World) -> Executor<Checkout> {
    let log: Arc<dyn EventLog> = Arc::new(world.log.clone());
    let (clock, writer) = (Clock::system(), Writer::new(log, writer::Settings::default()));
    let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
    let settings = execute::Settings {
        idempotency_keep: std::time::Duration::from_secs(3_600),
        cached_aggregates_max: 1,
    };
    Executor::new(&writer, &snapshots, &clock, &settings)
}

/// An operator's call as it was taken up by a process that did not live to act on it.
async fn is_given_up_by_the_dead(world: &World, order: OrderId) {
    let input = Input::Abandoned { reason: "a thief".to_owned() };
    let told = Told { input, limits: far_deadlines(), now: Clock::system().now() };
    let call = CommandId(Uuid::now_v7());
    let request = Request {
        command_id: call.step("checkout/react"),
        hash: Hash::of(b"checkout/abandoned"),
        actor: "operator".to_owned(),
        correlation: call,
        causation: Some(call.0),
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
        priority: Priority::Normal,
    };
    let recorded = checkouts(world).execute(order, &request, told).await.expect("recorded");
    assert_eq!(recorded.events.len(), 2, "it is given up, and to be taken back: {:?}", recorded.events);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_by_somebody_who_dies_over_it_is_acted_on() {
    let world = World::start().await;
    let _sagas = world.roles(&["sagas"], &[]).await;
    let sku = world.client.product("recorded", 5).await;
    let order = world.client.check_out(&world.client.cart(&sku, 2).await, "tok_approve").await;
    let is_paid = async || {
        let shown = world.client.get(&format!("/v1/orders/{order}")).await.body;
        (shown["payment"]["status"] == "captured").then_some(())
    };
    eventually("it is paid", is_paid).await;
    world.settles().await;
    is_given_up_by_the_dead(&world, order.parse().expect("an id")).await;
    let is_undone = async || {
        let shown = world.client.get(&format!("/v1/orders/{order}")).await.body;
        (shown["status"] == "cancelled" && shown["payment"]["status"] == "refunded").then_some(shown)
    };
    assert_eq!(eventually("it is taken back", is_undone).await["reason"], "abandoned");
    eventually("it is on the shelf", async || (world.client.stock(&sku).await == (5, 0)).then_some(())).await;
}
