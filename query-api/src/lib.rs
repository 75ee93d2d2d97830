//! HTTP queries: what the read models know, and up to which position in the log.

mod answer;
mod carts;
mod order_events;
mod orders;
mod products;
mod reports;
mod representation;
mod search;
mod shipping;

use std::sync::Arc;
use std::time::Duration;

use domain::terms::Terms;
use infra::clock::Clock;
use infra::feed::Feed;
use infra::read_models::ReadModels;
use sqlx::PgPool;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use infra::known::KnownAnswers;
use order_events::Streams;

/// What an operator can choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A query waits so long for its `Min-Log-Position`.
    pub freshness_limit: Duration,
    /// Most streams of orders' events that are open at a time.
    pub order_streams_max: usize,
    /// How often a stream says that it's alive.
    pub heartbeat: Duration,
}

/// What the query API works with.
pub struct QueryApi {
    pool: PgPool,
    read_models: Arc<ReadModels>,
    feed: Arc<Feed>,
    freshness_limit: Duration,
    terms: Arc<Terms>,
    clock: Clock,
    products: KnownAnswers<products::Shown>,
    carts: KnownAnswers<carts::Shown>,
    streams: Streams,
}

impl QueryApi {
    /// What goes on for long ends when `stopped` becomes true.
    #[must_use]
    pub fn new(
        pool: PgPool,
        read_models: Arc<ReadModels>,
        feed: Arc<Feed>,
        settings: &Settings,
        terms: Arc<Terms>,
        clock: Clock,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let streams = Streams::new(settings.order_streams_max, settings.heartbeat, stopped);
        let freshness_limit = settings.freshness_limit;
        let (products, carts) = (KnownAnswers::default(), KnownAnswers::default());
        Self { pool, read_models, feed, freshness_limit, terms, clock, products, carts, streams }
    }

    /// Looks at the log: to know which answers are true still, and what happens to orders that somebody
    /// follows. Runs until it's dropped.
    pub async fn run(&self) {
        let feed = || self.feed.clone();
        tokio::join!(self.products.run(feed()), self.carts.run(feed()), self.streams.live.run(feed()));
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
        .routes(routes!(order_events::stream))
        .routes(routes!(reports::sales))
        .with_state(api)
}
