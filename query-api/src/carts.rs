//! One cart, at the prices of the moment.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::cart::Changed;
use domain::commit::Hash;
use domain::{CartId, Money};
use infra::http::{MoneyBody, Path, Problem, TotalsBody};
use projections::carts;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::QueryApi;
use crate::answer::{Answer, Asked, Missing, unavailable};

/// A cart.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cart {
    id: Uuid,
    /// open or checked_out
    status: &'static str,
    lines: Vec<Line>,
    /// Null while it's empty, or while its lines can't be added up.
    total: Option<MoneyBody>,
    /// While it's checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<Uuid>,
    /// The last one; null if there never was one.
    quote: Option<Quote>,
}

/// What the cart was quoted, and whether that holds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CartQuote)]
pub(crate) struct Quote {
    quote_id: Uuid,
    expires_at: DateTime<Utc>,
    /// Where it goes.
    #[schema(example = "GB")]
    country: String,
    /// The region, if it has a tax of its own.
    region: Option<String>,
    totals: TotalsBody,
    /// Whether a checkout with it is charged just that.
    holds: bool,
    /// Why it does not hold: `quote_expired`, `lines_changed`, or `not_for_sale` of a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Quote {
    fn new(quoted: carts::Quoted, lines_changed: bool, lines: &[carts::Line], now: DateTime<Utc>) -> Self {
        let carts::Quoted { quote_id, country, region, totals, expires_at } = quoted;
        let reason = match () {
            () if lines_changed => Some(Changed::Lines.code()),
            () if now >= expires_at => Some(Changed::QuoteExpired.code()),
            () if lines.iter().any(|line| !line.for_sale) => Some("not_for_sale"),
            () => None,
        };
        let (totals, holds) = (totals.into(), reason.is_none());
        Self { quote_id: quote_id.0, expires_at, country, region, totals, holds, reason }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CartLine)]
pub(crate) struct Line {
    sku: String,
    title: String,
    quantity: i32,
    unit_price: MoneyBody,
    total: Option<MoneyBody>,
    /// False once the product has been withdrawn.
    for_sale: bool,
}

/// Get a cart
#[utoipa::path(get, path = "/v1/carts/{id}", tag = "carts",
    params(("id" = Uuid, Path), ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "At the prices of the moment, with its last quote", body = Cart,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 404, description = "`cart_not_found`, `not_found`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn get(
    State(api): State<Arc<QueryApi>>,
    Path(id): Path<CartId>,
    asked: Asked,
) -> Result<Response, Problem> {
    let model = api.fresh(carts::NAME, &asked).await?;
    let (cart, log_position) = carts::cart(&api.pool, &model, id.0).await.map_err(unavailable)?;
    let Some((cart, lines)) = cart else {
        let missing =
            Missing { code: "cart_not_found", detail: "there is no cart with this id", log_position };
        return Ok(missing.into_response());
    };
    let totals: Option<Vec<Money>> = lines.iter().map(line_total).collect();
    let total = totals.and_then(|totals| {
        let (first, rest) = totals.split_first()?;
        rest.iter().try_fold(*first, |sum, total| sum.plus(*total)).ok()
    });
    let now = api.clock.now();
    let quote = cart.quote.map(|quote| Quote::new(quote.0, cart.lines_changed, &lines, now));
    let body = Cart {
        id: cart.id,
        quote,
        status: if cart.order_id.is_some() { "checked_out" } else { "open" },
        lines: lines.into_iter().map(Line::from).collect(),
        total: total.map(MoneyBody::from),
        order_id: cart.order_id,
    };
    // The cart's own version, which If-Match compares, and what else changes what is shown: titles, prices.
    let shown = Hash::of(&serde_json::to_vec(&body).unwrap_or_default()).to_string();
    let version = format!("{}-{}", cart.version, &shown[..16]);
    Ok(Answer::private(body, log_position, &asked).etag(version, &asked).into_response())
}

fn line_total(line: &carts::Line) -> Option<Money> {
    line.price.times(line.quantity.cast_unsigned()).ok()
}

impl From<carts::Line> for Line {
    fn from(line: carts::Line) -> Self {
        let total = line_total(&line).map(MoneyBody::from);
        let carts::Line { sku, quantity, title, price, for_sale } = line;
        Self { sku, title, quantity, unit_price: price.0.into(), total, for_sale }
    }
}
