//! The one request that is open: how it begins, goes on and ends.

use chrono::{DateTime, Utc};

use super::request::{name_of_round, whole};
use super::{Event, KnownRefund, OpenRequest, Operation, Payment, RefundStep};

impl Payment {
    /// It is to be undone, and neither money nor a promise or a request of it is left.
    pub(super) fn is_undone(&self) -> bool {
        let is_open = self.open.as_ref().is_some_and(|open| open.stray.is_none());
        self.to_be_undone && !is_open && !self.amounts.is_capturable() && self.amounts.kept() == 0
    }

    /// A name for the refund of all that is left, under which nothing was asked for yet.
    pub(super) fn free_name(&self) -> String {
        let names = (self.rounds..).map(|round| name_of_round(&whole(), round));
        let mut free = names.filter(|name| !self.refunds.contains_key(name));
        free.next().unwrap_or_else(whole)
    }

    pub(super) fn begin(&mut self, operation: Operation, amount: i64, asked_at: Option<DateTime<Utc>>) {
        self.open = Some(OpenRequest {
            operation,
            amount,
            refund: None,
            stray: None,
            attempt: 0,
            round: self.rounds,
            asked_at,
            is_under_review: false,
        });
    }

    pub(super) fn call(&mut self, refund: String) {
        if let Some(open) = &mut self.open {
            open.refund = Some(refund);
        }
    }

    pub(super) fn about(&mut self, stray: Option<String>) {
        if let Some(open) = &mut self.open {
            open.stray = stray;
        }
    }

    pub(super) fn again(&mut self, attempt: u32) {
        if let Some(open) = &mut self.open {
            open.attempt = attempt;
        }
    }

    pub(super) fn finish(&mut self, operations: &[Operation]) {
        let is_one = |open: &mut OpenRequest| open.stray.is_none() && operations.contains(&open.operation);
        self.open.take_if(is_one);
    }

    /// Whether something was asked for.
    pub(super) fn finish_stray(&mut self, reference: &str) -> bool {
        self.open.take_if(|open| open.stray.as_deref() == Some(reference)).is_some()
    }

    /// The next request for it is another one, so it has another key, and is asked for the first time then.
    pub(super) fn undo_was_refused(&mut self, attempt: u32, again_at: DateTime<Utc>) {
        self.rounds += 1;
        let Some(open) = &mut self.open else { return };
        (open.attempt, open.round, open.asked_at) = (attempt, self.rounds, Some(again_at));
        let Some(refused) = &mut open.refund else { return };
        let next = name_of_round(refused, self.rounds);
        if open.stray.is_none()
            && let Some(known) = self.refunds.remove(refused)
        {
            self.refunds.insert(refused.clone(), KnownRefund { step: RefundStep::Failed, ..known });
            self.refunds.insert(next.clone(), known);
        }
        *refused = next;
    }

    pub(super) fn refund_happened(&mut self, event: &Event) {
        let (refund, amount, step) = match event {
            Event::RefundQueued { refund, amount } => (refund, amount, RefundStep::Queued),
            Event::RefundRequested { refund, amount, at, .. } => {
                self.to_be_undone |= !refund.contains(':');
                self.begin(Operation::Refund, amount.amount, *at);
                self.call(refund.clone());
                (refund, amount, RefundStep::Asked)
            }
            Event::Refunded { refund, amount } => (refund, amount, RefundStep::Done),
            Event::RefundFailed { refund, amount, .. } | Event::RefundReversed { refund, amount } => {
                self.rounds += 1;
                (refund, amount, RefundStep::Failed)
            }
            _ => return,
        };
        self.refunds.insert(refund.clone(), KnownRefund { amount: amount.amount, step });
        if matches!(step, RefundStep::Done | RefundStep::Failed) {
            self.open.take_if(|open| open.refund.as_ref() == Some(refund));
        }
    }
}
