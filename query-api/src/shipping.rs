//! The ways to ship that the shop's terms have.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use domain::terms::{Method, Offered};
use domain::{Country, Currency};
use infra::http::{MoneyBody, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::QueryApi;

/// They change when the shop starts with other terms; a quote says what holds.
const FOR_A_MINUTE: (axum::http::HeaderName, &str) = (CACHE_CONTROL, "public, max-age=60");

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Where {
    /// ISO 3166-1 alpha-2, such as GB.
    country: String,
    /// ISO 4217, such as GBP.
    currency: String,
}

/// A way to ship.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShippingMethod {
    #[schema(example = "express")]
    method: String,
    #[schema(example = "Express delivery")]
    name: String,
    price: MoneyBody,
    /// The subtotal from which on it costs nothing; null where there is none.
    free_from: Option<MoneyBody>,
    /// Working days that it takes: `3` or `3-5`; null where the shop doesn't say.
    delivery_days: Option<String>,
}

/// The ways to ship somewhere.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShippingMethods {
    /// The first is taken where none is named; empty where nothing is shipped to.
    data: Vec<ShippingMethod>,
    /// Always null: they fit on a page.
    next: Option<String>,
}

/// List the shipping methods
#[utoipa::path(get, path = "/v1/shipping-methods", tag = "carts", params(Where),
    responses(
        (status = 200, description = "Those that go there, with what they cost in the currency", body = ShippingMethods),
        (status = 400, description = "`invalid_parameter`", body = Problem),
    ))]
pub(crate) async fn methods(
    State(api): State<Arc<QueryApi>>,
    Query(Where { country, currency }): Query<Where>,
) -> Result<Response, Problem> {
    let country: Country = country.parse().map_err(|error| bad_parameter("country", &error))?;
    let currency: Currency = currency.parse().map_err(|error| bad_parameter("currency", &error))?;
    let data = api.terms.offered(country, currency).map(ShippingMethod::from).collect();
    Ok(([FOR_A_MINUTE], Json(ShippingMethods { data, next: None })).into_response())
}

fn bad_parameter(name: &str, error: &dyn std::error::Error) -> Problem {
    Problem::bad_parameter(format!("{name}: {error}"))
}

impl From<Offered<'_>> for ShippingMethod {
    fn from(Offered { method, price, free_from }: Offered<'_>) -> Self {
        let Method { code, name, delivery_days, .. } = method.clone();
        let free_from = free_from.map(MoneyBody::from);
        Self { method: code, name, price: price.into(), free_from, delivery_days }
    }
}
