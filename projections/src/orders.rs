//! Orders: what became of each, step by step.

use chrono::{DateTime, Utc};
use domain::order::{self, Line};
use domain::payment::Status as PaymentStatus;
use domain::{Event, Money, OrderId, cart, payment, stock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::read_models::ReadModel;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::copy::{self, Copy};
use crate::projection::{Happened, Key, Projection, Writer};
use crate::rows::{self, Rows, Table};

pub const NAME: &str = "orders";

pub struct Orders;

/// A row of `orders`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: OrderId,
    cart_id: Option<Uuid>,
    /// In the shop that it was imported from.
    number: Option<String>,
    /// Where it goes: ISO 3166-1 alpha-2, or as the record that it was imported from has it.
    country: Option<String>,
    status: String,
    reason: Option<String>,
    total: Option<Money>,
    payment_status: String,
    placed_at: DateTime<Utc>,
    /// Of the order's own stream.
    version: u64,
    /// Of the last event that touched it.
    position: u64,
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
            "placed_at",
            "version",
            "position",
        ],
    };

    type Key = Uuid;

    fn copy(&self, row: &mut copy::Row<'_>) {
        row.uuid(self.id.0)
            .optional(self.cart_id, |row, id| row.uuid(id))
            .optional(self.number.as_deref(), |row, number| row.text(number))
            .optional(self.country.as_deref(), |row, country| row.text(country))
            .text(&self.status)
            .optional(self.reason.as_deref(), |row, reason| row.text(reason))
            .optional(self.total, |row, total| row.jsonb(&total))
            .text(&self.payment_status)
            .timestamptz(self.placed_at)
            .int8(self.version.cast_signed())
            .int8(self.position.cast_signed());
    }
}

impl Projection for Orders {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        2
    }

    fn categories(&self) -> &'static [&'static str] {
        &[cart::CATEGORY, order::CATEGORY, payment::CATEGORY, stock::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("orders", "id"),
            ("quotes", "order_id"),
            ("refunds", "order_id, position, index"),
            ("timeline", "order_id, position, index"),
        ]
    }

    fn definition(&self) -> &'static str {
        "create table orders (
             id uuid primary key,
             cart_id uuid,
             number text,
             country text,
             status text not null,
             reason text,
             total jsonb,
             payment_status text not null,
             placed_at timestamptz not null,
             version bigint not null,
             position bigint not null
         ) with (fillfactor = 70);
         create table quotes (
             order_id uuid not null,
             lines jsonb not null
         );
         create table refunds (
             order_id uuid not null,
             position bigint not null,
             index int not null,
             at timestamptz not null,
             reference text not null,
             with_goods bool not null,
             amount bigint not null,
             currency text not null
         );
         create table timeline (
             order_id uuid not null,
             position bigint not null,
             index int not null,
             kind text not null,
             at timestamptz not null
         )"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &[
            "create index on orders (placed_at, id)",
            "alter table quotes add primary key (order_id)",
            "alter table refunds add primary key (order_id, position, index)",
            "alter table timeline add primary key (order_id, position, index)",
        ]
    }

    fn lanes(&self) -> u64 {
        2
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        order_of(happened).map(Key::Order)
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(OrdersWriter::default())
    }
}

/// What is only ever added goes straight into the rows to be copied.
struct OrdersWriter {
    orders: Rows<Row>,
    /// Apart from what changes: an order of a thousand lines is touched some thousand times.
    quotes: Copy,
    refunds: Copy,
    timeline: Copy,
}

impl Default for OrdersWriter {
    fn default() -> Self {
        const REFUND: [&str; 8] =
            ["order_id", "position", "index", "at", "reference", "with_goods", "amount", "currency"];
        Self {
            orders: Rows::default(),
            quotes: Copy::new("quotes", &["order_id", "lines"]),
            refunds: Copy::new("refunds", &REFUND),
            timeline: Copy::new("timeline", &["order_id", "position", "index", "kind", "at"]),
        }
    }
}

