//! The payment of one order: what was asked of the provider, and what the provider says became of it.
//!
//! | command   | event                                                                           |
//! |-----------|---------------------------------------------------------------------------------|
//! | Authorize | AuthorizationRequested                                                          |
//! | Capture   | CaptureRequested, or CaptureQueued while a stray is undone                      |
//! | Undo      | VoidRequested, RefundRequested, CancellationRequested while a request is open |
//! | Refund    | RefundRequested, RefundQueued while a request is open, or RefundFailed          |
//! | Record    | what is news in a statement; Declined, CaptureFailed, RefundFailed, UndoRefused, OutcomeUnknown, ReviewRequired |
//! | Abandon   | Abandoned, if a request is open                                                 |
//! | Observe   | what is news in a statement: Authorized, AuthorizationAdjusted, Declined, ActionRequired, Captured, Voided, Refunded, RefundReversed, ChargedBack, ChargeBackReversed, StrayFound, StrayUndone |
//! | any       | what is to be asked for next; NothingToUndo, if nothing is left of what is to be undone |
//!
//! Only the sagas give these commands, so none is refused: what does not apply any more has no
//! events. A request is in the log before the provider is called. While its outcome is unknown,
//! it stays the one open request, with the one key, and no other is made. What the provider states is
//! recorded whatever was asked for: a payment is a fold over what it did.
//! A person may give a request up whose outcome nobody gets to know, or which is refused for ever. That says nothing of
//! what became of it: nobody asks any more, and what the provider states later counts as ever.
//!
//! A stray is a second payment at the provider for this order, such as one made by a request that was
//! thought lost. It is found by its order's id, and undone.

mod abandon;
mod amounts;
mod draft;
mod open;
mod request;
#[cfg(test)]
mod spec;
mod statement;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::cart::PaymentMethod;
use crate::ids::OrderId;
use crate::money::Money;
use draft::Draft;
use request::{is_whole, whole};

pub use amounts::{Amounts, Status};
pub use request::{OpenRequest, Operation, Request, is_made_again, refund_of_key, undoes_all};
pub use statement::{Outcome, Refund, RefundState, State, Statement};

pub const CATEGORY: &str = "payment";

