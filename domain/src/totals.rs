//! What a purchase comes to: the goods, the way to the buyer, the tax, and the sum.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::{Money, MoneyError};

/// As it is quoted, checked out and placed.
///
/// Invariant: all of it is in one currency; `total` is `subtotal` and shipping, and the tax where that is
/// not included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Sum of the lines.
    pub subtotal: Money,
    pub shipping: Shipping,
    /// Absent where none is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax: Option<Tax>,
    /// What is paid.
    pub total: Money,
}

/// A way to the buyer, at what it costs for this purchase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipping {
    pub method: String,
    pub name: String,
    pub price: Money,
    /// Working days that it takes: `3` or `3-5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_days: Option<String>,
}

/// The tax on all of it, rounded once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tax {
    /// VAT, GST, …
    pub name: String,
    pub rate: Rate,
    pub amount: Money,
    /// It is part of the prices; otherwise it comes on top.
    pub included: bool,
}

impl Totals {
    /// # Errors
    /// The sum is too large, or the currencies differ.
    pub fn of(subtotal: Money, shipping: Shipping, tax: Option<Tax>) -> Result<Self, MoneyError> {
        let net = subtotal.plus(shipping.price)?;
        let added = tax.as_ref().filter(|tax| !tax.included);
        let total = added.map_or(Ok(net), |tax| net.plus(tax.amount))?;
        Ok(Self { subtotal, shipping, tax, total })
    }
}

/// A rate of tax, written as percent with up to four decimals: `20`, `7.7`, `9.975`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    /// Parts per million.
    ppm: u32,
}

const MILLION: u32 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a rate in percent, 0 to 100 with up to four decimals, such as 7.7", .0.escape_debug())]
pub struct InvalidRate(String);

impl Rate {
    /// Of an amount to which the tax is added.
    ///
    /// Rounded to the nearest minor unit, half of one upwards.
    #[must_use]
    pub fn added_to(self, net: Money) -> Money {
        part(net, self.ppm, MILLION)
    }

    /// Of an amount that has the tax in it; rounded in the same way.
    #[must_use]
    pub fn included_in(self, gross: Money) -> Money {
        part(gross, self.ppm, MILLION + self.ppm)
    }
}

/// `amount` × `share` / `whole`. Amounts are not negative here, and a share is not more than the whole, so
/// that the part is not more than the amount.
fn part(money: Money, share: u32, whole: u32) -> Money {
    let (amount, share, whole) = (i128::from(money.amount), i128::from(share), i128::from(whole));
    let rounded = (2 * amount * share + whole).div_euclid(2 * whole);
    let amount = i64::try_from(rounded).unwrap_or_else(|_| unreachable!("a part is not more than the whole"));
    Money { amount, ..money }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let invalid = || InvalidRate(text.chars().take(16).collect());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 4 {
            return Err(invalid());
        }
        let ppm: u32 = format!("{whole}{decimals:0<4}").parse().map_err(|_| invalid())?;
        if ppm > MILLION { Err(invalid()) } else { Ok(Self { ppm }) }
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.ppm / 10_000, format!("{:04}", self.ppm % 10_000));
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            decimals => write!(f, "{whole}.{decimals}"),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod spec {
    use proptest::prelude::*;

    use super::*;
    use crate::order::spec::money;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    #[test]
    fn rates_are_read_exactly() {
        for (text, ppm) in [("0", 0), ("20", 200_000), ("7.7", 77_000), ("9.975", 99_750), ("0.0001", 1)] {
            assert_eq!((rate(text).ppm, rate(text).to_string()), (ppm, text.to_owned()));
        }
        assert_eq!((rate("100"), rate("20.0").to_string()), (Rate { ppm: MILLION }, "20".into()));
        for text in ["", ".", "20.", ".5", "-1", "+1", "1e1", "100.0001", "1000", "0.00001", "20 %", "2\0"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn halves_go_up() {
        // 5 % of 10 pence is half a penny, and so is what 3 pence have in them at 20 %.
        assert_eq!(rate("5").added_to(money(10, "GBP")).amount, 1);
        assert_eq!(rate("5").added_to(money(9, "GBP")).amount, 0);
        assert_eq!(rate("20").included_in(money(3, "GBP")).amount, 1);
        assert_eq!(rate("20").included_in(money(2, "GBP")).amount, 0);
        assert_eq!(rate("20").included_in(money(1250, "GBP")).amount, 208);
        assert_eq!(
            rate("100").included_in(money(Money::AMOUNT_MAX, "GBP")).amount,
            Money::AMOUNT_MAX / 2 + 1
        );
    }

    fn rates() -> impl Strategy<Value = Rate> {
        (0..=MILLION).prop_map(|ppm| Rate { ppm })
    }

    fn shipping(price: i64) -> Shipping {
        let (method, name) = ("post".into(), "By post".into());
        Shipping { method, name, price: money(price, "GBP"), delivery_days: None }
    }

    proptest! {
        #[test]
        fn a_rate_survives_the_wire(rate in rates()) {
            let text = serde_json::to_string(&rate).expect("json");
            prop_assert_eq!(serde_json::from_str::<Rate>(&text).expect("a rate"), rate);
        }

        #[test]
        fn tax_is_the_nearest_whole_unit(amount in 0..=Money::AMOUNT_MAX, rate in rates()) {
            let (million, ppm) = (i128::from(MILLION), i128::from(rate.ppm));
            let off = |tax: Money, whole: i128| 2 * (i128::from(tax.amount) * whole - i128::from(amount) * ppm);
            let added = off(rate.added_to(money(amount, "GBP")), million);
            prop_assert!(-million < added && added <= million);
            let included = off(rate.included_in(money(amount, "GBP")), million + ppm);
            prop_assert!(-(million + ppm) < included && included <= million + ppm);
        }

        #[test]
        fn tax_in_a_price_is_no_more_than_on_it_and_leaves_at_least_half(
            amount in 0..=Money::AMOUNT_MAX,
            rate in rates(),
        ) {
            let gross = money(amount, "GBP");
            let included = rate.included_in(gross).amount;
            prop_assert!(included <= rate.added_to(gross).amount && included <= amount / 2 + 1);
        }

        #[test]
        fn what_was_added_is_what_is_included(amount in 0..=Money::AMOUNT_MAX / 2, rate in rates()) {
            let net = money(amount, "GBP");
            let added = rate.added_to(net);
            let gross = net.plus(added).expect("at most twice as much");
            prop_assert_eq!(rate.included_in(gross), added);
        }

        #[test]
        fn a_total_is_the_sum_of_its_parts_or_refused(
            subtotal in 0..=Money::AMOUNT_MAX,
            price in 0..=Money::AMOUNT_MAX,
            rate in rates(),
            included: bool,
        ) {
            let amount = rate.added_to(money(subtotal, "GBP"));
            let tax = Tax { name: "VAT".into(), rate, amount, included };
            let sum = i128::from(subtotal) + i128::from(price)
                + if included { 0 } else { i128::from(amount.amount) };
            match Totals::of(money(subtotal, "GBP"), shipping(price), Some(tax)) {
                Ok(totals) => prop_assert_eq!(i128::from(totals.total.amount), sum),
                Err(error) => {
                    prop_assert_eq!(error, MoneyError::TooLarge);
                    prop_assert!(sum > i128::from(Money::AMOUNT_MAX));
                }
            }
        }
    }
}
