//! Stock: received and adjusted.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::Sku;
use domain::stock::Command;
use infra::http::{JsonBody, Path, Problem, whole_number};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::CommandApi;
use crate::error::{no_product, problem, unreadable};
use crate::request::{Answer, Asked};

/// Units that came in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receipt {
    /// 1 to 1,000,000
    #[serde(deserialize_with = "whole_number")]
    quantity: u32,
}

/// A correction of what is on the shelf.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adjustment {
    /// Units more, or fewer if negative; within ±1,000,000
    delta: i64,
    reason: String,
}

/// Stock after a command.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StockVersion {
    #[schema(value_type = String)]
    sku: Sku,
    version: u64,
}

/// Receive units of a product
#[utoipa::path(post, path = "/v1/stock/{sku}/receipts", tag = "stock", request_body = Receipt,
    params(("sku" = String, Path), ("Idempotency-Key" = String, Header)),
    responses(
        (status = 201, description = "They are on the shelf", body = StockVersion, headers(("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 404, description = "`product_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`too_much_stock`, `command_in_progress`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn receive(
    State(api): State<Arc<CommandApi>>,
    Path(sku): Path<Sku>,
    asked: Asked,
    JsonBody(body): JsonBody<Receipt>,
) -> Result<Response, Problem> {
    let asked = asked.with_key()?;
    api.move_stock(sku, asked, &body, Command::Receive { quantity: body.quantity }).await
}

/// Correct the stock of a product
#[utoipa::path(post, path = "/v1/stock/{sku}/adjustments", tag = "stock", request_body = Adjustment,
    params(("sku" = String, Path), ("Idempotency-Key" = String, Header)),
    responses(
        (status = 201, description = "It is corrected", body = StockVersion, headers(("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 404, description = "`product_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`not_enough_stock`, `too_much_stock`, `command_in_progress`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn adjust(
    State(api): State<Arc<CommandApi>>,
    Path(sku): Path<Sku>,
    asked: Asked,
    JsonBody(body): JsonBody<Adjustment>,
) -> Result<Response, Problem> {
    let asked = asked.with_key()?;
    let command = Command::Adjust { delta: body.delta, reason: body.reason.clone() };
    api.move_stock(sku, asked, &body, command).await
}

impl CommandApi {
    async fn move_stock(
        &self,
        sku: Sku,
        asked: Asked,
        body: &impl Serialize,
        command: Command,
    ) -> Result<Response, Problem> {
        let request = asked.request(body);
        let _turn = self.in_progress.turn(request.command_id).await?;
        if !self.executors.products.exists(&sku).await.map_err(unreadable)? {
            return Err(no_product());
        }
        let executed = self.executors.stock.execute(&sku, &request, command).await.map_err(problem)?;
        let body = StockVersion { sku, version: executed.version };
        Ok(Answer::new(StatusCode::CREATED, executed.sequence, executed.repeated, body).into_response())
    }
}
