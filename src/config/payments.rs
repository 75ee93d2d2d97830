//! Settings of payments: the provider's, and how it is watched.

use std::time::Duration;

use clap::Args;
use infra::payment::{Limits, stripe};
use infra::secret::Secret;

#[derive(Debug, Clone, Args)]
pub struct Payments {
    /// Take the sandbox's payment tokens, which move no money: whoever says tok_approve has paid. To try things
    /// out, and never where goods are shipped [default: true in `dev`, unless Stripe's key is one for real money;
    /// else false]
    #[arg(long, env = "CARTULARY_SANDBOX", value_name = "BOOL")]
    pub sandbox: Option<bool>,
    /// Secret key of Stripe's API; without, there is no payment method stripe.
    #[arg(long, env = "CARTULARY_STRIPE_API_KEY", hide_env_values = true)]
    pub stripe_api_key: Option<Secret>,
    /// Where Stripe's API is: https, unless it is on this machine, as psp-sim is.
    #[arg(long, env = "CARTULARY_STRIPE_URL", default_value = "https://api.stripe.com")]
    pub stripe_url: String,
    /// Secret that Stripe signs its webhooks with, which go to /v1/webhooks/stripe; without, none is taken. Two
    /// may be given, with a comma between them, while one replaces the other.
    #[arg(long, env = "CARTULARY_STRIPE_WEBHOOK_SECRET", hide_env_values = true, value_delimiter = ',')]
    pub stripe_webhook_secret: Vec<Secret>,
    /// Where buyers come back to after they have proved who they are (3-D Secure); without, payments that ask
    /// for it can't be finished.
    #[arg(long, env = "CARTULARY_PAYMENT_RETURN_URL")]
    pub payment_return_url: Option<String>,
    /// Milliseconds that a payment provider may take to answer; after, the outcome is unknown, and looked up.
    #[arg(long, env = "CARTULARY_PAYMENT_ANSWER_LIMIT_MS", default_value_t = 8_000,
        value_parser = clap::value_parser!(u64).range(100..=9_000))]
    pub payment_answer_limit_ms: u64,
    /// Most calls to a payment provider at a time.
    #[arg(long, env = "CARTULARY_PAYMENT_CALLS_MAX", default_value_t = 32, value_parser = super::whole(1..=1_000))]
    pub payment_calls_max: usize,
    /// Milliseconds that a payment provider is not called for, once it has not answered ten calls in a row.
    #[arg(long, env = "CARTULARY_PAYMENT_PAUSE_MS", default_value_t = 5_000)]
    pub payment_pause_ms: u64,
    /// Seconds after which somebody is told of a request to a payment provider that has no outcome yet. It is
    /// looked up before and after.
    #[arg(long, env = "CARTULARY_PAYMENT_REVIEW_AFTER_S", default_value_t = 3_600)]
    pub payment_review_after_s: u32,
    /// Seconds after which what a request made is in a payment provider's books, if it made anything. So long, a
    /// refund that is refused when it is asked for again may have been made.
    #[arg(long, env = "CARTULARY_PAYMENT_BOOKS_LAG_S", default_value_t = 120)]
    pub payment_books_lag_s: u32,
    /// Seconds between two comparisons of the payment providers' books with the log.
    #[arg(long, env = "CARTULARY_RECONCILE_INTERVAL_S", default_value_t = 3_600,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub reconcile_interval_s: u64,
    /// Seconds that each comparison goes back behind the end of the one before: what a provider's books show
    /// late is found by that.
    #[arg(long, env = "CARTULARY_RECONCILE_OVERLAP_S", default_value_t = 7_200)]
    pub reconcile_overlap_s: u32,
    /// Seconds for which comparisons leave a payment to whoever asked for it; an operator's own leave out none.
    #[arg(long, env = "CARTULARY_RECONCILE_LEAVE_S", default_value_t = 120)]
    pub reconcile_leave_s: u32,
    /// Have payments released or refunded that carry the id of an order which this shop does not know, instead
    /// of only reporting them. Never where two shops share an account.
    #[arg(long, env = "CARTULARY_UNDO_ORPHANS", value_parser = clap::builder::FalseyValueParser::new())]
    pub undo_orphans: bool,
}

impl Payments {
    /// Stripe's, if there is a key for it.
    pub fn stripe(&self) -> Option<stripe::Settings> {
        Some(stripe::Settings {
            api_key: self.stripe_api_key.clone()?,
            url: self.stripe_url.clone(),
            return_url: self.payment_return_url.clone(),
            answer_limit: Duration::from_millis(self.payment_answer_limit_ms),
        })
    }

    /// Whether there is a key that moves real money.
    pub fn are_for_real_money(&self) -> bool {
        let is_for_tests =
            |key: &Secret| ["sk_test_", "rk_test_"].iter().any(|kind| key.reveal().starts_with(kind));
        !self.stripe_api_key.as_ref().is_none_or(is_for_tests)
    }

    pub fn limits(&self) -> Limits {
        Limits {
            answer: Duration::from_millis(self.payment_answer_limit_ms),
            calls: self.payment_calls_max,
            pause: Duration::from_millis(self.payment_pause_ms),
            ..Limits::default()
        }
    }

    pub fn patience(&self) -> sagas::Patience {
        let seconds = |seconds: u32| chrono::Duration::seconds(i64::from(seconds));
        let (review_after, books_lag) =
            (seconds(self.payment_review_after_s), seconds(self.payment_books_lag_s));
        sagas::Patience { review_after, books_lag, ..sagas::Patience::default() }
    }

    pub fn reconciliation(&self) -> sagas::reconcile::Settings {
        sagas::reconcile::Settings {
            interval: Duration::from_secs(self.reconcile_interval_s),
            overlap: chrono::Duration::seconds(i64::from(self.reconcile_overlap_s)),
            leave: chrono::Duration::seconds(i64::from(self.reconcile_leave_s)),
            undo_orphans: self.undo_orphans,
        }
    }
}
