//! An order: the frozen quote, and what became of it.
//!
//! | command             | event                 | refused when                                  |
//! |---------------------|-----------------------|-----------------------------------------------|
//! | Place               | Placed                |                                               |
//! | Confirm             | Confirmed             |                                               |
//! | RequestCancellation | CancellationRequested | unknown, shipped, or cancelled for another reason |
//! | BeginCancellation   | CancellationBegun     |                                               |
//! | Cancel              | Cancelled             |                                               |
//! | Ship                | Shipped               | not confirmed, to be cancelled, or not so much is left |
//! | Return              | GoodsReturned, and RefundRequested | not so much was shipped, or more than was paid |
//! | Refund              | RefundRequested       | not confirmed, or more than was paid          |
//! | FailRefund          | RefundFailed          |                                               |
//! | Import              | Imported              | it exists, or a field is not valid            |
//! | ImportReturn        | Returned              | not imported, or more than was paid           |
//! | ImportRefund        | Refunded              | not imported, or more than was paid           |
//!
//! The checkout saga places, confirms and cancels; a command of its that comes too late (a
//! confirmation after a request to cancel) has no events, because what overtook it is in the log.
//! It takes nothing back that may be shipped before the order says that it won't be: of a parcel that goes and an
//! order that is to be cancelled, the one that is recorded first counts.
//!
//! An imported order is a record of what happened in another shop: no saga follows it. Where only its
//! return is known, because it was placed before the record begins, it has no lines.

mod buyer;
mod fulfilment;
mod import;
#[cfg(test)]
pub(crate) mod spec;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::ids::{CartId, Sku};
use crate::money::Money;
use crate::text::Invalid;
use crate::totals::Totals;

pub use buyer::{Address, Buyer};
pub use fulfilment::{
    Fulfilment, Goods, Parcel, RefundAsked, ReturnAsked, ShipmentAsked, Units, fulfilment_status,
};
pub use import::{Customer, Import, LINES_MAX, Reversal};

pub const CATEGORY: &str = "order";

