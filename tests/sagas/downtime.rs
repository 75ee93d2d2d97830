//! Deadlines that pass while nobody is there, and what operators call for: when the sagas are back, each is acted on,
//! once.
//!
//! | order | waits for                                 | what comes of it                          |
//! |-------|-------------------------------------------|-------------------------------------------|
//! | held  | everything: it comes while all is down    | cancelled: not held, or not paid, in time |
//! | paid  | the provider, which takes a minute        | cancelled: not paid in time               |
//! | asked | the buyer, who is to approve the payment  | cancelled: not paid in time               |
//! | taken | the capture, for the provider is down     | stuck, because a parcel is gone           |
//! | ready | its first parcel, to be paid for then     | cancelled: not shipped in time            |
//! | gone  | its second parcel                         | told as overdue                           |

use std::collections::BTreeMap;

use domain::OrderId;
use infra::log::EventLog;
use sagas::status::{self, Call, Kind};
use serde_json::json;
use uuid::Uuid;

use super::provider_is_down;
use super::world::World;
use crate::support::eventually;
use crate::support::metrics::alarms;
use crate::support::shop::{Roles, operate_sagas};

/// Long enough for all of them to come to where they wait.
const FLAGS: [&str; 13] = [
    "sagas",
    "--capture-at",
    "shipment",
    "--time-to-hold-s",
    "5",
    "--time-to-pay-s",
    "15",
    "--time-for-challenge-s",
    "15",
    "--time-to-capture-s",
    "15",
    "--time-to-ship-s",
    "15",
];

/// What is down with the sagas, or lost meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    SagasAlone,
    NatsToo,
    /// And the timers are gone from their stream.
    TimersLost,
}

/// Orders by what they wait for.
type Orders = BTreeMap<&'static str, String>;

impl World {
    /// The order's checkout comes to this stage, and has a deadline there.
    async fn waits(&self, order: &str, stage: &str) {
        eventually(stage, async || (self.stage(order).await == Some((stage.to_owned(), true))).then_some(()))
            .await;
    }

    /// The stage of the order's checkout, and whether it has a deadline ahead.
    async fn stage(&self, order: &str) -> Option<(String, bool)> {
        let query = "select stage, coalesce(deadline > statement_timestamp(), false) from cartulary.sagas
                     where saga = 'checkout' and id = $1";
        let id: Uuid = order.parse().expect("an id");
        sqlx::query_as(query).bind(id).fetch_optional(&self.pool).await.expect("sagas")
    }

    async fn buy(&self, sku: &str, token: &str) -> String {
        self.client.check_out(&self.client.cart(sku, 2).await, token).await
    }

    async fn ship_one(&self, order: &str, sku: &str) {
        let parcel = json!({"lines": [{"sku": sku, "quantity": 1}]});
        let shipped = self.client.post(&format!("/v1/orders/{order}/shipments"), &parcel).await;
        assert_eq!(shipped.status, 201, "{shipped:?}");
    }

    async fn payment_is(&self, order: &str, status: &str) {
        eventually(&format!("the payment is {status}"), async || {
            let shown = self.client.get(&format!("/v1/orders/{order}")).await.body;
            (shown["payment"]["status"] == status).then_some(())
        })
        .await;
    }

    /// How often the order's streams have an event of this type.
    async fn times(&self, order: &str, kind: &str) -> usize {
        let category = kind.split('.').next().expect("a category");
        let stream = format!("{category}/{order}").parse().expect("a stream");
        let commits = self.log.load(&stream, 0).await.expect("the log answers");
        let events = commits.iter().flat_map(|stored| &stored.commit.events);
        events.filter(|event| event.kind == kind).count()
    }
}

/// Has each order come to where it waits; the provider is out of reach from then on.
async fn come_to_wait(world: &World, sku: &str) -> Orders {
    let gone = world.buy(sku, "tok_approve").await;
    world.waits(&gone, "shipping").await;
    world.ship_one(&gone, sku).await;
    world.payment_is(&gone, "captured").await;
    let (taken, ready) = (world.buy(sku, "tok_approve").await, world.buy(sku, "tok_approve").await);
    let (asked, paid) = (world.buy(sku, "tok_challenge").await, world.buy(sku, "tok_late").await);
    world.payment_is(&asked, "action_required").await;
    for order in [&gone, &taken, &ready] {
        world.waits(order, "shipping").await;
    }
    provider_is_down(&world.database, true).await;
    world.ship_one(&taken, sku).await;
    world.waits(&taken, "capturing").await;
    for order in [&asked, &paid] {
        world.waits(order, "authorizing").await;
    }
    [("gone", gone), ("taken", taken), ("ready", ready), ("asked", asked), ("paid", paid)].into()
}

