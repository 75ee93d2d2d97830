//! Search, with facets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use infra::http::{Problem, Query};
use projections::search::{self as read_model, Filter};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::QueryApi;
use crate::answer::{Answer, Asked, cursor, limit, place, text, unavailable};
use crate::products::Product;

const QUERY_CHARS_MAX: usize = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchQuery {
    /// What the shopper typed, up to 200 characters; everything without.
    q: Option<String>,
    brand: Option<String>,
    /// Path from the widest on, such as `Audio` or `Audio>Headphones`.
    category: Option<String>,
    /// In minor units.
    min_price: Option<i64>,
    /// In minor units.
    max_price: Option<i64>,
    /// 1 to 100; 20 without.
    limit: Option<i64>,
    /// `next` of the page before.
    after: Option<String>,
}

/// A page of what was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Found {
    /// Best first.
    data: Vec<Product>,
    facets: Facets,
    /// To be given as `after` for the next page; null on the last.
    next: Option<String>,
    /// All hits, not only this page's.
    total: i64,
    /// What was searched for, where what was typed is found nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<String>,
}

/// How many hits there are by value, each facet without its own filter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Facets {
    brand: Vec<Facet>,
    category: Vec<Facet>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Facet {
    value: String,
    count: i64,
}

/// Search products
#[utoipa::path(get, path = "/v1/search", tag = "products",
    params(SearchQuery, ("Min-Log-Position" = Option<u64>, Header), ("Prefer" = Option<String>, Header)),
    responses(
        (status = 200, description = "Best first", body = Found, headers(("Log-Position" = u64))),
        (status = 400, description = "`invalid_parameter`, `invalid_cursor`", body = Problem),
        (status = 503, description = "`not_yet_projected`, `read_models_unavailable`", body = Problem),
    ))]
pub(crate) async fn search(
    State(api): State<Arc<QueryApi>>,
    asked: Asked,
    Query(query): Query<SearchQuery>,
) -> Result<Response, Problem> {
    let words = query.q.unwrap_or_default().replace('\0', " ");
    if words.chars().count() > QUERY_CHARS_MAX {
        return Err(Problem::bad_parameter(format!("q is at most {QUERY_CHARS_MAX} characters")));
    }
    let filter = Filter {
        text: words,
        brand: text("brand", query.brand)?,
        category: text("category", query.category)?,
        min_price: query.min_price,
        max_price: query.max_price,
        after: place(query.after.as_deref())?,
        limit: limit(query.limit)?,
    };
    let model = api.fresh(read_model::NAME, &asked).await?;
    let found = read_model::search(&api.pool, &model, &filter).await.map_err(unavailable)?;
    let product =
        |hit: read_model::Hit| Product::new(hit.sku.to_string(), hit.details, hit.price, hit.available);
    let body = Found {
        data: found.hits.into_iter().map(product).collect(),
        facets: Facets { brand: facets(found.brands), category: facets(found.categories) },
        next: found.next.as_ref().map(cursor),
        total: found.total,
        corrected: found.corrected,
    };
    Ok(Answer::shared(Json(body), found.log_position, &asked).into_response())
}

fn facets(found: Vec<read_model::Facet>) -> Vec<Facet> {
    found.into_iter().map(|read_model::Facet { value, count }| Facet { value, count }).collect()
}
