//! An order: the frozen quote, and what became of it.
//!
//! | command             | event                 | refused when                                  |
//! |---------------------|-----------------------|-----------------------------------------------|
//! | Place               | Placed                |                                               |
//! | Confirm             | Confirmed             |                                               |
//! | RequestCancellation | CancellationRequested | unknown, or cancelled for another reason      |
//! | Cancel              | Cancelled             |                                               |
//! | Import              | Imported              | it exists, or a field is not valid            |
//! | ImportReturn        | Returned              | not imported, or more than was paid           |
//! | ImportRefund        | Refunded              | not imported, or more than was paid           |
//!
//! The checkout saga places, confirms and cancels; a command of its that comes too late (a
//! confirmation after a request to cancel) has no events, because what overtook it is in the log.
//!
//! An imported order is a record of what happened in another shop: no saga follows it. Where only its
//! return is known, because it was placed before the record begins, it has no lines.

mod import;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::ids::{CartId, Sku};
use crate::money::Money;
use crate::text::{Checks, Invalid};

pub use import::{Customer, Import, LINES_MAX, Reversal};

pub const CATEGORY: &str = "order";

/// Invariant: placed → confirmed → cancelled or placed → cancelled, never back; once a
/// cancellation is requested, it is not confirmed any more. Of an imported order with lines, no more
/// is given back than was paid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    status: Option<Status>,
    cancellation_requested: bool,
    /// Of an imported order with lines: what has not been given back.
    kept: Option<Money>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Pending,
    Confirmed,
    Cancelled(Reason),
    Imported,
}

/// Why an order was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    OutOfStock,
    PaymentDeclined,
    PaymentTimedOut,
    /// Another amount was authorised than was quoted.
    PaymentMismatch,
    CancelledByBuyer,
    /// By an operator.
    Abandoned,
}

impl Reason {
    /// As on the wire: `out_of_stock`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::OutOfStock => "out_of_stock",
            Self::PaymentDeclined => "payment_declined",
            Self::PaymentTimedOut => "payment_timed_out",
            Self::PaymentMismatch => "payment_mismatch",
            Self::CancelledByBuyer => "cancelled_by_buyer",
            Self::Abandoned => "abandoned",
        }
    }
}

/// One line of the quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub sku: Sku,
    pub title: String,
    pub quantity: u32,
    pub unit_price: Money,
    pub total: Money,
}

/// Who buys, and where it goes: personal data, in a field of its own in every event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buyer {
    pub email: String,
    pub shipping_address: Address,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub name: String,
    pub line1: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    pub city: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub postal_code: String,
    /// ISO 3166-1 alpha-2, such as GB.
    pub country: String,
}