/// Takes the sagas down, and more, until all deadlines are over.
async fn are_down(world: &mut World, sagas: Roles, down: Down, sku: &str) -> String {
    world.settles().await;
    drop(sagas);
    let waiting = "select count(*) from cartulary.sagas
                   where saga = 'checkout' and deadline > statement_timestamp() and not is_over";
    let ahead: i64 = sqlx::query_scalar(waiting).fetch_one(&world.pool).await.expect("sagas");
    assert_eq!(ahead, 5, "a deadline passed before its time");
    let held = world.buy(sku, "tok_late").await;
    if down == Down::TimersLost {
        let connection = infra::nats::connect(world.nats.url()).await.expect("nats-server answers");
        let timers = async_nats::jetstream::new(connection.client).get_stream("TIMERS").await;
        let mut timers = timers.expect("timers");
        assert!(timers.info().await.expect("told").state.messages >= 5, "nobody set a timer");
        timers.purge().await.expect("purged");
        assert_eq!(timers.info().await.expect("told").state.messages, 0);
    }
    if down == Down::NatsToo {
        world.nats.kill().await;
    }
    eventually("all deadlines are over", async || {
        let ahead: i64 = sqlx::query_scalar(waiting).fetch_one(&world.pool).await.expect("sagas");
        (ahead == 0).then_some(())
    })
    .await;
    if down == Down::NatsToo {
        world.nats.restart().await;
    }
    held
}

async fn deadlines_pass(down: Down) {
    let mut world = World::start().await;
    let sagas = world.roles(&FLAGS, &[]).await;
    world.settles().await;
    let sku = world.client.product("deadlines", 100).await;
    let mut orders = come_to_wait(&world, &sku).await;
    orders.insert("held", are_down(&mut world, sagas, down, &sku).await);
    let sagas = world.roles(&FLAGS, &[]).await;
    for (name, reasons) in [
        ("held", &["reservation_timed_out", "payment_timed_out"][..]),
        ("paid", &["payment_timed_out"]),
        ("asked", &["payment_timed_out"]),
        ("ready", &["not_shipped"]),
    ] {
        let settled = eventually(name, async || {
            let shown = world.client.get(&format!("/v1/orders/{}", orders[name])).await.body;
            (shown["status"] == "cancelled").then_some(shown)
        });
        let settled = settled.await;
        assert!(reasons.contains(&settled["reason"].as_str().expect("a reason")), "{name}: {settled}");
    }
    for (name, stage) in [("taken", "capture_stuck"), ("gone", "shipment_overdue")] {
        let is_there = async || (world.stage(&orders[name]).await?.0 == stage).then_some(());
        eventually(stage, is_there).await;
        let is_told = async || (alarms(&sagas.admin, stage).await > 0).then_some(());
        eventually(&format!("somebody is told of {stage}"), is_told).await;
        let (fine, printed) = operate_sagas(&sagas.admin, &["stuck"]).await;
        let is_shown = printed.lines().any(|line| line.contains(&orders[name]) && line.contains(stage));
        assert!(!fine && is_shown, "{printed}");
    }
    // The provider is back: what is owed to whom comes about.
    provider_is_down(&world.database, false).await;
    for name in ["taken", "ready"] {
        let (asked, printed) = operate_sagas(&sagas.admin, &["retry", &orders[name]]).await;
        assert!(asked, "{printed}");
    }
    world.payment_is(&orders["taken"], "captured").await;
    world.payment_is(&orders["ready"], "voided").await;
    world.waits(&orders["taken"], "shipping").await;
    for (name, kind) in [
        ("held", "checkout.failed"),
        ("held", "order.cancelled"),
        ("paid", "checkout.failed"),
        ("paid", "order.cancelled"),
        ("asked", "checkout.failed"),
        ("asked", "order.cancelled"),
        ("ready", "order.cancellation_begun"),
        ("ready", "checkout.failed"),
        ("ready", "order.cancelled"),
        ("taken", "checkout.capture_stuck"),
        ("taken", "payment.captured"),
        ("gone", "checkout.shipment_overdue"),
    ] {
        assert_eq!(world.times(&orders[name], kind).await, 1, "{name}: {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_for_meanwhile_is_done_as_it_was_called_for_first() {
    let world = World::start().await;
    let sagas = world.roles(&FLAGS, &[]).await;
    world.settles().await;
    let sku = world.client.product("called-for", 100).await;
    let order = world.buy(&sku, "tok_approve").await;
    world.waits(&order, "shipping").await;
    drop(sagas);
    let id: OrderId = order.parse().expect("an id");
    for (reason, by) in [("a thief", "ann"), ("a hoax", "bob")] {
        let (reason, by) = (reason.to_owned(), Some(by.to_owned()));
        let call = Call::Abandon { saga: Kind::Checkout, reason, by };
        status::call(&world.pool, id, &call).await.expect("called");
    }
    let sagas = world.roles(&FLAGS, &[]).await;
    let is_cancelled = async || {
        let shown = world.client.get(&format!("/v1/orders/{order}")).await.body;
        (shown["status"] == "cancelled").then_some(shown)
    };
    assert_eq!(eventually("it is cancelled", is_cancelled).await["reason"], "abandoned");
    let (_, printed) = operate_sagas(&sagas.admin, &["show", &order]).await;
    assert!(printed.contains("a thief") && printed.contains("operator:ann"), "{printed}");
    assert!(!printed.contains("a hoax"), "{printed}");
    assert_eq!(world.times(&order, "order.cancellation_begun").await, 1);
    assert_eq!(status::calls(&world.pool, id).await.expect("rows"), [""; 0], "nothing is left to be done");
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_deadlines_that_pass_while_the_sagas_are_down_are_acted_on_once() {
    deadlines_pass(Down::SagasAlone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_deadlines_that_pass_while_the_log_is_down_too_are_acted_on_once() {
    deadlines_pass(Down::NatsToo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_deadlines_whose_timers_are_lost_are_found_by_the_sweeper() {
    deadlines_pass(Down::TimersLost).await;
}
