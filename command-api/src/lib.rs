//! HTTP commands: each becomes one command to one aggregate, and its outcome an answer.

mod carts;
mod error;
mod fulfilment;
mod idempotency;
mod offers;
mod orders;
mod payments;
mod products;
mod quotes;
mod request;
mod settled;
mod stock;
mod webhooks;

use std::sync::Arc;

use domain::terms::Terms;
use infra::clock::Clock;
use infra::execute::Executors;
use infra::feed::Feed;
use infra::payment::Providers;
use infra::payment::stripe::webhook::Webhooks;
use infra::read_models::ReadModels;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use idempotency::{InProgress, Recent};
use offers::Offers;
use settled::Settled;

/// What the command API works with.
pub struct CommandApi {
    feed: Arc<Feed>,
    executors: Arc<Executors>,
    read_models: Arc<ReadModels>,
    providers: Providers,
    webhooks: Option<Arc<Webhooks>>,
    terms: Arc<Terms>,
    clock: Clock,
    in_progress: InProgress,
    recent: Recent,
    settled: Settled,
    offers: Offers,
}

impl CommandApi {
    pub fn new(
        feed: Arc<Feed>,
        executors: Arc<Executors>,
        read_models: Arc<ReadModels>,
        providers: Providers,
        terms: Arc<Terms>,
        clock: Clock,
    ) -> Self {
        Self {
            feed,
            executors,
            read_models,
            providers,
            webhooks: None,
            terms,
            clock,
            in_progress: InProgress::default(),
            recent: Recent::default(),
            settled: Settled::default(),
            offers: Offers::default(),
        }
    }

    /// Takes Stripe's webhooks, if there is something to know them by.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Option<Arc<Webhooks>>) -> Self {
        Self { webhooks, ..self }
    }

    /// Follows the log: for what products are offered for, and for those who wait for an order to be settled.
    /// Runs until it is dropped.
    pub async fn run(&self) {
        tokio::join!(self.settled.run(self.feed.clone()), self.offers.run(self.feed.clone()));
    }
}

/// The routes, with their description for OpenAPI.
pub fn router(api: Arc<CommandApi>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(products::create))
        .routes(routes!(products::change))
        .routes(routes!(products::set_price))
        .routes(routes!(products::withdraw))
        .routes(routes!(stock::receive))
        .routes(routes!(stock::adjust))
        .routes(routes!(carts::create))
        .routes(routes!(carts::set_line))
        .routes(routes!(quotes::quote))
        .routes(routes!(carts::check_out))
        .routes(routes!(orders::cancel))
        .routes(routes!(payments::challenge))
        .routes(routes!(fulfilment::ship))
        .routes(routes!(fulfilment::take_back))
        .routes(routes!(fulfilment::refund))
        .merge(OpenApiRouter::new().routes(routes!(webhooks::stripe)).layer(webhooks::limit()))
        .with_state(api)
}
