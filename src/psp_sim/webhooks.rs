//! Webhooks: events on their way to endpoints, signed, until they arrive; twice or out of order if it
//! was said so.
//!
//! A signature is `t=<seconds>,v1=<hex>`: HMAC-SHA256 under the endpoint's secret over `<seconds>.<body>`
//! (docs.stripe.com/webhooks#verify-manually). An endpoint is sent one event at a time. What fails waits
//! for its next attempt while others go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::book::{Change, Delivery, Endpoint};
use super::objects;
use super::params::hex;
use super::sim::{Core, Sim};

const BACKOFF_MAX_MS: i64 = 60 * 60 * 1000;

/// Chance that is the same for the same seed, purpose and number.
pub fn dice(seed: u64, purpose: &str, number: u64) -> fastrand::Rng {
    let mix = purpose.bytes().fold(number, |mix, byte| mix.rotate_left(7) ^ u64::from(byte));
    let mut dice = fastrand::Rng::with_seed(seed ^ mix.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Seeds next to each other begin with numbers next to each other.
    for _ in 0..3 {
        dice.u64(..);
    }
    dice
}

pub fn signature(secret: &str, at_s: i64, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        unreachable!("a key of HMAC has any length")
    };
    mac.update(format!("{at_s}.{body}").as_bytes());
    format!("t={at_s},v1={}", hex(&mac.finalize().into_bytes()))
}

/// Sends what is to be sent, for as long as it runs.
pub async fn deliver(sim: Arc<Sim>) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "no webhooks are sent"),
    };
    let mut changed = sim.changed();
    let mut senders = tokio::task::JoinSet::new();
    let mut known: HashMap<String, tokio::task::AbortHandle> = HashMap::new();
    loop {
        let endpoints: Vec<String> = sim.lock().book.endpoints.keys().cloned().collect();
        known.retain(|id, sender| {
            let there = endpoints.contains(id);
            if !there {
                sender.abort();
            }
            there
        });
        for id in endpoints {
            known
                .entry(id.clone())
                .or_insert_with(|| senders.spawn(send_all(sim.clone(), client.clone(), id)));
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Something to send, or how long there is nothing.
enum Next {
    Send { event: String, body: String, endpoint: Endpoint },
    Wait(Duration),
    Gone,
}

async fn send_all(sim: Arc<Sim>, client: reqwest::Client, id: String) {
    let mut changed = sim.changed();
    loop {
        changed.mark_unchanged();
        let next = next(&sim, &id);
        match next {
            Next::Gone => return,
            Next::Wait(time) => {
                tokio::select! {
                    () = tokio::time::sleep(time) => {}
                    _ = changed.changed() => {}
                }
            }
            Next::Send { event, body, endpoint } => {
                // What is told must be on disk first.
                if sim.is_durable().await.is_err() {
                    return;
                }
                let outcome = send(&sim, &client, &endpoint, body).await;
                tracing::info!(endpoint = id, event, outcome, "webhook sent");
                note(&sim, &id, &event, outcome);
            }
        }
    }
}

/// The earliest event that is due at this endpoint.
fn next(sim: &Sim, id: &str) -> Next {
    let core = sim.lock();
    let Some(endpoint) = core.book.endpoints.get(id) else { return Next::Gone };
    let now_ms = sim.now_ms(&core);
    let mut wait_ms = i64::MAX;
    for (of, next_ms, event) in core.book.undelivered.range((id.to_owned(), i64::MIN, String::new())..) {
        if of != id {
            break;
        }
        if *next_ms > now_ms {
            wait_ms = wait_ms.min(next_ms - now_ms);
            break;
        }
        let Some(delivery) = core.book.deliveries.get(&(of.clone(), event.clone())) else { continue };
        if core.held.contains(&delivery.record) {
            continue;
        }
        let due_ms = due_ms(&core, id, event, delivery);
        if due_ms > now_ms {
            wait_ms = wait_ms.min(due_ms - now_ms);
            continue;
        }
        if let Some(event) = core.book.events.get(event) {
            let body = objects::event(event, &core.book).to_string();
            return Next::Send { event: event.id.clone(), body, endpoint: endpoint.clone() };
        }
    }
    Next::Wait(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0).min(60_000)))
}

