//! An order as queries see it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::Money;
use domain::order::{Line, Units};
use domain::payment::Amounts;
use domain::totals::Totals;
use infra::read_models::ReadModel;
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

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
    /// Of a checkout here, unless it was before there were any.
    pub totals: Json<Option<Totals>>,
    pub payment_status: String,
    pub payment: Option<Json<Amounts>>,
    pub ordered: i64,
    pub shipped: i64,
    pub returned: i64,
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

/// Goods that went to the buyer, or came back.
#[derive(Debug, Clone, FromRow)]
pub struct Parcel {
    /// Of the shipment, or of the return.
    pub id: Uuid,
    pub is_return: bool,
    pub at: DateTime<Utc>,
    pub lines: Json<Vec<Units>>,
    /// `carrier`, `tracking_number` and `tracking_url` of a shipment; `reason` of a return.
    pub about: Json<BTreeMap<String, String>>,
}

/// An order, what was given back of it, and all that happened to it.
#[derive(Debug, Clone)]
pub struct Whole {
    pub order: Order,
    pub refunds: Vec<Refund>,
    pub parcels: Vec<Parcel>,
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
                coalesce(total, 'null') as total, coalesce(totals, 'null') as totals, payment_status, payment,
                ordered, shipped, returned, placed_at, version, position
         from {schema}.orders left join {schema}.quotes on order_id = id where id = $1",
    ))
    .bind(id)
    .fetch_optional(snapshot.connection())
    .await?;
    let refunds = "select reference, with_goods, at, amount, currency from {schema}.refunds
                   where order_id = $1 order by position, index";
    let refunds = sqlx::query_as(snapshot.sql(refunds)).bind(id).fetch_all(snapshot.connection()).await?;
    let parcels = "select id, is_return, at, lines, about from {schema}.parcels
                   where order_id = $1 order by position, index";
    let parcels = sqlx::query_as(snapshot.sql(parcels)).bind(id).fetch_all(snapshot.connection()).await?;
    let timeline =
        "select kind, at, position from {schema}.timeline where order_id = $1 order by position, index";
    let timeline = sqlx::query_as(snapshot.sql(timeline)).bind(id).fetch_all(snapshot.connection()).await?;
    let position = snapshot.position().await?;
    Ok((order.map(|order| Whole { order, refunds, parcels, timeline }), position))
}
