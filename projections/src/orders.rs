//! Orders: what became of each, step by step.

use std::borrow::Cow;
use std::collections::BTreeMap;

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

use crate::projection::{Happened, Projection};
use crate::rows::Table;

pub const NAME: &str = "orders";

const ORDERS: Table = Table {
    name: "orders",
    key: "id",
    key_type: "uuid",
    columns: &["cart_id", "status", "reason", "total", "payment_status", "placed_at", "version", "position"],
};

/// Apart from what changes: an order of a thousand lines is touched some thousand times.
const QUOTES: Table = Table { name: "quotes", key: "order_id", key_type: "uuid", columns: &["lines"] };

pub struct Orders;

/// A row of `orders`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: OrderId,
    cart_id: Option<Uuid>,
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

/// A row of `quotes`.
#[derive(Debug, Serialize)]
struct Quote<'a> {
    order_id: OrderId,
    lines: &'a [Line],
}

/// A row of `timeline`.
#[derive(Debug, Clone, Serialize)]
struct Step<'a> {
    order_id: OrderId,
    position: u64,
    index: u32,
    kind: &'a str,
    at: DateTime<Utc>,
}

impl Projection for Orders {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        1
    }

    fn categories(&self) -> &'static [&'static str] {
        &[cart::CATEGORY, order::CATEGORY, payment::CATEGORY, stock::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[("orders", "id"), ("quotes", "order_id"), ("timeline", "order_id, position, index")]
    }

    fn definition(&self) -> &'static str {
        "create table orders (
             id uuid primary key,
             cart_id uuid,
             status text not null,
             reason text,
             total jsonb,
             payment_status text not null,
             placed_at timestamptz not null,
             version bigint not null,
             position bigint not null
         ) with (fillfactor = 70);
         create table quotes (
             order_id uuid primary key,
             lines jsonb not null
         );
         create table timeline (
             order_id uuid,
             position bigint,
             index int,
             kind text not null,
             at timestamptz not null,
             primary key (order_id, position, index)
         )"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &["create index on orders (placed_at, id)"]
    }

    fn lanes(&self) -> u64 {
        2
    }

    fn key<'a>(&self, happened: &'a Happened) -> Option<Cow<'a, str>> {
        order_of(happened).map(|id| id.to_string().into())
    }

    fn apply<'a>(
        &'a self,
        batch: &'a [Happened],
        transaction: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let ours = batch.iter().filter_map(|happened| Some((order_of(happened)?, happened)));
            let ours: Vec<(OrderId, &Happened)> = ours.collect();
            let mut keys: Vec<_> = ours.iter().map(|(id, _)| id.to_string()).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut rows: BTreeMap<String, Row> = ORDERS.load(&keys, transaction).await?;
            for (id, happened) in &ours {
                rows.entry(id.to_string()).or_insert_with(|| Row::new(*id, happened.at)).fold(happened);
            }
            ORDERS.store(rows.values(), transaction).await?;
            QUOTES.store(quotes(&ours).values(), transaction).await?;
            add_steps(&ours, transaction).await
        }
        .boxed()
    }
}

/// The order that the event is about.
fn order_of(happened: &Happened) -> Option<OrderId> {
    match &happened.event {
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

/// The last quote of each order; they're all the same, for the order is placed with the cart's.
fn quotes<'a>(ours: &[(OrderId, &'a Happened)]) -> BTreeMap<OrderId, Quote<'a>> {
    let quote = |(order_id, happened): &(OrderId, &'a Happened)| {
        let (Event::Cart(cart::Event::CheckedOut { lines, .. })
        | Event::Order(order::Event::Placed { lines, .. })) = &happened.event
        else {
            return None;
        };
        Some((*order_id, Quote { order_id: *order_id, lines }))
    };
    ours.iter().filter_map(quote).collect()
}

async fn add_steps(ours: &[(OrderId, &Happened)], transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    let step = |(order_id, happened): &(OrderId, &'_ Happened)| {
        let Happened { position, index, at, .. } = **happened;
        serde_json::to_value(Step { order_id: *order_id, position, index, kind: &happened.kind, at })
    };
    let steps = ours.iter().map(step).collect::<Result<Vec<_>, _>>();
    let steps = steps.map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query("insert into timeline select * from jsonb_populate_recordset(null::timeline, $1)")
        .bind(Json(steps))
        .execute(transaction)
        .await?;
    Ok(())
}

impl Row {
    fn new(id: OrderId, placed_at: DateTime<Utc>) -> Self {
        Self {
            id,
            cart_id: None,
            status: "pending".to_owned(),
            reason: None,
            total: None,
            payment_status: PaymentStatus::None.code().to_owned(),
            placed_at,
            version: 0,
            position: 0,
        }
    }

    fn fold(&mut self, happened: &Happened) {
        self.position = happened.position;
        match &happened.event {
            // The checkout was accepted, so the order can be seen, though it's not placed yet.
            Event::Cart(cart::Event::CheckedOut { total, .. }) => {
                self.cart_id = happened.stream.id().parse().ok();
                self.total = Some(*total);
            }
            Event::Order(event) => {
                self.version = happened.version;
                self.order(event);
            }
            Event::Payment(event) => self.payment(event),
            Event::Product(_) | Event::Stock(_) | Event::Cart(_) => {}
        }
    }

    fn order(&mut self, event: &order::Event) {
        match event {
            order::Event::Placed { cart_id, total, .. } => {
                self.cart_id = Some(cart_id.0);
                self.total = Some(*total);
            }
            order::Event::Confirmed {} => self.status = "confirmed".to_owned(),
            order::Event::CancellationRequested {} => {}
            order::Event::Cancelled { reason } => {
                self.status = "cancelled".to_owned();
                self.reason = Some(reason.code().to_owned());
            }
            order::Event::Imported { total, .. } => {
                self.status = "imported".to_owned();
                self.total = Some(*total);
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

/// One thing that happened to an order.
#[derive(Debug, Clone, FromRow)]
pub struct TimelineEntry {
    pub kind: String,
    pub at: DateTime<Utc>,
    pub position: i64,
}

/// The order and its timeline, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn order(
    pool: &PgPool,
    model: &ReadModel,
    id: Uuid,
) -> Result<(Option<(Order, Vec<TimelineEntry>)>, u64), sqlx::Error> {
    let mut snapshot = model.snapshot(pool).await?;
    let order: Option<Order> = sqlx::query_as(snapshot.sql(
        "select id, status, reason, coalesce(lines, '[]') as lines, coalesce(total, 'null') as total,
                payment_status, placed_at, version, position
         from {schema}.orders left join {schema}.quotes on order_id = id where id = $1",
    ))
    .bind(id)
    .fetch_optional(snapshot.connection())
    .await?;
    let timeline =
        "select kind, at, position from {schema}.timeline where order_id = $1 order by position, index";
    let timeline = sqlx::query_as(snapshot.sql(timeline)).bind(id).fetch_all(snapshot.connection()).await?;
    let position = snapshot.position().await?;
    Ok((order.map(|order| (order, timeline)), position))
}
