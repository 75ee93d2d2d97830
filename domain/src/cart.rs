//! A shopping cart, up to the moment when what it costs is frozen.
//!
//! | command  | event                  | refused when                                              |
//! |----------|------------------------|-----------------------------------------------------------|
//! | Create   | Created                |                                                           |
//! | SetLine  | LineSet or LineRemoved | unknown, checked out, not for sale, mixed currencies, full |
//! | Quote    | Quoted                 | unknown, checked out, empty, not for sale, not shipped there |
//! | CheckOut | CheckedOut             | as Quote, or the quote or total is another one now        |
//! | Reopen   | Reopened               |                                                           |

mod quote;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::ids::{OrderId, QuoteId, Sku};
use crate::money::{Currency, Money};
use crate::order::{Buyer, Line};
use crate::terms::Terms;
use crate::text::{Checks, Invalid};
use crate::totals::Totals;
use quote::LastQuote;

pub use quote::{AskQuote, Changed, Quote};

pub const CATEGORY: &str = "cart";

/// Most units of one SKU in a cart.
pub const QUANTITY_MAX: u32 = 10_000;

/// Most different SKUs in a cart.
pub const LINES_MAX: usize = 2_000;

/// Invariant: while it is open, all lines were added at prices in one currency; a checkout under
/// way belongs to exactly one order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cart {
    created: bool,
    lines: Vec<CartLine>,
    quote: Option<LastQuote>,
    checked_out: Option<OrderId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartLine {
    pub sku: Sku,
    pub quantity: u32,
    /// Price of one when the line was set; a quote or a checkout takes that of its moment.
    pub price: Money,
}

/// What the shop offers a SKU for right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub title: String,
    pub price: Money,
}

/// How the buyer pays: the provider's name and its token, never card data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentMethod {
    pub method: String,
    pub token: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Create,
    /// Quantity 0 removes the line. `offer` is `None` where the SKU is not for sale.
    SetLine {
        sku: Sku,
        quantity: u32,
        offer: Option<Offer>,
    },
    Quote(Box<AskQuote>),
    CheckOut(Box<CheckOut>),
    Reopen {
        order_id: OrderId,
    },
}

/// A checkout as asked for, with the shop's offers for the cart's lines, and its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOut {
    pub order_id: OrderId,
    /// What the buyer agreed to; if it does not hold, the checkout is refused.
    pub quote_id: Option<QuoteId>,
    /// That of the quote, or else the first one that goes there, if none is named.
    pub shipping_method: Option<String>,
    pub offers: BTreeMap<Sku, Offer>,
    /// What the buyer was shown; another total is refused.
    pub expected_total: Option<Money>,
    pub payment: PaymentMethod,
    pub buyer: Buyer,
    pub terms: Arc<Terms>,
    pub now: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "cart.created")]
    Created {},
    #[serde(rename = "cart.line_set")]
    LineSet { sku: Sku, quantity: u32, price: Money },
    #[serde(rename = "cart.line_removed")]
    LineRemoved { sku: Sku },
    #[serde(rename = "cart.quoted")]
    Quoted(Quote),
    #[serde(rename = "cart.checked_out")]
    CheckedOut {
        order_id: OrderId,
        lines: Vec<Line>,
        /// What is paid.
        total: Money,
        /// What it consists of; of an older checkout, the lines alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        totals: Option<Totals>,
        payment: PaymentMethod,
        personal: Buyer,
    },
    #[serde(rename = "cart.reopened")]
    Reopened { order_id: OrderId },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no cart with this id")]
    Unknown,
    #[error("the cart is checked out as order {0}")]
    CheckedOut(OrderId),
    #[error("the cart is empty")]
    Empty,
    #[error("a cart has at most {LINES_MAX} lines")]
    Full,
    #[error("`{0}` is not for sale")]
    NotForSale(Sku),
    #[error("the cart is in {cart}, `{sku}` is priced in {offered}")]
    MixedCurrencies { sku: Sku, cart: Currency, offered: Currency },
    #[error("{reason}; the total is now {}", totals.total)]
    Changed { reason: Changed, totals: Box<Totals>, lines: Vec<Line> },
    #[error("the total is too large")]
    TooLarge,
    #[error("the command is not valid")]
    Invalid(Vec<Invalid>),
}