/// Invariant: at most one request is open, and only a person gives it up before its outcome is known; what is
/// asked back is never more than was captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    quote: Option<(Money, PaymentMethod)>,
    /// When it was asked for first.
    asked_at: Option<DateTime<Utc>>,
    provider_reference: Option<String>,
    amounts: Amounts,
    /// By our name for them, or the provider's, where somebody else made them.
    refunds: BTreeMap<String, KnownRefund>,
    /// What is left of what was captured by second payments that are not undone yet, by the provider's name for them.
    strays: BTreeMap<String, i64>,
    /// Those that nobody asks back any more.
    strays_given_up: BTreeSet<String>,
    open: Option<OpenRequest>,
    /// Nothing is to be kept, or taken any more.
    to_be_undone: bool,
    /// To be captured, once nothing else is asked for.
    is_capture_queued: bool,
    /// What is to be undone is not asked back any more, until there is more of it.
    is_given_up: bool,
    /// How many requests the provider refused, or a person gave up.
    rounds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct KnownRefund {
    amount: i64,
    step: RefundStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RefundStep {
    Queued,
    Asked,
    Done,
    Failed,
}

/// `at` is the time of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Authorize {
        amount: Money,
        payment: PaymentMethod,
        at: DateTime<Utc>,
    },
    Capture {
        at: DateTime<Utc>,
    },
    Undo {
        at: DateTime<Utc>,
    },
    Refund {
        id: Uuid,
        amount: Money,
        at: DateTime<Utc>,
    },
    /// What came of the request of this name, at this attempt.
    Record {
        name: String,
        attempt: u32,
        outcome: Outcome,
        at: DateTime<Utc>,
    },
    Observe {
        statement: Statement,
        at: DateTime<Utc>,
    },
    /// A person gives the open request up.
    Abandon {
        reason: String,
        at: DateTime<Utc>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "payment.authorization_requested")]
    AuthorizationRequested {
        amount: Money,
        payment: PaymentMethod,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<DateTime<Utc>>,
    },
    /// The buyer is to do something; looked up again then.
    #[serde(rename = "payment.action_required")]
    ActionRequired { provider_reference: String, attempt: u32, look_up_at: DateTime<Utc> },
    #[serde(rename = "payment.authorized")]
    Authorized { amount: Money, provider_reference: String },
    /// The provider holds another amount than it did.
    #[serde(rename = "payment.authorization_adjusted")]
    AuthorizationAdjusted { amount: Money },
    #[serde(rename = "payment.declined")]
    Declined { reason: String },
    #[serde(rename = "payment.capture_requested")]
    CaptureRequested {
        amount: Money,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<DateTime<Utc>>,
    },
    /// It will be asked for when the undo of another payment has ended.
    #[serde(rename = "payment.capture_queued")]
    CaptureQueued { amount: Money },
    #[serde(rename = "payment.captured")]
    Captured { amount: Money },
    #[serde(rename = "payment.capture_failed")]
    CaptureFailed { reason: String },
    #[serde(rename = "payment.cancellation_requested")]
    CancellationRequested {},
    /// There is nothing left of it, as after it was refunded as a whole, or charged back.
    #[serde(rename = "payment.nothing_to_undo")]
    NothingToUndo {},
    #[serde(rename = "payment.void_requested")]
    VoidRequested {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<DateTime<Utc>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stray: Option<String>,
    },
    #[serde(rename = "payment.voided")]
    Voided {},
    /// It waits for another request's outcome.
    #[serde(rename = "payment.refund_queued")]
    RefundQueued { refund: String, amount: Money },
    #[serde(rename = "payment.refund_requested")]
    RefundRequested {
        amount: Money,
        #[serde(default = "whole", skip_serializing_if = "is_whole")]
        refund: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<DateTime<Utc>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stray: Option<String>,
    },
    #[serde(rename = "payment.refunded")]
    Refunded {
        amount: Money,
        #[serde(default = "whole", skip_serializing_if = "is_whole")]
        refund: String,
    },
    #[serde(rename = "payment.refund_failed")]
    RefundFailed { refund: String, amount: Money, reason: String },
    /// What had been given back came back.
    #[serde(rename = "payment.refund_reversed")]
    RefundReversed { refund: String, amount: Money },
    #[serde(rename = "payment.charged_back")]
    ChargedBack { amount: Money },
    /// The shop was found right: what the buyer's bank took back is here again.
    #[serde(rename = "payment.charge_back_reversed")]
    ChargeBackReversed { amount: Money },
    /// The provider refused to give money back: it's asked again then.
    #[serde(rename = "payment.undo_refused")]
    UndoRefused { operation: Operation, attempt: u32, reason: String, again_at: DateTime<Utc> },
    #[serde(rename = "payment.outcome_unknown")]
    OutcomeUnknown { operation: Operation, attempt: u32, look_up_at: DateTime<Utc> },
    /// Its outcome has been unknown for so long that somebody should ask the provider.
    #[serde(rename = "payment.review_required")]
    ReviewRequired { operation: Operation },
    /// A person gave the open request up: what became of it is not known, and nobody asks any more.
    #[serde(rename = "payment.abandoned")]
    Abandoned {
        operation: Operation,
        amount: Money,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refund: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stray: Option<String>,
        reason: String,
    },
    #[serde(rename = "payment.stray_found")]
    StrayFound { provider_reference: String, authorized: Money, captured: Money },
    #[serde(rename = "payment.stray_undone")]
    StrayUndone { provider_reference: String },
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
        // Who takes back may be faster than who was about to ask: that one is too late then.
        let is_new = self.quote.is_none() && !self.to_be_undone;
        Ok(match command {
            Command::Authorize { amount, payment, at } if is_new => {
                vec![Event::AuthorizationRequested { amount, payment, at: Some(at) }]
            }
            Command::Authorize { .. } => Vec::new(),
            Command::Capture { at } => self.capture(at),
            Command::Undo { .. } if is_new => vec![Event::NothingToUndo {}],
            Command::Undo { at } => self.draft(at, Draft::undo),
            Command::Refund { id, amount, at } => {
                self.draft(at, |draft| draft.refund(format!("{}:{id}", whole()), amount))
            }
            Command::Record { name, attempt, outcome, at } => {
                self.draft(at, |draft| draft.outcome(&name, attempt, outcome))
            }
            Command::Observe { statement, at } => self.draft(at, |draft| draft.observe(&statement)),
            Command::Abandon { reason, at } => self.draft(at, |draft| draft.abandon(reason)),
        })
    }

    fn begins(command: &Command) -> bool {
        matches!(command, Command::Authorize { .. })
    }

    fn evolve(&mut self, event: &Event) {
        self.amounts.evolve(event);
        self.take_up_again(event);
        match event {
            Event::AuthorizationRequested { amount, payment, at } => {
                self.quote = Some((*amount, payment.clone()));
                self.asked_at = *at;
                self.begin(Operation::Authorize, amount.amount, *at);
            }
            Event::ActionRequired { provider_reference, attempt, .. } => {
                self.provider_reference = Some(provider_reference.clone());
                self.again(*attempt);
            }
            Event::Authorized { provider_reference, .. } => {
                self.provider_reference = Some(provider_reference.clone());
                self.finish(&[Operation::Authorize]);
            }
            Event::AuthorizationAdjusted { .. }
            | Event::ChargedBack { .. }
            | Event::ChargeBackReversed { .. }
            | Event::RefundQueued { .. }
            | Event::Refunded { .. }
            | Event::RefundFailed { .. }
            | Event::RefundReversed { .. }
            | Event::RefundRequested { stray: None, .. } => self.refund_happened(event),
            Event::Declined { .. } => {
                // It may yet turn out that the provider did take the money.
                self.to_be_undone = true;
                self.finish(&[Operation::Authorize, Operation::Capture]);
            }
            Event::CaptureQueued { .. } => self.is_capture_queued = true,
            Event::CaptureRequested { amount, at } => {
                self.is_capture_queued = false;
                self.begin(Operation::Capture, amount.amount, *at);
            }
            Event::Captured { .. } => {
                self.is_capture_queued = false;
                self.finish(&[Operation::Authorize, Operation::Capture, Operation::Void]);
            }
            Event::CaptureFailed { .. } => {
                self.rounds += 1;
                self.finish(&[Operation::Capture]);
            }
            Event::CancellationRequested {} | Event::NothingToUndo {} => self.to_be_undone = true,
            Event::VoidRequested { at, stray } => {
                self.to_be_undone |= stray.is_none();
                self.begin(Operation::Void, self.amounts.authorized, *at);
                self.about(stray.clone());
            }
            Event::Voided {} => self.finish(&[Operation::Authorize, Operation::Capture, Operation::Void]),
            Event::RefundRequested { amount, refund, at, stray } => {
                self.begin(Operation::Refund, amount.amount, *at);
                self.call(refund.clone());
                self.about(stray.clone());
            }
            Event::UndoRefused { attempt, again_at, .. } => self.undo_was_refused(*attempt, *again_at),
            Event::OutcomeUnknown { attempt, .. } => self.again(*attempt),
            Event::ReviewRequired { .. } => self.open.iter_mut().for_each(|open| open.is_under_review = true),
            Event::Abandoned { operation, .. } => self.give_up(*operation),
            Event::StrayFound { provider_reference, captured, .. } => {
                self.strays.insert(provider_reference.clone(), captured.amount);
                // What is asked for next is another amount, so it has another key.
                self.rounds += u32::from(self.finish_stray(provider_reference));
            }
            Event::StrayUndone { provider_reference } => {
                self.strays.remove(provider_reference);
                self.finish_stray(provider_reference);
            }
        }
    }
}

