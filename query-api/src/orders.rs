//! One order, and how it came to be what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
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
    /// pending, confirmed, completed (paid and shipped), cancelled or imported
    status: String,
    /// Why it was cancelled: out_of_stock, reservation_timed_out, payment_declined, payment_timed_out,
    /// payment_mismatch, not_shipped, cancelled_by_buyer or abandoned.
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
    fulfilment: Fulfilment,
    placed_at: DateTime<Utc>,
    /// What was given back, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refunds: Vec<Refund>,
    /// Oldest first.
    timeline: Vec<Step>,
}

/// What was asked for, and what the provider did; amounts are in minor units of the order's currency.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrderPayment)]
pub(crate) struct Payment {
    /// none, pending, action_required, declined, partially_authorized, authorized, partially_captured, captured,
    /// overcharged, partially_refunded, refunded, voided or charged_back
    status: String,
    authorized: i64,
    captured: i64,
    refunded: i64,
    charged_back: i64,
}

/// Where the goods are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Fulfilment {
    /// unfulfilled, partially_shipped, shipped, partially_returned or returned
    status: &'static str,
    /// Oldest first.
    shipments: Vec<Parcel>,
    /// Oldest first.
    returns: Vec<Parcel>,
}

/// Goods that went to the buyer, or came back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Parcel {
    id: Uuid,
    at: DateTime<Utc>,
    lines: Vec<Units>,
    /// `carrier`, `tracking_number` and `tracking_url` of a shipment; `reason` of a return.
    #[serde(flatten)]
    about: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Units {
    sku: String,
    quantity: u32,
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
    Ok(Answer::private(Json(Order::from(whole)), log_position, &asked).etag(version, &asked).into_response())
}

impl From<orders::Refund> for Refund {
    fn from(refund: orders::Refund) -> Self {
        let orders::Refund { reference, with_goods, at, amount, currency } = refund;
        // Rows are written with currencies that there are.
        let currency = currency.parse().unwrap_or_else(|_| unreachable!("{currency} is a currency"));
        Self { reference, with_goods, at, amount: domain::Money::new(amount, currency).into() }
    }
}

impl From<orders::Parcel> for Parcel {
    fn from(parcel: orders::Parcel) -> Self {
        let units =
            |units: domain::order::Units| Units { sku: units.sku.to_string(), quantity: units.quantity };
        let lines = parcel.lines.0.into_iter().map(units).collect();
        Self { id: parcel.id, at: parcel.at, lines, about: parcel.about.0 }
    }
}

/// Confirmed, paid and shipped: nothing more is to come.
fn is_completed(order: &orders::Order) -> bool {
    let is_paid = order.payment.as_ref().is_some_and(|amounts| amounts.captured >= amounts.requested);
    order.status == "confirmed" && order.ordered > 0 && order.shipped >= order.ordered && is_paid
}

fn payment(order: &orders::Order) -> Payment {
    let amounts = order.payment.as_ref().map(|amounts| amounts.0.clone()).unwrap_or_default();
    Payment {
        status: order.payment_status.clone(),
        authorized: amounts.authorized,
        captured: amounts.captured,
        refunded: amounts.refunded,
        charged_back: amounts.taken_back(),
    }
}

fn fulfilment(order: &orders::Order, parcels: Vec<orders::Parcel>) -> Fulfilment {
    let units = |units: i64| u64::try_from(units).unwrap_or_default();
    let (ordered, shipped, returned) = (units(order.ordered), units(order.shipped), units(order.returned));
    let (returns, shipments): (Vec<_>, Vec<_>) = parcels.into_iter().partition(|parcel| parcel.is_return);
    Fulfilment {
        status: domain::order::fulfilment_status(ordered, shipped, returned),
        shipments: shipments.into_iter().map(Parcel::from).collect(),
        returns: returns.into_iter().map(Parcel::from).collect(),
    }
}

impl From<orders::Whole> for Order {
    fn from(orders::Whole { order, refunds, parcels, timeline }: orders::Whole) -> Self {
        let step = |orders::TimelineEntry { kind, at, position }| Step { kind, at, position };
        let (payment, fulfilment) = (payment(&order), fulfilment(&order, parcels));
        let status = if is_completed(&order) { "completed".to_owned() } else { order.status };
        let (subtotal, shipping, tax) = match order.totals.0.map(TotalsBody::from) {
            Some(TotalsBody { subtotal, shipping, tax, .. }) => (Some(subtotal), Some(shipping), tax),
            None => (None, None, None),
        };
        Self {
            id: order.id,
            number: order.number,
            country: order.country,
            status,
            reason: order.reason,
            lines: order.lines.0.into_iter().map(LineBody::from).collect(),
            subtotal,
            shipping,
            tax,
            total: order.total.0.map(MoneyBody::from),
            payment,
            fulfilment,
            placed_at: order.placed_at,
            refunds: refunds.into_iter().map(Refund::from).collect(),
            timeline: timeline.into_iter().map(step).collect(),
        }
    }
}
