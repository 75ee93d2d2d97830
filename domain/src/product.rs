//! A product: what it is, and what it costs.
//!
//! | command  | event        | refused when                             |
//! |----------|--------------|------------------------------------------|
//! | Create   | Created      | it exists, or a field is not valid       |
//! | Change   | Changed      | unknown, withdrawn, or a field not valid |
//! | SetPrice | PriceChanged | unknown, withdrawn, or price not valid   |
//! | Withdraw | Withdrawn    | unknown                                  |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::ids::Sku;
use crate::money::Money;
use crate::text::{Checks, Invalid, pointer_step};

pub const CATEGORY: &str = "product";

/// Highest price in minor units: 100 million of a currency with cents.
pub const PRICE_MAX: i64 = 10_000_000_000;

const CATEGORY_DEPTH_MAX: usize = 6;
const ATTRIBUTES_MAX: usize = 500;
const IMAGES_MAX: usize = 100;
const GTINS_MAX: usize = 500;

/// Invariant: a product that exists has valid details and a valid price.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    current: Option<(Details, Money)>,
    withdrawn: bool,
}

/// What a product is, apart from its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    pub title: String,
    pub description: String,
    pub brand: String,
    /// Path from the widest to the narrowest: `["Audio", "Headphones"]`.
    pub category: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    pub images: Vec<String>,
    /// Global trade item numbers: 8, 12, 13 or 14 digits, the last one a check digit (GS1).
    pub gtins: Vec<String>,
}

/// The details that are to be different; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<Vec<String>>,
    /// Merged by name (RFC 7396): a value sets, `None` removes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gtins: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Create { sku: Sku, details: Details, price: Money },
    Change(Changes),
    SetPrice { price: Money },
    Withdraw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "product.created")]
    Created {
        sku: Sku,
        #[serde(flatten)]
        details: Details,
        price: Money,
    },
    #[serde(rename = "product.changed")]
    Changed(Changes),
    #[serde(rename = "product.price_changed")]
    PriceChanged { price: Money, was: Money },
    #[serde(rename = "product.withdrawn")]
    Withdrawn {},
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a product with this SKU exists already")]
    Exists,
    #[error("there is no product with this SKU")]
    Unknown,
    #[error("the product has been withdrawn")]
    Withdrawn,
    #[error("the product is not valid")]
    Invalid(Vec<Invalid>),
}

impl Aggregate for Product {
    const CATEGORY: &'static str = CATEGORY;
    const CODE: &'static [&'static str] = &[crate::CODE];
    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn decide(&self, command: Command) -> Result<Vec<Event>, Error> {
        match command {
            Command::Create { sku, details, price } => self.create(sku, details, price),
            Command::Change(changes) => self.change(changes),
            Command::SetPrice { price } => self.set_price(price),
            Command::Withdraw => self.withdraw(),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::Created { details, price, .. } => self.current = Some((details.clone(), *price)),
            Event::Changed(changes) => {
                if let Some((details, _)) = &mut self.current {
                    details.apply(changes);
                }
            }
            Event::PriceChanged { price, .. } => {
                if let Some((_, current)) = &mut self.current {
                    *current = *price;
                }
            }
            Event::Withdrawn {} => self.withdrawn = true,
        }
    }
}

impl Product {
    #[must_use]
    pub fn exists(&self) -> bool {
        self.current.is_some()
    }

    /// Title and price, if it can be bought.
    #[must_use]
    pub fn offer(&self) -> Option<(&str, Money)> {
        let (details, price) = self.current.as_ref().filter(|_| !self.withdrawn)?;
        Some((&details.title, *price))
    }

    fn create(&self, sku: Sku, details: Details, price: Money) -> Result<Vec<Event>, Error> {
        if self.exists() {
            return Err(Error::Exists);
        }
        let mut checks = Checks::default();
        details.check(&mut checks);
        check_price(&mut checks, "/price/amount", price);
        checks.finish().map_err(Error::Invalid)?;
        Ok(vec![Event::Created { sku, details, price }])
    }

    fn change(&self, changes: Changes) -> Result<Vec<Event>, Error> {
        let (details, _) = self.on_sale()?;
        let mut changed = details.clone();
        changed.apply(&changes);
        let mut checks = Checks::default();
        changed.check(&mut checks);
        checks.finish().map_err(Error::Invalid)?;
        if changed == *details {
            return Ok(Vec::new());
        }
        Ok(vec![Event::Changed(changes)])
    }

