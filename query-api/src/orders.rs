//! One order, and how it came to be what it is.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::OrderId;
use infra::http::{MoneyBody, Path, Problem};
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
    /// pending, confirmed or cancelled
    status: String,
    /// Why it was cancelled: out_of_stock, payment_declined, payment_timed_out or
    /// cancelled_by_buyer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    lines: Vec<Line>,
    total: Option<MoneyBody>,
    payment: Payment,
    placed_at: DateTime<Utc>,
    /// Oldest first.
    timeline: Vec<Step>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Line {
    sku: String,
    title: String,
    quantity: u32,
    unit_price: MoneyBody,
    total: MoneyBody,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Payment {
    /// none, pending, declined, authorized, captured, voided or refunded
    status: String,
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
            headers(("ETag" = String, description = "\"<order version>-<last position>\""), ("Log-Position" = u64))),
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
    let Some((order, timeline)) = order else {
        let missing =
            Missing { code: "order_not_found", detail: "there is no order with this id", log_position };
        return Ok(missing.into_response());
    };
    // The order's own version, which If-Match compares, and what else changes what is shown.
    let version = format!("{}-{}", order.version, order.position);
    Ok(Answer::private(Order::new(order, timeline), log_position, &asked)
        .etag(version, &asked)
        .into_response())
}

impl Order {
    fn new(order: orders::Order, timeline: Vec<orders::TimelineEntry>) -> Self {
        let line = |line: domain::order::Line| Line {
            sku: line.sku.to_string(),
            title: line.title,
            quantity: line.quantity,
            unit_price: line.unit_price.into(),
            total: line.total.into(),
        };
        let step = |orders::TimelineEntry { kind, at, position }| Step { kind, at, position };
        Self {
            id: order.id,
            status: order.status,
            reason: order.reason,
            lines: order.lines.0.into_iter().map(line).collect(),
            total: order.total.0.map(MoneyBody::from),
            payment: Payment { status: order.payment_status },
            placed_at: order.placed_at,
            timeline: timeline.into_iter().map(step).collect(),
        }
    }
}
