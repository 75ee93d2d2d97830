//! A quote: what a checkout comes to, promised for a time.
//!
//! It holds while it is the cart's last one, has not expired, the lines are those that it was made for, and
//! the purchase goes where it was asked for, in the way that it was asked for. What a product costs by then
//! makes no difference; whether it is for sale does.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Cart, CheckOut, Error, Event, Offer};
use crate::country::Country;
use crate::ids::{QuoteId, Sku};
use crate::money::{Money, MoneyError};
use crate::order::Line;
use crate::terms::{self, Destination, Terms};
use crate::text::{Checks, Invalid};
use crate::totals::{Shipping, Totals};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub quote_id: QuoteId,
    pub lines: Vec<Line>,
    pub totals: Totals,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// One with a tax of its own, by the name that the terms gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The ways there, of which the totals have the chosen one.
    pub shipping_methods: Vec<Shipping>,
    pub expires_at: DateTime<Utc>,
}

/// A quote as asked for, with the shop's offers for the cart's lines, and its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskQuote {
    pub quote_id: QuoteId,
    pub country: String,
    pub region: Option<String>,
    /// The first one that goes there, if none is named.
    pub shipping_method: Option<String>,
    pub offers: BTreeMap<Sku, Offer>,
    pub terms: Arc<Terms>,
    pub now: DateTime<Utc>,
}

/// The last quote as the cart remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastQuote {
    id: QuoteId,
    shipping_method: String,
    /// Shared, since the state is copied more often than it changes; nothing once the lines have changed.
    quote: Option<Arc<Quote>>,
}

/// Why the buyer has to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    QuoteUnknown,
    QuoteExpired,
    Lines,
    Destination,
    ShippingMethod,
    Total,
}

impl Changed {
    /// As on the wire.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::QuoteUnknown => "quote_unknown",
            Self::QuoteExpired => "quote_expired",
            Self::Lines => "lines_changed",
            Self::Destination => "destination_changed",
            Self::ShippingMethod => "shipping_method_changed",
            Self::Total => "total_changed",
        }
    }
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::QuoteUnknown => "the quote is not the cart's last one",
            Self::QuoteExpired => "the quote has expired",
            Self::Lines => "the cart's lines have changed since the quote",
            Self::Destination => "the quote is for another place",
            Self::ShippingMethod => "the quote is for another shipping method",
            Self::Total => "it is not the total that was expected",
        })
    }
}

impl LastQuote {
    pub fn new(quote: &Quote) -> Self {
        let shipping_method = quote.totals.shipping.method.clone();
        Self { id: quote.quote_id, shipping_method, quote: Some(Arc::new(quote.clone())) }
    }

    pub fn lines_change(&mut self) {
        self.quote = None;
    }

    /// The quote, if it holds for this checkout.
    fn held(&self, quote_id: QuoteId, asked: &CheckOut, to: &Destination) -> Result<&Quote, Changed> {
        if self.id != quote_id {
            return Err(Changed::QuoteUnknown);
        }
        let quote = self.quote.as_deref().ok_or(Changed::Lines)?;
        if quote.country != to.country.code() || quote.region != to.region {
            return Err(Changed::Destination);
        }
        if asked.shipping_method.as_deref().is_some_and(|method| method != self.shipping_method) {
            return Err(Changed::ShippingMethod);
        }
        if asked.now >= quote.expires_at { Err(Changed::QuoteExpired) } else { Ok(quote) }
    }
}

impl Cart {
    pub(super) fn quote(&self, asked: AskQuote) -> Result<Vec<Event>, Error> {
        self.open()?;
        let AskQuote { quote_id, country, region, shipping_method, offers, terms, now } = asked;
        let mut checks = Checks::default();
        if let Some(region) = &region {
            checks.line("/region", region, 200);
        }
        checks.finish().map_err(Error::Invalid)?;
        let country: Country = country.parse().map_err(|error| invalid("/country", error))?;
        let to = terms.destination(country, region.as_deref());
        let (lines, subtotal) = self.price(&offers)?;
        let totals = terms.totals(subtotal, &to, shipping_method.as_deref());
        let totals = totals.map_err(|error| refusal(error, "/country"))?;
        let shipping_methods = terms.shipping(country, subtotal).collect();
        let (country, expires_at) = (country.code().to_owned(), now + terms.quote_holds());
        let region = to.region;
        Ok(vec![Event::Quoted(Quote {
            quote_id,
            lines,
            totals,
            country,
            region,
            shipping_methods,
            expires_at,
        })])
    }

