//! What the tables have in them, and how an order changes with what happens.

use chrono::{DateTime, Utc};
use domain::order::{self, Line, Parcel, Units};
use domain::payment::{Amounts, Status as PaymentStatus};
use domain::totals::Totals;
use domain::{Event, Money, OrderId, cart, payment};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::insert;
use crate::projection::Happened;
use crate::rows::{self, Table};

/// A row of `orders`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub id: OrderId,
    pub cart_id: Option<Uuid>,
    /// In the shop that it was imported from.
    pub number: Option<String>,
    /// Where it goes: ISO 3166-1 alpha-2, or as the record that it was imported from has it.
    pub country: Option<String>,
    pub status: String,
    pub reason: Option<String>,
    pub total: Option<Money>,
    pub payment_status: String,
    /// What was asked for, and what the provider did.
    pub payment: Option<Amounts>,
    /// Units in the order, and where they are.
    pub ordered: u64,
    pub shipped: u64,
    pub returned: u64,
    pub placed_at: DateTime<Utc>,
    /// Of the order's own stream.
    pub version: u64,
    /// Of the last event that touched it.
    pub position: u64,
}

impl insert::Record for Row {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.uuid(self.id.0)
            .optional(self.cart_id, |row, id| row.uuid(id))
            .optional(self.number.as_deref(), |row, number| row.text(number))
            .optional(self.country.as_deref(), |row, country| row.text(country))
            .text(&self.status)
            .optional(self.reason.as_deref(), |row, reason| row.text(reason))
            .optional(self.total, |row, total| row.jsonb(&total))
            .text(&self.payment_status)
            .optional(self.payment.as_ref(), |row, payment| row.jsonb(payment))
            .int8(self.ordered.cast_signed())
            .int8(self.shipped.cast_signed())
            .int8(self.returned.cast_signed())
            .timestamptz(self.placed_at)
            .int8(self.version.cast_signed())
            .int8(self.position.cast_signed());
    }
}

impl rows::Row for Row {
    const TABLE: Table = Table {
        name: "orders",
        key: "id",
        key_type: "uuid",
        columns: &[
            "cart_id",
            "number",
            "country",
            "status",
            "reason",
            "total",
            "payment_status",
            "payment",
            "ordered",
            "shipped",
            "returned",
            "placed_at",
            "version",
            "position",
        ],
    };

    type Key = Uuid;
}

/// A row of `quotes`.
#[derive(Serialize)]
pub(super) struct Quote<'a> {
    pub order_id: OrderId,
    pub lines: &'a [Line],
    pub totals: Option<&'a Totals>,
}

impl insert::Record for Quote<'_> {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.uuid(self.order_id.0).jsonb(&self.lines).optional(self.totals, |row, totals| row.jsonb(totals));
    }
}

/// A row of `refunds`.
#[derive(Serialize)]
pub(super) struct Refund<'a> {
    pub order_id: OrderId,
    pub position: u64,
    pub index: u32,
    pub at: DateTime<Utc>,
    pub reference: &'a str,
    pub with_goods: bool,
    pub amount: i64,
    pub currency: &'static str,
}

impl insert::Record for Refund<'_> {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.uuid(self.order_id.0)
            .int8(self.position.cast_signed())
            .int4(self.index.cast_signed())
            .timestamptz(self.at)
            .text(self.reference)
            .bool(self.with_goods)
            .int8(self.amount)
            .text(self.currency);
    }
}

/// A row of `parcels`.
#[derive(Serialize)]
pub(super) struct ParcelRow<'a> {
    pub order_id: OrderId,
    pub position: u64,
    pub index: u32,
    pub at: DateTime<Utc>,
    /// Of the shipment, or of the return.
    pub id: Uuid,
    pub is_return: bool,
    pub lines: &'a [Units],
    /// How it is found on its way, or why it came back.
    pub about: About<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum About<'a> {
    Parcel(&'a Parcel),
    Reason { reason: &'a str },
}

impl insert::Record for ParcelRow<'_> {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.uuid(self.order_id.0)
            .int8(self.position.cast_signed())
            .int4(self.index.cast_signed())
            .timestamptz(self.at)
            .uuid(self.id)
            .bool(self.is_return)
            .jsonb(&self.lines)
            .jsonb(&self.about);
    }
}

/// A row of `timeline`.
#[derive(Serialize)]
pub(super) struct Step<'a> {
    pub order_id: OrderId,
    pub position: u64,
    pub index: u32,
    pub kind: &'a str,
    pub at: DateTime<Utc>,
}

impl insert::Record for Step<'_> {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.uuid(self.order_id.0)
            .int8(self.position.cast_signed())
            .int4(self.index.cast_signed())
            .text(self.kind)
            .timestamptz(self.at);
    }
}

impl Row {
    pub fn new(id: OrderId, placed_at: DateTime<Utc>) -> Self {
        Self {
            id,
            cart_id: None,
            number: None,
            country: None,
            status: "pending".to_owned(),
            reason: None,
            total: None,
            payment_status: PaymentStatus::None.code().to_owned(),
            payment: None,
            ordered: 0,
            shipped: 0,
            returned: 0,
            placed_at,
            version: 0,
            position: 0,
        }
    }

    pub fn fold(&mut self, happened: &Happened<'_>) {
        // What had been set aside may come after what is later in the log.
        self.position = self.position.max(happened.position);
        match happened.event {
            // The checkout was accepted, so the order can be seen, though it's not placed yet.
            Event::Cart(cart::Event::CheckedOut { total, .. }) => {
                // It may have been set aside, and come late.
                self.placed_at = self.placed_at.min(happened.at);
                self.cart_id = happened.stream.id().parse().ok();
                self.total = Some(*total);
            }
            Event::Order(event) => {
                self.version = happened.version;
                self.order(event, happened.at);
            }
            Event::Payment(event) => self.payment(event),
            Event::Product(_) | Event::Stock(_) | Event::Cart(_) => {}
        }
    }

    fn order(&mut self, event: &order::Event, at: DateTime<Utc>) {
        match event {
            order::Event::Placed { cart_id, lines, total, country, .. } => {
                self.cart_id = Some(cart_id.0);
                self.total = Some(*total);
                self.country = Some(country.clone()).filter(|country| !country.is_empty());
                self.ordered = lines.iter().map(|line| u64::from(line.quantity)).sum();
            }
            order::Event::Confirmed {} => self.status = "confirmed".to_owned(),
            order::Event::Cancelled { reason } => {
                self.status = "cancelled".to_owned();
                self.reason = Some(reason.code().to_owned());
            }
            order::Event::Shipped { lines, .. } => self.shipped += sum(lines),
            order::Event::GoodsReturned { lines, .. } => self.returned += sum(lines),
            order::Event::Imported { number, country, total, .. } => {
                self.status = "imported".to_owned();
                self.number = Some(number.clone());
                self.country = Some(country.clone());
                self.total = Some(*total);
                // Its stock may have been told of first.
                self.placed_at = at;
            }
            order::Event::CancellationRequested {}
            | order::Event::CancellationBegun { .. }
            | order::Event::RefundRequested { .. }
            | order::Event::RefundFailed { .. }
            | order::Event::Returned(_)
            | order::Event::Refunded(_) => {}
        }
    }

    fn payment(&mut self, event: &payment::Event) {
        let amounts = self.payment.get_or_insert_default();
        amounts.evolve(event);
        self.payment_status = amounts.status().code().to_owned();
    }
}

fn sum(lines: &[Units]) -> u64 {
    lines.iter().map(|units| u64::from(units.quantity)).sum()
}
