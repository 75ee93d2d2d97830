//! The shop's terms from their file, or what is wrong with it, and in which line.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use domain::country::UnknownCountry;
use domain::terms::{Countries, Flaw, Method, Part, Price, TaxRule, Terms};
use domain::totals::Rate;
use domain::{Country, Currency};
use serde::Deserialize;
use toml::Spanned;

/// Those that hold where no file is given.
const BUILT_IN: &str = include_str!("../infra/local/terms.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    quote_holds_s: u32,
    shipping: Vec<Spanned<Shipping>>,
    #[serde(default)]
    tax: Vec<Spanned<Tax>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shipping {
    code: String,
    name: String,
    countries: Vec<Place>,
    #[serde(default)]
    free: bool,
    #[serde(default)]
    prices: BTreeMap<Currency, i64>,
    #[serde(default)]
    free_from: BTreeMap<Currency, i64>,
    delivery_days: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tax {
    country: Country,
    regions: Option<Vec<String>>,
    name: String,
    rate: Rate,
    included: bool,
    on_shipping: bool,
}

/// A country, or `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum Place {
    Everywhere,
    Country(Country),
}

/// Reads terms from a file.
///
/// # Errors
/// What is wrong with it, for people to read.
pub fn read(path: &str) -> Result<Arc<Terms>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse(&text).map(Arc::new)
}

#[must_use]
pub fn built_in() -> Arc<Terms> {
    let terms = parse(BUILT_IN).unwrap_or_else(|wrong| unreachable!("they are tested: {wrong}"));
    Arc::new(terms)
}

fn parse(text: &str) -> Result<Terms, String> {
    let File { quote_holds_s, shipping, tax } = toml::from_str(text).map_err(|error| error.to_string())?;
    let spans: [Vec<Range<usize>>; 2] =
        [shipping.iter().map(Spanned::span).collect(), tax.iter().map(Spanned::span).collect()];
    let line = |span: Range<usize>| text[..span.start].matches('\n').count() + 1;
    let say = |Flaw { part, detail }: Flaw| match part {
        Part::Whole => detail,
        Part::Method(index) => format!("line {}: {detail}", line(spans[0][index].clone())),
        Part::Tax(index) => format!("line {}: {detail}", line(spans[1][index].clone())),
    };
    let mut methods = Vec::new();
    for (index, shipping) in shipping.into_iter().enumerate() {
        let flaw = |detail: &str| say(Flaw { part: Part::Method(index), detail: detail.to_owned() });
        methods.push(method(shipping.into_inner()).map_err(flaw)?);
    }
    let mut taxes = Vec::new();
    for (index, tax) in tax.into_iter().enumerate() {
        let flaw = |detail: &str| say(Flaw { part: Part::Tax(index), detail: detail.to_owned() });
        taxes.push(rule(tax.into_inner()).map_err(flaw)?);
    }
    Terms::new(quote_holds_s, methods, taxes)
        .map_err(|flaws| flaws.into_iter().map(say).collect::<Vec<_>>().join("\n"))
}

fn method(shipping: Shipping) -> Result<Method, &'static str> {
    let Shipping { code, name, countries, free, prices, free_from, delivery_days } = shipping;
    let has_prices = !prices.is_empty() || !free_from.is_empty();
    let price = match (free, has_prices) {
        (true, true) => return Err("is `free`, and has `prices` or `free_from`"),
        (true, false) => Price::Free,
        (false, _) => Price::In { prices, free_from },
    };
    let only: BTreeSet<Country> = countries.iter().filter_map(|place| place.country()).collect();
    let countries = match (countries.contains(&Place::Everywhere), countries.len()) {
        (true, 1) => Countries::All,
        (true, _) => return Err("`countries` has \"*\" and others"),
        (false, _) => Countries::Only(only),
    };
    Ok(Method { code, name, countries, price, delivery_days })
}

fn rule(tax: Tax) -> Result<TaxRule, &'static str> {
    let Tax { country, regions, name, rate, included, on_shipping } = tax;
    let regions = match regions {
        Some(none) if none.is_empty() => {
            return Err("`regions` is empty; leave it out for all of the country");
        }
        regions => regions.unwrap_or_default(),
    };
    Ok(TaxRule { country, regions, name, rate, included, on_shipping })
}

