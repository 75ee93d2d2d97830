//! A shopping cart, up to the moment when its quote is frozen.
//!
//! | command  | event                  | refused when                                              |
//! |----------|------------------------|-----------------------------------------------------------|
//! | Create   | Created                |                                                           |
//! | SetLine  | LineSet or LineRemoved | unknown, checked out, not for sale, mixed currencies, full |
//! | CheckOut | CheckedOut             | unknown, checked out, empty, not for sale, total changed  |
//! | Reopen   | Reopened               |                                                           |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::ids::{OrderId, Sku};
use crate::money::{Currency, Money, MoneyError};
use crate::order::{Buyer, Line};
use crate::text::{Checks, Invalid};

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
    checked_out: Option<OrderId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartLine {
    pub sku: Sku,
    pub quantity: u32,
    /// Price of one when the line was set; the quote is made at checkout.
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
    CheckOut(Box<CheckOut>),
    Reopen {
        order_id: OrderId,
    },
}

/// A checkout as asked for, with the shop's offers for the cart's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOut {
    pub order_id: OrderId,
    pub offers: BTreeMap<Sku, Offer>,
    /// What the buyer was shown; another total is refused.
    pub expected_total: Option<Money>,
    pub payment: PaymentMethod,
    pub buyer: Buyer,
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
    #[serde(rename = "cart.checked_out")]
    CheckedOut { order_id: OrderId, lines: Vec<Line>, total: Money, payment: PaymentMethod, personal: Buyer },
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
    #[error("the total is now {total}")]
    Changed { total: Money, lines: Vec<Line> },
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
                match self.lines.iter_mut().find(|line| line.sku == *sku) {
                    Some(existing) => *existing = line,
                    None => self.lines.push(line),
                }
            }
            Event::LineRemoved { sku } => self.lines.retain(|line| line.sku != *sku),
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
        let (lines, total) = self.quote(&asked.offers)?;
        if asked.expected_total.is_some_and(|expected| expected != total) {
            return Err(Error::Changed { total, lines });
        }
        Ok(vec![Event::CheckedOut {
            order_id: asked.order_id,
            lines,
            total,
            payment: asked.payment,
            personal: asked.buyer,
        }])
    }

    fn quote(&self, offers: &BTreeMap<Sku, Offer>) -> Result<(Vec<Line>, Money), Error> {
        let mut lines: Vec<Line> = Vec::with_capacity(self.lines.len());
        let mut total: Option<Money> = None;
        for CartLine { sku, quantity, .. } in &self.lines {
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
mod spec {
    use uuid::Uuid;

    use super::*;
    use crate::order::spec::{ORDER, alice, line, money, sku};
    use crate::spec::given;

    fn offer(price: Money) -> Option<Offer> {
        Some(Offer { title: "Mug".into(), price })
    }

    fn set(name: &str, quantity: u32, price: Money) -> Command {
        Command::SetLine { sku: sku(name), quantity, offer: offer(price) }
    }

    fn line_set(name: &str, quantity: u32, price: Money) -> Event {
        Event::LineSet { sku: sku(name), quantity, price }
    }

    fn check_out(offers: &[(&str, Money)], expected_total: Option<Money>) -> Command {
        let offer = |price: Money| Offer { title: "Mug".into(), price };
        Command::CheckOut(Box::new(CheckOut {
            order_id: ORDER,
            offers: offers.iter().map(|(name, price)| (sku(name), offer(*price))).collect(),
            expected_total,
            payment: token(),
            buyer: alice(),
        }))
    }

    fn token() -> PaymentMethod {
        PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() }
    }

    fn checked_out(lines: Vec<Line>, total: Money) -> Event {
        Event::CheckedOut { order_id: ORDER, lines, total, payment: token(), personal: alice() }
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
    fn the_quote_is_made_of_the_offers_of_the_moment() {
        let lines = vec![line("MUG", 2, 600), line("CUP", 1, 100)];
        given::<Cart>([
            Event::Created {},
            line_set("MUG", 2, money(500, "GBP")),
            line_set("CUP", 1, money(100, "GBP")),
        ])
        .when(check_out(&[("MUG", money(600, "GBP")), ("CUP", money(100, "GBP"))], None))
        .then([checked_out(lines, money(1300, "GBP"))])
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
            .then_refused(Error::Changed { total: money(1200, "GBP"), lines: vec![line("MUG", 2, 600)] });
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
