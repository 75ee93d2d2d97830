//! The shop's terms: what shipping costs, what is taxed where, and for how long a quote holds.
//!
//! Tax is worked out once for a purchase, on the sum of what is taxed, and rounded to the minor unit, half
//! of one upwards. A buyer who names no shipping method gets the first one that goes there.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use crate::country::Country;
use crate::money::{Currency, Money, MoneyError};
use crate::text::{Checks, Invalid};
use crate::totals::{Rate, Shipping, Tax, Totals};

/// Longest that a quote may hold: 30 days.
pub const QUOTE_HOLDS_S_MAX: u32 = 30 * 24 * 60 * 60;

/// Most shipping methods, since a quote names each that there is for it.
pub const METHODS_MAX: usize = 100;

/// Invariant: there is a method; their codes differ; no price is negative; a place has one tax at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    quote_holds_s: u32,
    methods: Vec<Method>,
    taxes: Vec<TaxRule>,
}

/// A way to ship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// `[a-z0-9_-]{1,40}`
    pub code: String,
    pub name: String,
    pub countries: Countries,
    pub price: Price,
    /// Working days that it takes: `3` or `3-5`.
    pub delivery_days: Option<String>,
}

/// Where a method goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Countries {
    All,
    Only(BTreeSet<Country>),
}

/// What a method costs, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Price {
    /// In any currency.
    Free,
    /// Only in these currencies; free from a subtotal on.
    In { prices: BTreeMap<Currency, i64>, free_from: BTreeMap<Currency, i64> },
}

/// The tax of a country, or of some of its regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaxRule {
    pub country: Country,
    /// Ways to write the region, of which the first is its name here; none: the rest of the country.
    pub regions: Vec<String>,
    /// VAT, GST, …
    pub name: String,
    pub rate: Rate,
    /// The shop's prices there have the tax in them; otherwise it comes on top.
    pub included: bool,
    /// Shipping is taxed, too.
    pub on_shipping: bool,
}

/// Where a purchase goes, as far as it makes a difference to what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub country: Country,
    /// One with a tax of its own, by the name that the terms give it.
    pub region: Option<String>,
}

/// A method as it is offered in a country and a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered<'a> {
    pub method: &'a Method,
    pub price: Money,
    /// The subtotal from which on it is free.
    pub free_from: Option<Money>,
}

/// Why a purchase can't be reckoned up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    NothingGoesThere,
    /// The method is none of these, which go there.
    NoSuchMethod {
        offered: Vec<String>,
    },
    TooLarge,
}

/// Something wrong with terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    pub part: Part,
    pub detail: String,
}

/// A part of the terms, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    Method(usize),
    Tax(usize),
}

