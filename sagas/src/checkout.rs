//! From a checked-out cart to an order that is paid and shipped, or back to a cart with nothing held or charged.
//!
//! | when                        | + do                                 | − undo, if a later step fails   |
//! |-----------------------------|--------------------------------------|---------------------------------|
//! | cart::CheckedOut            | order::Place, set the deadline       | cart::Reopen, order::Cancel     |
//! | the same                    | stock::Reserve, every line           | stock::Release                  |
//! | every line reserved         | payment::Authorize the quoted amount | payment::Undo                   |
//! | payment::ActionRequired     | wait for the buyer, until a deadline |                                 |
//! | payment::Authorized         | order::Confirm                       |                                 |
//! | order::Confirmed            | payment::Capture, stock::Sell        | payment::Undo, stock::Return    |
//! | the same, if captured at shipment | stock::Sell                    | payment::Undo, stock::Return    |
//! | order::Shipped              | then payment::Capture                |                                 |
//! | order::RefundRequested      | payment::Refund                      | order::FailRefund, if it fails  |
//! | order::GoodsReturned        | stock::Return                        |                                 |
//! | a line refused, payment declined or given up, a deadline, a request to cancel, an operator | everything above, backwards | |
//!
//! The order is placed and the lines are reserved side by side. All that is done before the next thing is heard, so who
//! has every line's answer knows that the order is placed. Answers that come together are heard together, in one commit.
//!
//! Undo goes backwards and waits for each step: first the money, then the stock, then the cart is
//! open again, and last the order is cancelled; who sees it cancelled finds nothing held. What may be shipped is
//! taken back only after the order has said that it will not be any more (`order::BeginCancellation`). Only if the
//! provider does not say what became of the money, nobody waits for that: the payment sees to it alone.
//!
//! Each stage that waits has a deadline. One timer serves them all: it is moved only when it fires too early,
//! or would fire too late. What is shipped is not taken back: it can be returned.

mod act;
mod react;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use chrono::{DateTime, Duration, Utc};
use domain::order::{Reason, Units};
use domain::{Aggregate, CartId, Event as Happened, Money, OrderId, Sku};
use domain::{cart, order, payment, stock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::saga::{Due, Input, Summary};
use react::Draft;

pub const NAME: &str = "checkout";

const DEADLINE: &str = "deadline";
pub(crate) const CAPTURE_STUCK: &str = "capture_stuck";

/// Invariant: forwards until the first thing that goes wrong, then only backwards; an end is final,
/// except that a confirmed order can still be taken back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkout {
    quote: Option<Quote>,
    stage: Stage,
    lines: BTreeMap<Sku, LineState>,
    /// The provider was asked for money, and has neither declined nor given it back.
    payment_open: bool,
    /// The order was confirmed, so its lines are sold, and its cart stays closed.
    confirmed: bool,
    captured: bool,
    /// The provider took the money before it was asked to.
    captured_early: bool,
    /// The buyer had to do something for the payment: there is time for that once.
    challenged: bool,
    shipped: Shipped,
    /// Why it is to go backwards, unless goods are shipped by then.
    withdrawal: Option<Reason>,
    reason: Option<Reason>,
    /// Until when the stage may last, and which firing of the timer says so.
    deadline: Option<DateTime<Utc>>,
    generation: u32,
    /// Shipments, returns and refunds that it has seen to.
    seen: BTreeSet<Uuid>,
}

/// How long each stage may wait, and when the money is taken.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the order to be placed and every line to have its answer.
    pub hold: Duration,
    /// For the payment to be authorised, from the checkout on.
    pub authorization: Duration,
    /// For the buyer to do what the provider requires of them, such as 3-D Secure.
    pub challenge: Duration,
    /// For the provider to capture what it has authorised.
    pub capture: Duration,
    /// For all to be shipped; nothing, where nothing is.
    pub shipment: Option<Duration>,
    pub capture_at: CaptureAt,
}

/// When the money is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureAt {
    Confirmation,
    /// All of it, when the first parcel goes.
    Shipment,
}