impl Aggregate for Cart {
    const CATEGORY: &'static str = CATEGORY;
    const CODE: &'static [&'static str] = &[crate::CODE];
    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn decide(&self, command: Command) -> Result<Vec<Event>, Error> {
        match command {
            Command::Create => Ok(self.create()),
            Command::SetLine { sku, quantity, offer } => self.set_line(sku, quantity, offer),
            Command::Quote(asked) => self.quote(*asked),
            Command::CheckOut(check_out) => self.check_out(*check_out),
            Command::Reopen { order_id } => Ok(self.reopen(order_id)),
        }
    }

    fn begins(command: &Command) -> bool {
        matches!(command, Command::Create)
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::Created {} => self.created = true,
            Event::LineSet { sku, quantity, price } => {
                let line = CartLine { sku: sku.clone(), quantity: *quantity, price: *price };
                let was = self.lines.iter_mut().find(|line| line.sku == *sku);
                // A quote's own prices hold, whatever was asked for again in the meantime.
                let same = was.as_ref().is_some_and(|line| line.quantity == *quantity);
                match was {
                    Some(existing) => *existing = line,
                    None => self.lines.push(line),
                }
                self.quote.iter_mut().filter(|_| !same).for_each(LastQuote::lines_change);
            }
            Event::LineRemoved { sku } => {
                self.lines.retain(|line| line.sku != *sku);
                self.quote.iter_mut().for_each(LastQuote::lines_change);
            }
            Event::Quoted(quote) => self.quote = Some(LastQuote::new(quote)),
            Event::CheckedOut { order_id, .. } => self.checked_out = Some(*order_id),
            Event::Reopened { .. } => self.checked_out = None,
        }
    }
}

impl Cart {
    #[must_use]
    pub fn lines(&self) -> &[CartLine] {
        &self.lines
    }

    fn create(&self) -> Vec<Event> {
        if self.created { Vec::new() } else { vec![Event::Created {}] }
    }

    fn set_line(&self, sku: Sku, quantity: u32, offer: Option<Offer>) -> Result<Vec<Event>, Error> {
        self.open()?;
        let current = self.lines.iter().find(|line| line.sku == sku);
        if quantity == 0 {
            return Ok(current.map(|_| Event::LineRemoved { sku }).into_iter().collect());
        }
        let mut checks = Checks::default();
        checks.require(quantity <= QUANTITY_MAX, "/quantity", "must be at most 10000");
        checks.finish().map_err(Error::Invalid)?;
        let price = offer.ok_or_else(|| Error::NotForSale(sku.clone()))?.price;
        if current.is_none() && self.lines.len() >= LINES_MAX {
            return Err(Error::Full);
        }
        let other = self.lines.iter().find(|line| line.sku != sku && line.price.currency != price.currency);
        if let Some(other) = other {
            return Err(Error::MixedCurrencies { sku, cart: other.price.currency, offered: price.currency });
        }
        if current.is_some_and(|line| line.quantity == quantity && line.price == price) {
            return Ok(Vec::new());
        }
        Ok(vec![Event::LineSet { sku, quantity, price }])
    }

    fn check_out(&self, asked: CheckOut) -> Result<Vec<Event>, Error> {
        self.open()?;
        let mut checks = Checks::default();
        asked.buyer.check(&mut checks);
        checks.line("/payment/method", &asked.payment.method, 50);
        checks.line("/payment/token", &asked.payment.token, 200);
        checks.finish().map_err(Error::Invalid)?;
        let (lines, totals, changed) = self.reckon(&asked)?;
        let another_total = asked.expected_total.is_some_and(|expected| expected != totals.total);
        if let Some(reason) = changed.or(another_total.then_some(Changed::Total)) {
            return Err(Error::Changed { reason, totals: Box::new(totals), lines });
        }
        Ok(vec![Event::CheckedOut {
            order_id: asked.order_id,
            lines,
            total: totals.total,
            totals: Some(totals),
            payment: asked.payment,
            personal: asked.buyer,
        }])
    }

    fn reopen(&self, order_id: OrderId) -> Vec<Event> {
        if self.checked_out == Some(order_id) { vec![Event::Reopened { order_id }] } else { Vec::new() }
    }

    fn open(&self) -> Result<(), Error> {
        if !self.created {
            return Err(Error::Unknown);
        }
        self.checked_out.map_or(Ok(()), |order_id| Err(Error::CheckedOut(order_id)))
    }
}

#[cfg(test)]
pub(crate) mod spec {
    use uuid::Uuid;

    use super::*;
    use crate::order::spec::{ORDER, alice, line, money, sku};
    use crate::spec::given;
    use crate::terms::spec::{country, terms};

    fn offer(price: Money) -> Option<Offer> {
        Some(Offer { title: "Mug".into(), price })
    }

    pub fn set(name: &str, quantity: u32, price: Money) -> Command {
        Command::SetLine { sku: sku(name), quantity, offer: offer(price) }
    }

    pub fn line_set(name: &str, quantity: u32, price: Money) -> Event {
        Event::LineSet { sku: sku(name), quantity, price }
    }