impl Terms {
    /// # Errors
    /// All that is wrong with them.
    pub fn new(quote_holds_s: u32, methods: Vec<Method>, taxes: Vec<TaxRule>) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Vec::new();
        let mut whole = Checks::default();
        whole.require(quote_holds_s <= QUOTE_HOLDS_S_MAX, "quote_holds_s", "is at most 2592000 (30 days)");
        let count = (1..=METHODS_MAX).contains(&methods.len());
        whole.require(count, "shipping", "has 1 to 100 methods");
        flaws.extend(flaws_of(Part::Whole, whole));
        let mut codes = BTreeSet::new();
        for (index, method) in methods.iter().enumerate() {
            let mut checks = Checks::default();
            method.check(&mut checks);
            checks.require(codes.insert(&method.code), "code", "is another method's already");
            flaws.extend(flaws_of(Part::Method(index), checks));
        }
        let mut places = BTreeSet::new();
        for (index, tax) in taxes.iter().enumerate() {
            let mut checks = Checks::default();
            tax.check(&mut checks);
            for place in tax.places() {
                checks.require(
                    places.insert((tax.country, place)),
                    "country",
                    "has another tax there already",
                );
            }
            flaws.extend(flaws_of(Part::Tax(index), checks));
        }
        if flaws.is_empty() { Ok(Self { quote_holds_s, methods, taxes }) } else { Err(flaws) }
    }

    #[must_use]
    pub fn quote_holds(&self) -> TimeDelta {
        TimeDelta::seconds(self.quote_holds_s.into())
    }

    /// The place that an address with this country and region is in.
    #[must_use]
    pub fn destination(&self, country: Country, region: Option<&str>) -> Destination {
        let tax = region.and_then(|region| self.tax_of_region(country, region));
        Destination { country, region: tax.and_then(|tax| tax.regions.first().cloned()) }
    }

    /// The methods that go there, in the order of the terms.
    pub fn offered(&self, country: Country, currency: Currency) -> impl Iterator<Item = Offered<'_>> {
        let there = self.methods.iter().filter(move |method| method.countries.have(country));
        there.filter_map(move |method| {
            let (price, free_from) = method.price.in_currency(currency)?;
            Some(Offered { method, price, free_from })
        })
    }

    /// The same, at what they cost for goods of this price.
    pub fn shipping(&self, country: Country, subtotal: Money) -> impl Iterator<Item = Shipping> {
        self.offered(country, subtotal.currency).map(move |offered| {
            let is_free = offered.free_from.is_some_and(|from| from.amount <= subtotal.amount);
            let price = if is_free { Money::new(0, subtotal.currency) } else { offered.price };
            let Method { code, name, delivery_days, .. } = offered.method;
            let delivery_days = delivery_days.clone();
            Shipping { method: code.clone(), name: name.clone(), price, delivery_days }
        })
    }

    /// What goods of this price come to there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn totals(&self, subtotal: Money, to: &Destination, method: Option<&str>) -> Result<Totals, Error> {
        let mut there = self.shipping(to.country, subtotal);
        let shipping = there.find(|shipping| method.is_none_or(|code| code == shipping.method));
        let shipping = shipping.ok_or_else(|| self.no_such_method(to.country, subtotal.currency))?;
        let tax = self.tax(to).map(|rule| rule.on(subtotal, shipping.price)).transpose();
        let too_large = |_: MoneyError| Error::TooLarge;
        Totals::of(subtotal, shipping, tax.map_err(too_large)?).map_err(too_large)
    }

    fn no_such_method(&self, country: Country, currency: Currency) -> Error {
        let offered = self.offered(country, currency).map(|offered| offered.method.code.clone());
        let offered: Vec<String> = offered.collect();
        if offered.is_empty() { Error::NothingGoesThere } else { Error::NoSuchMethod { offered } }
    }

    fn tax(&self, to: &Destination) -> Option<&TaxRule> {
        let of_region = to.region.as_deref().and_then(|region| self.tax_of_region(to.country, region));
        let of_country = |tax: &&TaxRule| tax.country == to.country && tax.regions.is_empty();
        of_region.or_else(|| self.taxes.iter().find(of_country))
    }

    fn tax_of_region(&self, country: Country, region: &str) -> Option<&TaxRule> {
        let region = same_writing(region);
        let is_it = |name: &String| same_writing(name) == region;
        self.taxes.iter().find(|tax| tax.country == country && tax.regions.iter().any(is_it))
    }
}

fn flaws_of(part: Part, checks: Checks) -> Vec<Flaw> {
    let found = checks.finish().err().unwrap_or_default();
    let flaw = |Invalid { pointer, detail }| Flaw { part, detail: format!("`{pointer}` {detail}") };
    found.into_iter().map(flaw).collect()
}

/// Region names are typed by people.
fn same_writing(region: &str) -> String {
    region.trim().to_lowercase()
}

impl Countries {
    #[must_use]
    pub fn have(&self, country: Country) -> bool {
        match self {
            Self::All => true,
            Self::Only(countries) => countries.contains(&country),
        }
    }
}

impl Price {
    /// The price, and the subtotal from which on it is free.
    fn in_currency(&self, currency: Currency) -> Option<(Money, Option<Money>)> {
        let money = |amount: &i64| Money::new(*amount, currency);
        match self {
            Self::Free => Some((money(&0), None)),
            Self::In { prices, free_from } => {
                prices.get(&currency).map(|price| (money(price), free_from.get(&currency).map(money)))
            }
        }
    }

    fn check(&self, checks: &mut Checks) {
        let Self::In { prices, free_from } = self else { return };
        checks.require(!prices.is_empty(), "prices", "must have a price in some currency");
        for (name, amounts) in [("prices", prices), ("free_from", free_from)] {
            let mut amounts = amounts.values();
            let bounded = amounts.all(|amount| (0..=Money::AMOUNT_MAX).contains(amount));
            checks.require(bounded, name, "must be whole minor units, none of them negative");
        }
        let known = free_from.keys().all(|currency| prices.contains_key(currency));
        checks.require(known, "free_from", "has a currency that `prices` does not have");
    }
}

