//! Where a payment stands, by the amounts that the provider states.

use serde::{Deserialize, Serialize};

use super::Event;

/// What was asked for, and what the provider says it did, in the order's currency and its minor units.
///
/// Amounts may be other ones than were asked for: what counts is what the provider did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// What the order comes to.
    pub requested: i64,
    /// What may be captured, or might have been before it was captured or voided.
    pub authorized: i64,
    pub captured: i64,
    /// Without what came back of it.
    pub refunded: i64,
    /// By the buyer's bank, some of which may be here again.
    pub charged_back: i64,
    /// Of what was charged back, what is here again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reinstated: i64,
    pub is_voided: bool,
    pub is_declined: bool,
    /// The buyer is to do something, such as to prove who they are.
    pub needs_buyer: bool,
}

/// Where a payment stands, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    None,
    Pending,
    ActionRequired,
    Declined,
    PartiallyAuthorized,
    Authorized,
    PartiallyCaptured,
    Captured,
    /// More was captured than the order comes to.
    Overcharged,
    PartiallyRefunded,
    Refunded,
    Voided,
    ChargedBack,
}

impl Status {
    /// As on the wire: `authorized`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::ActionRequired => "action_required",
            Self::Declined => "declined",
            Self::PartiallyAuthorized => "partially_authorized",
            Self::Authorized => "authorized",
            Self::PartiallyCaptured => "partially_captured",
            Self::Captured => "captured",
            Self::Overcharged => "overcharged",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::Voided => "voided",
            Self::ChargedBack => "charged_back",
        }
    }
}

impl Amounts {
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::AuthorizationRequested { amount, .. } => self.requested = amount.amount,
            Event::ActionRequired { .. } => self.needs_buyer = true,
            Event::Authorized { amount, .. } | Event::AuthorizationAdjusted { amount } => {
                self.authorized = amount.amount;
                self.needs_buyer = false;
            }
            Event::Declined { .. } => {
                self.is_declined = true;
                self.needs_buyer = false;
            }
            Event::Captured { amount } => self.captured = self.captured.saturating_add(amount.amount),
            Event::Voided {} => {
                self.is_voided = true;
                self.needs_buyer = false;
            }
            Event::Refunded { amount, .. } => self.refunded = self.refunded.saturating_add(amount.amount),
            Event::RefundReversed { amount, .. } => {
                self.refunded = self.refunded.saturating_sub(amount.amount);
            }
            Event::ChargedBack { amount } => {
                self.charged_back = self.charged_back.saturating_add(amount.amount);
            }
            Event::ChargeBackReversed { amount } => {
                self.reinstated = self.reinstated.saturating_add(amount.amount);
            }
            Event::CaptureQueued { .. }
            | Event::CaptureRequested { .. }
            | Event::CaptureFailed { .. }
            | Event::CancellationRequested {}
            | Event::NothingToUndo {}
            | Event::VoidRequested { .. }
            | Event::RefundQueued { .. }
            | Event::RefundRequested { .. }
            | Event::RefundFailed { .. }
            | Event::UndoRefused { .. }
            | Event::OutcomeUnknown { .. }
            | Event::ReviewRequired { .. }
            | Event::Abandoned { .. }
            | Event::StrayFound { .. }
            | Event::StrayUndone { .. } => {}
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        if self.captured > 0 {
            return self.status_of_captured();
        }
        match self {
            _ if self.is_voided => Status::Voided,
            _ if self.authorized >= self.requested && self.authorized > 0 => Status::Authorized,
            _ if self.authorized > 0 => Status::PartiallyAuthorized,
            _ if self.is_declined => Status::Declined,
            _ if self.needs_buyer => Status::ActionRequired,
            _ if self.requested > 0 => Status::Pending,
            _ => Status::None,
        }
    }

    fn status_of_captured(&self) -> Status {
        let kept = self.captured.saturating_sub(self.refunded);
        match self {
            _ if self.taken_back() > 0 => Status::ChargedBack,
            _ if kept <= 0 => Status::Refunded,
            _ if kept > self.requested => Status::Overcharged,
            _ if self.refunded > 0 => Status::PartiallyRefunded,
            _ if self.captured < self.requested => Status::PartiallyCaptured,
            _ => Status::Captured,
        }
    }

    /// What can still be given back, or taken back by the buyer's bank.
    #[must_use]
    pub fn kept(&self) -> i64 {
        self.captured.saturating_sub(self.refunded).saturating_sub(self.taken_back()).max(0)
    }

    /// What the buyer's bank took back, and has.
    #[must_use]
    pub fn taken_back(&self) -> i64 {
        self.charged_back.saturating_sub(self.reinstated)
    }

    /// It may be captured: it's authorised, and neither captured nor voided.
    #[must_use]
    pub fn is_capturable(&self) -> bool {
        self.authorized > 0 && self.captured == 0 && !self.is_voided
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(amount: &i64) -> bool {
    *amount == 0
}