/// An input, and by what it is decided.
#[derive(Debug, Clone)]
pub struct Told {
    pub input: Input,
    pub limits: Limits,
    pub now: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Shipped {
    #[default]
    Nothing,
    Some,
    All,
}

/// What never changes in the course of a checkout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quote {
    pub cart_id: CartId,
    /// Units by SKU: lines of one SKU are summed.
    pub units: BTreeMap<Sku, u32>,
    pub total: Money,
    pub payment: cart::PaymentMethod,
    /// Until then, it has to be paid.
    pub deadline: DateTime<Utc>,
    /// Until then, its lines have to be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    #[default]
    New,
    /// Earlier builds reserved nothing before the order was placed.
    Placing,
    Reserving,
    Authorizing,
    Confirming,
    Capturing,
    CaptureStuck,
    Shipping,
    ShipmentOverdue,
    Completed,
    UndoingPayment,
    Releasing,
    Cancelling,
    Cancelled,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Placing => "placing",
            Self::Reserving => "reserving",
            Self::Authorizing => "authorizing",
            Self::Confirming => "confirming",
            Self::Capturing => "capturing",
            Self::CaptureStuck => CAPTURE_STUCK,
            Self::Shipping => "shipping",
            Self::ShipmentOverdue => "shipment_overdue",
            Self::Completed => "completed",
            Self::UndoingPayment => "undoing_payment",
            Self::Releasing => "releasing",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum LineState {
    Asked,
    Held,
    Refused,
    /// Given back to the shelf.
    Released,
}

/// What the saga records: facts that it counts, and steps that it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "checkout.started")]
    Started(Quote),
    #[serde(rename = "checkout.reservation_begun")]
    ReservationBegun {},
    #[serde(rename = "checkout.line_held")]
    LineHeld { sku: Sku },
    #[serde(rename = "checkout.line_refused")]
    LineRefused { sku: Sku },
    #[serde(rename = "checkout.authorization_begun")]
    AuthorizationBegun {},
    #[serde(rename = "checkout.confirmation_begun")]
    ConfirmationBegun {},
    /// The buyer is to do something for the payment.
    #[serde(rename = "checkout.challenge_begun")]
    ChallengeBegun { deadline: DateTime<Utc>, generation: u32 },
    /// The timer fired before the stage's time was over.
    #[serde(rename = "checkout.deadline_moved")]
    DeadlineMoved { deadline: DateTime<Utc>, generation: u32 },
    #[serde(rename = "checkout.capture_begun")]
    CaptureBegun {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<DateTime<Utc>>,
        #[serde(default, skip_serializing_if = "is_first")]
        generation: u32,
    },
    /// The provider took the money before it was asked to.
    #[serde(rename = "checkout.captured_early")]
    CapturedEarly {},
    /// The goods are sold, and the money will be taken when they are shipped.
    #[serde(rename = "checkout.sale_begun")]
    SaleBegun {},
    #[serde(rename = "checkout.shipping_begun")]
    ShippingBegun { is_paid: bool, deadline: DateTime<Utc>, generation: u32 },
    #[serde(rename = "checkout.goods_shipped")]
    GoodsShipped { shipment_id: Uuid, is_last: bool },
    #[serde(rename = "checkout.shipment_overdue")]
    ShipmentOverdue {},
    /// The goods are gone, and the money can't be taken: somebody has to see to it.
    #[serde(rename = "checkout.capture_stuck")]
    CaptureStuck { reason: String },
    /// Nobody takes the money any more.
    #[serde(rename = "checkout.written_off")]
    WrittenOff {},
    #[serde(rename = "checkout.refund_begun")]
    RefundBegun { refund_id: Uuid, amount: Money },
    #[serde(rename = "checkout.refund_failed")]
    RefundFailed { refund_id: Uuid, reason: String },
    #[serde(rename = "checkout.return_begun")]
    ReturnBegun { return_id: Uuid, lines: Vec<Units> },
    #[serde(rename = "checkout.completed")]
    Completed {},
    #[serde(rename = "checkout.abandoned")]
    Abandoned { reason: String },
    /// Something went wrong, and goods may be on their way: whether it goes backwards, the order says.
    #[serde(rename = "checkout.withdrawal_begun")]
    WithdrawalBegun { reason: Reason },
    #[serde(rename = "checkout.failed")]
    Failed { reason: Reason },
    #[serde(rename = "checkout.payment_undo_begun")]
    PaymentUndoBegun {},
    #[serde(rename = "checkout.payment_undone")]
    PaymentUndone {},
    /// What becomes of the money is not known yet, and not waited for.
    #[serde(rename = "checkout.payment_undo_left")]
    PaymentUndoLeft {},
    #[serde(rename = "checkout.release_begun")]
    ReleaseBegun {},
    #[serde(rename = "checkout.line_released")]
    LineReleased { sku: Sku },
    #[serde(rename = "checkout.cancellation_begun")]
    CancellationBegun {},
    #[serde(rename = "checkout.cancelled")]
    Cancelled {},
}

