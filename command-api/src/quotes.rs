//! Quotes: what the checkout of a cart comes to, promised for a time.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::cart::{self, AskQuote, Command, Event};
use domain::{CartId, QuoteId};
use infra::http::{JsonBody, LineBody, Path, Problem, ShippingBody, TotalsBody};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::CommandApi;
use crate::request::{Answer, Asked};

/// Where it goes, and how.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuoteWanted {
    /// ISO 3166-1 alpha-2
    #[schema(example = "GB")]
    country: String,
    /// As in the address; it makes a difference where a region has a tax of its own.
    region: Option<String>,
    /// The first one that goes there, if none is named.
    #[schema(example = "express")]
    shipping_method: Option<String>,
}

/// What a checkout comes to. It holds until it expires, while it is the cart's last one and the lines stay
/// as they are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuoteBody {
    /// To be sent with the checkout.
    #[schema(value_type = uuid::Uuid)]
    quote_id: QuoteId,
    expires_at: DateTime<Utc>,
    /// Where it goes.
    #[schema(example = "GB")]
    country: String,
    /// The region, if it has a tax of its own.
    region: Option<String>,
    lines: Vec<LineBody>,
    totals: TotalsBody,
    /// All the ways there, of which the totals have the chosen one.
    shipping_methods: Vec<ShippingBody>,
}

/// Quote a cart
///
/// A checkout with the quote's id is charged exactly what was quoted, whatever the products cost by then.
#[utoipa::path(post, path = "/v1/carts/{id}/quote", tag = "carts", request_body = QuoteWanted,
    params(("id" = uuid::Uuid, Path), ("Idempotency-Key" = String, Header), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 201, description = "It holds until it expires", body = QuoteBody,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `idempotency_key_invalid`, `invalid_json`", body = Problem),
        (status = 404, description = "`cart_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`cart_checked_out` with `order_id`, `cart_empty`, `not_for_sale`, \
            `mixed_currencies`, `total_too_large`, `command_in_progress`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`: of a method that does not go there, too, and of a country that \
            nothing is shipped to; `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn quote(
    State(api): State<Arc<CommandApi>>,
    Path(cart_id): Path<CartId>,
    asked: Asked,
    JsonBody(body): JsonBody<QuoteWanted>,
) -> Result<Response, Problem> {
    let request = asked.with_key()?.request(&body);
    let quote_id = QuoteId::created_by(request.command_id);
    let executed = api
        .execute_with_offers(cart_id, &request, |offers, now| {
            let QuoteWanted { country, region, shipping_method } = body.clone();
            let terms = api.terms.clone();
            Command::Quote(Box::new(AskQuote {
                quote_id,
                country,
                region,
                shipping_method,
                offers,
                terms,
                now,
            }))
        })
        .await?;
    let quote = executed.events.into_iter().find_map(|event| match event {
        Event::Quoted(quote) => Some(quote),
        _ => None,
    });
    let quote = quote.unwrap_or_else(|| unreachable!("a quote is always an event"));
    let answer =
        Answer::new(StatusCode::CREATED, executed.sequence, executed.repeated, QuoteBody::from(quote));
    Ok(answer.etag(executed.version).into_response())
}

impl From<cart::Quote> for QuoteBody {
    fn from(quote: cart::Quote) -> Self {
        let cart::Quote { quote_id, lines, totals, country, region, shipping_methods, expires_at } = quote;
        Self {
            quote_id,
            expires_at,
            country,
            region,
            lines: lines.into_iter().map(LineBody::from).collect(),
            totals: totals.into(),
            shipping_methods: shipping_methods.into_iter().map(ShippingBody::from).collect(),
        }
    }
}
