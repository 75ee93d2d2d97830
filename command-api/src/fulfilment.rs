//! Orders after they are confirmed: shipped, sent back, refunded.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::order::{Command, Parcel, RefundAsked, ReturnAsked, ShipmentAsked, Units};
use domain::{OrderId, Sku};
use infra::http::{JsonBody, MoneyBody, Path, Problem, whole_number};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::CommandApi;
use crate::error::problem;
use crate::request::{Answer, Asked};

/// So many units of one product.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineUnits {
    #[schema(value_type = String)]
    sku: Sku,
    /// At least 1
    #[serde(deserialize_with = "whole_number")]
    quantity: u32,
}

/// A parcel that goes to the buyer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewShipment {
    /// What is in it; all that is left, without.
    #[serde(default)]
    lines: Vec<LineUnits>,
    #[schema(example = "Royal Mail")]
    carrier: Option<String>,
    tracking_number: Option<String>,
    /// http or https
    tracking_url: Option<String>,
}

/// Goods that came back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewReturn {
    /// What came back; all that the buyer has, without.
    #[serde(default)]
    lines: Vec<LineUnits>,
    /// What is paid back for it; what the lines cost, without, and nothing if it is 0.
    refund: Option<MoneyBody>,
    #[schema(example = "too small")]
    reason: String,
}

/// Money that is paid back without goods.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRefund {
    /// All that is left, without.
    amount: Option<MoneyBody>,
    #[schema(example = "a scratch")]
    reason: String,
}

/// What was recorded, and the order's version with it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Recorded {
    /// Of the shipment, return or refund.
    id: Uuid,
    #[schema(value_type = Uuid)]
    order_id: OrderId,
    version: u64,
}

/// Ship an order, or a part of it
///
/// Where the money is taken at shipment, all of it is taken with the first parcel.
#[utoipa::path(post, path = "/v1/orders/{id}/shipments", tag = "orders", request_body = NewShipment,
    params(("id" = Uuid, Path), ("Idempotency-Key" = String, Header), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 201, description = "It is on its way", body = Recorded,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`order_not_confirmed`, `order_cancelled`, `not_ordered`, \
            `nothing_to_ship` with `sku` and `left`, `command_in_progress`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn ship(
    State(api): State<Arc<CommandApi>>,
    Path(order_id): Path<OrderId>,
    asked: Asked,
    JsonBody(body): JsonBody<NewShipment>,
) -> Result<Response, Problem> {
    let command = |shipment_id, body: NewShipment| {
        let NewShipment { lines, carrier, tracking_number, tracking_url } = body;
        let parcel = Parcel { carrier, tracking_number, tracking_url };
        Command::Ship(ShipmentAsked { shipment_id, lines: units(lines), parcel })
    };
    api.after_confirmation(order_id, asked, body, command).await
}

/// Take goods back
///
/// They are on the shelf again, and what they cost is paid back.
#[utoipa::path(post, path = "/v1/orders/{id}/returns", tag = "orders", request_body = NewReturn,
    params(("id" = Uuid, Path), ("Idempotency-Key" = String, Header), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 201, description = "They are back", body = Recorded,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`order_not_confirmed`, `order_cancelled`, `not_ordered`, \
            `nothing_to_return` with `sku` and `left`, `more_than_paid` with `kept`, `command_in_progress`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn take_back(
    State(api): State<Arc<CommandApi>>,
    Path(order_id): Path<OrderId>,
    asked: Asked,
    JsonBody(body): JsonBody<NewReturn>,
) -> Result<Response, Problem> {
    let command = |return_id, body: NewReturn| {
        let NewReturn { lines, refund, reason } = body;
        let (lines, refund) = (units(lines), refund.map(Into::into));
        Command::Return(ReturnAsked { return_id, lines, refund, reason })
    };
    api.after_confirmation(order_id, asked, body, command).await
}

/// Give money back
///
/// It is paid back as soon as the provider has it done; if the provider refuses, the order says so.
#[utoipa::path(post, path = "/v1/orders/{id}/refunds", tag = "orders", request_body = NewRefund,
    params(("id" = Uuid, Path), ("Idempotency-Key" = String, Header), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 201, description = "It is on its way", body = Recorded,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`order_not_confirmed`, `order_cancelled`, `more_than_paid` with `kept`, \
            `command_in_progress`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn refund(
    State(api): State<Arc<CommandApi>>,
    Path(order_id): Path<OrderId>,
    asked: Asked,
    JsonBody(body): JsonBody<NewRefund>,
) -> Result<Response, Problem> {
    let command = |refund_id, body: NewRefund| {
        let NewRefund { amount, reason } = body;
        Command::Refund(RefundAsked { refund_id, amount: amount.map(Into::into), reason })
    };
    api.after_confirmation(order_id, asked, body, command).await
}

fn units(lines: Vec<LineUnits>) -> Vec<Units> {
    lines.into_iter().map(|LineUnits { sku, quantity }| Units { sku, quantity }).collect()
}

impl CommandApi {
    /// The id of what is recorded follows from the command's, so that a repeat names the same.
    async fn after_confirmation<B: Serialize>(
        &self,
        order_id: OrderId,
        asked: Asked,
        body: B,
        command: impl FnOnce(Uuid, B) -> Command,
    ) -> Result<Response, Problem> {
        let request = asked.with_key()?.request(&body);
        let _turn = self.in_progress.turn(request.command_id).await?;
        let id = request.command_id.step("recorded").0;
        let command = command(id, body);
        let executed = self.executors.orders.execute(order_id, &request, command).await.map_err(problem)?;
        let recorded = Recorded { id, order_id, version: executed.version };
        let answer = Answer::new(StatusCode::CREATED, executed.sequence, executed.repeated, recorded);
        let location = format!("/v1/orders/{order_id}");
        Ok(answer.etag(executed.version).location(location).into_response())
    }
}
