//! The payment of one order: what was asked of the provider, and what the provider said.
//!
//! | command   | event                                                                      |
//! |-----------|----------------------------------------------------------------------------|
//! | Authorize | AuthorizationRequested                                                     |
//! | Capture   | CaptureRequested                                                           |
//! | Undo      | VoidRequested, RefundRequested, or CancellationRequested while one is open |
//! | Record    | Authorized, Declined, Captured, Voided, Refunded, or OutcomeUnknown        |
//!
//! Only the sagas give these commands, so none is refused: what does not apply any more has no
//! events. A request is in the log before the provider is called. While its outcome is unknown,
//! it stays the one open request, with the one key, and no other is made.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::cart::PaymentMethod;
use crate::ids::OrderId;
use crate::money::Money;

pub const CATEGORY: &str = "payment";

/// Invariant: at most one request is open; money that was authorised is captured at most once
/// and given back at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    quote: Option<(Money, PaymentMethod)>,
    provider_reference: Option<String>,
    status: Status,
    open: Option<OpenRequest>,
    /// Undo as soon as the open request has its outcome.
    to_be_undone: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    None,
    Pending,
    Declined,
    Authorized,
    Captured,
    Voided,
    Refunded,
}

impl Status {
    /// As on the wire: `authorized`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::Declined => "declined",
            Self::Authorized => "authorized",
            Self::Captured => "captured",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
        }
    }
}

/// What a provider can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Authorize,
    Capture,
    Void,
    Refund,
}

impl Operation {
    /// As on the wire: `authorize`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }
}

/// The request that has no outcome yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    pub operation: Operation,
    /// 0 for the call itself, then one more for each look-up: the generation of its timer.
    pub attempt: u32,
}

/// What the provider has to know for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub order_id: OrderId,
    pub operation: Operation,
    pub attempt: u32,
    pub amount: Money,
    pub payment: PaymentMethod,
    /// The provider's own name for the authorisation, once there is one.
    pub provider_reference: Option<String>,
}

impl Request {
    /// One key for one operation of one order, whatever happens in between.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.order_id, self.operation.code())
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done {
        provider_reference: String,
    },
    Declined {
        reason: String,
    },
    /// No answer, or none yet: to be looked up then.
    Unknown {
        look_up_at: DateTime<Utc>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Authorize { amount: Money, payment: PaymentMethod },
    Capture,
    Undo,
    Record { operation: Operation, attempt: u32, outcome: Outcome },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "payment.authorization_requested")]
    AuthorizationRequested { amount: Money, payment: PaymentMethod },
    #[serde(rename = "payment.authorized")]
    Authorized { amount: Money, provider_reference: String },
    #[serde(rename = "payment.declined")]
    Declined { reason: String },
    #[serde(rename = "payment.capture_requested")]
    CaptureRequested { amount: Money },
    #[serde(rename = "payment.captured")]
    Captured { amount: Money },
    #[serde(rename = "payment.cancellation_requested")]
    CancellationRequested {},
    #[serde(rename = "payment.void_requested")]
    VoidRequested {},
    #[serde(rename = "payment.voided")]
    Voided {},
    #[serde(rename = "payment.refund_requested")]
    RefundRequested { amount: Money },
    #[serde(rename = "payment.refunded")]
    Refunded { amount: Money },
    #[serde(rename = "payment.outcome_unknown")]
    OutcomeUnknown { operation: Operation, attempt: u32, look_up_at: DateTime<Utc> },
}

/// A payment's commands are never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {}

