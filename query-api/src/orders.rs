//! One order, and how it came to be what it is.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::OrderId;
use infra::http::{LineBody, MoneyBody, Path, Problem, ShippingBody, TaxBody, TotalsBody};
use projections::orders;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::QueryApi;
use crate::answer::{Answer, Asked, Missing, unavailable};

/// An order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Order {
    id: Uuid,
    /// In the shop that it was imported from.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<String>,
    /// Where it goes: ISO 3166-1, or as the record that it was imported from has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<String>,
    /// pending, confirmed, cancelled or imported
    status: String,
    /// Why it was cancelled: out_of_stock, payment_declined, payment_timed_out or
    /// cancelled_by_buyer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    lines: Vec<LineBody>,
    /// Of the lines; absent, with shipping and tax, where only the total is known: of imported orders, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    subtotal: Option<MoneyBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shipping: Option<ShippingBody>,
    /// Absent where none is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    tax: Option<TaxBody>,
    /// What is paid.
    total: Option<MoneyBody>,
    payment: Payment,
    placed_at: DateTime<Utc>,
    /// What was given back of an imported order, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refunds: Vec<Refund>,
    /// Oldest first.
    timeline: Vec<Step>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrderPayment)]
pub(crate) struct Payment {
    /// none, pending, declined, authorized, captured, voided or refunded
    status: String,
}

/// Something of what the order cost was given back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Refund {
    reference: String,
    /// Goods came back for it.
    with_goods: bool,
    at: DateTime<Utc>,
    amount: MoneyBody,
}

/// Something that happened to the order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Step {
    #[serde(rename = "type")]
    #[schema(example = "order.placed")]
    kind: String,
    at: DateTime<Utc>,
    /// In the log.
    position: i64,
}

/// Get an order
#[utoipa::path(get, path = "/v1/orders/{id}", tag = "orders",
    params(("id" = Uuid, Path), ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "With all that happened to it", body = Order,
            headers(("ETag" = String, description = "\"<order version>-<what else changes>\""), ("Log-Position" = u64))),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn get(
    State(api): State<Arc<QueryApi>>,
    Path(id): Path<OrderId>,
    asked: Asked,
) -> Result<Response, Problem> {
    let model = api.fresh(orders::NAME, &asked).await?;
    let (order, log_position) = orders::order(&api.pool, &model, id.0).await.map_err(unavailable)?;
    let Some(whole) = order else {
        let missing =
            Missing { code: "order_not_found", detail: "there is no order with this id", log_position };
        return Ok(missing.into_response());
    };
    // The order's own version, which If-Match compares, and what else changes what is shown.
    let steps = whole.timeline.len();
    let version = format!("{}-{}-{steps}", whole.order.version, whole.order.position);
    Ok(Answer::private(Order::from(whole), log_position, &asked).etag(version, &asked).into_response())
}

impl From<orders::Refund> for Refund {
    fn from(refund: orders::Refund) -> Self {
        let orders::Refund { reference, with_goods, at, amount, currency } = refund;
        // Rows are written with currencies that there are.
        let currency = currency.parse().unwrap_or_else(|_| unreachable!("{currency} is a currency"));
        Self { reference, with_goods, at, amount: domain::Money::new(amount, currency).into() }
    }
}

impl From<orders::Whole> for Order {
    fn from(orders::Whole { order, refunds, timeline }: orders::Whole) -> Self {
        let step = |orders::TimelineEntry { kind, at, position }| Step { kind, at, position };
        let (subtotal, shipping, tax) = match order.totals.0.map(TotalsBody::from) {
            Some(TotalsBody { subtotal, shipping, tax, .. }) => (Some(subtotal), Some(shipping), tax),
            None => (None, None, None),
        };
        Self {
            id: order.id,
            number: order.number,
            country: order.country,
            status: order.status,
            reason: order.reason,
            lines: order.lines.0.into_iter().map(LineBody::from).collect(),
            subtotal,
            shipping,
            tax,
            total: order.total.0.map(MoneyBody::from),
            payment: Payment { status: order.payment_status },
            placed_at: order.placed_at,
            refunds: refunds.into_iter().map(Refund::from).collect(),
            timeline: timeline.into_iter().map(step).collect(),
        }
    }
}