    pub fn asked(offers: &[(&str, Money)]) -> CheckOut {
        let offer = |price: Money| Offer { title: "Mug".into(), price };
        CheckOut {
            order_id: ORDER,
            quote_id: None,
            shipping_method: None,
            offers: offers.iter().map(|(name, price)| (sku(name), offer(*price))).collect(),
            expected_total: None,
            payment: token(),
            buyer: alice(),
            terms: Arc::new(terms()),
            now: DateTime::UNIX_EPOCH,
        }
    }

    pub fn check_out(offers: &[(&str, Money)], expected_total: Option<Money>) -> Command {
        Command::CheckOut(Box::new(CheckOut { expected_total, ..asked(offers) }))
    }

    pub fn token() -> PaymentMethod {
        PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() }
    }

    pub fn checked_out(lines: Vec<Line>, totals: Totals) -> Event {
        let (total, totals) = (totals.total, Some(totals));
        Event::CheckedOut { order_id: ORDER, lines, total, totals, payment: token(), personal: alice() }
    }

    /// By the first way that there is, to where Alice lives.
    fn totals(subtotal: i64) -> Totals {
        let to = terms().destination(country("GB"), None);
        terms().totals(money(subtotal, "GBP"), &to, None).expect("reckoned")
    }

    #[test]
    fn lines_are_set_and_removed() {
        let price = money(500, "GBP");
        given::<Cart>([Event::Created {}])
            .when(set("MUG", 2, price))
            .then([line_set("MUG", 2, price)])
            .when(set("MUG", 2, price))
            .then_nothing()
            .when(set("MUG", 0, price))
            .then([Event::LineRemoved { sku: sku("MUG") }])
            .when(set("MUG", 0, price))
            .then_nothing();
    }

    #[test]
    fn what_is_not_for_sale_can_not_be_added() {
        given::<Cart>([Event::Created {}])
            .when(Command::SetLine { sku: sku("MUG"), quantity: 1, offer: None })
            .then_refused(Error::NotForSale(sku("MUG")));
    }

    #[test]
    fn currencies_do_not_mix() {
        given::<Cart>([Event::Created {}, line_set("MUG", 1, money(500, "GBP"))])
            .when(set("CUP", 1, money(500, "EUR")))
            .then_refused(Error::MixedCurrencies {
                sku: sku("CUP"),
                cart: "GBP".parse().expect("a currency"),
                offered: "EUR".parse().expect("a currency"),
            });
    }

    #[test]
    fn a_checkout_without_a_quote_is_at_the_offers_of_the_moment() {
        let lines = vec![line("MUG", 2, 600), line("CUP", 1, 100)];
        given::<Cart>([
            Event::Created {},
            line_set("MUG", 2, money(500, "GBP")),
            line_set("CUP", 1, money(100, "GBP")),
        ])
        .when(check_out(&[("MUG", money(600, "GBP")), ("CUP", money(100, "GBP"))], None))
        .then([checked_out(lines, totals(1300))])
        .when(set("MUG", 1, money(600, "GBP")))
        .then_refused(Error::CheckedOut(ORDER))
        .when(Command::Reopen { order_id: OrderId(Uuid::nil()) })
        .then_nothing()
        .when(Command::Reopen { order_id: ORDER })
        .then([Event::Reopened { order_id: ORDER }])
        .when(set("MUG", 1, money(600, "GBP")))
        .then([line_set("MUG", 1, money(600, "GBP"))]);
    }

    #[test]
    fn another_total_than_the_one_shown_is_refused_with_the_new_one() {
        given::<Cart>([Event::Created {}, line_set("MUG", 2, money(500, "GBP"))])
            .when(check_out(&[("MUG", money(600, "GBP"))], Some(money(1000, "GBP"))))
            .then_refused(Error::Changed {
                reason: Changed::Total,
                totals: Box::new(totals(1200)),
                lines: vec![line("MUG", 2, 600)],
            });
    }

    #[test]
    fn there_is_no_checkout_of_nothing_or_of_what_is_gone() {
        given::<Cart>([]).when(check_out(&[], None)).then_refused(Error::Unknown);
        given::<Cart>([Event::Created {}]).when(check_out(&[], None)).then_refused(Error::Empty);
        given::<Cart>([Event::Created {}, line_set("MUG", 2, money(500, "GBP"))])
            .when(check_out(&[], None))
            .then_refused(Error::NotForSale(sku("MUG")));
    }

    #[test]
    fn a_total_beyond_measure_is_refused() {
        let dear = money(Money::AMOUNT_MAX / 2, "GBP");
        given::<Cart>([Event::Created {}, line_set("MUG", 3, dear)])
            .when(check_out(&[("MUG", dear)], None))
            .then_refused(Error::TooLarge);
    }
}