impl Aggregate for Payment {
    const CATEGORY: &'static str = CATEGORY;
    const CODE: &'static [&'static str] = &[crate::CODE];
    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn decide(&self, command: Command) -> Result<Vec<Event>, Error> {
        Ok(match command {
            Command::Authorize { amount, payment } => self.authorize(amount, payment),
            Command::Capture => self.capture(),
            Command::Undo => self.undo(),
            Command::Record { operation, attempt, outcome } => self.record(operation, attempt, outcome),
        })
    }

    fn begins(command: &Command) -> bool {
        matches!(command, Command::Authorize { .. })
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::AuthorizationRequested { amount, payment } => {
                self.quote = Some((*amount, payment.clone()));
                self.status = Status::Pending;
                self.begin(Operation::Authorize);
            }
            Event::Authorized { provider_reference, .. } => {
                self.provider_reference = Some(provider_reference.clone());
                self.finish(Status::Authorized);
            }
            Event::Declined { .. } => self.finish(Status::Declined),
            Event::CaptureRequested { .. } => self.begin(Operation::Capture),
            Event::Captured { .. } => self.finish(Status::Captured),
            Event::CancellationRequested {} => self.to_be_undone = true,
            Event::VoidRequested {} => self.begin(Operation::Void),
            Event::Voided {} => self.finish(Status::Voided),
            Event::RefundRequested { .. } => self.begin(Operation::Refund),
            Event::Refunded { .. } => self.finish(Status::Refunded),
            Event::OutcomeUnknown { operation, attempt, .. } => {
                self.open = Some(OpenRequest { operation: *operation, attempt: *attempt });
            }
        }
    }
}

impl Payment {
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The request that the provider still owes an outcome, if there is one.
    #[must_use]
    pub fn open_request(&self, order_id: OrderId) -> Option<Request> {
        let OpenRequest { operation, attempt } = self.open?;
        let (amount, payment) = self.quote.clone()?;
        let provider_reference = self.provider_reference.clone();
        Some(Request { order_id, operation, attempt, amount, payment, provider_reference })
    }

    fn authorize(&self, amount: Money, payment: PaymentMethod) -> Vec<Event> {
        if self.status == Status::None {
            return vec![Event::AuthorizationRequested { amount, payment }];
        }
        Vec::new()
    }

    fn capture(&self) -> Vec<Event> {
        match &self.quote {
            Some((amount, _)) if self.status == Status::Authorized && self.open.is_none() => {
                vec![Event::CaptureRequested { amount: *amount }]
            }
            _ => Vec::new(),
        }
    }

    fn undo(&self) -> Vec<Event> {
        match (self.open, self.status) {
            (Some(OpenRequest { operation: Operation::Authorize | Operation::Capture, .. }), _) => {
                if self.to_be_undone { Vec::new() } else { vec![Event::CancellationRequested {}] }
            }
            (Some(OpenRequest { operation: Operation::Void | Operation::Refund, .. }), _) => Vec::new(),
            (None, status) => self.undone(status),
        }
    }

    /// What takes the money back from this status.
    fn undone(&self, status: Status) -> Vec<Event> {
        match (status, &self.quote) {
            (Status::Authorized, _) => vec![Event::VoidRequested {}],
            (Status::Captured, Some((amount, _))) => vec![Event::RefundRequested { amount: *amount }],
            _ => Vec::new(),
        }
    }

    fn record(&self, operation: Operation, attempt: u32, outcome: Outcome) -> Vec<Event> {
        let (Some(open), Some((amount, _))) = (self.open, &self.quote) else { return Vec::new() };
        if open.operation != operation {
            return Vec::new();
        }
        let (event, status) = match (operation, outcome) {
            (_, Outcome::Unknown { .. }) if attempt != open.attempt => return Vec::new(),
            (_, Outcome::Unknown { look_up_at }) => {
                return vec![Event::OutcomeUnknown {
                    operation,
                    attempt: attempt.saturating_add(1),
                    look_up_at,
                }];
            }
            (Operation::Authorize, Outcome::Done { provider_reference }) => {
                (Event::Authorized { amount: *amount, provider_reference }, Status::Authorized)
            }
            (Operation::Capture, Outcome::Done { .. }) => {
                (Event::Captured { amount: *amount }, Status::Captured)
            }
            (Operation::Void, Outcome::Done { .. }) => (Event::Voided {}, Status::Voided),
            (Operation::Refund, Outcome::Done { .. }) => {
                (Event::Refunded { amount: *amount }, Status::Refunded)
            }
            (_, Outcome::Declined { reason }) => (Event::Declined { reason }, Status::Declined),
        };
        let mut events = vec![event];
        if self.to_be_undone {
            events.extend(self.undone(status));
        }
        events
    }

