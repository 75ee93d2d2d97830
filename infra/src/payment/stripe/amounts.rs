//! Amounts as Stripe writes them, which are not everywhere in the minor units of ISO 4217.
//!
//! | currency           | minor units of ISO 4217 | at Stripe                             |
//! |--------------------|-------------------------|---------------------------------------|
//! | ISK, UGX           | none                    | hundredths, of which there are whole hundreds alone |
//! | MGA                | hundredths              | none                                  |
//! | BHD, JOD, KWD, …   | thousandths             | thousandths, the last digit being 0   |
//! | all others         |                         | the same                              |
//!
//! (docs.stripe.com/currencies#special-cases)

use domain::Money;
use domain::money::Currency;

/// The amount as Stripe has it; nothing, where Stripe has none that is the same.
pub(super) fn theirs(money: Money) -> Option<i64> {
    match (money.currency.code(), money.currency.exponent()) {
        ("ISK" | "UGX", _) => money.amount.checked_mul(100),
        ("MGA", _) => whole(money.amount, 100).map(|amount| amount / 100),
        (_, 3) => whole(money.amount, 10),
        _ => Some(money.amount),
    }
}

/// The amount as we have it.
pub(super) fn ours(amount: i64, currency: Currency) -> i64 {
    match currency.code() {
        "ISK" | "UGX" => amount / 100,
        "MGA" => amount.saturating_mul(100),
        _ => amount,
    }
}

fn whole(amount: i64, unit: i64) -> Option<i64> {
    (amount % unit == 0).then_some(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_the_same_money_on_both_sides() {
        for (code, amount, stripes) in [
            ("GBP", 1999, Some(1999)),
            ("JPY", 500, Some(500)),
            ("ISK", 500, Some(50_000)),
            ("UGX", 5, Some(500)),
            ("MGA", 50_000, Some(500)),
            ("MGA", 50_050, None),
            ("KWD", 5_120, Some(5_120)),
            ("KWD", 5_124, None),
        ] {
            let currency: Currency = code.parse().unwrap();
            assert_eq!(theirs(Money::new(amount, currency)), stripes, "{amount} {code}");
            assert!(stripes.is_none_or(|stripes| ours(stripes, currency) == amount), "{amount} {code}");
        }
    }
}