impl Method {
    fn check(&self, checks: &mut Checks) {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        let code = (1..=40).contains(&self.code.len()) && self.code.bytes().all(allowed);
        checks.require(code, "code", "is 1 to 40 of the characters a-z 0-9 _ -");
        checks.line("name", &self.name, 100);
        let somewhere = self.countries != Countries::Only(BTreeSet::new());
        checks.require(somewhere, "countries", "must have a country, or be [\"*\"]");
        let days = self.delivery_days.as_deref().is_none_or(is_days);
        checks.require(days, "delivery_days", "is a number of days such as 3, or two such as 3-5");
        self.price.check(checks);
    }
}

fn is_days(text: &str) -> bool {
    let days = |text: &str| text.parse::<u8>().ok().filter(|_| !text.starts_with('+'));
    match text.split_once('-') {
        None => days(text).is_some(),
        Some((from, to)) => matches!((days(from), days(to)), (Some(from), Some(to)) if from < to),
    }
}

impl TaxRule {
    /// The places in the country that it is for, of which `None` is the rest of it.
    fn places(&self) -> BTreeSet<Option<String>> {
        let regions: BTreeSet<_> = self.regions.iter().map(|name| Some(same_writing(name))).collect();
        if regions.is_empty() { BTreeSet::from([None]) } else { regions }
    }

    fn check(&self, checks: &mut Checks) {
        checks.line("name", &self.name, 50);
        self.regions.iter().for_each(|region| checks.line("regions", region, 100));
    }

    fn on(&self, goods: Money, shipping: Money) -> Result<Tax, MoneyError> {
        let taxed = if self.on_shipping { goods.plus(shipping)? } else { goods };
        let amount = match self.included {
            true => self.rate.included_in(taxed),
            false => self.rate.added_to(taxed),
        };
        Ok(Tax { name: self.name.clone(), rate: self.rate, amount, included: self.included })
    }
}

#[cfg(test)]
pub(crate) mod spec {
    use proptest::prelude::*;

    use super::*;
    use crate::order::spec::money;

    pub fn country(code: &str) -> Country {
        code.parse().expect("a country")
    }

    fn amounts(amounts: &[(&str, i64)]) -> BTreeMap<Currency, i64> {
        let amount = |(code, amount): &(&str, i64)| (code.parse().expect("a currency"), *amount);
        amounts.iter().map(amount).collect()
    }

    fn method(code: &str, countries: Countries, price: Price) -> Method {
        let delivery_days = Some("3-5".into());
        Method { code: code.into(), name: code.to_uppercase(), countries, price, delivery_days }
    }

    fn tax(code: &str, regions: &[&str], rate: &str, included: bool) -> TaxRule {
        let regions = regions.iter().map(|region| (*region).to_owned()).collect();
        let (country, rate) = (country(code), rate.parse().expect("a rate"));
        TaxRule { country, regions, name: "VAT".into(), rate, included, on_shipping: included }
    }

    /// Free by `standard`; `express` for 5.00 in GBP, free from 50.00 on; in GB 20 % are included, in CA
    /// 5 % added, and in Québec 15 %, on the goods alone.
    pub fn terms() -> Terms {
        let only = Countries::Only(["GB", "CA"].map(country).into());
        let price = Price::In { prices: amounts(&[("GBP", 500)]), free_from: amounts(&[("GBP", 5000)]) };
        let methods = vec![method("standard", Countries::All, Price::Free), method("express", only, price)];
        let quebec = ["QC", "Québec", "Quebec"];
        let taxes =
            vec![tax("GB", &[], "20", true), tax("CA", &[], "5", false), tax("CA", &quebec, "15", false)];
        Terms::new(1800, methods, taxes).expect("sound")
    }

    fn totals(subtotal: i64, to: (&str, Option<&str>), method: Option<&str>) -> Result<Totals, Error> {
        let terms = terms();
        terms.totals(money(subtotal, "GBP"), &terms.destination(country(to.0), to.1), method)
    }

    /// Shipping, tax and total.
    fn amounts_of(totals: &Totals) -> (i64, Option<i64>, i64) {
        let tax = totals.tax.as_ref().map(|tax| tax.amount.amount);
        (totals.shipping.price.amount, tax, totals.total.amount)
    }