    fn begin(&mut self, operation: Operation) {
        self.open = Some(OpenRequest { operation, attempt: 0 });
    }

    fn finish(&mut self, status: Status) {
        self.status = status;
        self.open = None;
    }
}

#[cfg(test)]
mod spec {
    use super::*;
    use crate::order::spec::{ORDER, money};
    use crate::spec::given;

    fn amount() -> Money {
        money(1000, "GBP")
    }

    fn token() -> PaymentMethod {
        PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() }
    }

    fn requested() -> Event {
        Event::AuthorizationRequested { amount: amount(), payment: token() }
    }

    fn authorized() -> Event {
        Event::Authorized { amount: amount(), provider_reference: "p-1".into() }
    }

    fn done(operation: Operation) -> Command {
        Command::Record { operation, attempt: 0, outcome: Outcome::Done { provider_reference: "p-1".into() } }
    }

    fn unknown(attempt: u32) -> Command {
        let look_up_at = DateTime::UNIX_EPOCH;
        Command::Record { operation: Operation::Authorize, attempt, outcome: Outcome::Unknown { look_up_at } }
    }

    #[test]
    fn is_authorized_then_captured_once() {
        given::<Payment>([])
            .when(Command::Authorize { amount: amount(), payment: token() })
            .then([requested()])
            .when(Command::Authorize { amount: amount(), payment: token() })
            .then_nothing()
            .when(done(Operation::Authorize))
            .then([authorized()])
            .when(done(Operation::Authorize))
            .then_nothing()
            .when(Command::Capture)
            .then([Event::CaptureRequested { amount: amount() }])
            .when(Command::Capture)
            .then_nothing()
            .when(done(Operation::Capture))
            .then([Event::Captured { amount: amount() }])
            .when(Command::Capture)
            .then_nothing();
    }

    #[test]
    fn an_unknown_outcome_keeps_the_request_open_with_its_key() {
        let asked = given::<Payment>([requested()]);
        let key = asked.state().open_request(ORDER).expect("open").idempotency_key();
        let lost = asked
            .when(unknown(0))
            .then([Event::OutcomeUnknown {
                operation: Operation::Authorize,
                attempt: 1,
                look_up_at: DateTime::UNIX_EPOCH,
            }])
            .when(unknown(0))
            .then_nothing();
        let open = lost.state().open_request(ORDER).expect("still open");
        assert_eq!((open.idempotency_key(), open.attempt), (key, 1));
        lost.when(done(Operation::Authorize)).then([authorized()]);
    }

    #[test]
    fn a_late_success_after_a_cancellation_is_voided_by_itself() {
        given::<Payment>([requested()])
            .when(Command::Undo)
            .then([Event::CancellationRequested {}])
            .when(Command::Undo)
            .then_nothing()
            .when(done(Operation::Authorize))
            .then([authorized(), Event::VoidRequested {}])
            .when(Command::Undo)
            .then_nothing()
            .when(done(Operation::Void))
            .then([Event::Voided {}]);
    }

    #[test]
    fn what_was_captured_is_refunded() {
        given::<Payment>([requested(), authorized(), Event::CaptureRequested { amount: amount() }])
            .when(Command::Undo)
            .then([Event::CancellationRequested {}])
            .when(done(Operation::Capture))
            .then([Event::Captured { amount: amount() }, Event::RefundRequested { amount: amount() }])
            .when(done(Operation::Refund))
            .then([Event::Refunded { amount: amount() }])
            .when(Command::Undo)
            .then_nothing();
    }

    #[test]
    fn what_was_declined_needs_no_undo() {
        let declined = Outcome::Declined { reason: "no funds".into() };
        given::<Payment>([requested()])
            .when(Command::Record { operation: Operation::Authorize, attempt: 0, outcome: declined })
            .then([Event::Declined { reason: "no funds".into() }])
            .when(Command::Undo)
            .then_nothing()
            .when(Command::Capture)
            .then_nothing();
    }
}
