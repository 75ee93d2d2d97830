//! Money: whole minor units of one currency, checked arithmetic, never floats.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Code and exponent (minor units as a power of ten) of the currencies in use, from ISO 4217.
const CURRENCIES: &[(&str, u8)] = &[
    ("AED", 2),
    ("AFN", 2),
    ("ALL", 2),
    ("AMD", 2),
    ("AOA", 2),
    ("ARS", 2),
    ("AUD", 2),
    ("AWG", 2),
    ("AZN", 2),
    ("BAM", 2),
    ("BBD", 2),
    ("BDT", 2),
    ("BHD", 3),
    ("BIF", 0),
    ("BMD", 2),
    ("BND", 2),
    ("BOB", 2),
    ("BRL", 2),
    ("BSD", 2),
    ("BTN", 2),
    ("BWP", 2),
    ("BYN", 2),
    ("BZD", 2),
    ("CAD", 2),
    ("CDF", 2),
    ("CHF", 2),
    ("CLP", 0),
    ("CNY", 2),
    ("COP", 2),
    ("CRC", 2),
    ("CUP", 2),
    ("CVE", 2),
    ("CZK", 2),
    ("DJF", 0),
    ("DKK", 2),
    ("DOP", 2),
    ("DZD", 2),
    ("EGP", 2),
    ("ERN", 2),
    ("ETB", 2),
    ("EUR", 2),
    ("FJD", 2),
    ("FKP", 2),
    ("GBP", 2),
    ("GEL", 2),
    ("GHS", 2),
    ("GIP", 2),
    ("GMD", 2),
    ("GNF", 0),
    ("GTQ", 2),
    ("GYD", 2),
    ("HKD", 2),
    ("HNL", 2),
    ("HTG", 2),
    ("HUF", 2),
    ("IDR", 2),
    ("ILS", 2),
    ("INR", 2),
    ("IQD", 3),
    ("IRR", 2),
    ("ISK", 0),
    ("JMD", 2),
    ("JOD", 3),
    ("JPY", 0),
    ("KES", 2),
    ("KGS", 2),
    ("KHR", 2),
    ("KMF", 0),
    ("KPW", 2),
    ("KRW", 0),
    ("KWD", 3),
    ("KYD", 2),
    ("KZT", 2),
    ("LAK", 2),
    ("LBP", 2),
    ("LKR", 2),
    ("LRD", 2),
    ("LSL", 2),
    ("LYD", 3),
    ("MAD", 2),
    ("MDL", 2),
    ("MGA", 2),
    ("MKD", 2),
    ("MMK", 2),
    ("MNT", 2),
    ("MOP", 2),
    ("MRU", 2),
    ("MUR", 2),
    ("MVR", 2),
    ("MWK", 2),
    ("MXN", 2),
    ("MYR", 2),
    ("MZN", 2),
    ("NAD", 2),
    ("NGN", 2),
    ("NIO", 2),
    ("NOK", 2),
    ("NPR", 2),
    ("NZD", 2),
    ("OMR", 3),
    ("PAB", 2),
    ("PEN", 2),
    ("PGK", 2),
    ("PHP", 2),
    ("PKR", 2),
    ("PLN", 2),
    ("PYG", 0),
    ("QAR", 2),
    ("RON", 2),
    ("RSD", 2),
    ("RUB", 2),
    ("RWF", 0),
    ("SAR", 2),
    ("SBD", 2),
    ("SCR", 2),
    ("SDG", 2),
    ("SEK", 2),
    ("SGD", 2),
    ("SHP", 2),
    ("SLE", 2),
    ("SOS", 2),
    ("SRD", 2),
    ("SSP", 2),
    ("STN", 2),
    ("SVC", 2),
    ("SYP", 2),
    ("SZL", 2),
    ("THB", 2),
    ("TJS", 2),
    ("TMT", 2),
    ("TND", 3),
    ("TOP", 2),
    ("TRY", 2),
    ("TTD", 2),
    ("TWD", 2),
    ("TZS", 2),
    ("UAH", 2),
    ("UGX", 0),
    ("USD", 2),
    ("UYU", 2),
    ("UZS", 2),
    ("VED", 2),
    ("VES", 2),
    ("VND", 0),
    ("VUV", 0),
    ("WST", 2),
    ("XAF", 0),
    ("XCD", 2),
    ("XCG", 2),
    ("XOF", 0),
    ("XPF", 0),
    ("YER", 2),
    ("ZAR", 2),
    ("ZMW", 2),
    ("ZWG", 2),
];

/// An ISO 4217 currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(&'static str);

impl Currency {
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0
    }

    /// Digits after the decimal point: 2 for GBP, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u8 {
        CURRENCIES.iter().find(|(code, _)| *code == self.0).map_or(2, |(_, exponent)| *exponent)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an ISO 4217 currency code in use, such as GBP")]