impl Buyer {
    pub(crate) fn check(&self, checks: &mut Checks) {
        checks.line("/email", &self.email, 254);
        let parts = self.email.split_once('@');
        let plausible = parts.is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
        let plain = !self.email.contains(char::is_whitespace);
        checks.require(plausible && plain, "/email", "must be an e-mail address");
        let address = &self.shipping_address;
        checks.line("/shipping_address/name", &address.name, 200);
        checks.line("/shipping_address/line1", &address.line1, 200);
        checks.line("/shipping_address/city", &address.city, 100);
        checks.line("/shipping_address/postal_code", &address.postal_code, 20);
        for (pointer, text) in [("line2", &address.line2), ("region", &address.region)] {
            if let Some(text) = text {
                checks.line(&format!("/shipping_address/{pointer}"), text, 200);
            }
        }
        let country = address.country.len() == 2 && address.country.bytes().all(|b| b.is_ascii_uppercase());
        checks.require(country, "/shipping_address/country", "must be an ISO 3166-1 code such as GB");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Place { cart_id: CartId, lines: Vec<Line>, total: Money, buyer: Buyer },
    Confirm,
    RequestCancellation,
    Cancel { reason: Reason },
    Import(Import),
    ImportReturn(Reversal),
    ImportRefund(Reversal),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "order.placed")]
    Placed {
        cart_id: CartId,
        lines: Vec<Line>,
        total: Money,
        /// Where it goes, ISO 3166-1 alpha-2; empty, if that was erased before it stood here.
        country: String,
        personal: Buyer,
    },
    #[serde(rename = "order.confirmed")]
    Confirmed {},
    #[serde(rename = "order.cancellation_requested")]
    CancellationRequested {},
    #[serde(rename = "order.cancelled")]
    Cancelled { reason: Reason },
    #[serde(rename = "order.imported")]
    Imported {
        number: String,
        country: String,
        lines: Vec<Line>,
        total: Money,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        personal: Option<Customer>,
    },
    /// Goods came back, and what they cost was given back.
    #[serde(rename = "order.returned")]
    Returned(Reversal),
    /// Money was given back, and no goods came: a discount, postage.
    #[serde(rename = "order.refunded")]
    Refunded(Reversal),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no order with this id")]
    Unknown,
    #[error("the order is cancelled already: {}", .0.code())]
    Cancelled(Reason),
    #[error("an order with this id exists already")]
    Exists,
    #[error("the order was imported: what happens to it happens elsewhere")]
    Imported,
    #[error("the order was not imported")]
    NotImported,
    #[error("only {kept} of the order have not been given back")]
    MoreThanPaid { kept: Money },
    #[error("the record of the order is not valid")]
    Invalid(Vec<Invalid>),
}

impl Aggregate for Order {
    const CATEGORY: &'static str = CATEGORY;
    const CODE: &'static [&'static str] = &[crate::CODE];
    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn decide(&self, command: Command) -> Result<Vec<Event>, Error> {
        match command {
            Command::Place { cart_id, lines, total, buyer } => Ok(self.place(cart_id, lines, total, buyer)),
            Command::Confirm => Ok(self.confirm()),
            Command::RequestCancellation => self.request_cancellation(),
            Command::Cancel { reason } => Ok(self.cancel(reason)),
            Command::Import(record) => self.import(record),
            Command::ImportReturn(reversal) => self.reverse(reversal).map(|all| vec![Event::Returned(all)]),
            Command::ImportRefund(reversal) => self.reverse(reversal).map(|all| vec![Event::Refunded(all)]),
        }
    }

    fn begins(command: &Command) -> bool {
        matches!(command, Command::Place { .. } | Command::Import(_))
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::Placed { .. } => self.status = Some(Status::Pending),
            Event::Confirmed {} => self.status = Some(Status::Confirmed),
            Event::CancellationRequested {} => self.cancellation_requested = true,
            Event::Cancelled { reason } => self.status = Some(Status::Cancelled(*reason)),
            Event::Imported { lines, total, .. } => {
                self.status = Some(Status::Imported);
                self.kept = Some(*total).filter(|_| !lines.is_empty());
            }
            Event::Returned(reversal) | Event::Refunded(reversal) => {
                self.kept = self.kept.and_then(|kept| kept.minus(reversal.refund).ok());
            }
        }
    }
}

