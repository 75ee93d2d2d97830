//! HTTP queries: what the read models know, and up to which position in the log.

mod answer;
mod carts;
mod orders;
mod product_cache;
mod products;
mod reports;
mod search;
mod shipping;

use std::sync::Arc;
use std::time::Duration;

use domain::terms::Terms;
use infra::feed::Feed;
use infra::read_models::ReadModels;
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use product_cache::ProductCache;

/// What the query API works with.
#[derive(Debug)]
pub struct QueryApi {
    pool: PgPool,
    read_models: Arc<ReadModels>,
    freshness_limit: Duration,
    terms: Arc<Terms>,
    products: ProductCache,
}

impl QueryApi {
    /// A query waits up to the limit for its `Min-Log-Position`.
    #[must_use]
    pub fn new(
        pool: PgPool,
        read_models: Arc<ReadModels>,
        freshness_limit: Duration,
        terms: Arc<Terms>,
    ) -> Self {
        Self { pool, read_models, freshness_limit, terms, products: ProductCache::default() }
    }

    /// Looks at the log, to know which answers are true still. Runs until it's dropped.
    pub async fn run(&self, feed: Arc<Feed>) {
        self.products.run(feed).await;
    }
}

/// The routes, with their description for OpenAPI.
pub fn router(api: Arc<QueryApi>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(products::list))
        .routes(routes!(products::get))
        .routes(routes!(products::categories))
        .routes(routes!(search::search))
        .routes(routes!(carts::get))
        .routes(routes!(shipping::methods))
        .routes(routes!(orders::get))
        .routes(routes!(reports::sales))
        .with_state(api)
}