impl Writer for OrdersWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let ours = batch.iter().filter_map(|happened| Some((order_of(happened)?, happened)));
            let ours: Vec<(OrderId, &Happened<'_>)> = ours.collect();
            self.orders.load(ours.iter().map(|(id, _)| id.0), connection).await?;
            ours.into_iter().for_each(|(id, happened)| self.happened(id, happened));
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.orders.pending_bytes() + self.quotes.bytes() + self.refunds.bytes() + self.timeline.bytes()
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            self.orders.store(transaction).await?;
            self.quotes.send(transaction).await?;
            self.refunds.send(transaction).await?;
            self.timeline.send(transaction).await
        }
        .boxed()
    }
}

impl OrdersWriter {
    fn happened(&mut self, id: OrderId, happened: &Happened<'_>) {
        let order = self.orders.change(&id.0).get_or_insert_with(|| Row::new(id, happened.at));
        let had_quote = order.total.is_some();
        order.fold(happened);
        match happened.event {
            // The order is placed with the lines that the cart was checked out with.
            Event::Cart(cart::Event::CheckedOut { lines, .. })
            | Event::Order(order::Event::Placed { lines, .. } | order::Event::Imported { lines, .. })
                if !had_quote =>
            {
                self.quotes.row().uuid(id.0).jsonb(lines);
            }
            Event::Order(order::Event::Returned(reversal)) => self.refund(id, happened, reversal, true),
            Event::Order(order::Event::Refunded(reversal)) => self.refund(id, happened, reversal, false),
            _ => {}
        }
        let Happened { position, index, at, kind, .. } = *happened;
        let mut row = self.timeline.row();
        row.uuid(id.0).int8(position.cast_signed()).int4(index.cast_signed()).text(kind).timestamptz(at);
    }

    fn refund(&mut self, id: OrderId, happened: &Happened<'_>, reversal: &order::Reversal, with_goods: bool) {
        let Happened { position, index, at, .. } = *happened;
        let mut row = self.refunds.row();
        row.uuid(id.0).int8(position.cast_signed()).int4(index.cast_signed()).timestamptz(at);
        row.text(&reversal.reference).bool(with_goods);
        row.int8(reversal.refund.amount).text(reversal.refund.currency.code());
    }
}

/// The order that the event is about.
fn order_of(happened: &Happened<'_>) -> Option<OrderId> {
    match happened.event {
        Event::Cart(cart::Event::CheckedOut { order_id, .. } | cart::Event::Reopened { order_id }) => {
            Some(*order_id)
        }
        Event::Stock(
            stock::Event::Reserved { order_id, .. }
            | stock::Event::ReservationRefused { order_id, .. }
            | stock::Event::Released { order_id, .. }
            | stock::Event::Sold { order_id, .. }
            | stock::Event::Dispatched { order_id, .. }
            | stock::Event::Returned { order_id, .. },
        ) => Some(*order_id),
        Event::Order(_) | Event::Payment(_) => happened.stream.id().parse().ok(),
        Event::Product(_) | Event::Cart(_) | Event::Stock(_) => None,
    }
}

impl Row {
    fn new(id: OrderId, placed_at: DateTime<Utc>) -> Self {
        Self {
            id,
            cart_id: None,
            number: None,
            country: None,
            status: "pending".to_owned(),
            reason: None,
            total: None,
            payment_status: PaymentStatus::None.code().to_owned(),
            placed_at,
            version: 0,
            position: 0,
        }
    }