    /// Lines and totals that the checkout is for: those of its quote, if that holds, or else those of the
    /// moment, and why they are not what was quoted.
    pub(super) fn reckon(&self, asked: &CheckOut) -> Result<(Vec<Line>, Totals, Option<Changed>), Error> {
        const COUNTRY: &str = "/shipping_address/country";
        let address = &asked.buyer.shipping_address;
        let country: Country = address.country.parse().map_err(|error| invalid(COUNTRY, error))?;
        let to = asked.terms.destination(country, address.region.as_deref());
        let changed = match (asked.quote_id, &self.quote) {
            (None, _) => None,
            (Some(_), None) => Some(Changed::QuoteUnknown),
            (Some(id), Some(last)) => match last.held(id, asked, &to) {
                Ok(quote) => {
                    self.all_for_sale(&asked.offers)?;
                    return Ok((quote.lines.clone(), quote.totals.clone(), None));
                }
                Err(changed) => Some(changed),
            },
        };
        let (lines, subtotal) = self.price(&asked.offers)?;
        let method =
            asked.shipping_method.as_deref().or_else(|| self.quoted_method(asked, country, subtotal));
        let totals = asked.terms.totals(subtotal, &to, method).map_err(|error| refusal(error, COUNTRY))?;
        Ok((lines, totals, changed))
    }

    /// Who came with a quote wants its method again, if that goes there.
    fn quoted_method(&self, asked: &CheckOut, country: Country, subtotal: Money) -> Option<&str> {
        let last = self.quote.as_ref().filter(|last| asked.quote_id == Some(last.id))?;
        let mut offered = asked.terms.offered(country, subtotal.currency);
        let is_offered = offered.any(|offered| offered.method.code == last.shipping_method);
        is_offered.then_some(last.shipping_method.as_str())
    }

    fn all_for_sale(&self, offers: &BTreeMap<Sku, Offer>) -> Result<(), Error> {
        let gone = self.lines.iter().find(|line| !offers.contains_key(&line.sku));
        gone.map_or(Ok(()), |line| Err(Error::NotForSale(line.sku.clone())))
    }

    /// The lines at the prices of the moment, and their sum.
    fn price(&self, offers: &BTreeMap<Sku, Offer>) -> Result<(Vec<Line>, Money), Error> {
        let mut lines: Vec<Line> = Vec::with_capacity(self.lines.len());
        let mut total: Option<Money> = None;
        for super::CartLine { sku, quantity, .. } in &self.lines {
            let offer = offers.get(sku).ok_or_else(|| Error::NotForSale(sku.clone()))?;
            let line_total = offer.price.times(*quantity).map_err(|_| Error::TooLarge)?;
            let sum = total.map_or(Ok(line_total), |total| total.plus(line_total));
            total = Some(sum.map_err(|error| match error {
                MoneyError::TooLarge => Error::TooLarge,
                MoneyError::Mixed(cart, offered) => {
                    Error::MixedCurrencies { sku: sku.clone(), cart, offered }
                }
            })?);
            lines.push(Line {
                sku: sku.clone(),
                title: offer.title.clone(),
                quantity: *quantity,
                unit_price: offer.price,
                total: line_total,
            });
        }
        total.map(|total| (lines, total)).ok_or(Error::Empty)
    }
}

fn invalid(pointer: &str, detail: impl std::fmt::Display) -> Error {
    Error::Invalid(vec![Invalid::new(pointer, detail.to_string())])
}

fn refusal(error: terms::Error, country: &str) -> Error {
    match error {
        terms::Error::NothingGoesThere => invalid(country, "nothing is shipped there"),
        terms::Error::NoSuchMethod { offered } => {
            let detail = format!("must be one of those that go there: {}", offered.join(", "));
            invalid("/shipping_method", detail)
        }
        terms::Error::TooLarge => Error::TooLarge,
    }
}

#[cfg(test)]
mod spec {
    use uuid::Uuid;

    use super::*;
    use crate::cart::Command;
    use crate::cart::spec::{asked, check_out, checked_out, line_set, set};
    use crate::ids::OrderId;
    use crate::order::spec::{ORDER, alice, line, money, sku};
    use crate::spec::{Given, given};
    use crate::terms::spec::{country, terms};

    const QUOTE: QuoteId = QuoteId(Uuid::from_u128(9));