impl Place {
    fn country(self) -> Option<Country> {
        match self {
            Self::Everywhere => None,
            Self::Country(country) => Some(country),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = UnknownCountry;

    fn try_from(text: String) -> Result<Self, UnknownCountry> {
        if text == "*" { Ok(Self::Everywhere) } else { Country::from_str(&text).map(Self::Country) }
    }
}

#[cfg(test)]
mod tests {
    use domain::Money;

    use super::*;

    fn total(
        terms: &Terms,
        amount: i64,
        currency: &str,
        to: (&str, Option<&str>),
        method: Option<&str>,
    ) -> String {
        let to = terms.destination(to.0.parse().unwrap(), to.1);
        let subtotal = Money::new(amount, currency.parse().unwrap());
        let totals = terms.totals(subtotal, &to, method).unwrap();
        let tax = totals.tax.map(|tax| format!("{} {} % {}", tax.name, tax.rate, tax.amount));
        format!("{} by {}, {}", totals.total, totals.shipping.method, tax.as_deref().unwrap_or("no tax"))
    }

    #[test]
    fn the_examples_are_sound_and_mean_what_they_say() {
        let terms = built_in();
        assert_eq!(
            total(&terms, 1200, "GBP", ("GB", None), None),
            "12.00 GBP by standard, VAT 20 % 2.00 GBP"
        );
        assert_eq!(total(&terms, 1200, "KWD", ("US", None), None), "1.200 KWD by standard, no tax");
        assert_eq!(
            total(&terms, 1200, "EUR", ("FI", None), Some("express")),
            "18.95 EUR by express, VAT 25.5 % 3.85 EUR"
        );
        let on_top = parse(include_str!("../infra/local/terms-tax-on-top.toml")).unwrap();
        let to = ("CA", Some("québec"));
        assert_eq!(
            total(&on_top, 2000, "CAD", to, None),
            "34.44 CAD by ground, GST and QST 14.975 % 4.49 CAD"
        );
        assert_eq!(
            total(&on_top, 10000, "CAD", ("CA", None), None),
            "105.00 CAD by ground, GST 5 % 5.00 CAD"
        );
        assert_eq!(total(&on_top, 2000, "USD", ("US", None), None), "27.95 USD by ground, no tax");
    }

    const SOUND: &str = r#"quote_holds_s = 60
[[shipping]]
code = "post"
name = "Post"
countries = ["GB", "FR"]
prices = { GBP = 100 }

[[tax]]
country = "GB"
name = "VAT"
rate = "20"
included = true
on_shipping = true
"#;

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert!(parse(SOUND).is_ok());
        for (was, is, line, reason) in [
            ("quote_holds_s = 60", "quote_holds_s = 2592001", "", "at most 2592000"),
            ("quote_holds_s = 60", "quote_holds_s = -1", "line 1", "u32"),
            ("quote_holds_s = 60\n", "", "line 1", "quote_holds_s"),
            ("\"post\"", "\"Post\"", "line 2", "`code`"),
            ("\"Post\"", "\" \"", "line 2", "`name` must not be empty"),
            ("\"Post\"", "\"\\u0000\"", "line 2", "U+0000"),
            ("\"FR\"", "\"UK\"", "line 5", "`UK` is not an ISO 3166-1 code"),
            ("\"FR\"", "\"*\"", "line 2", "and others"),
            ("[\"GB\", \"FR\"]", "[]", "line 2", "`countries`"),
            ("GBP = 100", "GBP = -1", "line 2", "none of them negative"),
            ("GBP = 100", "GBP = 1.5", "line 6", "floating point"),
            ("GBP = 100", "GBP = 9223372036854775808", "line 6", "expected i64"),
            ("GBP = 100", "XXX = 100", "line 6", "`XXX` is not an ISO 4217"),
            ("prices = { GBP = 100 }", "", "line 2", "`prices`"),
            ("prices = { GBP = 100 }", "prices = { GBP = 1 }\nfree = true", "line 2", "is `free`, and has"),
            (
                "prices = { GBP = 100 }",
                "prices = { GBP = 1 }\nfree_from = { EUR = 1 }",
                "line 2",
                "`free_from`",
            ),
            (
                "[[tax]]",
                "[[shipping]]\ncode = \"post\"\nname = \"P\"\ncountries = [\"*\"]\nfree = true\n[[tax]]",
                "line 8",
                "another method's",
            ),
            ("country = \"GB\"", "country = \"EU\"", "line 9", "`EU` is not an ISO 3166-1 code"),
            ("country = \"GB\"", "country = \"GB\"\nregions = []", "line 8", "`regions` is empty"),
            ("\"20\"", "\"101\"", "line 11", "`101` is not a rate"),
            ("\"20\"", "20", "line 11", "expected a string"),
            ("included = true\n", "", "line 8", "included"),
            ("on_shipping = true", "on_shiping = true", "line 13", "on_shiping"),
            (
                "on_shipping = true\n",
                "on_shipping = true\n[[tax]]\ncountry = \"GB\"\nname = \"x\"\nrate = \"0\"\nincluded = true\non_shipping = true\n",
                "line 14",
                "another tax there",
            ),
        ] {
            let text = SOUND.replacen(was, is, 1);
            assert_ne!(text, SOUND, "{was}");
            let wrong = parse(&text).expect_err(is);
            assert!(wrong.contains(line) && wrong.contains(reason), "{is}\n{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_says_so() {
        assert!(read("/nowhere/terms.toml").unwrap_err().contains("No such file"));
    }
}