/// Invariant: placed → confirmed → cancelled or placed → cancelled, never back; once it
/// is to be cancelled, it is neither confirmed nor shipped any more. Of an imported order with lines, no more
/// is given back than was paid; of any other, no more is shipped than was ordered, no more comes back than was
/// shipped, and no more money is asked back than the total. What is shipped is not cancelled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    status: Option<Status>,
    /// By the buyer.
    cancellation_requested: bool,
    /// By the shop.
    cancellation_begun: bool,
    /// What has not been given back, or asked back. Not of an imported order without lines.
    kept: Option<Money>,
    fulfilment: Fulfilment,
    /// Refunds that are asked for.
    refunds: BTreeMap<Uuid, Money>,
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
    /// Its lines were not held in time.
    ReservationTimedOut,
    PaymentDeclined,
    PaymentTimedOut,
    /// Another amount was authorised than was quoted.
    PaymentMismatch,
    /// It was not shipped as long as the payment could be taken.
    NotShipped,
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
            Self::ReservationTimedOut => "reservation_timed_out",
            Self::PaymentDeclined => "payment_declined",
            Self::PaymentTimedOut => "payment_timed_out",
            Self::PaymentMismatch => "payment_mismatch",
            Self::NotShipped => "not_shipped",
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Place {
        cart_id: CartId,
        lines: Vec<Line>,
        total: Money,
        totals: Option<Totals>,
        buyer: Buyer,
    },
    Confirm,
    RequestCancellation,
    /// Nothing may be shipped from here on, unless something is already.
    BeginCancellation {
        reason: Reason,
    },
    Cancel {
        reason: Reason,
    },
    Ship(ShipmentAsked),
    Return(ReturnAsked),
    Refund(RefundAsked),
    FailRefund {
        refund_id: Uuid,
        reason: String,
    },
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
        /// What is paid.
        total: Money,
        /// What it consists of; of an older order, the lines alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        totals: Option<Totals>,
        /// Where it goes, ISO 3166-1 alpha-2; empty, if that was erased before it stood here.
        country: String,
        personal: Buyer,
    },
    #[serde(rename = "order.confirmed")]
    Confirmed {},
    #[serde(rename = "order.cancellation_requested")]
    CancellationRequested {},
    /// The shop takes it back.
    #[serde(rename = "order.cancellation_begun")]
    CancellationBegun { reason: Reason },
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
    #[serde(rename = "order.shipped")]
    Shipped {
        shipment_id: Uuid,
        lines: Vec<Units>,
        #[serde(flatten)]
        parcel: Parcel,
        /// Nothing is left to be shipped.
        is_last: bool,
    },
    /// Goods came back.
    #[serde(rename = "order.goods_returned")]
    GoodsReturned { return_id: Uuid, lines: Vec<Units>, reason: String },
    /// Money is to be given back.
    #[serde(rename = "order.refund_requested")]
    RefundRequested { refund_id: Uuid, amount: Money, reason: String },
    #[serde(rename = "order.refund_failed")]
    RefundFailed { refund_id: Uuid, amount: Money, reason: String },
    /// In another shop, goods came back, and what they cost was given back.
    #[serde(rename = "order.returned")]
    Returned(Reversal),
    /// In another shop, money was given back, and no goods came: a discount, postage.
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
    #[error("the order is not confirmed")]
    NotConfirmed,
    #[error("some of the order is shipped: it can be returned")]
    Shipped,
    #[error("`{0}` is not in the order")]
    NotOrdered(Sku),
    #[error("only {left} units of `{sku}` are left to be shipped")]
    NothingToShip { sku: Sku, left: u32 },
    #[error("only {left} units of `{sku}` are with the buyer")]
    NothingToReturn { sku: Sku, left: u32 },
    #[error("the command is not valid")]
    InvalidCommand(Vec<Invalid>),
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
            Command::Place { cart_id, lines, total, totals, buyer } => {
                Ok(self.place(cart_id, lines, total, totals, buyer))
            }
            Command::Confirm => Ok(self.confirm()),
            Command::RequestCancellation => self.request_cancellation(),
            Command::BeginCancellation { reason } => Ok(self.begin_cancellation(reason)),
            Command::Cancel { reason } => Ok(self.cancel(reason)),
            Command::Ship(asked) => self.ship(asked),
            Command::Return(asked) => self.take_back(asked),
            Command::Refund(asked) => self.refund(asked),
            Command::FailRefund { refund_id, reason } => Ok(self.fail_refund(refund_id, reason)),
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
            Event::Placed { lines, total, totals, .. } => {
                self.status = Some(Status::Pending);
                self.kept = Some(*total);
                self.fulfilment.placed(lines, totals.as_ref());
            }
            Event::Confirmed {} => self.status = Some(Status::Confirmed),
            Event::CancellationRequested {} => self.cancellation_requested = true,
            Event::CancellationBegun { .. } => self.cancellation_begun = true,
            Event::Cancelled { reason } => self.status = Some(Status::Cancelled(*reason)),
            Event::Shipped { lines, .. } => self.fulfilment.shipped(lines),
            Event::GoodsReturned { lines, .. } => self.fulfilment.returned(lines),
            Event::RefundRequested { refund_id, amount, .. } => {
                self.refunds.insert(*refund_id, *amount);
                self.kept = self.kept.and_then(|kept| kept.minus(*amount).ok());
            }
            Event::RefundFailed { refund_id, amount, .. } => {
                self.refunds.remove(refund_id);
                self.kept = self.kept.and_then(|kept| kept.plus(*amount).ok());
            }
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

    /// Whoever wants it cancelled, it is not shipped any more.
    fn is_to_be_cancelled(&self) -> bool {
        self.cancellation_requested || self.cancellation_begun
    }

    fn place(
        &self,
        cart_id: CartId,
        lines: Vec<Line>,
        total: Money,
        totals: Option<Totals>,
        buyer: Buyer,
    ) -> Vec<Event> {
        if self.status.is_some() {
            return Vec::new();
        }
        let country = buyer.shipping_address.country.clone();
        vec![Event::Placed { cart_id, lines, total, totals, country, personal: buyer }]
    }

    fn confirm(&self) -> Vec<Event> {
        if self.status == Some(Status::Pending) && !self.is_to_be_cancelled() {
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
            Some(Status::Confirmed) if self.fulfilment.is_begun() => Err(Error::Shipped),
            Some(Status::Pending | Status::Confirmed) if self.cancellation_requested => Ok(Vec::new()),
            Some(Status::Pending | Status::Confirmed) => Ok(vec![Event::CancellationRequested {}]),
        }
    }

    fn begin_cancellation(&self, reason: Reason) -> Vec<Event> {
        let is_open = matches!(self.status, Some(Status::Pending | Status::Confirmed));
        if is_open && !self.is_to_be_cancelled() && !self.fulfilment.is_begun() {
            return vec![Event::CancellationBegun { reason }];
        }
        Vec::new()
    }

    fn cancel(&self, reason: Reason) -> Vec<Event> {
        match self.status {
            Some(Status::Pending | Status::Confirmed) => vec![Event::Cancelled { reason }],
            None | Some(Status::Cancelled(_) | Status::Imported) => Vec::new(),
        }
    }
}
