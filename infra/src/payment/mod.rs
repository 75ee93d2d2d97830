//! Payment providers: who can be asked to move money, and what they may answer.

mod guard;
mod sandbox;
mod secret;
pub mod stripe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{CATEGORY, Request, Statement};
use futures_util::future::BoxFuture;

use crate::timers::Timer;

pub use guard::{Guard, Limits};
pub use sandbox::{ChallengeError, NAME as SANDBOX, Sandbox};
pub use secret::Secret;
pub use stripe::Stripe;

/// Name of the timer that a provider's word about a payment comes to.
pub const SIGNAL: &str = "signal";

/// What a provider says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Where the payment stands now.
    Stated(Statement),
    /// It was not done and will not be: the same request again would change nothing.
    Refused { reason: String },
    /// Asking with this key failed, and that is all that will come of this key. If something was done before
    /// it failed, the books have it, or soon will.
    Failed { reason: String },
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

    /// Whose payment this is, as the provider was told when it was made.
    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>>;
}

/// The providers of this shop, by name.
#[derive(Clone, Default)]
pub struct Providers {
    all: BTreeMap<&'static str, Arc<dyn PaymentProvider>>,
    /// Those that take no new payments; what they have taken is seen to.
    closed: BTreeSet<&'static str>,
}

impl Providers {
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Arc<dyn PaymentProvider>>) -> Self {
        let all = all.into_iter().map(|provider| (provider.name(), provider)).collect();
        Self { all, closed: BTreeSet::new() }
    }

    /// This one takes no new payments.
    #[must_use]
    pub fn close(mut self, name: &'static str) -> Self {
        self.closed.insert(name);
        self
    }

    /// Those that new payments can be made through.
    pub fn open(&self) -> impl Iterator<Item = &'static str> {
        self.all.keys().copied().filter(|name| !self.closed.contains(name))
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// There is none here; another process may have it.
    pub fn named(&self, name: &str) -> Result<&Arc<dyn PaymentProvider>, NoAnswer> {
        self.all.get(name).ok_or_else(|| NoAnswer(format!("there is no provider `{name}` here")))
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn PaymentProvider>> {
        self.all.values()
    }
}

/// The provider has news about an order's payment, which are looked up then. A later signal replaces one
/// that nobody has looked at yet.
#[must_use]
pub fn signal(order_id: OrderId, at: DateTime<Utc>) -> Timer {
    named(order_id, SIGNAL.to_owned(), at)
}

/// The same about one payment, which may be another one than the order's own. References are letters, digits
/// and underscores.
#[must_use]
pub fn signal_about(order_id: OrderId, reference: &str, at: DateTime<Utc>) -> Timer {
    named(order_id, format!("{SIGNAL}-{reference}"), at)
}

/// The payment that a signal of this name is about; nothing, if it is about the order's own.
#[must_use]
pub fn signalled(timer: &str) -> Option<&str> {
    timer.strip_prefix(SIGNAL)?.strip_prefix('-')
}

fn named(order_id: OrderId, name: String, at: DateTime<Utc>) -> Timer {
    let (saga, id) = (CATEGORY.to_owned(), order_id.to_string());
    // Each signal is another one: what it brings may be what an earlier one brought, in between which there
    // was something else.
    let generation = u32::try_from(at.timestamp()).unwrap_or(u32::MAX);
    Timer { saga, id, name, generation, at }
}
