//! Giving up on a request, by a person: the provider never says what became of it, or refuses it for ever.
//!
//! | given up        | then                                                                                    |
//! |-----------------|-----------------------------------------------------------------------------------------|
//! | Authorize       | nothing is wanted any more; what the provider turns out to hold is released             |
//! | Capture         | as if it had failed; if all is to be undone anyway, that is asked for next              |
//! | Void, Refund of all, what undoes a stray | not asked for again, until there is more to undo               |
//! | another Refund  | what was to be paid back stays set aside, for it may have been; those that wait go on    |
//!
//! Whatever the provider states later is news as ever.

use super::draft::Draft;
use super::{Event, Operation, Payment};

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
        self.is_given_up && (is_ours && self.to_be_undone || self.strays.contains_key(reference))
    }

    pub(super) fn give_up(&mut self, operation: Operation) {
        let Some(open) = self.open.take() else { return };
        let is_one_of_several = open.stray.is_none() && open.refund.is_some_and(|name| name.contains(':'));
        self.to_be_undone |= operation == Operation::Authorize;
        self.is_given_up |= match operation {
            Operation::Void => true,
            Operation::Refund => !is_one_of_several,
            Operation::Authorize | Operation::Capture => false,
        };
        // What is asked for next is another request, so it has another key.
        self.rounds += 1;
    }
}

impl Event {
    /// After it there is more to be undone than was given up, or somebody wants it undone after all.
    pub(super) fn makes_more_to_undo(&self) -> bool {
        match self {
            Self::Authorized { .. }
            | Self::Captured { .. }
            | Self::RefundReversed { .. }
            | Self::StrayFound { .. }
            | Self::VoidRequested { .. } => true,
            Self::RefundRequested { refund, stray, .. } => stray.is_some() || !refund.contains(':'),
            _ => false,
        }
    }
}