impl Payment {
    #[must_use]
    pub fn status(&self) -> Status {
        self.amounts.status()
    }

    #[must_use]
    pub fn amounts(&self) -> &Amounts {
        &self.amounts
    }

    /// What is asked for in all, once something is.
    #[must_use]
    pub fn requested(&self) -> Option<Money> {
        self.quote.as_ref().map(|(amount, _)| *amount)
    }

    /// When it was asked for first; nothing, if it never was, or long ago.
    #[must_use]
    pub fn asked_at(&self) -> Option<DateTime<Utc>> {
        self.asked_at
    }

    /// The provider's name for it, once it's known.
    #[must_use]
    pub fn provider_reference(&self) -> Option<&str> {
        self.provider_reference.as_deref()
    }

    #[must_use]
    pub fn method(&self) -> Option<&PaymentMethod> {
        self.quote.as_ref().map(|(_, payment)| payment)
    }

    /// The request that the provider still owes an outcome, if there is one.
    #[must_use]
    pub fn open_request(&self, order_id: OrderId) -> Option<Request> {
        let (open, (requested, payment)) = (self.open.clone()?, self.quote.clone()?);
        let provider_reference = open.stray.clone().or_else(|| self.provider_reference.clone());
        let amount = Money::new(open.amount, requested.currency);
        Some(Request { order_id, amount, payment, open, provider_reference })
    }

    fn draft(&self, at: DateTime<Utc>, change: impl FnOnce(&mut Draft)) -> Vec<Event> {
        let Some((Money { currency, .. }, _)) = self.quote else { return Vec::new() };
        let mut draft = Draft { state: self.clone(), events: Vec::new(), currency, at };
        change(&mut draft);
        draft.tell_end(self);
        draft.events
    }

    fn capture(&self, at: DateTime<Utc>) -> Vec<Event> {
        let Some((requested, _)) = &self.quote else { return Vec::new() };
        if self.to_be_undone || !self.amounts.is_capturable() {
            return Vec::new();
        }
        let amount = Money::new(self.amounts.authorized.min(requested.amount), requested.currency);
        match &self.open {
            None => vec![Event::CaptureRequested { amount, at: Some(at) }],
            Some(open) if open.stray.is_some() && !self.is_capture_queued => {
                vec![Event::CaptureQueued { amount }]
            }
            Some(_) => Vec::new(),
        }
    }
}
