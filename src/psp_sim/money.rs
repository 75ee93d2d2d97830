//! What the provider keeps of a payment: intents and refunds, and how a change moves them.
//!
//! Of every intent: `0 <= refunded <= received <= amount`, and `received + capturable <= amount`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::book::Change;
use super::methods::Decline;

/// Largest amount in minor units, as at Stripe: eight digits.
pub const AMOUNT_MAX: i64 = 99_999_999;

pub type Metadata = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    Automatic,
    Manual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresAction,
    Processing,
    RequiresCapture,
    Canceled,
    Succeeded,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresAction => "requires_action",
            Self::Processing => "processing",
            Self::RequiresCapture => "requires_capture",
            Self::Canceled => "canceled",
            Self::Succeeded => "succeeded",
        }
    }

    /// Nothing was confirmed yet, or what was confirmed has failed.
    pub fn can_be_confirmed(self) -> bool {
        matches!(self, Self::RequiresPaymentMethod | Self::RequiresConfirmation)
    }
}

/// A wish to be paid, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub id: String,
    pub created_ms: i64,
    /// What was asked for; the amount differs only where a fault said so.
    pub asked: i64,
    pub amount: i64,
    /// ISO 4217, in small letters.
    pub currency: String,
    pub capture: Capture,
    pub payment_method: Option<String>,
    pub metadata: Metadata,
    pub description: Option<String>,
    pub return_url: Option<String>,
    pub status: Status,
    pub capturable: i64,
    pub received: i64,
    /// Of refunds that have not failed.
    pub refunded: i64,
    pub charge: Option<String>,
    pub charge_ms: i64,
    pub problem: Option<Decline>,
    /// When something happens by itself: what is processing ends, an authorisation expires.
    pub turns_ms: Option<i64>,
    /// How the bank decides in the end, while that is not known.
    pub verdict: Option<Decline>,
    pub canceled_ms: Option<i64>,
    pub cancellation_reason: Option<String>,
    #[serde(default)]
    pub disputed: bool,
    /// Before that time, neither lists nor searches nor reads show it.
    pub visible_ms: i64,
}

impl Intent {
    pub fn refundable(&self) -> i64 {
        self.received - self.refunded
    }

    /// Carries out a change that is about this intent.
    pub fn evolve(&mut self, change: &Change, at_ms: i64) {
        match change {
            Change::Updated { amount, metadata, payment_method, description, return_url, .. } => {
                self.amount = amount.unwrap_or(self.amount);
                self.asked = amount.unwrap_or(self.asked);
                self.metadata.clone_from(metadata);
                self.description.clone_from(description);
                self.return_url.clone_from(return_url);
                if let Some(method) = payment_method {
                    self.payment_method = Some(method.clone());
                    self.status = Status::RequiresConfirmation;
                }
            }
            Change::Challenged { verdict, .. } => {
                self.status = Status::RequiresAction;
                self.verdict.clone_from(verdict);
                self.problem = None;
            }
            Change::Processing { until_ms, verdict, .. } => {
                self.status = Status::Processing;
                self.turns_ms = Some(*until_ms);
                self.verdict.clone_from(verdict);
                self.problem = None;
            }
            Change::Authorised { charge, amount, expires_ms, .. } => {
                self.status = Status::RequiresCapture;
                (self.charge, self.charge_ms) = (Some(charge.clone()), at_ms);
                self.capturable = *amount;
                self.turns_ms = Some(*expires_ms);
                (self.verdict, self.problem) = (None, None);
            }
            Change::Declined { charge, decline, .. } => {
                self.status = Status::RequiresPaymentMethod;
                if charge.is_some() {
                    (self.charge, self.charge_ms) = (charge.clone(), at_ms);
                }
                self.problem = Some(decline.clone());
                self.payment_method = None;
                (self.verdict, self.turns_ms) = (None, None);
            }
            Change::Captured { amount, .. } => {
                self.status = Status::Succeeded;
                (self.received, self.capturable) = (*amount, 0);
                self.turns_ms = None;
            }
            Change::Canceled { reason, .. } => {
                self.status = Status::Canceled;
                self.capturable = 0;
                (self.canceled_ms, self.cancellation_reason) = (Some(at_ms), reason.clone());
                (self.verdict, self.turns_ms) = (None, None);
            }
            Change::Refunded { refund } => self.refunded += refund.amount,
            Change::RefundTurned { status: RefundStatus::Failed, amount, .. } => self.refunded -= amount,
            Change::Disputed { .. } => self.disputed = true,
            Change::DisputeClosed { .. }
            | Change::RefundTurned { .. }
            | Change::Created { .. }
            | Change::EndpointCreated { .. }
            | Change::EndpointDeleted { .. }
            | Change::Told { .. }
            | Change::Tried { .. }
            | Change::ClockAdvanced { .. }
            | Change::Answered { .. } => {}
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundStatus {
    Pending,
    Succeeded,
    Failed,
}

impl RefundStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// Money on its way back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refund {
    pub id: String,
    pub intent: String,
    pub charge: String,
    pub created_ms: i64,
    pub asked: i64,
    pub amount: i64,
    pub currency: String,
    pub reason: Option<String>,
    pub metadata: Metadata,
    pub status: RefundStatus,
    /// When it becomes something else, and what.
    pub turns: Option<(i64, RefundStatus)>,
    pub visible_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisputeStatus {
    NeedsResponse,
    Won,
    Lost,
}

impl DisputeStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::NeedsResponse => "needs_response",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }
}

/// A buyer who says at their bank that they should not have been charged. The money is withdrawn at once, and
/// comes back if it is won.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dispute {
    pub id: String,
    pub intent: String,
    pub charge: String,
    pub created_ms: i64,
    pub amount: i64,
    pub currency: String,
    pub status: DisputeStatus,
}