/// When an event is sent; some wait for a later one to overtake them.
fn due_ms(core: &Core, id: &str, event: &str, delivery: &Delivery) -> i64 {
    let next_ms = delivery.next_ms.unwrap_or(i64::MAX);
    let settings = &core.settings.webhooks;
    let number = number_of(event);
    let waits = dice(core.settings.seed, "reorder", number).u8(..100) < settings.reorder_percent;
    if delivery.attempts > 0 || !waits {
        return next_ms;
    }
    let later = (id.to_owned(), format!("{event}~"));
    let overtaken = core.book.deliveries.range(later..).take_while(|((of, _), _)| of == id);
    match overtaken.take(16).any(|(_, delivery)| delivery.attempts > 0) {
        true => next_ms,
        false => next_ms.saturating_add(settings.reorder_ms.cast_signed()),
    }
}

/// The digits at the beginning of an event's id, which are its own.
fn number_of(event: &str) -> u64 {
    event.get(4..16).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

async fn send(sim: &Sim, client: &reqwest::Client, endpoint: &Endpoint, body: String) -> String {
    let time = Duration::from_millis(sim.lock().settings.webhooks.timeout_ms);
    let signature = signature(&endpoint.secret, sim.wall_s(), &body);
    let request = client
        .post(&endpoint.url)
        .timeout(time)
        .header("Content-Type", "application/json; charset=utf-8")
        .header("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .header("Stripe-Signature", signature)
        .body(body);
    match request.send().await {
        Ok(answer) => answer.status().as_u16().to_string(),
        Err(error) if error.is_timeout() => "timeout".to_owned(),
        Err(error) if error.is_connect() => "not connected".to_owned(),
        Err(_) => "connection lost".to_owned(),
    }
}

/// Records the attempt, and when the next one is.
fn note(sim: &Sim, id: &str, event: &str, outcome: String) {
    let mut core = sim.lock();
    let Some(delivery) = core.book.deliveries.get(&(id.to_owned(), event.to_owned())) else { return };
    let now_ms = sim.now_ms(&core);
    let settings = &core.settings.webhooks;
    let arrived = outcome.starts_with('2');
    let again =
        dice(core.settings.seed, "duplicate", number_of(event)).u8(..100) < settings.duplicates_percent;
    let next_ms = match (arrived, delivery.delivered) {
        (true, false) if again => Some(now_ms),
        // A duplicate that fails is not worth another one.
        (true, _) | (false, true) => None,
        (false, false) => {
            let doubled = settings.backoff_ms.cast_signed().checked_shl(delivery.attempts.min(40));
            let backoff = doubled.filter(|backoff| (0..BACKOFF_MAX_MS).contains(backoff));
            Some(now_ms.saturating_add(backoff.unwrap_or(BACKOFF_MAX_MS)))
        }
    };
    let (endpoint, event) = (id.to_owned(), event.to_owned());
    sim.record(&mut core, vec![Change::Tried { endpoint, event, outcome, at_ms: now_ms, next_ms }]);
}

/// Waits until the record's events were sent at least once, for a while at most.
pub async fn sent_once(sim: &Sim, record: u64) {
    const LIMIT: Duration = Duration::from_secs(5);
    let mut changed = sim.changed();
    let sent = async {
        loop {
            changed.mark_unchanged();
            let waiting = {
                let core = sim.lock();
                core.book.deliveries_of(record).any(|delivery| delivery.attempts == 0)
            };
            if !waiting || changed.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LIMIT, sent).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_as_openssl_makes_them() {
        // printf '%s' '1492774577.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test_secret
        let wanted = "t=1492774577,v1=799c4ba7bb339f3c8601adfd112f0e477c930a268be1243d341abb8286501c2f";
        assert_eq!(signature("whsec_test_secret", 1_492_774_577, r#"{"id":"evt_1"}"#), wanted);
    }
}
