//! Stripe's objects, as far as they say where a payment stands.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::money::Currency;
use domain::payment::{Refund, RefundState, State, Statement, refund_of_key};
use serde::Deserialize;

use crate::payment::{Booked, NoAnswer};

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Intent {
    pub id: String,
    pub status: String,
    pub amount: i64,
    #[serde(default)]
    pub amount_capturable: i64,
    #[serde(default)]
    amount_received: Option<i64>,
    pub currency: String,
    #[serde(default)]
    pub created: i64,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub last_payment_error: Option<Problem>,
    #[serde(default)]
    pub latest_charge: Option<Charge>,
    #[serde(default)]
    pub next_action: Option<NextAction>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    code: Option<String>,
    decline_code: Option<String>,
}

/// As its id, unless it was asked for as a whole.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Charge {
    Whole {
        amount: i64,
        #[serde(default)]
        amount_refunded: i64,
    },
    Id(#[expect(dead_code, reason = "only its place is needed")] String),
}

#[derive(Debug, Deserialize)]
pub(super) struct NextAction {
    pub redirect_to_url: Option<Redirect>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Redirect {
    pub url: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefundObject {
    pub id: String,
    amount: i64,
    status: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl Intent {
    /// Whose it is, as we told the provider when it was made.
    pub fn order_id(&self) -> Option<OrderId> {
        self.metadata.get("order_id")?.parse().ok()
    }

    /// What was captured; all of it, where the status says so and no amount does.
    fn captured(&self) -> i64 {
        let whole = if self.status == "succeeded" { self.amount } else { 0 };
        self.amount_received.unwrap_or(whole)
    }

    pub fn is_captured(&self) -> bool {
        self.captured() > 0
    }

    /// Whether something was given back, as far as it says.
    pub fn may_have_refunds(&self) -> bool {
        let unknown_or_some = match &self.latest_charge {
            Some(Charge::Whole { amount_refunded, .. }) => *amount_refunded > 0,
            Some(Charge::Id(_)) | None => true,
        };
        self.is_captured() && unknown_or_some
    }

    /// Disputes are told of on other pages, so what they took back is left at 0.
    pub fn statement(&self, refunds: &[RefundObject]) -> Result<Statement, NoAnswer> {
        let state = self.state();
        let charged = match &self.latest_charge {
            Some(Charge::Whole { amount, .. }) => *amount,
            Some(Charge::Id(_)) | None => self.amount,
        };
        let authorized = match state {
            State::Authorized if self.amount_capturable > 0 => self.amount_capturable,
            State::Authorized | State::Captured => charged.max(self.captured()),
            State::Processing | State::ActionRequired | State::Declined { .. } | State::Voided => 0,
        };
        let order_id = self.order_id();
        Ok(Statement {
            reference: self.id.clone(),
            state,
            currency: self.currency()?,
            authorized,
            captured: self.captured(),
            charged_back: 0,
            refunds: refunds.iter().map(|refund| refund.refund(order_id)).collect(),
        })
    }

    pub fn booked(&self, refunds: &[RefundObject]) -> Result<Booked, NoAnswer> {
        let made_at = DateTime::<Utc>::from_timestamp(self.created, 0);
        let made_at = made_at.ok_or_else(|| NoAnswer("a payment of no time".to_owned()))?;
        Ok(Booked { order_id: self.order_id(), made_at, statement: self.statement(refunds)? })
    }

    fn state(&self) -> State {
        match self.status.as_str() {
            "requires_capture" => State::Authorized,
            "succeeded" => State::Captured,
            "canceled" if self.is_captured() => State::Captured,
            "canceled" => State::Voided,
            "requires_action" => State::ActionRequired,
            "requires_payment_method" if self.last_payment_error.is_some() => {
                State::Declined { reason: self.problem() }
            }
            // What is not confirmed yet may be in a moment, and what is not known here may be anything.
            _ => State::Processing,
        }
    }

    fn problem(&self) -> String {
        let problem = self.last_payment_error.as_ref();
        let code = problem.and_then(|problem| problem.decline_code.as_ref().or(problem.code.as_ref()));
        super::api::code(code.map_or("declined", String::as_str))
    }

    fn currency(&self) -> Result<Currency, NoAnswer> {
        let unknown = |_| NoAnswer("a payment in a currency that is not known here".to_owned());
        self.currency.to_ascii_uppercase().parse().map_err(unknown)
    }
}

impl RefundObject {
    pub fn refund(&self, order_id: Option<OrderId>) -> Refund {
        let key = self.metadata.get("attempt_ref");
        let name = order_id.zip(key).and_then(|(order_id, key)| refund_of_key(order_id, key));
        Refund {
            name: name.map(str::to_owned),
            reference: self.id.clone(),
            amount: self.amount,
            state: match self.status.as_deref() {
                Some("succeeded") => RefundState::Done,
                Some("failed" | "canceled") => RefundState::Failed,
                _ => RefundState::Processing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn statement(more: serde_json::Value) -> Statement {
        let mut object = json!({"id": "pi_1", "status": "requires_capture", "amount": 1000,
            "amount_capturable": 1000, "amount_received": 0, "currency": "gbp", "created": 1,
            "latest_charge": {"id": "ch_1", "amount": 1000, "amount_refunded": 0}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let intent: Intent = serde_json::from_value(object).unwrap();
        intent.statement(&[]).unwrap()
    }

    #[test]
    fn statuses_become_states() {
        for (status, state) in [
            ("requires_capture", State::Authorized),
            ("requires_action", State::ActionRequired),
            ("processing", State::Processing),
            ("requires_payment_method", State::Processing),
            ("requires_confirmation", State::Processing),
            ("canceled", State::Voided),
            ("something_new", State::Processing),
        ] {
            assert_eq!(statement(json!({"status": status})).state, state, "{status}");
        }
        let problem = json!({"code": "card_declined", "decline_code": "lost_card"});
        let declined = statement(json!({"status": "requires_payment_method", "last_payment_error": problem}));
        assert_eq!(declined.state, State::Declined { reason: "lost_card".to_owned() });
    }

    #[test]
    fn amounts_are_those_that_were_moved() {
        let held = statement(json!({"amount_capturable": 700}));
        assert_eq!((held.authorized, held.captured), (700, 0));
        let taken = json!({"status": "succeeded", "amount_capturable": 0, "amount_received": 600});
        let taken = statement(taken);
        assert_eq!((taken.state, taken.authorized, taken.captured), (State::Captured, 1000, 600));
        let only_id = json!({"status": "succeeded", "amount_received": 1000, "latest_charge": "ch_1"});
        assert_eq!(statement(only_id).authorized, 1000);
    }

    #[test]
    fn refunds_are_known_by_the_key_that_they_were_asked_for_with() {
        let order_id = OrderId(uuid::Uuid::from_u128(7));
        let of = |key: String| {
            let object = json!({"id": "re_1", "amount": 5, "status": "succeeded",
                "metadata": {"attempt_ref": key}});
            serde_json::from_value::<RefundObject>(object).unwrap().refund(Some(order_id)).name
        };
        assert_eq!(of(format!("{order_id}:refund")), Some("refund".to_owned()));
        assert_eq!(of("another".to_owned()), None);
    }
}