/// The checkout that the event is about.
#[must_use]
pub fn follows(stream_id: &str, event: &Happened) -> Option<OrderId> {
    match event {
        Happened::Cart(cart::Event::CheckedOut { order_id, .. }) => Some(*order_id),
        Happened::Stock(
            stock::Event::Reserved { order_id, .. }
            | stock::Event::ReservationRefused { order_id, .. }
            | stock::Event::Released { order_id, .. }
            | stock::Event::Returned { order_id, .. },
        ) => Some(*order_id),
        // What happened in another shop is over.
        Happened::Order(
            order::Event::Imported { .. } | order::Event::Returned(_) | order::Event::Refunded(_),
        ) => None,
        // What it has asked for itself is no news.
        Happened::Payment(
            payment::Event::AuthorizationRequested { .. }
            | payment::Event::CaptureQueued { .. }
            | payment::Event::CaptureRequested { .. }
            | payment::Event::CancellationRequested {}
            | payment::Event::VoidRequested { .. }
            | payment::Event::RefundQueued { .. }
            | payment::Event::RefundRequested { .. },
        ) => None,
        Happened::Order(_) | Happened::Payment(_) => stream_id.parse().ok(),
        Happened::Product(_) | Happened::Cart(_) | Happened::Stock(_) => None,
    }
}

