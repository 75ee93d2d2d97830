//! What a provider says of one payment: all that it knows, whatever was asked.

use chrono::{DateTime, Utc};

use crate::money::Currency;

/// A payment as the provider has it in its books.
///
/// Every answer, look-up, webhook and reconciliation comes to this, and the payment takes from it what is
/// news. So answers may be lost, repeated, or come late: a statement that is older than what is known says
/// nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The provider's own name for the payment.
    pub reference: String,
    pub state: State,
    pub currency: Currency,
    /// What is or was authorised, in minor units.
    pub authorized: i64,
    pub captured: i64,
    /// What the buyer's bank took back, whether or not it is here again.
    pub charged_back: i64,
    /// Of that, what is here again.
    pub reinstated: i64,
    pub refunds: Vec<Refund>,
}

impl Statement {
    /// What the buyer's bank took back, and has.
    #[must_use]
    pub fn taken_back(&self) -> i64 {
        self.charged_back.saturating_sub(self.reinstated)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The provider is at it.
    Processing,
    /// The buyer is to do something.
    ActionRequired,
    Declined {
        reason: String,
    },
    Authorized,
    Captured,
    Voided,
}

/// A refund in the provider's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// As we call it; nothing, if it was made by somebody else, such as by hand at the provider.
    pub name: Option<String>,
    pub reference: String,
    pub amount: i64,
    pub state: RefundState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundState {
    Processing,
    Done,
    Failed,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider says where the payment stands; if that does not answer the request, it's looked up
    /// again then.
    Stated { statement: Statement, look_up_at: DateTime<Utc> },
    /// The provider has not done it and will not; what must be done is asked for again then.
    Refused { reason: String, again_at: DateTime<Utc> },
    /// No answer, or none yet: to be looked up then. Somebody should look at it, if it goes on for too long.
    Unknown { look_up_at: DateTime<Utc>, is_overdue: bool },
    /// It never got there, and will not any more.
    NeverArrived,
}
