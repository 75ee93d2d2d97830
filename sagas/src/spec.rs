//! The checkout told as stories: what happens, and what the saga asks for.

use chrono::{DateTime, Duration, Utc};
use domain::order::{Address, Buyer, Line, Parcel, Reason, Units};
use domain::{Aggregate, CartId, Command, Event as Happened, Money, OrderId, Sku, StreamId};
use domain::{cart, order, payment, stock};
use uuid::Uuid;

use crate::checkout::{CaptureAt, Checkout, Limits, Told as Decided};
use crate::saga::{Action, Input};

const ORDER: OrderId = OrderId(Uuid::from_u128(7));
const CART: CartId = CartId(Uuid::from_u128(3));

/// The saga so far.
struct Story {
    state: Checkout,
    limits: Limits,
    now: DateTime<Utc>,
}

impl Default for Story {
    fn default() -> Self {
        let limits = Limits {
            hold: Duration::minutes(1),
            authorization: Duration::minutes(15),
            challenge: Duration::minutes(10),
            capture: Duration::hours(24),
            shipment: Some(Duration::days(6)),
            capture_at: CaptureAt::Confirmation,
        };
        Self { state: Checkout::default(), limits, now: DateTime::UNIX_EPOCH }
    }
}

impl Story {
    /// Tells the saga something; the steps that it asks for come back by name.
    fn tell(&mut self, input: &Input) -> Vec<String> {
        let (limits, now) = (self.limits.clone(), self.now);
        let decide = |state: &Checkout| {
            state.decide(Decided { input: input.clone(), limits: limits.clone(), now }).unwrap()
        };
        let recorded = decide(&self.state);
        recorded.iter().for_each(|event| self.state.evolve(event));
        assert_eq!(decide(&self.state), vec![], "told twice, it records nothing new: {input:?}");
        let actions = self.state.actions(ORDER, input, &recorded, now);
        actions.iter().map(name).collect()
    }

    fn happens(&mut self, stream: &str, event: impl Into<Told>) -> Vec<String> {
        let Told(event) = event.into();
        self.tell(&Input::Event { stream: stream.parse().unwrap(), event, at: DateTime::UNIX_EPOCH })
    }

    fn checked_out() -> Self {
        Self::default().checks_out()
    }

    fn checks_out(mut self) -> Self {
        assert_eq!(self.happens(&cart_stream(), checked_out()), ["place", "set deadline"]);
        self
    }

    fn placed() -> Self {
        Self::checked_out().then_placed()
    }

    fn then_placed(mut self) -> Self {
        assert_eq!(self.happens(&order_stream(), placed()), ["reserve/CUP 1", "reserve/MUG 5"]);
        self
    }

    fn held() -> Self {
        Self::placed().then_held()
    }

    fn then_held(mut self) -> Self {
        assert!(self.happens("stock/MUG", reserved(5)).is_empty());
        assert_eq!(self.happens("stock/CUP", reserved(1)), ["authorize 23.00 GBP"]);
        self
    }

    fn authorized() -> Self {
        Self::held().then_authorized()
    }

    fn then_authorized(mut self) -> Self {
        assert_eq!(self.happens(&payment_stream(), authorized()), ["confirm"]);
        self
    }

    fn confirmed() -> Self {
        let mut story = Self::authorized();
        let steps = story.happens(&order_stream(), order::Event::Confirmed {});
        assert_eq!(steps, ["set deadline", "capture", "sell/CUP", "sell/MUG"]);
        story
    }

    fn captured() -> Self {
        let mut story = Self::confirmed();
        assert!(story.happens(&payment_stream(), captured()).is_empty());
        assert_eq!(story.stage(), "shipping");
        story
    }

    /// Confirmed, where the money is taken when the goods are shipped.
    fn sold_before_it_is_paid() -> Self {
        let mut story = Self::default();
        story.limits.capture_at = CaptureAt::Shipment;
        let mut story = story.checks_out().then_placed().then_held().then_authorized();
        let steps = story.happens(&order_stream(), order::Event::Confirmed {});
        assert_eq!(steps, ["sell/CUP", "sell/MUG", "set deadline"]);
        story
    }

