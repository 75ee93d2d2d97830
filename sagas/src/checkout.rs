//! From a checked-out cart to a confirmed order, or back to a cart with nothing held or charged.
//!
//! | when                        | + do                                 | − undo, if a later step fails   |
//! |-----------------------------|--------------------------------------|---------------------------------|
//! | cart::CheckedOut            | order::Place, set the deadline       | cart::Reopen, order::Cancel     |
//! | order::Placed               | stock::Reserve, every line           | stock::Release                  |
//! | every line reserved         | payment::Authorize the quoted amount | payment::Undo                   |
//! | payment::Authorized         | order::Confirm                       |                                 |
//! | order::Confirmed            | payment::Capture, stock::Sell        | payment::Undo, stock::Return    |
//! | a line refused, payment declined, the deadline, a request to cancel, an operator | everything above, backwards | |
//!
//! Undo goes backwards and waits for each step: first the money, then the stock, then the cart is
//! open again, and last the order is cancelled; who sees it cancelled finds nothing held.

mod react;

use std::collections::BTreeMap;
use std::convert::Infallible;

use chrono::{DateTime, Utc};
use domain::order::{Line, Reason};
use domain::{Aggregate, CartId, Command, Event as Happened, Money, OrderId, Sku};
use domain::{cart, order, payment, stock};
use serde::{Deserialize, Serialize};

use crate::saga::{Action, Due, Input, Summary};
use react::Draft;

pub const NAME: &str = "checkout";

const DEADLINE: &str = "deadline";

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
    reason: Option<Reason>,
}

/// What never changes in the course of a checkout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quote {
    pub cart_id: CartId,
    /// Units by SKU: lines of one SKU are summed.
    pub units: BTreeMap<Sku, u32>,
    pub total: Money,
    pub payment: cart::PaymentMethod,
    pub deadline: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    #[default]
    New,
    Placing,
    Reserving,
    Authorizing,
    Confirming,
    Capturing,
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
    #[serde(rename = "checkout.capture_begun")]
    CaptureBegun {},
    #[serde(rename = "checkout.completed")]
    Completed {},
    #[serde(rename = "checkout.abandoned")]
    Abandoned { reason: String },
    #[serde(rename = "checkout.failed")]
    Failed { reason: Reason },
    #[serde(rename = "checkout.payment_undo_begun")]
    PaymentUndoBegun {},
    #[serde(rename = "checkout.payment_undone")]
    PaymentUndone {},
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
        Happened::Order(_) | Happened::Payment(_) => stream_id.parse().ok(),
        Happened::Product(_) | Happened::Cart(_) | Happened::Stock(_) => None,
    }
}

impl Aggregate for Checkout {
    const CATEGORY: &'static str = NAME;
    const CODE: &'static [&'static str] = &[domain::CODE, env!("CODE_HASH")];
    type Command = (Input, chrono::Duration);
    type Event = Event;
    type Error = Infallible;

    /// What the saga makes of an input. The duration is how long a buyer has to pay.
    fn decide(&self, (input, time_to_pay): Self::Command) -> Result<Vec<Event>, Infallible> {
        let mut draft = Draft { state: self.clone(), events: Vec::new() };
        match input {
            Input::Timer { name, .. } if name == DEADLINE => draft.deadline(),
            Input::Timer { .. } => {}
            Input::Abandoned { reason } => draft.abandon(reason),
            Input::Event { stream, event, at } => match event {
                Happened::Cart(cart::Event::CheckedOut { lines, total, payment, .. }) => {
                    if let Ok(cart_id) = stream.id().parse() {
                        let units = units(&lines);
                        draft.start(Quote { cart_id, units, total, payment, deadline: at + time_to_pay });
                    }
                }
                Happened::Stock(event) => {
                    if let Ok(sku) = stream.id().parse() {
                        draft.stock(sku, &event);
                    }
                }
                Happened::Order(event) => draft.order(&event),
                Happened::Payment(event) => draft.payment(&event),
                Happened::Product(_) | Happened::Cart(_) => {}
            },
        }
        Ok(draft.events)
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::Started(quote) => {
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
                self.stage = Stage::Authorizing;
            }
            Event::ConfirmationBegun {} => self.stage = Stage::Confirming,
            Event::CaptureBegun {} => {
                self.confirmed = true;
                self.stage = Stage::Capturing;
            }
            Event::Completed {} => self.stage = Stage::Completed,
            Event::Abandoned { .. } => {}
            Event::Failed { reason } => self.reason = Some(*reason),
            Event::PaymentUndoBegun {} => self.stage = Stage::UndoingPayment,
            Event::PaymentUndone {} => self.payment_open = false,
            Event::ReleaseBegun {} => self.stage = Stage::Releasing,
            Event::LineReleased { sku } => self.set_line(sku, LineState::Released),
            Event::CancellationBegun {} => self.stage = Stage::Cancelling,
            Event::Cancelled {} => self.stage = Stage::Cancelled,
        }
    }
}