impl Aggregate for Checkout {
    const CATEGORY: &'static str = NAME;
    const CODE: &'static [&'static str] = &[domain::CODE, env!("CODE_HASH")];
    type Command = Told;
    type Event = Event;
    type Error = Infallible;

    /// What the saga makes of an input.
    fn decide(&self, Told { input, limits, now }: Told) -> Result<Vec<Event>, Infallible> {
        let mut draft = Draft { state: self.clone(), events: Vec::new(), limits, now };
        draft.hear(input);
        Ok(draft.events)
    }

    fn begins(Told { input, .. }: &Told) -> bool {
        matches!(input, Input::Event { event: Happened::Cart(cart::Event::CheckedOut { .. }), .. })
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::Started(quote) => {
                self.deadline = Some(quote.hold_until.unwrap_or(quote.deadline));
                self.quote = Some(quote.clone());
                self.stage = Stage::Placing;
            }
            Event::ReservationBegun {} => {
                let units = self.quote.iter().flat_map(|quote| quote.units.keys());
                self.lines = units.map(|sku| (sku.clone(), LineState::Asked)).collect();
                self.stage = Stage::Reserving;
            }
            Event::LineHeld { sku } => self.set_line(sku, LineState::Held),
            Event::LineRefused { sku } => self.set_line(sku, LineState::Refused),
            Event::AuthorizationBegun {} => {
                self.payment_open = true;
                self.deadline = self.quote.as_ref().map(|quote| quote.deadline);
                self.stage = Stage::Authorizing;
            }
            Event::ConfirmationBegun {} => self.stage_without_deadline(Stage::Confirming),
            Event::ChallengeBegun { deadline, generation }
            | Event::DeadlineMoved { deadline, generation } => {
                self.challenged |= matches!(event, Event::ChallengeBegun { .. });
                self.deadline = Some(*deadline);
                self.generation = *generation;
            }
            Event::CaptureBegun { deadline, generation } => {
                self.confirmed = true;
                self.deadline = *deadline;
                self.generation = *generation;
                self.stage = Stage::Capturing;
            }
            Event::CapturedEarly {} => self.captured_early = true,
            Event::SaleBegun {} => self.confirmed = true,
            Event::ShippingBegun { is_paid, deadline, generation } => {
                self.captured |= is_paid;
                self.deadline = Some(*deadline);
                self.generation = *generation;
                self.stage = Stage::Shipping;
            }
            Event::WithdrawalBegun { reason } => self.withdrawal = Some(*reason),
            Event::GoodsShipped { shipment_id, is_last } => {
                self.withdrawal = None;
                self.seen.insert(*shipment_id);
                self.shipped = if *is_last { Shipped::All } else { Shipped::Some };
            }
            Event::ShipmentOverdue {} => self.stage_without_deadline(Stage::ShipmentOverdue),
            Event::CaptureStuck { .. } => self.stage_without_deadline(Stage::CaptureStuck),
            Event::RefundBegun { refund_id, .. } => {
                self.seen.insert(*refund_id);
            }
            Event::ReturnBegun { return_id, .. } => {
                self.seen.insert(goods(*return_id));
            }
            Event::Completed {} => self.stage_without_deadline(Stage::Completed),
            Event::Abandoned { .. } | Event::WrittenOff {} => {}
            Event::RefundFailed { refund_id, .. } => {
                self.seen.insert(failed(*refund_id));
            }
            Event::Failed { reason } => {
                self.withdrawal = None;
                self.reason = Some(*reason);
                self.deadline = None;
            }
            Event::PaymentUndoBegun {} => self.stage = Stage::UndoingPayment,
            Event::PaymentUndone {} | Event::PaymentUndoLeft {} => self.payment_open = false,
            Event::ReleaseBegun {} => self.stage = Stage::Releasing,
            Event::LineReleased { sku } => self.set_line(sku, LineState::Released),
            Event::CancellationBegun {} => self.stage = Stage::Cancelling,
            Event::Cancelled {} => self.stage = Stage::Cancelled,
        }
    }
}

impl Checkout {
    /// Where it has come to; nothing before it has begun.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        self.quote.as_ref()?;
        let due = self.deadline.filter(|_| self.reason.is_none());
        let due = due.map(|at| Due { timer: DEADLINE, generation: self.generation, at });
        let is_over = matches!(self.stage, Stage::Completed | Stage::Cancelled);
        Some(Summary { stage: self.stage.name(), reason: self.reason.map(Reason::code), is_over, due })
    }

    fn is_held_for_less_than_to_be_paid(&self) -> bool {
        self.quote.as_ref().is_some_and(|quote| quote.hold_until.is_some())
    }

    /// The order may be confirmed, and so shipped by whoever packs it.
    fn may_be_shipped(&self) -> bool {
        self.confirmed || self.stage == Stage::Confirming
    }

    /// The buyer or the shop can still have something done about it.
    fn is_confirmed(&self) -> bool {
        self.confirmed && self.reason.is_none()
    }

    fn stage_without_deadline(&mut self, stage: Stage) {
        self.stage = stage;
        self.deadline = None;
    }

    fn set_line(&mut self, sku: &Sku, state: LineState) {
        if let Some(line) = self.lines.get_mut(sku) {
            *line = state;
        }
    }

    fn any_line(&self, state: LineState) -> bool {
        self.lines.values().any(|line| *line == state)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_first(generation: &u32) -> bool {
    *generation == 0
}

/// Goods and money that come back together have one name, and are told apart.
fn goods(return_id: Uuid) -> Uuid {
    Uuid::new_v5(&return_id, b"goods")
}

/// A failed refund is told apart from its beginning.
fn failed(refund_id: Uuid) -> Uuid {
    Uuid::new_v5(&refund_id, b"failed")
}