    #[test]
    fn tax_is_in_the_price_or_on_it() {
        for (to, method, expected) in [
            (("GB", None), None, (0, Some(200), 1200)),
            (("GB", None), Some("express"), (500, Some(283), 1700)),
            (("CA", None), Some("express"), (500, Some(60), 1760)),
            (("CA", Some("Ontario")), None, (0, Some(60), 1260)),
            (("CA", Some(" qUÉBEC ")), None, (0, Some(180), 1380)),
            (("US", Some("QC")), None, (0, None, 1200)),
        ] {
            let totals = totals(1200, to, method).expect("reckoned");
            assert_eq!(amounts_of(&totals), expected, "{to:?} by {method:?}");
        }
    }

    #[test]
    fn shipping_is_free_from_a_subtotal_on() {
        let shipping = |subtotal| totals(subtotal, ("GB", None), Some("express")).expect("reckoned").shipping;
        assert_eq!((shipping(4999).price.amount, shipping(5000).price.amount), (500, 0));
    }

    #[test]
    fn a_method_goes_where_it_goes_and_costs_what_it_costs_in_a_currency() {
        let offered = vec!["standard".to_owned()];
        let refused = totals(1200, ("US", None), Some("express"));
        assert_eq!(refused, Err(Error::NoSuchMethod { offered: offered.clone() }));
        let (terms, to) = (terms(), terms().destination(country("GB"), None));
        let refused = terms.totals(money(1200, "EUR"), &to, Some("express"));
        assert_eq!(refused, Err(Error::NoSuchMethod { offered }));
        let abroad = method("post", Countries::Only([country("FR")].into()), Price::Free);
        let terms = Terms::new(0, vec![abroad], Vec::new()).expect("sound");
        assert_eq!(terms.totals(money(1, "GBP"), &to, None), Err(Error::NothingGoesThere));
    }

    #[test]
    fn terms_that_contradict_themselves_are_refused_with_what_is_wrong() {
        let mut free_from = method("Slow", Countries::Only(BTreeSet::new()), Price::Free);
        free_from.delivery_days = Some("5-3".into());
        let prices = Price::In { prices: amounts(&[("GBP", -1)]), free_from: amounts(&[("EUR", 1)]) };
        let methods =
            vec![free_from, method("a", Countries::All, prices), method("a", Countries::All, Price::Free)];
        let taxes = vec![
            tax("GB", &[], "20", true),
            tax("GB", &[], "5", true),
            tax("CA", &["", "x", "X"], "5", true),
        ];
        let flaws = Terms::new(u32::MAX, methods, taxes).expect_err("flaws");
        let found: Vec<_> = flaws.iter().map(|flaw| (flaw.part, flaw.detail.split('`').nth(1))).collect();
        let expected = [
            (Part::Whole, "quote_holds_s"),
            (Part::Method(0), "code"),
            (Part::Method(0), "countries"),
            (Part::Method(0), "delivery_days"),
            (Part::Method(1), "prices"),
            (Part::Method(1), "free_from"),
            (Part::Method(2), "code"),
            (Part::Tax(1), "country"),
            (Part::Tax(2), "regions"),
        ];
        assert_eq!(found, expected.map(|(part, field)| (part, Some(field))));
        assert!(Terms::new(0, Vec::new(), Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn a_total_is_exact_or_refused(
            subtotal in 0..=Money::AMOUNT_MAX,
            to in prop::sample::select(vec![("GB", None), ("CA", None), ("CA", Some("QC")), ("US", None)]),
            method in prop::sample::select(vec![None, Some("standard"), Some("express")]),
        ) {
            match totals(subtotal, to, method) {
                Ok(totals) => {
                    let (shipping, tax, total) = amounts_of(&totals);
                    let added = tax.filter(|_| to.0 == "CA").unwrap_or(0);
                    prop_assert_eq!(total, subtotal + shipping + added);
                    prop_assert!(total <= Money::AMOUNT_MAX && tax.unwrap_or(0) <= total);
                }
                Err(Error::TooLarge) => prop_assert!(subtotal > Money::AMOUNT_MAX / 2),
                Err(error) => prop_assert_eq!((to.0, method, error), ("US", Some("express"), Error::NoSuchMethod { offered: vec!["standard".into()] })),
            }
        }
    }
}