impl Checkout {
    /// What is to be done after these events were recorded.
    #[must_use]
    pub fn actions(
        &self,
        order_id: OrderId,
        input: &Input,
        recorded: &[Event],
        at: DateTime<Utc>,
    ) -> Vec<Action> {
        let Some(quote) = &self.quote else { return Vec::new() };
        let action = |event| self.actions_after(quote, order_id, input, event, at);
        recorded.iter().flat_map(action).collect()
    }

    /// Depends only on what never changes once it's recorded, so that a repeat asks for the same.
    fn actions_after(
        &self,
        quote: &Quote,
        order_id: OrderId,
        input: &Input,
        event: &Event,
        at: DateTime<Utc>,
    ) -> Vec<Action> {
        let order = |step, command| Action::execute(step, Command::Order(order_id, command));
        let payment = |step, command| Action::execute(step, Command::Payment(order_id, command));
        let every_line = |step, command: &dyn Fn(u32) -> stock::Command| {
            let action = |(sku, units): (&Sku, &u32)| {
                Action::execute(format!("{step}/{sku}"), Command::Stock(sku.clone(), command(*units)))
            };
            quote.units.iter().map(action).collect::<Vec<_>>()
        };
        match event {
            Event::Started(_) => {
                let deadline = Action::SetTimer { name: DEADLINE, generation: 0, at: quote.deadline };
                placed(input).map(|place| order("place", place)).into_iter().chain([deadline]).collect()
            }
            Event::ReservationBegun {} => {
                every_line("reserve", &|quantity| stock::Command::Reserve { order_id, quantity })
            }
            Event::AuthorizationBegun {} => {
                let (amount, method) = (quote.total, quote.payment.clone());
                vec![payment("authorize", payment::Command::Authorize { amount, payment: method, at })]
            }
            Event::ConfirmationBegun {} => vec![order("confirm", order::Command::Confirm)],
            Event::CaptureBegun {} => {
                let capture = [
                    Action::CancelTimer { name: DEADLINE },
                    payment("capture", payment::Command::Capture { at }),
                ];
                let sell = every_line("sell", &|_| stock::Command::Sell { order_id });
                capture.into_iter().chain(sell).collect()
            }
            Event::Failed { .. } => vec![Action::CancelTimer { name: DEADLINE }],
            Event::PaymentUndoBegun {} => vec![payment("undo", payment::Command::Undo { at })],
            Event::ReleaseBegun {} if self.confirmed => {
                every_line("return", &|quantity| stock::Command::Return { order_id, quantity })
            }
            Event::ReleaseBegun {} => every_line("release", &|_| stock::Command::Release { order_id }),
            Event::CancellationBegun {} => {
                let reason = self.reason.unwrap_or(Reason::CancelledByBuyer);
                let reopen = Command::Cart(quote.cart_id, cart::Command::Reopen { order_id });
                let reopen = (!self.confirmed).then(|| Action::execute("reopen", reopen));
                reopen.into_iter().chain([order("cancel", order::Command::Cancel { reason })]).collect()
            }
            Event::Abandoned { .. }
            | Event::LineHeld { .. }
            | Event::LineRefused { .. }
            | Event::Completed {}
            | Event::PaymentUndone {}
            | Event::LineReleased { .. }
            | Event::Cancelled {} => Vec::new(),
        }
    }

    /// Where it has come to; nothing before it has begun.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let quote = self.quote.as_ref()?;
        let is_waiting = self.reason.is_none() && self.waits_for_buyer();
        let due = is_waiting.then_some(Due { timer: DEADLINE, generation: 0, at: quote.deadline });
        let is_over = matches!(self.stage, Stage::Completed | Stage::Cancelled);
        Some(Summary { stage: self.stage.name(), reason: self.reason.map(Reason::code), is_over, due })
    }

    /// Later, the money is there, and what remains takes no buyer.
    fn waits_for_buyer(&self) -> bool {
        matches!(self.stage, Stage::Placing | Stage::Reserving | Stage::Authorizing)
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

fn units(lines: &[Line]) -> BTreeMap<Sku, u32> {
    let mut units = BTreeMap::new();
    for line in lines {
        let sum: &mut u32 = units.entry(line.sku.clone()).or_default();
        *sum = sum.saturating_add(line.quantity);
    }
    units
}

/// The order as the cart was checked out.
fn placed(input: &Input) -> Option<order::Command> {
    match input {
        Input::Event {
            stream,
            event: Happened::Cart(cart::Event::CheckedOut { lines, total, personal, .. }),
            ..
        } => Some(order::Command::Place {
            cart_id: stream.id().parse().ok()?,
            lines: lines.clone(),
            total: *total,
            buyer: personal.clone(),
        }),
        _ => None,
    }
}
