//! Payment providers: who can be asked to move money, and what they may answer.

mod sandbox;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{CATEGORY, Request, Statement};
use futures_util::future::BoxFuture;

use crate::timers::Timer;

pub use sandbox::{ChallengeError, Sandbox};

/// Name of the timer that a provider's word about a payment comes to.
pub const SIGNAL: &str = "signal";

/// What a provider says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Where the payment stands now.
    Stated(Statement),
    /// It was not done and will not be: the same request again would change nothing.
    Refused { reason: String },
}

/// No answer came, so whether the request was carried out is unknown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no answer from the payment provider: {0}")]
pub struct NoAnswer(pub String);

/// Payments in a provider's books, newest first, and where the next ones begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub payments: Vec<Booked>,
    /// Cursor of the next page; nothing, if this is the last one.
    pub next: Option<String>,
}

/// A payment in a provider's books, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booked {
    /// As the provider was told when it was made; nothing, if it was made by somebody else.
    pub order_id: Option<OrderId>,
    pub made_at: DateTime<Utc>,
    pub statement: Statement,
}

/// Where payments are looked up: by the provider's name for one, or by our name for the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub order_id: OrderId,
    /// With it, only this one is wanted.
    pub reference: Option<&'a str>,
    /// Not made before.
    pub since: Option<DateTime<Utc>>,
}

/// A payment service provider. Requests carry an idempotency key: asking twice moves money once, if the
/// provider heeds it.
pub trait PaymentProvider: Send + Sync + 'static {
    /// As payment methods name it.
    fn name(&self) -> &'static str;

    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>>;

    /// What is in its books about an order; more than one payment, if one was made twice.
    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>>;

    /// Payments made in this time, page by page.
    fn list<'a>(
        &'a self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, NoAnswer>>;

    /// Where the buyer goes to do what is required; nothing, if nothing is.
    fn challenge<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>>;
}

/// The providers of this shop, by name.
#[derive(Clone, Default)]
pub struct Providers(BTreeMap<&'static str, Arc<dyn PaymentProvider>>);

impl Providers {
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Arc<dyn PaymentProvider>>) -> Self {
        Self(all.into_iter().map(|provider| (provider.name(), provider)).collect())
    }

    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// There is none here; another process may have it.
    pub fn named(&self, name: &str) -> Result<&Arc<dyn PaymentProvider>, NoAnswer> {
        self.0.get(name).ok_or_else(|| NoAnswer(format!("there is no provider `{name}` here")))
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn PaymentProvider>> {
        self.0.values()
    }
}

/// The provider has news about an order's payment, which are looked up then. A later signal replaces one
/// that nobody has looked at yet.
#[must_use]
pub fn signal(order_id: OrderId, at: DateTime<Utc>) -> Timer {
    let (saga, id, name) = (CATEGORY.to_owned(), order_id.to_string(), SIGNAL.to_owned());
    // Each signal is another one: what it brings may be what an earlier one brought, in between which there
    // was something else.
    let generation = u32::try_from(at.timestamp()).unwrap_or(u32::MAX);
    Timer { saga, id, name, generation, at }
}
