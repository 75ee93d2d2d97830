//! What a provider is asked to do, and under which key.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cart::PaymentMethod;
use crate::ids::OrderId;
use crate::money::Money;

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

    /// Whether it gives back what was held or taken.
    #[must_use]
    pub fn undoes(self) -> bool {
        matches!(self, Self::Void | Self::Refund)
    }

    /// Whether it makes something new at the provider, so that doing it twice would do it twice.
    #[must_use]
    pub fn creates(self) -> bool {
        matches!(self, Self::Authorize | Self::Refund)
    }
}

/// Name of the refund of all that is left, which undoes a payment.
pub(super) const WHOLE: &str = "refund";

/// Begins the name of a refund that was made, and had been made before: its provider's name follows.
pub(super) const AGAIN: &str = "again:";

/// Whether it was made by a request that had been done before: more was given back than was asked for.
#[must_use]
pub fn is_made_again(refund: &str) -> bool {
    refund.starts_with(AGAIN)
}

/// Whether it was to give back all that was left.
#[must_use]
pub fn undoes_all(refund: &str) -> bool {
    refund.split('~').next() == Some(WHOLE)
}

pub(super) fn whole() -> String {
    WHOLE.to_owned()
}

pub(super) fn is_whole(name: &String) -> bool {
    name == WHOLE
}

/// `refund`, `refund~1`, `refund~2`: each is a request of its own.
pub(super) fn name_of_round(name: &str, round: u32) -> String {
    let name = name.split('~').next().unwrap_or(name);
    if round == 0 { name.to_owned() } else { format!("{name}~{round}") }
}

/// The request that has no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    pub operation: Operation,
    /// In minor units of the order's currency.
    pub amount: i64,
    /// Which refund it is, if it is one: `refund`, or `refund:` and its id.
    pub refund: Option<String>,
    /// The payment that it is about, where that is not the order's own, but a stray one.
    pub stray: Option<String>,
    /// 0 for the call itself, then one more for each look-up: the generation of its timer.
    pub attempt: u32,
    /// How often the provider has refused the like of it: each refusal is final, and the next is another
    /// request, with a key of its own.
    pub round: u32,
    pub asked_at: Option<DateTime<Utc>>,
    pub is_under_review: bool,
}

/// What the provider has to know for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub order_id: OrderId,
    pub amount: Money,
    pub payment: PaymentMethod,
    pub open: OpenRequest,
    /// The provider's own name for the payment, once there is one.
    pub provider_reference: Option<String>,
}

impl OpenRequest {
    /// What it is called among the order's requests: no two of them have one name.
    #[must_use]
    pub fn name(&self) -> String {
        if let Some(refund) = &self.refund {
            return refund.clone();
        }
        let stray = self.stray.as_ref().map(|stray| format!(":{stray}")).unwrap_or_default();
        let round = if self.round > 0 { format!("~{}", self.round) } else { String::new() };
        format!("{}{stray}{round}", self.operation.code())
    }
}

impl Request {
    /// One key for one request, whatever happens until its outcome is known.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.order_id, self.open.name())
    }
}

/// Our name for the refund that was asked for with this key, if it is one of this order.
#[must_use]
pub fn refund_of_key(order_id: OrderId, key: &str) -> Option<&str> {
    let name = key.strip_prefix(&order_id.to_string())?.strip_prefix(':')?;
    (name.starts_with(WHOLE) || name.starts_with("stray:")).then_some(name)
}