    fn fold(&mut self, happened: &Happened<'_>) {
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
            order::Event::Placed { cart_id, total, country, .. } => {
                self.cart_id = Some(cart_id.0);
                self.total = Some(*total);
                self.country = Some(country.clone()).filter(|country| !country.is_empty());
            }
            order::Event::Confirmed {} => self.status = "confirmed".to_owned(),
            order::Event::CancellationRequested {} => {}
            order::Event::Cancelled { reason } => {
                self.status = "cancelled".to_owned();
                self.reason = Some(reason.code().to_owned());
            }
            order::Event::Imported { number, country, total, .. } => {
                self.status = "imported".to_owned();
                self.number = Some(number.clone());
                self.country = Some(country.clone());
                self.total = Some(*total);
                // Its stock may have been told of first.
                self.placed_at = at;
            }
            order::Event::Returned(_) | order::Event::Refunded(_) => {}
        }
    }

    fn payment(&mut self, event: &payment::Event) {
        let status = match event {
            payment::Event::AuthorizationRequested { .. } => PaymentStatus::Pending,
            payment::Event::Authorized { .. } => PaymentStatus::Authorized,
            payment::Event::Declined { .. } => PaymentStatus::Declined,
            payment::Event::Captured { .. } => PaymentStatus::Captured,
            payment::Event::Voided {} => PaymentStatus::Voided,
            payment::Event::Refunded { .. } => PaymentStatus::Refunded,
            payment::Event::CaptureRequested { .. }
            | payment::Event::CancellationRequested {}
            | payment::Event::VoidRequested {}
            | payment::Event::RefundRequested { .. }
            | payment::Event::OutcomeUnknown { .. } => return,
        };
        self.payment_status = status.code().to_owned();
    }
}

/// An order as its buyer sees it.
#[derive(Debug, Clone, FromRow)]
pub struct Order {
    pub id: Uuid,
    pub number: Option<String>,
    pub country: Option<String>,
    pub status: String,
    pub reason: Option<String>,
    pub lines: Json<Vec<Line>>,
    pub total: Json<Option<Money>>,
    pub payment_status: String,
    pub placed_at: DateTime<Utc>,
    /// Of the order's own stream.
    pub version: i64,
    /// Of the last event that touched it.
    pub position: i64,
}

/// Something of what an order cost was given back.
#[derive(Debug, Clone, FromRow)]
pub struct Refund {
    pub reference: String,
    /// Goods came back for it.
    pub with_goods: bool,
    pub at: DateTime<Utc>,
    pub amount: i64,
    pub currency: String,
}

/// An order, what was given back of it, and all that happened to it.
#[derive(Debug, Clone)]
pub struct Whole {
    pub order: Order,
    pub refunds: Vec<Refund>,
    pub timeline: Vec<TimelineEntry>,
}

/// One thing that happened to an order.
#[derive(Debug, Clone, FromRow)]
pub struct TimelineEntry {
    pub kind: String,
    pub at: DateTime<Utc>,
    pub position: i64,
}

/// The order with all that belongs to it, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn order(pool: &PgPool, model: &ReadModel, id: Uuid) -> Result<(Option<Whole>, u64), sqlx::Error> {
    let mut snapshot = model.snapshot(pool).await?;
    let order: Option<Order> = sqlx::query_as(snapshot.sql(
        "select id, number, country, status, reason, coalesce(lines, '[]') as lines,
                coalesce(total, 'null') as total, payment_status, placed_at, version, position
         from {schema}.orders left join {schema}.quotes on order_id = id where id = $1",
    ))
    .bind(id)
    .fetch_optional(snapshot.connection())
    .await?;
    let refunds = "select reference, with_goods, at, amount, currency from {schema}.refunds
                   where order_id = $1 order by position, index";
    let refunds = sqlx::query_as(snapshot.sql(refunds)).bind(id).fetch_all(snapshot.connection()).await?;
    let timeline =
        "select kind, at, position from {schema}.timeline where order_id = $1 order by position, index";
    let timeline = sqlx::query_as(snapshot.sql(timeline)).bind(id).fetch_all(snapshot.connection()).await?;
    let position = snapshot.position().await?;
    Ok((order.map(|order| Whole { order, refunds, timeline }), position))
}