pub struct UnknownCurrency(String);

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(text: &str) -> Result<Self, UnknownCurrency> {
        CURRENCIES
            .iter()
            .find(|(code, _)| *code == text)
            .map(|(code, _)| Self(code))
            .ok_or_else(|| UnknownCurrency(text.chars().take(16).collect()))
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// An amount in whole minor units (pence, cents) of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    pub amount: i64,
    pub currency: Currency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("amounts in {0} and {1} can't be added")]
    Mixed(Currency, Currency),
    #[error("the amount is too large")]
    TooLarge,
}

impl Money {
    /// No amount is larger: 2^53 - 1, the last whole number that every JSON reader keeps exact.
    pub const AMOUNT_MAX: i64 = 9_007_199_254_740_991;

    #[must_use]
    pub fn new(amount: i64, currency: Currency) -> Self {
        Self { amount, currency }
    }

    /// # Errors
    /// The currencies differ, or the sum is beyond [`Self::AMOUNT_MAX`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::Mixed(self.currency, other.currency));
        }
        let amount = self.amount.checked_add(other.amount).ok_or(MoneyError::TooLarge)?;
        self.bounded(amount)
    }

    /// # Errors
    /// The currencies differ, or the difference is beyond [`Self::AMOUNT_MAX`].
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.plus(Self { amount: -other.amount, ..other })
    }

    /// # Errors
    /// The product is beyond [`Self::AMOUNT_MAX`].
    pub fn times(self, quantity: u32) -> Result<Self, MoneyError> {
        let amount = self.amount.checked_mul(i64::from(quantity)).ok_or(MoneyError::TooLarge)?;
        self.bounded(amount)
    }

    fn bounded(self, amount: i64) -> Result<Self, MoneyError> {
        if amount.unsigned_abs() > Self::AMOUNT_MAX.unsigned_abs() {
            return Err(MoneyError::TooLarge);
        }
        Ok(Self { amount, ..self })
    }
}

impl Display for Money {
    /// `19.99 GBP`, `1999 JPY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.currency.exponent());
        let text = format!("{:0>width$}", self.amount.unsigned_abs(), width = digits + 1);
        let (whole, cents) = text.split_at(text.len() - digits);
        let (sign, dot) = (if self.amount < 0 { "-" } else { "" }, if digits == 0 { "" } else { "." });
        write!(f, "{sign}{whole}{dot}{cents} {}", self.currency)
    }
}

#[cfg(test)]
mod spec {
    use proptest::prelude::*;

    use super::*;

    fn gbp(amount: i64) -> Money {
        Money::new(amount, "GBP".parse().expect("a currency"))
    }

    #[test]
    fn is_shown_with_its_currencys_digits() {
        let yen = Money::new(1999, "JPY".parse().expect("a currency"));
        let dinar = Money::new(-5, "KWD".parse().expect("a currency"));
        assert_eq!(
            (gbp(1999).to_string(), gbp(5).to_string(), yen.to_string(), dinar.to_string()),
            ("19.99 GBP".into(), "0.05 GBP".into(), "1999 JPY".into(), "-0.005 KWD".into())
        );
    }

    #[test]
    fn currencies_do_not_mix() {
        let euro = Money::new(1, "EUR".parse().expect("a currency"));
        assert!(matches!(gbp(1).plus(euro), Err(MoneyError::Mixed(..))));
    }

    #[test]
    fn unknown_currencies_are_refused() {
        for code in ["", "gbp", "XXX", "GB", "GBP\0"] {
            assert!(code.parse::<Currency>().is_err(), "{code:?}");
        }
        assert!(serde_json::from_str::<Money>(r#"{"amount":1.5,"currency":"GBP"}"#).is_err());
    }

    proptest! {
        #[test]
        fn arithmetic_is_exact_or_refused(a: i64, b: i64, quantity: u32) {
            if let Ok(sum) = gbp(a).plus(gbp(b)) {
                prop_assert_eq!(i128::from(sum.amount), i128::from(a) + i128::from(b));
            } else {
                prop_assert!((i128::from(a) + i128::from(b)).abs() > i128::from(Money::AMOUNT_MAX));
            }
            if let Ok(product) = gbp(a).times(quantity) {
                prop_assert_eq!(i128::from(product.amount), i128::from(a) * i128::from(quantity));
            } else {
                prop_assert!((i128::from(a) * i128::from(quantity)).abs() > i128::from(Money::AMOUNT_MAX));
            }
        }

        #[test]
        fn a_total_does_not_depend_on_the_order_of_its_lines(mut amounts in prop::collection::vec(0_i64..1_000_000, 0..50)) {
            let total = |amounts: &[i64]| amounts.iter().try_fold(gbp(0), |sum, a| sum.plus(gbp(*a)));
            let before = total(&amounts);
            amounts.reverse();
            prop_assert_eq!(before, total(&amounts));
        }

        #[test]
        fn survives_the_wire(amount: i64) {
            let text = serde_json::to_string(&gbp(amount)).expect("json");
            prop_assert_eq!(serde_json::from_str::<Money>(&text).expect("money"), gbp(amount));
        }
    }
}