    fn set_price(&self, price: Money) -> Result<Vec<Event>, Error> {
        let (_, was) = self.on_sale()?;
        let mut checks = Checks::default();
        check_price(&mut checks, "/amount", price);
        checks.finish().map_err(Error::Invalid)?;
        if price == *was {
            return Ok(Vec::new());
        }
        Ok(vec![Event::PriceChanged { price, was: *was }])
    }

    fn withdraw(&self) -> Result<Vec<Event>, Error> {
        if !self.exists() {
            return Err(Error::Unknown);
        }
        Ok(if self.withdrawn { Vec::new() } else { vec![Event::Withdrawn {}] })
    }

    fn on_sale(&self) -> Result<&(Details, Money), Error> {
        let current = self.current.as_ref().ok_or(Error::Unknown)?;
        if self.withdrawn { Err(Error::Withdrawn) } else { Ok(current) }
    }
}

impl Details {
    /// How many its texts have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Self { title, description, brand, category, attributes, images, gtins } = self;
        let lists = [category, images, gtins].into_iter().flatten().map(String::len).sum::<usize>();
        let pairs = attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        title.len() + description.len() + brand.len() + lists + pairs
    }

    pub fn apply(&mut self, changes: &Changes) {
        fn set<T: Clone>(target: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        set(&mut self.title, changes.title.as_ref());
        set(&mut self.description, changes.description.as_ref());
        set(&mut self.brand, changes.brand.as_ref());
        set(&mut self.category, changes.category.as_ref());
        set(&mut self.images, changes.images.as_ref());
        set(&mut self.gtins, changes.gtins.as_ref());
        for (name, value) in changes.attributes.iter().flatten() {
            match value {
                Some(value) => self.attributes.insert(name.clone(), value.clone()),
                None => self.attributes.remove(name),
            };
        }
    }

    fn check(&self, checks: &mut Checks) {
        checks.line("/title", &self.title, 500);
        checks.paragraphs("/description", &self.description, 20_000);
        checks.line("/brand", &self.brand, 100);
        let depth = self.category.len();
        checks.require(depth > 0, "/category", "must name at least one category");
        checks.require(depth <= CATEGORY_DEPTH_MAX, "/category", "must be at most 6 levels deep");
        for (index, name) in self.category.iter().enumerate() {
            let pointer = format!("/category/{index}");
            checks.line(&pointer, name, 100);
            checks.require(!name.contains('>'), &pointer, "must not contain `>`, which separates levels");
        }
        checks.require(self.attributes.len() <= ATTRIBUTES_MAX, "/attributes", "must be at most 500");
        for (name, value) in &self.attributes {
            let pointer = format!("/attributes/{}", pointer_step(name));
            checks.line(&pointer, name, 100);
            checks.paragraphs(&pointer, value, 10_000);
        }
        checks.require(self.images.len() <= IMAGES_MAX, "/images", "must be at most 100");
        for (index, url) in self.images.iter().enumerate() {
            let pointer = format!("/images/{index}");
            checks.line(&pointer, url, 2_000);
            let web = url.starts_with("https://") || url.starts_with("http://");
            checks.require(web, &pointer, "must be an http or https URL");
        }
        checks.require(self.gtins.len() <= GTINS_MAX, "/gtins", "must be at most 500");
        for (index, gtin) in self.gtins.iter().enumerate() {
            let detail = "must be 8, 12, 13 or 14 digits with the right check digit";
            checks.require(is_gtin(gtin), &format!("/gtins/{index}"), detail);
        }
    }
}

fn check_price(checks: &mut Checks, pointer: &str, price: Money) {
    checks.require(price.amount >= 0, pointer, "must not be negative");
    checks.require(price.amount <= PRICE_MAX, pointer, "must be at most 10000000000");
}

/// GS1 General Specifications, 7.9: weights 3 and 1 alternate from the right.
#[must_use]
pub fn is_gtin(text: &str) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let weighed = |sum: u32, (index, digit): (usize, u8)| {
        sum + u32::from(digit - b'0') * if index % 2 == 0 { 1 } else { 3 }
    };
    digits
        && matches!(text.len(), 8 | 12 | 13 | 14)
        && text.bytes().rev().enumerate().fold(0, weighed) % 10 == 0
}

