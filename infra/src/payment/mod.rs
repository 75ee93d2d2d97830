//! Payment providers: who can be asked to move money, and what they may answer.

mod sandbox;

use std::time::Duration;

use domain::payment::Request;
use futures_util::future::BoxFuture;

pub use sandbox::Sandbox;

/// What a provider says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done {
        provider_reference: String,
    },
    Declined {
        reason: String,
    },
    /// Under way: to be looked up again after this time.
    Processing {
        look_up_after: Duration,
    },
}

/// No answer came, so whether the request was carried out is unknown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no answer from the payment provider: {0}")]
pub struct NoAnswer(pub String);

/// A payment service provider. Requests carry an idempotency key: asking twice moves money once.
pub trait PaymentProvider: Send + Sync + 'static {
    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>>;

    /// What became of a request asked before; `None` if it never arrived.
    fn look_up<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>>;
}