impl Order {
    /// `None` before it is placed.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    fn place(&self, cart_id: CartId, lines: Vec<Line>, total: Money, buyer: Buyer) -> Vec<Event> {
        if self.status.is_some() {
            return Vec::new();
        }
        let country = buyer.shipping_address.country.clone();
        vec![Event::Placed { cart_id, lines, total, country, personal: buyer }]
    }

    fn confirm(&self) -> Vec<Event> {
        if self.status == Some(Status::Pending) && !self.cancellation_requested {
            return vec![Event::Confirmed {}];
        }
        Vec::new()
    }

    fn request_cancellation(&self) -> Result<Vec<Event>, Error> {
        match self.status {
            None => Err(Error::Unknown),
            Some(Status::Cancelled(Reason::CancelledByBuyer)) => Ok(Vec::new()),
            Some(Status::Cancelled(reason)) => Err(Error::Cancelled(reason)),
            Some(Status::Imported) => Err(Error::Imported),
            Some(Status::Pending | Status::Confirmed) if self.cancellation_requested => Ok(Vec::new()),
            Some(Status::Pending | Status::Confirmed) => Ok(vec![Event::CancellationRequested {}]),
        }
    }

    fn cancel(&self, reason: Reason) -> Vec<Event> {
        match self.status {
            Some(Status::Pending | Status::Confirmed) => vec![Event::Cancelled { reason }],
            None | Some(Status::Cancelled(_) | Status::Imported) => Vec::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod spec {
    use uuid::Uuid;

    use super::*;
    use crate::ids::OrderId;
    use crate::spec::given;

    pub const ORDER: OrderId = OrderId(Uuid::from_u128(7));

    pub fn sku(code: &str) -> Sku {
        code.parse().expect("a SKU")
    }

    pub fn money(amount: i64, currency: &str) -> Money {
        Money::new(amount, currency.parse().expect("a currency"))
    }

    pub fn line(code: &str, quantity: u32, price: i64) -> Line {
        let unit_price = money(price, "GBP");
        let total = unit_price.times(quantity).expect("small");
        Line { sku: sku(code), title: "Mug".into(), quantity, unit_price, total }
    }

    pub fn alice() -> Buyer {
        Buyer {
            email: "alice@example.com".into(),
            shipping_address: Address {
                name: "Alice Ames".into(),
                line1: "1 High Street".into(),
                line2: None,
                city: "Leeds".into(),
                region: None,
                postal_code: "LS1 1AA".into(),
                country: "GB".into(),
            },
        }
    }

    pub fn placed() -> Event {
        Event::Placed {
            cart_id: CartId(Uuid::from_u128(3)),
            lines: vec![line("MUG", 2, 500)],
            total: money(1000, "GBP"),
            country: "GB".into(),
            personal: alice(),
        }
    }

    #[test]
    fn is_confirmed_once() {
        given::<Order>([placed()])
            .when(Command::Confirm)
            .then([Event::Confirmed {}])
            .when(Command::Confirm)
            .then_nothing();
    }

    #[test]
    fn a_request_to_cancel_overtakes_the_confirmation() {
        given::<Order>([placed()])
            .when(Command::RequestCancellation)
            .then([Event::CancellationRequested {}])
            .when(Command::Confirm)
            .then_nothing()
            .when(Command::Cancel { reason: Reason::CancelledByBuyer })
            .then([Event::Cancelled { reason: Reason::CancelledByBuyer }])
            .when(Command::RequestCancellation)
            .then_nothing();
    }

    #[test]
    fn a_confirmed_order_can_be_cancelled() {
        given::<Order>([placed(), Event::Confirmed {}])
            .when(Command::RequestCancellation)
            .then([Event::CancellationRequested {}]);
    }

    #[test]
    fn what_is_cancelled_stays_cancelled() {
        let reason = Reason::OutOfStock;
        given::<Order>([placed(), Event::Cancelled { reason }])
            .when(Command::Confirm)
            .then_nothing()
            .when(Command::Cancel { reason: Reason::PaymentDeclined })
            .then_nothing()
            .when(Command::RequestCancellation)
            .then_refused(Error::Cancelled(reason));
    }

    #[test]
    fn an_unknown_order_can_not_be_cancelled() {
        given::<Order>([]).when(Command::RequestCancellation).then_refused(Error::Unknown);
    }

    #[test]
    fn a_buyer_is_checked_field_by_field() {
        let mut buyer = alice();
        buyer.email = "alice at example".into();
        buyer.shipping_address.country = "England".into();
        buyer.shipping_address.line1 = "\0".into();
        let mut checks = Checks::default();
        buyer.check(&mut checks);
        let found = checks.finish().expect_err("invalid");
        let pointers: Vec<_> = found.iter().map(|invalid| invalid.pointer.as_str()).collect();
        assert_eq!(pointers, ["/email", "/shipping_address/line1", "/shipping_address/country"]);
    }
}