    fn stage(&self) -> &'static str {
        self.state.summary().expect("begun").stage
    }

    /// The timer fires that is set now.
    fn deadline_fires(&mut self) -> Vec<String> {
        let generation = self.state.summary().and_then(|summary| summary.due).map_or(0, |due| due.generation);
        self.tell(&Input::Timer { name: "deadline".into(), generation })
    }

    /// The stage's time is over.
    fn deadline(&mut self) -> Vec<String> {
        if let Some(due) = self.state.summary().and_then(|summary| summary.due) {
            self.now = due.at;
        }
        self.deadline_fires()
    }

    /// From the release of both lines to the end.
    fn ends(mut self, given_back: fn(u32) -> stock::Event, last_steps: &[&str]) {
        assert!(self.happens("stock/MUG", given_back(5)).is_empty());
        assert_eq!(self.happens("stock/CUP", given_back(1)), last_steps);
        assert!(
            self.happens(&order_stream(), order::Event::Cancelled { reason: Reason::OutOfStock }).is_empty()
        );
        assert!(self.deadline().is_empty(), "the end is final");
    }
}

struct Told(Happened);

impl From<cart::Event> for Told {
    fn from(event: cart::Event) -> Self {
        Self(Happened::Cart(event))
    }
}
impl From<stock::Event> for Told {
    fn from(event: stock::Event) -> Self {
        Self(Happened::Stock(event))
    }
}
impl From<order::Event> for Told {
    fn from(event: order::Event) -> Self {
        Self(Happened::Order(event))
    }
}
impl From<payment::Event> for Told {
    fn from(event: payment::Event) -> Self {
        Self(Happened::Payment(event))
    }
}

fn name(action: &Action) -> String {
    match action {
        Action::Execute { step, command } => match command {
            Command::Stock(
                _,
                stock::Command::Reserve { quantity, .. } | stock::Command::Return { quantity, .. },
            ) => {
                format!("{step} {quantity}")
            }
            Command::Payment(_, payment::Command::Authorize { amount, .. }) => format!("{step} {amount}"),
            Command::Order(_, order::Command::Cancel { reason }) => format!("{step} {}", reason.code()),
            _ => step.clone(),
        },
        Action::SettlePayment { .. } => "settle".to_owned(),
        Action::ObservePayment { .. } => "observe".to_owned(),
        Action::SetTimer { name, .. } => format!("set {name}"),
        Action::CancelTimer { name } => format!("cancel {name}"),
    }
}

fn cart_stream() -> String {
    StreamId::of::<cart::Cart>(CART).to_string()
}

fn order_stream() -> String {
    StreamId::of::<order::Order>(ORDER).to_string()
}

fn payment_stream() -> String {
    StreamId::of::<payment::Payment>(ORDER).to_string()
}

fn gbp(amount: i64) -> Money {
    Money::new(amount, "GBP".parse().unwrap())
}

fn line(code: &str, quantity: u32, price: i64) -> Line {
    let sku: Sku = code.parse().unwrap();
    let total = gbp(price).times(quantity).unwrap();
    Line { sku, title: code.to_owned(), quantity, unit_price: gbp(price), total }
}

fn buyer() -> Buyer {
    let text = |text: &str| text.to_owned();
    let address = Address {
        name: text("Alice"),
        line1: text("1 High Street"),
        line2: None,
        city: text("Leeds"),
        region: None,
        postal_code: text("LS1 1AA"),
        country: text("GB"),
    };
    Buyer { email: text("alice@example.com"), shipping_address: address }
}

/// Two lines of one SKU among them.
fn lines() -> Vec<Line> {
    vec![line("MUG", 2, 400), line("CUP", 1, 300), line("MUG", 3, 400)]
}

fn checked_out() -> cart::Event {
    let payment = cart::PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() };
    cart::Event::CheckedOut {
        order_id: ORDER,
        lines: lines(),
        total: gbp(2300),
        totals: None,
        payment,
        personal: buyer(),
    }
}

fn placed() -> order::Event {
    let country = "GB".into();
    order::Event::Placed {
        cart_id: CART,
        lines: lines(),
        total: gbp(2300),
        totals: None,
        country,
        personal: buyer(),
    }
}

fn reserved(quantity: u32) -> stock::Event {
    stock::Event::Reserved { order_id: ORDER, quantity }
}

fn released(quantity: u32) -> stock::Event {
    stock::Event::Released { order_id: ORDER, quantity }
}

fn returned(quantity: u32) -> stock::Event {
    stock::Event::Returned { order_id: ORDER, quantity }
}

fn refused() -> stock::Event {
    stock::Event::ReservationRefused { order_id: ORDER, free: 0, asked: 1 }
}

fn authorized() -> payment::Event {
    payment::Event::Authorized { amount: gbp(2300), provider_reference: "p-1".into() }
}

fn captured() -> payment::Event {
    payment::Event::Captured { amount: gbp(2300) }
}

fn shipped(shipment: u128, is_last: bool) -> order::Event {
    order::Event::Shipped {
        shipment_id: Uuid::from_u128(shipment),
        lines: vec![],
        parcel: Parcel::default(),
        is_last,
    }
}

