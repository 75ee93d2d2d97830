//! Products: created, changed, priced and withdrawn.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::Sku;
use domain::product::{Changes, Command, Details, Product};
use infra::execute::{Executed, Request};
use infra::http::{JsonBody, MoneyBody, Path, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::CommandApi;
use crate::error::{problem, unreadable};
use crate::request::{Answer, Asked};

/// A product to be created.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProduct {
    /// 1 to 64 of the characters A-Z a-z 0-9 . _ -
    #[schema(value_type = String, example = "KET-01")]
    sku: Sku,
    title: String,
    #[serde(default)]
    description: String,
    brand: String,
    /// Path from the widest to the narrowest.
    #[schema(example = json!(["Audio", "Headphones"]))]
    category: Vec<String>,
    price: MoneyBody,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    /// http or https URLs.
    #[serde(default)]
    images: Vec<String>,
    /// Global trade item numbers, with their check digit.
    #[serde(default)]
    gtins: Vec<String>,
}

/// What is to be different: a merge patch (RFC 7396).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductChanges {
    title: Option<String>,
    description: Option<String>,
    brand: Option<String>,
    category: Option<Vec<String>>,
    /// By name; null removes one.
    attributes: Option<BTreeMap<String, Option<String>>>,
    images: Option<Vec<String>>,
    gtins: Option<Vec<String>>,
}

/// A product after a command.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProductVersion {
    #[schema(value_type = String)]
    sku: Sku,
    /// Of the product, without its stock.
    version: u64,
}

/// Create a product
#[utoipa::path(post, path = "/v1/products", tag = "products", request_body = NewProduct,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters of your choice")),
    responses(
        (status = 201, description = "It is created", body = ProductVersion,
            headers(("Location" = String), ("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 409, description = "`product_exists`, `command_in_progress`", body = Problem),
        (status = 413, description = "`body_too_large`", body = Problem),
        (status = 415, description = "`unsupported_media_type`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn create(
    State(api): State<Arc<CommandApi>>,
    asked: Asked,
    JsonBody(body): JsonBody<NewProduct>,
) -> Result<Response, Problem> {
    let request = asked.with_key()?.request(&body);
    let NewProduct { sku, title, description, brand, category, price, attributes, images, gtins } = body;
    let details = Details { title, description, brand, category, attributes, images, gtins };
    let command = Command::Create { sku: sku.clone(), details, price: price.into() };
    let location = format!("/v1/products/{sku}");
    api.recent.check(&request)?;
    let answer = api.product(StatusCode::CREATED, sku, &request, command).await?;
    api.recent.done(&request);
    Ok(answer.location(location).into_response())
}

/// Change a product's details
#[utoipa::path(patch, path = "/v1/products/{sku}", tag = "products", request_body = ProductChanges,
    params(("sku" = String, Path), ("If-Match" = String, Header, description = "The ETag last seen"),
        ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, description = "It is as asked", body = ProductVersion,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`invalid_json`, `invalid_parameter`", body = Problem),
        (status = 404, description = "`product_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`product_withdrawn`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 428, description = "`precondition_required`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn change(
    State(api): State<Arc<CommandApi>>,
    Path(sku): Path<Sku>,
    asked: Asked,
    JsonBody(body): JsonBody<ProductChanges>,
) -> Result<Response, Problem> {
    let request = asked.with_version()?.request(&body);
    let ProductChanges { title, description, brand, category, attributes, images, gtins } = body;
    let changes = Changes { title, description, brand, category, attributes, images, gtins };
    Ok(api.product(StatusCode::OK, sku, &request, Command::Change(changes)).await?.into_response())
}

/// Change a product's price
#[utoipa::path(post, path = "/v1/products/{sku}/price", tag = "products", request_body = MoneyBody,
    params(("sku" = String, Path), ("If-Match" = String, Header, description = "The ETag last seen"),
        ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, description = "It is as asked", body = ProductVersion,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`invalid_json`, `invalid_parameter`", body = Problem),
        (status = 404, description = "`product_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`product_withdrawn`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`, `idempotency_key_reused`", body = Problem),
        (status = 428, description = "`precondition_required`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn set_price(
    State(api): State<Arc<CommandApi>>,
    Path(sku): Path<Sku>,
    asked: Asked,
    JsonBody(body): JsonBody<MoneyBody>,
) -> Result<Response, Problem> {
    let request = asked.with_version()?.request(&body);
    let command = Command::SetPrice { price: body.into() };
    Ok(api.product(StatusCode::OK, sku, &request, command).await?.into_response())
}

/// Withdraw a product from sale, for good
#[utoipa::path(post, path = "/v1/products/{sku}/withdraw", tag = "products",
    params(("sku" = String, Path), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, description = "It is withdrawn", body = ProductVersion,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`invalid_parameter`", body = Problem),
        (status = 404, description = "`product_not_found`, `not_found`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn withdraw(
    State(api): State<Arc<CommandApi>>,
    Path(sku): Path<Sku>,
    asked: Asked,
) -> Result<Response, Problem> {
    let request = asked.request(&());
    Ok(api.product(StatusCode::OK, sku, &request, Command::Withdraw).await?.into_response())
}

impl CommandApi {
    async fn product(
        &self,
        status: StatusCode,
        sku: Sku,
        request: &Request,
        command: Command,
    ) -> Result<Answer<ProductVersion>, Problem> {
        let _turn = self.in_progress.turn(request.command_id).await?;
        let executed = self.executors.products.execute(&sku, request, command).await;
        let Executed { sequence, version, repeated, .. }: Executed<Product> = executed.map_err(problem)?;
        self.offers.changed(sequence);
        let stock_version = self.executors.stock.version(&sku).await.map_err(unreadable)?;
        let answer = Answer::new(status, sequence, repeated, ProductVersion { sku, version });
        Ok(answer.etag(format!("{version}-{stock_version}")))
    }
}