    fn minutes(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minutes)
    }

    fn offers(prices: &[(&str, i64)]) -> BTreeMap<Sku, Offer> {
        let offer = |price| Offer { title: "Mug".into(), price: money(price, "GBP") };
        prices.iter().map(|(name, price)| (sku(name), offer(*price))).collect()
    }

    fn ask(method: Option<&str>) -> AskQuote {
        AskQuote {
            quote_id: QUOTE,
            country: "GB".into(),
            region: None,
            shipping_method: method.map(str::to_owned),
            offers: offers(&[("MUG", 600)]),
            terms: Arc::new(terms()),
            now: minutes(0),
        }
    }

    fn totals(subtotal: i64, method: &str) -> Totals {
        let to = terms().destination(country("GB"), None);
        terms().totals(money(subtotal, "GBP"), &to, Some(method)).expect("reckoned")
    }

    fn quoted(lines: Vec<Line>, subtotal: i64, method: &str) -> Quote {
        Quote {
            quote_id: QUOTE,
            lines,
            totals: totals(subtotal, method),
            country: "GB".into(),
            region: None,
            shipping_methods: terms().shipping(country("GB"), money(subtotal, "GBP")).collect(),
            expires_at: minutes(30),
        }
    }

    /// Two mugs by express, quoted at 6.00 each; they cost 7.00 by now.
    fn with_quote() -> Given<Cart> {
        given([Event::Created {}, line_set("MUG", 2, money(500, "GBP"))])
            .when(Command::Quote(Box::new(ask(Some("express")))))
            .then([Event::Quoted(quoted(vec![line("MUG", 2, 600)], 1200, "express"))])
    }

    fn with(change: impl FnOnce(&mut CheckOut)) -> Command {
        let mut asked = asked(&[("MUG", money(700, "GBP"))]);
        asked.quote_id = Some(QUOTE);
        asked.now = minutes(29);
        change(&mut asked);
        Command::CheckOut(Box::new(asked))
    }

    fn changed(reason: Changed, lines: Vec<Line>, totals: Totals) -> Error {
        Error::Changed { reason, totals: Box::new(totals), lines }
    }

    fn as_quoted() -> Event {
        checked_out(vec![line("MUG", 2, 600)], totals(1200, "express"))
    }

    #[test]
    fn a_quote_holds_its_prices_until_it_expires() {
        let now = vec![line("MUG", 2, 700)];
        with_quote().when(with(|_| {})).then([as_quoted()]);
        with_quote().when(with(|asked| asked.now = minutes(30))).then_refused(changed(
            Changed::QuoteExpired,
            now,
            totals(1400, "express"),
        ));
    }

    #[test]
    fn it_holds_through_a_checkout_that_failed_and_a_line_that_is_asked_for_again() {
        with_quote()
            .when(set("MUG", 2, money(700, "GBP")))
            .then([line_set("MUG", 2, money(700, "GBP"))])
            .when(with(|_| {}))
            .then([as_quoted()])
            .when(Command::Reopen { order_id: ORDER })
            .then([Event::Reopened { order_id: ORDER }])
            .when(with(|asked| asked.order_id = OrderId(Uuid::nil())))
            .then([match as_quoted() {
                Event::CheckedOut { lines, total, totals, payment, personal, .. } => {
                    let order_id = OrderId(Uuid::nil());
                    Event::CheckedOut { order_id, lines, total, totals, payment, personal }
                }
                other => other,
            }]);
    }

    #[test]
    fn it_does_not_hold_for_other_lines_even_if_they_change_back() {
        let three = vec![line("MUG", 3, 700)];
        with_quote()
            .when(set("MUG", 3, money(700, "GBP")))
            .then([line_set("MUG", 3, money(700, "GBP"))])
            .when(with(|_| {}))
            .then_refused(changed(Changed::Lines, three, totals(2100, "express")))
            .when(set("MUG", 2, money(600, "GBP")))
            .then([line_set("MUG", 2, money(600, "GBP"))])
            .when(with(|_| {}))
            .then_refused(changed(Changed::Lines, vec![line("MUG", 2, 700)], totals(1400, "express")));
        let removed = with_quote().when(set("MUG", 0, money(1, "GBP")));
        removed.then([Event::LineRemoved { sku: sku("MUG") }]).when(with(|_| {})).then_refused(Error::Empty);
    }

    #[test]
    fn it_does_not_hold_for_another_way_or_another_quote() {
        let now = || vec![line("MUG", 2, 700)];
        with_quote()
            .when(with(|asked| asked.shipping_method = Some("standard".into())))
            .then_refused(changed(Changed::ShippingMethod, now(), totals(1400, "standard")))
            .when(with(|asked| asked.quote_id = Some(QuoteId(Uuid::nil()))))
            .then_refused(changed(Changed::QuoteUnknown, now(), totals(1400, "standard")))
            .when(with(|asked| asked.expected_total = Some(money(1, "GBP"))))
            .then_refused(changed(Changed::Total, vec![line("MUG", 2, 600)], totals(1200, "express")));
        given::<Cart>([Event::Created {}, line_set("MUG", 2, money(500, "GBP"))])
            .when(with(|_| {}))
            .then_refused(changed(Changed::QuoteUnknown, now(), totals(1400, "standard")));
    }

    #[test]
    fn it_does_not_hold_for_another_place_but_for_another_address_there() {
        let elsewhere = |code: &str, region: Option<&str>| {
            let (code, region) = (code.to_owned(), region.map(str::to_owned));
            with(move |asked| {
                asked.buyer.shipping_address.country = code;
                asked.buyer.shipping_address.region = region;
            })
        };
        let to = terms().destination(country("CA"), None);
        let in_canada = terms().totals(money(1400, "GBP"), &to, Some("express")).expect("reckoned");
        let refused = changed(Changed::Destination, vec![line("MUG", 2, 700)], in_canada);
        with_quote().when(elsewhere("CA", None)).then_refused(refused);
        let mut buyer = alice();
        buyer.shipping_address.region = Some("Yorkshire".into());
        let Event::CheckedOut { order_id, lines, total, totals, payment, .. } = as_quoted() else { return };
        let event = Event::CheckedOut { order_id, lines, total, totals, payment, personal: buyer };
        with_quote().when(elsewhere("GB", Some("Yorkshire"))).then([event]);
        // Express does not go to France, so the default does.
        let in_france = Totals { tax: None, ..self::totals(1400, "standard") };
        let refused = changed(Changed::Destination, vec![line("MUG", 2, 700)], in_france);
        with_quote().when(elsewhere("FR", None)).then_refused(refused);
    }

    #[test]
    fn a_quote_is_for_a_region_where_that_has_a_tax_of_its_own() {
        let quebec = AskQuote { country: "CA".into(), region: Some("quebec".into()), ..ask(None) };
        let cart = given::<Cart>([Event::Created {}, line_set("MUG", 2, money(500, "GBP"))]);
        let quote = cart.state().quote(quebec).expect("quoted");
        let [Event::Quoted(Quote { region, totals, .. })] = &quote[..] else { panic!("{quote:?}") };
        assert_eq!((region.as_deref(), totals.total.amount), (Some("QC"), 1380));
        let past = [Event::Created {}, line_set("MUG", 2, money(500, "GBP"))].into_iter().chain(quote);
        let to_region = |region: &str| {
            let region = Some(region.to_owned());
            with(move |asked| {
                let address = &mut asked.buyer.shipping_address;
                (address.country, address.region) = ("CA".into(), region);
            })
        };
        let cart = given::<Cart>(past);
        assert!(crate::Aggregate::decide(cart.state(), to_region("QUEBEC ")).is_ok());
        let refused = crate::Aggregate::decide(cart.state(), to_region("Ontario"));
        assert!(matches!(refused, Err(Error::Changed { reason: Changed::Destination, .. })), "{refused:?}");
    }

    #[test]
    fn what_is_withdrawn_is_not_sold_whatever_was_quoted() {
        with_quote().when(with(|asked| asked.offers.clear())).then_refused(Error::NotForSale(sku("MUG")));
    }

    #[test]
    fn there_is_no_quote_of_nothing_nor_to_nowhere() {
        let quote = |change: &dyn Fn(&mut AskQuote)| {
            let mut asked = ask(None);
            change(&mut asked);
            Command::Quote(Box::new(asked))
        };
        let pointers = |command| {
            let cart = given::<Cart>([Event::Created {}, line_set("MUG", 2, money(500, "GBP"))]);
            let Err(Error::Invalid(found)) = crate::Aggregate::decide(cart.state(), command) else {
                panic!("not refused")
            };
            found.into_iter().map(|invalid| invalid.pointer).collect::<Vec<_>>()
        };
        given::<Cart>([]).when(quote(&|_| {})).then_refused(Error::Unknown);
        given::<Cart>([Event::Created {}]).when(quote(&|_| {})).then_refused(Error::Empty);
        with_quote()
            .when(with(|_| {}))
            .then([as_quoted()])
            .when(quote(&|_| {}))
            .then_refused(Error::CheckedOut(ORDER));
        assert_eq!(pointers(quote(&|asked| asked.country = "G\0".into())), ["/country"]);
        assert_eq!(pointers(quote(&|asked| asked.region = Some("\0".into()))), ["/region"]);
        assert_eq!(pointers(quote(&|asked| asked.shipping_method = Some("x".into()))), ["/shipping_method"]);
        assert_eq!(pointers(with(|asked| asked.shipping_method = Some("\0".into()))), ["/shipping_method"]);
    }

    #[test]
    fn totals_beyond_measure_are_refused() {
        let dear = Money::AMOUNT_MAX - 100;
        let cart = || given::<Cart>([Event::Created {}, line_set("MUG", 1, money(dear, "GBP"))]);
        let mut asked = ask(None);
        asked.offers = offers(&[("MUG", dear)]);
        asked.country = "CA".into();
        cart().when(Command::Quote(Box::new(asked))).then_refused(Error::TooLarge);
        cart()
            .when(check_out(&[("MUG", money(dear, "GBP"))], None))
            .then([checked_out(vec![line("MUG", 1, dear)], totals(dear, "standard"))]);
    }
}