fn capture_failed() -> payment::Event {
    payment::Event::CaptureFailed { reason: "expired_card".into() }
}

fn declined() -> payment::Event {
    payment::Event::Declined { reason: "insufficient_funds".into() }
}

#[test]
fn all_goes_well() {
    let mut story = Story::captured();
    assert!(story.happens(&order_stream(), shipped(1, false)).is_empty());
    assert_eq!(story.happens(&order_stream(), shipped(2, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
    assert!(story.deadline().is_empty(), "a late deadline changes nothing");
}

#[test]
fn where_nothing_is_shipped_it_is_over_when_it_is_paid() {
    let mut story = Story::authorized();
    story.limits.shipment = None;
    story.happens(&order_stream(), order::Event::Confirmed {});
    assert_eq!(story.happens(&payment_stream(), captured()), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn the_money_is_taken_when_the_first_parcel_goes() {
    let mut story = Story::sold_before_it_is_paid();
    let steps = story.happens(&order_stream(), shipped(1, false));
    assert_eq!(steps, ["set deadline", "capture", "sell/CUP", "sell/MUG"]);
    assert!(story.happens(&payment_stream(), captured()).is_empty());
    assert_eq!(story.happens(&order_stream(), shipped(2, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn what_is_not_shipped_as_long_as_it_can_be_paid_is_taken_back() {
    let mut story = Story::sold_before_it_is_paid();
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
    let steps = story.happens(&payment_stream(), payment::Event::Voided {});
    assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel not_shipped"]);
}

#[test]
fn what_is_paid_and_not_shipped_is_told_and_waited_for() {
    let mut story = Story::captured();
    assert!(story.deadline().is_empty());
    assert_eq!(story.stage(), "shipment_overdue");
    assert_eq!(story.happens(&order_stream(), shipped(1, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn a_capture_that_fails_before_the_goods_are_gone_takes_it_back() {
    let mut story = Story::confirmed();
    assert_eq!(story.happens(&payment_stream(), capture_failed()), ["cancel deadline", "undo"]);
    let steps = story.happens(&payment_stream(), payment::Event::Voided {});
    assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel payment_declined"]);
}

#[test]
fn a_capture_that_fails_after_the_goods_are_gone_is_somebodys_to_see_to() {
    let mut story = Story::sold_before_it_is_paid();
    story.happens(&order_stream(), shipped(1, true));
    assert!(story.happens(&payment_stream(), capture_failed()).is_empty());
    assert_eq!(story.stage(), "capture_stuck");
    assert_eq!(story.happens(&payment_stream(), captured()), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn refunds_and_returns_go_on_once_it_is_confirmed() {
    let mut story = Story::captured();
    let (id, amount, reason) = (Uuid::from_u128(9), gbp(400), "too small".to_owned());
    let lines = vec![Units { sku: "MUG".parse().unwrap(), quantity: 1 }];
    let goods = order::Event::GoodsReturned { return_id: id, lines, reason: reason.clone() };
    let money = order::Event::RefundRequested { refund_id: id, amount, reason };
    assert_eq!(story.happens(&order_stream(), goods), ["return/MUG 1"]);
    assert_eq!(story.happens(&order_stream(), money), ["refund"]);
    let refund = format!("refund:{id}");
    let failed = payment::Event::RefundFailed { refund, amount, reason: "expired_card".into() };
    assert_eq!(story.happens(&payment_stream(), failed), ["fail_refund"]);
}

#[test]
fn another_amount_than_the_quoted_is_not_taken() {
    let mut story = Story::held();
    let less = payment::Event::Authorized { amount: gbp(2299), provider_reference: "p-1".into() };
    assert_eq!(story.happens(&payment_stream(), less), ["cancel deadline", "undo"]);
    story.happens(&payment_stream(), payment::Event::Voided {});
    story.ends(released, &["reopen", "cancel payment_mismatch"]);
}

#[test]
fn the_buyer_has_time_for_what_the_provider_requires() {
    let mut story = Story::held();
    let look_up_at = story.now;
    let asked = payment::Event::ActionRequired { provider_reference: "p-1".into(), attempt: 1, look_up_at };
    assert_eq!(story.happens(&payment_stream(), asked), ["set deadline"]);
    assert!(story.tell(&Input::Timer { name: "deadline".into(), generation: 0 }).is_empty(), "outdated");
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
}

#[test]
fn the_timer_is_moved_to_the_stage_that_it_finds() {
    let mut story = Story::held();
    assert_eq!(story.deadline_fires(), ["set deadline"]);
    assert!(story.tell(&Input::Timer { name: "deadline".into(), generation: 0 }).is_empty(), "outdated");
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
}

#[test]
fn lines_are_held_in_time_or_not_at_all() {
    let mut story = Story::placed();
    story.happens("stock/MUG", reserved(5));
    assert_eq!(story.deadline(), ["cancel deadline"]);
    assert_eq!(story.happens("stock/CUP", reserved(1)), ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel reservation_timed_out"]);
}

#[test]
fn money_that_nobody_knows_of_is_not_waited_for() {
    let mut story = Story::held();
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
    let operation = payment::Operation::Void;
    let unknown = payment::Event::OutcomeUnknown { operation, attempt: 1, look_up_at: story.now };
    assert_eq!(story.happens(&payment_stream(), unknown), ["release/CUP", "release/MUG"]);
    assert!(story.happens(&payment_stream(), payment::Event::Voided {}).is_empty());
    story.ends(released, &["reopen", "cancel payment_timed_out"]);
}

#[test]
fn an_operator_gives_up_what_is_shipped_and_not_paid() {
    let mut story = Story::sold_before_it_is_paid();
    story.happens(&order_stream(), shipped(1, true));
    story.happens(&payment_stream(), capture_failed());
    assert_eq!(story.tell(&Input::Abandoned { reason: "written off".into() }), ["undo", "cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn a_sold_out_line_ends_it_before_any_money_moves() {
    let mut story = Story::placed();
    assert!(story.happens("stock/CUP", refused()).is_empty(), "waits for the other line's answer");
    let steps = story.happens("stock/MUG", reserved(5));
    assert_eq!(steps, ["cancel deadline", "release/CUP", "release/MUG"]);
    assert_eq!(story.happens("stock/MUG", released(5)), ["reopen", "cancel out_of_stock"]);
}

#[test]
fn nothing_held_means_nothing_to_release() {
    let mut story = Story::placed();
    assert!(story.happens("stock/CUP", refused()).is_empty());
    let steps = story.happens("stock/MUG", refused());
    assert_eq!(steps, ["cancel deadline", "reopen", "cancel out_of_stock"]);
}

#[test]
fn a_declined_payment_leaves_nothing_held() {
    let mut story = Story::held();
    let steps = story.happens(&payment_stream(), declined());
    assert_eq!(steps, ["cancel deadline", "release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel payment_declined"]);
}

#[test]
fn without_payment_in_time_the_money_is_taken_back_first() {
    let mut story = Story::held();
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
    assert!(
        story.happens(&payment_stream(), authorized()).is_empty(),
        "the late success is voided by the payment"
    );
    let steps = story.happens(&payment_stream(), payment::Event::Voided {});
    assert_eq!(steps, ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel payment_timed_out"]);
}

#[test]
fn a_cancellation_while_stock_is_asked_for_waits_for_the_answers() {
    let mut story = Story::placed();
    let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
    assert_eq!(steps, ["cancel deadline"]);
    assert!(story.happens("stock/CUP", reserved(1)).is_empty());
    assert_eq!(story.happens("stock/MUG", reserved(5)), ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel cancelled_by_buyer"]);
}

#[test]
fn a_cancellation_overtakes_the_confirmation() {
    let mut story = Story::authorized();
    let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
    assert_eq!(steps, ["cancel deadline", "undo"]);
    assert_eq!(story.happens(&payment_stream(), payment::Event::Voided {}), ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel cancelled_by_buyer"]);
}

#[test]
fn a_confirmed_order_is_refunded_and_its_goods_return() {
    for captured_before in [true, false] {
        let mut story = Story::confirmed();
        let captured = payment::Event::Captured { amount: gbp(2300) };
        if captured_before {
            story.happens(&payment_stream(), captured.clone());
        }
        let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
        assert_eq!(steps, ["cancel deadline", "undo"]);
        if !captured_before {
            assert!(story.happens(&payment_stream(), captured).is_empty());
        }
        let steps = story.happens(
            &payment_stream(),
            payment::Event::Refunded { amount: gbp(2300), refund: "refund".into() },
        );
        assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
        story.ends(returned, &["cancel cancelled_by_buyer"]);
    }
}

#[test]
fn only_the_first_reason_counts() {
    let mut story = Story::held();
    story.happens(&payment_stream(), declined());
    assert!(story.deadline().is_empty());
    assert!(story.happens(&order_stream(), order::Event::CancellationRequested {}).is_empty());
}

#[test]
fn a_deadline_before_the_order_is_placed_reserves_nothing() {
    let mut story = Story::checked_out();
    assert_eq!(story.deadline(), ["cancel deadline"]);
    assert_eq!(story.happens(&order_stream(), placed()), ["reopen", "cancel reservation_timed_out"]);
}
