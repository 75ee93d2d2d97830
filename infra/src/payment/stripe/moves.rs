//! What moved of a payment's money after it was captured: refunds, and disputes with the buyer's bank.

use std::collections::BTreeMap;

use domain::OrderId;
use domain::money::Currency;
use domain::payment::{Refund, RefundState, refund_of_key};
use serde::Deserialize;

use super::amounts::ours;

/// All of one payment.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub refunds: Vec<RefundObject>,
    pub disputes: Vec<Dispute>,
}

/// Something that there are pages of.
pub(super) trait Listed {
    fn id(&self) -> &str;
}

#[derive(Debug, Deserialize)]
pub(super) struct RefundObject {
    pub id: String,
    amount: i64,
    status: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// A buyer who says at their bank that it should not have been charged.
#[derive(Debug, Deserialize)]
pub(super) struct Dispute {
    pub id: String,
    amount: i64,
    currency: String,
    pub payment_intent: Option<String>,
    /// None, while it is only asked about; one when the money is withdrawn, and another if it comes back.
    #[serde(default)]
    balance_transactions: Vec<Transaction>,
}

/// Money of the shop's account at the provider, which may be in another currency than the payment.
#[derive(Debug, Deserialize)]
struct Transaction {
    amount: i64,
    currency: String,
}

impl Listed for RefundObject {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Listed for Dispute {
    fn id(&self) -> &str {
        &self.id
    }
}

impl RefundObject {
    pub fn refund(&self, order_id: Option<OrderId>, currency: Currency) -> Refund {
        let key = self.metadata.get("attempt_ref");
        let name = order_id.zip(key).and_then(|(order_id, key)| refund_of_key(order_id, key));
        Refund {
            name: name.map(str::to_owned),
            reference: self.id.clone(),
            amount: ours(self.amount, currency),
            state: match self.status.as_deref() {
                Some("succeeded") => RefundState::Done,
                Some("failed" | "canceled") => RefundState::Failed,
                _ => RefundState::Processing,
            },
        }
    }
}

impl Dispute {
    /// What was withdrawn for it, as the provider writes it.
    pub fn withdrawn(&self) -> i64 {
        self.moved(|amount| amount < 0)
    }

    /// What came back of that.
    pub fn reinstated(&self) -> i64 {
        self.moved(|amount| amount > 0)
    }

    fn moved(&self, is_meant: impl Fn(i64) -> bool) -> i64 {
        let meant = self.balance_transactions.iter().filter(|transaction| is_meant(transaction.amount));
        let amount = |transaction: &Transaction| match transaction.currency == self.currency {
            true => transaction.amount.saturating_abs(),
            false => self.amount,
        };
        meant.fold(0, |sum: i64, transaction| sum.saturating_add(amount(transaction)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refunds_are_known_by_the_key_that_they_were_asked_for_with() {
        let order_id = OrderId(uuid::Uuid::from_u128(7));
        let of = |key: String| {
            let object = json!({"id": "re_1", "amount": 5, "status": "succeeded",
                "metadata": {"attempt_ref": key}});
            let refund: RefundObject = serde_json::from_value(object).unwrap();
            refund.refund(Some(order_id), "GBP".parse().unwrap()).name
        };
        assert_eq!(of(format!("{order_id}:refund")), Some("refund".to_owned()));
        assert_eq!(of("another".to_owned()), None);
    }

    #[test]
    fn a_dispute_moves_what_its_transactions_say() {
        let of = |transactions: serde_json::Value| {
            let object = json!({"id": "du_1", "amount": 1000, "currency": "gbp", "status": "under_review",
                "payment_intent": "pi_1", "balance_transactions": transactions});
            let dispute: Dispute = serde_json::from_value(object).unwrap();
            (dispute.withdrawn(), dispute.reinstated())
        };
        let (taken, back) =
            (json!({"amount": -1000, "currency": "gbp"}), json!({"amount": 600, "currency": "gbp"}));
        assert_eq!(of(json!([])), (0, 0), "the bank only asks");
        assert_eq!(of(json!([taken])), (1000, 0));
        assert_eq!(of(json!([taken, back])), (1000, 600), "won in part");
        assert_eq!(of(json!([{"amount": -1180, "currency": "eur"}])), (1000, 0), "in the account's currency");
    }
}
