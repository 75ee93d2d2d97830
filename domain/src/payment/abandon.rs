//! Giving up on a request, by a person: the provider never says what became of it, or refuses it for ever.
//!
//! | given up                                 | then                                                                                       |
//! |------------------------------------------|--------------------------------------------------------------------------------------------|
//! | Authorize                                | nothing is wanted any more; what waits for its buyer, or turns out to be held, is released |
//! | Capture                                  | as if it had failed; if all is to be undone anyway, that is asked for next                 |
//! | Void, Refund of all, what undoes a stray | not asked for again, until there is more to undo                                           |
//! | another Refund                           | what was to be paid back stays set aside, for it may have been; those that wait go on      |
//!
//! Whatever the provider states later is news as ever.

use super::draft::Draft;
use super::{Event, Operation, Payment, undoes_all};

impl Draft {
    pub fn abandon(&mut self, reason: String) {
        let Some(open) = self.state.open.clone() else { return };
        let (operation, amount) = (open.operation, self.money(open.amount));
        self.record(Event::Abandoned { operation, amount, refund: open.refund, stray: open.stray, reason });
        self.go_on();
    }
}

impl Payment {
    /// Whether the provider's payment of this name was to be undone, and a person gave that up.
    #[must_use]
    pub fn is_given_up(&self, reference: &str) -> bool {
        let is_ours = self.provider_reference.as_deref() == Some(reference);
        is_ours && self.is_given_up && self.to_be_undone || self.strays_given_up.contains(reference)
    }

    pub(super) fn give_up(&mut self, operation: Operation) {
        let Some(open) = self.open.take() else { return };
        self.to_be_undone |= operation == Operation::Authorize;
        match (operation, open.stray) {
            (Operation::Void | Operation::Refund, Some(stray)) => {
                self.strays_given_up.insert(stray);
            }
            (Operation::Void, None) => self.is_given_up = true,
            (Operation::Refund, None) => {
                self.is_given_up |= open.refund.is_some_and(|refund| undoes_all(&refund));
            }
            (Operation::Authorize | Operation::Capture, _) => {}
        }
        // What is asked for next is another request, so it has another key.
        self.rounds += 1;
    }

    /// After the event there is more to be undone than was given up, or somebody wants it undone after all.
    pub(super) fn take_up_again(&mut self, event: &Event) {
        match event {
            Event::Authorized { .. } | Event::Captured { .. } | Event::RefundReversed { .. } => {
                self.is_given_up = false;
            }
            Event::VoidRequested { stray: None, .. } => self.is_given_up = false,
            Event::RefundRequested { refund, stray: None, .. } if undoes_all(refund) => {
                self.is_given_up = false;
            }
            Event::StrayFound { provider_reference: stray, .. }
            | Event::VoidRequested { stray: Some(stray), .. }
            | Event::RefundRequested { stray: Some(stray), .. } => {
                self.strays_given_up.remove(stray);
            }
            _ => {}
        }
    }
}
