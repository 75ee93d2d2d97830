//! What the fields of a row say: prices as exact decimals, times, quantities.

use chrono::{DateTime, NaiveDateTime, Utc};
use domain::{Currency, Money};

/// Digits after the decimal point that a price may have.
const DECIMALS_MAX: usize = 6;
const MICROS: i128 = 1_000_000;

/// Most digits before it: far above every price that is one.
const DIGITS_MAX: usize = 10;

/// Most units in one row; a stock movement can't have more.
pub const QUANTITY_MAX: u32 = domain::stock::MOVEMENT_MAX;

/// Most minor units in one row: the sums of a whole invoice stay far within what money can be.
pub const TOTAL_MAX: i64 = 1_000_000_000_000;

/// A price as the file has it, in millionths of its currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(i64);

impl Price {
    pub const ZERO: Self = Self(0);

    /// `2.55`, `0.001`, `-11062.06`; exact, or not taken.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let (whole, decimals) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let decimals = decimals.trim_end_matches('0');
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = whole.len() <= DIGITS_MAX && decimals.len() <= DECIMALS_MAX;
        if !fits || whole.is_empty() || !digits(whole) || !digits(decimals) {
            return None;
        }
        format!("{whole}{decimals:0<DECIMALS_MAX$}").parse().ok().map(|micros: i64| Self(sign * micros))
    }

    /// So many of it, in minor units of the currency, rounded half away from zero.
    pub fn times(self, quantity: u32, currency: Currency) -> i64 {
        let product = i128::from(self.0) * i128::from(quantity) * 10_i128.pow(currency.exponent().into());
        let rounded = (product.abs() * 2 + MICROS) / (2 * MICROS) * product.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// One of it, rounded likewise.
    pub fn one(self, currency: Currency) -> Money {
        Money::new(self.times(1, currency), currency)
    }
}

/// Seconds since 1970 of a time without a zone, which is taken as UTC: `2010-12-01 08:26:00`, with a
/// `T` between, without the seconds, or in the form in which the data set was first published,
/// `12/1/2010 8:26`.
pub fn time(text: &str) -> Option<i64> {
    const FORMS: [&str; 5] =
        ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S"];
    let parsed = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let seconds = parsed?.and_utc().timestamp();
    // What the wire's form of a time can say.
    (0..=253_402_300_799).contains(&seconds).then_some(seconds)
}

pub fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

/// `2010-12`
pub fn month(seconds: i64) -> String {
    moment(seconds).format("%Y-%m").to_string()
}

/// A number of a customer that went through a spreadsheet comes as `17850.0`.
pub fn customer(text: &str) -> &str {
    match text.strip_suffix(".0") {
        Some(number) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => number,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minor(price: &str, quantity: u32, currency: &str) -> i64 {
        Price::parse(price).unwrap().times(quantity, currency.parse().unwrap())
    }

    #[test]
    fn prices_are_exact_decimals() {
        for (text, micros) in [
            ("2.55", 2_550_000),
            ("0.001", 1_000),
            ("7", 7_000_000),
            ("0", 0),
            ("-11062.06", -11_062_060_000),
        ] {
            assert_eq!(Price::parse(text), Some(Price(micros)), "{text}");
        }
        assert_eq!(Price::parse("1.10000000000"), Price::parse("1.1"));
        for text in
            ["", ".", ".5", "1e3", "1,5", "£1", "--1", "+1", "1.0000001", "NaN", "99999999999", "1.-5"]
        {
            assert_eq!(Price::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn totals_are_rounded_half_away_from_zero() {
        for (price, quantity, currency, expected) in [
            ("2.55", 6, "GBP", 1530),
            ("0.001", 4, "GBP", 0),
            ("0.001", 5, "GBP", 1),
            ("0.005", 1, "GBP", 1),
            ("0.005", 3, "GBP", 2),
            ("-0.005", 1, "GBP", -1),
            ("1.5", 1, "JPY", 2),
            ("1.2345", 1, "KWD", 1235),
        ] {
            assert_eq!(minor(price, quantity, currency), expected, "{quantity} × {price} {currency}");
        }
    }

    #[test]
    fn times_come_in_the_forms_in_which_the_data_set_is_about() {
        let expected = time("2010-12-01 08:26:00");
        assert!(expected.is_some());
        for text in ["2010-12-01T08:26:00", "2010-12-01 08:26", "12/1/2010 8:26", "12/1/2010 8:26:00"] {
            assert_eq!(time(text), expected, "{text}");
        }
        for text in ["", "2010-13-01 08:26:00", "yesterday", "1/13", "2010-12-01", "1066-10-14 09:00:00"] {
            assert_eq!(time(text), None, "{text}");
        }
        assert_eq!(month(expected.unwrap()), "2010-12");
    }

    #[test]
    fn a_customers_number_is_whole() {
        for (text, expected) in
            [("17850.0", "17850"), ("17850", "17850"), ("A.0", "A.0"), (".0", ".0"), ("", "")]
        {
            assert_eq!(customer(text), expected);
        }
    }
}
