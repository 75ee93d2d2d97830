//! Stripe's objects, as far as they say where a payment stands.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::money::Currency;
use domain::payment::{State, Statement};
use serde::Deserialize;

use super::amounts::ours;
use super::moves::{Dispute, Moves};
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
        #[serde(default)]
        disputed: bool,
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

    /// Whether the buyer's bank was told that it should not have been charged.
    pub fn is_disputed(&self) -> bool {
        matches!(self.latest_charge, Some(Charge::Whole { disputed: true, .. }))
    }

    pub fn is_waiting_for_its_buyer(&self) -> bool {
        self.state() == State::ActionRequired
    }

    pub fn statement(&self, moves: &Moves) -> Result<Statement, NoAnswer> {
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
        let (order_id, currency) = (self.order_id(), self.currency()?);
        let sum = |amounts: &mut dyn Iterator<Item = i64>| amounts.fold(0_i64, i64::saturating_add);
        let charged_back = sum(&mut moves.disputes.iter().map(Dispute::withdrawn));
        let reinstated = sum(&mut moves.disputes.iter().map(Dispute::reinstated));
        Ok(Statement {
            reference: self.id.clone(),
            state,
            currency,
            authorized: ours(authorized, currency),
            captured: ours(self.captured(), currency),
            charged_back: ours(charged_back, currency),
            reinstated: ours(reinstated, currency),
            refunds: moves.refunds.iter().map(|refund| refund.refund(order_id, currency)).collect(),
        })
    }

    pub fn booked(&self, moves: &Moves) -> Result<Booked, NoAnswer> {
        let made_at = DateTime::<Utc>::from_timestamp(self.created, 0);
        let made_at = made_at.ok_or_else(|| NoAnswer("a payment of no time".to_owned()))?;
        Ok(Booked { order_id: self.order_id(), made_at, statement: self.statement(moves)? })
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
        intent.statement(&Moves::default()).unwrap()
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
}