#[cfg(test)]
mod spec {
    use super::*;
    use crate::spec::given;

    fn gbp(amount: i64) -> Money {
        Money::new(amount, "GBP".parse().expect("a currency"))
    }

    fn kettle() -> Details {
        Details {
            title: "Kettle".into(),
            description: "Boils water.\nQuickly.".into(),
            brand: "Hob & Co".into(),
            category: vec!["Home".into(), "Kitchen".into()],
            attributes: BTreeMap::from([("Colour".into(), "Red".into())]),
            images: vec!["https://example.com/kettle.jpg".into()],
            gtins: vec!["4006381333931".into()],
        }
    }

    fn sku() -> Sku {
        "KET-01".parse().expect("a SKU")
    }

    fn created() -> Event {
        Event::Created { sku: sku(), details: kettle(), price: gbp(2999) }
    }

    fn create(details: Details) -> Command {
        Command::Create { sku: sku(), details, price: gbp(2999) }
    }

    #[test]
    fn is_created_once() {
        given::<Product>([])
            .when(create(kettle()))
            .then([created()])
            .when(create(kettle()))
            .then_refused(Error::Exists);
    }

    #[test]
    fn says_all_that_is_wrong_at_once() {
        let mut details = kettle();
        details.title = "Ket\0tle".into();
        details.category.clear();
        details.images = vec!["javascript:alert(1)".into()];
        details.gtins = vec!["4006381333932".into()];
        details.attributes.insert("a/b".into(), "\u{7}".into());
        let Err(Error::Invalid(found)) = Product::default().decide(create(details)) else {
            panic!("must be refused")
        };
        let pointers: Vec<_> = found.iter().map(|invalid| invalid.pointer.as_str()).collect();
        assert_eq!(pointers, ["/title", "/category", "/attributes/a~1b", "/images/0", "/gtins/0"]);
    }

    #[test]
    fn changes_only_what_differs() {
        let renamed = Changes { title: Some("Red kettle".into()), ..Changes::default() };
        let same = Changes { brand: Some("Hob & Co".into()), ..Changes::default() };
        given::<Product>([created()])
            .when(Command::Change(renamed.clone()))
            .then([Event::Changed(renamed)])
            .when(Command::Change(same))
            .then_nothing();
    }

    #[test]
    fn attributes_are_merged_by_name() {
        let attributes = BTreeMap::from([("Colour".into(), None), ("Volume".into(), Some("1.7 l".into()))]);
        let changes = Changes { attributes: Some(attributes), ..Changes::default() };
        let mut details = kettle();
        details.apply(&changes);
        assert_eq!(details.attributes, BTreeMap::from([("Volume".into(), "1.7 l".into())]));
    }

    #[test]
    fn a_price_is_not_negative_and_not_beyond_measure() {
        for amount in [-1, PRICE_MAX + 1, i64::MIN, i64::MAX] {
            let outcome =
                given::<Product>([created()]).state().decide(Command::SetPrice { price: gbp(amount) });
            assert!(matches!(outcome, Err(Error::Invalid(_))), "{amount}");
        }
        given::<Product>([created()])
            .when(Command::SetPrice { price: gbp(1999) })
            .then([Event::PriceChanged { price: gbp(1999), was: gbp(2999) }])
            .when(Command::SetPrice { price: gbp(1999) })
            .then_nothing();
    }

    #[test]
    fn what_is_withdrawn_can_not_be_bought_or_changed() {
        let gone = given::<Product>([created()]).when(Command::Withdraw).then([Event::Withdrawn {}]);
        assert_eq!(gone.state().offer(), None);
        gone.when(Command::Withdraw)
            .then_nothing()
            .when(Command::SetPrice { price: gbp(1) })
            .then_refused(Error::Withdrawn);
    }

    #[test]
    fn what_does_not_exist_can_not_be_changed() {
        given::<Product>([]).when(Command::Withdraw).then_refused(Error::Unknown);
        given::<Product>([]).when(Command::SetPrice { price: gbp(1) }).then_refused(Error::Unknown);
    }
}
