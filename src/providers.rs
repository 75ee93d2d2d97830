//! The payment providers of a platform, each behind its guard.

use std::sync::Arc;

use infra::clock::Clock;
use infra::payment::stripe::webhook::Webhooks;
use infra::payment::{Guard, PaymentProvider, Providers, SANDBOX, Sandbox, Stripe};
use infra::timers::Timers;

use crate::config::Payments;

/// Those that there are settings for.
///
/// # Errors
/// The settings make no sense.
pub fn open(
    options: &Payments,
    sandbox: Sandbox,
    timers: &Arc<dyn Timers>,
    clock: &Clock,
) -> anyhow::Result<(Providers, Option<Arc<Webhooks>>)> {
    let guarded = |provider: Arc<dyn PaymentProvider>| -> Arc<dyn PaymentProvider> {
        Arc::new(Guard::new(provider, options.limits()))
    };
    let mut all = vec![guarded(Arc::new(sandbox))];
    let mut webhooks = None;
    if let Some(settings) = options.stripe() {
        let stripe = guarded(Arc::new(Stripe::new(settings)?));
        let secrets = options.stripe_webhook_secret.clone();
        if secrets.is_empty() {
            tracing::warn!("no webhooks of Stripe are taken: there is no secret to know them by");
        } else {
            let webhooks_of = Webhooks::new(secrets, stripe.clone(), timers.clone(), clock.clone());
            webhooks = Some(Arc::new(webhooks_of));
        }
        all.push(stripe);
    }
    let providers = Providers::new(all);
    Ok((if options.takes_sandbox() { providers } else { providers.close(SANDBOX) }, webhooks))
}
