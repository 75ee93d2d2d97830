//! Stripe's payment methods for tests, by name: the only ones that are taken.
//!
//! | pm_card_…                                     | what becomes of the payment                      |
//! |-----------------------------------------------|--------------------------------------------------|
//! | visa, mastercard, amex, …                     | approved                                         |
//! | chargeDeclined…, visa_chargeDeclined…         | declined, for the reason that the name ends with |
//! | threeDSecure2Required, authenticationRequired | asks the buyer, then approved                    |
//! | threeDSecureRequiredChargeDeclined            | asks the buyer, then declined                    |
//! | pendingRefund                                 | approved; a refund is pending for a minute       |
//! | refundFail                                    | approved; a refund fails after a minute          |

use serde::{Deserialize, Serialize};

/// Why a payment did not come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    pub code: String,
    pub decline_code: Option<String>,
    pub message: String,
}

/// What happens when a payment with this method is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    pub challenges: bool,
    pub decline: Option<Decline>,
}

/// What becomes of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundFate {
    Succeeds,
    IsPending,
    Fails,
}

const APPROVED: [&str; 12] = [
    "visa",
    "visa_debit",
    "mastercard",
    "mastercard_debit",
    "amex",
    "discover",
    "diners",
    "jcb",
    "unionpay",
    "gb",
    "pendingRefund",
    "refundFail",
];
const CHALLENGED: [&str; 4] = [
    "threeDSecure2Required",
    "threeDSecureRequired",
    "authenticationRequired",
    "authenticationRequiredOnSetup",
];

/// What the name ends with, the error's code, and the bank's.
const DECLINES: [(&str, &str, &str); 9] = [
    ("", "card_declined", "generic_decline"),
    ("InsufficientFunds", "card_declined", "insufficient_funds"),
    ("LostCard", "card_declined", "lost_card"),
    ("StolenCard", "card_declined", "stolen_card"),
    ("FraudulentDecline", "card_declined", "fraudulent"),
    ("VelocityLimitExceeded", "card_declined", "card_velocity_exceeded"),
    ("ExpiredCard", "expired_card", ""),
    ("IncorrectCvc", "incorrect_cvc", ""),
    ("ProcessingError", "processing_error", ""),
];

/// The method of this name, if there is one.
pub fn find(name: &str) -> Option<Method> {
    let card = name.strip_prefix("pm_card_")?;
    if APPROVED.contains(&card) {
        return Some(Method { challenges: false, decline: None });
    }
    if CHALLENGED.contains(&card) {
        return Some(Method { challenges: true, decline: None });
    }
    let (challenges, card) = match card.strip_prefix("threeDSecureRequired") {
        Some(rest) => (true, rest),
        None => (false, card.strip_prefix("visa_").unwrap_or(card)),
    };
    let reason = card.strip_prefix("chargeDeclined").or_else(|| card.strip_prefix("ChargeDeclined"))?;
    let (_, code, decline_code) = DECLINES.iter().find(|(ending, _, _)| *ending == reason)?;
    Some(Method { challenges, decline: Some(declined(code, decline_code)) })
}

pub fn refund_fate(method: Option<&str>) -> RefundFate {
    match method {
        Some("pm_card_pendingRefund") => RefundFate::IsPending,
        Some("pm_card_refundFail") => RefundFate::Fails,
        _ => RefundFate::Succeeds,
    }
}

/// The buyer did not pass the challenge.
pub fn not_authenticated() -> Decline {
    declined("payment_intent_authentication_failure", "")
}

/// A challenge is wanted, and nobody is there to pass it.
pub fn nobody_to_ask() -> Decline {
    declined("authentication_required", "authentication_required")
}

/// The bank said no for no reason of its own.
pub fn refused() -> Decline {
    declined("card_declined", "generic_decline")
}

fn declined(code: &str, decline_code: &str) -> Decline {
    let reason = if decline_code.is_empty() { code } else { decline_code };
    Decline {
        code: code.to_owned(),
        decline_code: (!decline_code.is_empty()).then(|| decline_code.to_owned()),
        message: format!("The payment was declined ({}).", reason.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_names() {
        let reason = |name: &str| find(name).map(|method| method.decline.map(|decline| decline.decline_code));
        assert_eq!(reason("pm_card_visa"), Some(None));
        assert_eq!(reason("pm_card_visa_chargeDeclined"), Some(Some(Some("generic_decline".to_owned()))));
        let insufficient = Some(Some(Some("insufficient_funds".to_owned())));
        assert_eq!(reason("pm_card_chargeDeclinedInsufficientFunds"), insufficient);
        assert_eq!(reason("pm_card_visa_chargeDeclinedInsufficientFunds"), insufficient);
        assert_eq!(reason("pm_card_chargeDeclinedExpiredCard"), Some(Some(None)));
        let challenge = |name: &str| find(name).map(|method| (method.challenges, method.decline.is_some()));
        assert_eq!(challenge("pm_card_threeDSecure2Required"), Some((true, false)));
        assert_eq!(challenge("pm_card_authenticationRequired"), Some((true, false)));
        assert_eq!(challenge("pm_card_threeDSecureRequiredChargeDeclined"), Some((true, true)));
        for unknown in ["", "visa", "pm_card_", "pm_card_chargeDeclinedTwice", "tok_visa", "pm_1234"] {
            assert_eq!(find(unknown), None, "{unknown}");
        }
    }
}
