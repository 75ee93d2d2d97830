//! The controls under `/_sim`: faults, clock, settings, what the ledger says, and the buyer's challenge.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::book::{Book, Change};
use super::decide::{Moment, disputes};
use super::faults::Fault;
use super::idempotency::Profile;
use super::lines::{Line, time};
use super::refusal::Refusal;
use super::reply::Reply;
use super::server::Asked;
use super::sim::{Settings, Sim, WebhookSettings};

/// Furthest that the clock goes at once: a year.
const ADVANCE_MAX_MS: i64 = 366 * 24 * 60 * 60 * 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dispute {
    payment_intent: String,
    /// All that was captured, if nothing is said.
    amount: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsChange {
    idempotency: Option<Profile>,
    seed: Option<u64>,
    fault_rate: Option<f64>,
    hold_ms: Option<u64>,
    webhooks: WebhookChange,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WebhookChange {
    duplicates_percent: Option<u8>,
    reorder_percent: Option<u8>,
    reorder_ms: Option<u64>,
    backoff_ms: Option<u64>,
    timeout_ms: Option<u64>,
}

pub async fn answer(sim: &Arc<Sim>, asked: &Asked) -> Reply {
    let reply = carry_out(sim, asked);
    // What anybody is shown must not be undone by a crash.
    if sim.is_durable().await.is_err() {
        return Reply::cut();
    }
    reply.unwrap_or_else(|refusal| Reply::refusal(&refusal))
}

fn carry_out(sim: &Sim, asked: &Asked) -> Result<Reply, Refusal> {
    let parts: Vec<_> = asked.path.trim_start_matches("/_sim").split('/').skip(1).collect();
    let body = match (asked.method.as_str(), parts.as_slice()) {
        ("POST", ["faults"]) => arm(sim, &asked.body)?,
        ("GET", ["faults"]) => shown(&sim.lock().faults.armed),
        ("DELETE", ["faults"]) => {
            sim.lock().faults.armed.clear();
            json!({"deleted": true})
        }
        ("DELETE", ["faults", id]) => {
            let mut core = sim.lock();
            let before = core.faults.armed.len();
            core.faults.armed.retain(|armed| armed.id.to_string() != *id);
            json!({"deleted": core.faults.armed.len() < before})
        }
        ("GET", ["clock"]) => {
            let core = sim.lock();
            json!({"now_ms": sim.now_ms(&core), "ahead_ms": core.book.clock_offset_ms})
        }
        ("POST", ["clock"]) => {
            let Advance { advance_ms } = json_body(&asked.body)?;
            if !(0..=ADVANCE_MAX_MS).contains(&advance_ms) {
                return Err(wrong(&format!("advance_ms is 0 to {ADVANCE_MAX_MS}")));
            }
            json!({"now_ms": sim.advance_clock(advance_ms)})
        }
        ("GET", ["settings"]) => shown(&sim.lock().settings),
        ("POST", ["settings"]) => set(sim, json_body(&asked.body)?)?,
        ("GET", ["ledger"]) => ledger(sim, &asked.query),
        ("GET", ["webhooks"]) => webhooks(sim),
        ("POST", ["disputes"]) => {
            let Dispute { payment_intent, amount } = json_body(&asked.body)?;
            disputed(sim, |book, moment| disputes::open(book, &payment_intent, amount, moment))?
        }
        ("POST", ["disputes", id, verdict @ ("won" | "lost")]) => {
            disputed(sim, |book, moment| disputes::close(book, id, *verdict == "won", moment))?
        }
        ("GET", ["challenges", id]) => return challenge(sim, id),
        ("POST", ["challenges", id, verdict @ ("pass" | "fail")]) => return end(sim, id, *verdict == "pass"),
        _ => {
            let what = "faults, clock, settings, ledger, webhooks, challenges/{payment intent}, disputes";
            let message = format!("Below /_sim there are: {what}.");
            return Err(Refusal::new(404, "invalid_request_error", message));
        }
    };
    Ok(Reply::json(200, &body))
}

fn wrong(message: &str) -> Refusal {
    Refusal::new(400, "invalid_request_error", message)
}

fn shown(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn json_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| wrong(&format!("The body is not what it should be: {error}")))
}

fn arm(sim: &Sim, body: &Bytes) -> Result<Value, Refusal> {
    let fault: Fault = json_body(body)?;
    fault.check().map_err(|why| wrong(&why))?;
    Ok(shown(&sim.lock().faults.arm(fault)))
}

fn set(sim: &Sim, change: SettingsChange) -> Result<Value, Refusal> {
    let mut core = sim.lock();
    let Settings { idempotency, seed, fault_rate, hold_ms, webhooks } = core.settings.clone();
    let settings = Settings {
        idempotency: change.idempotency.unwrap_or(idempotency),
        seed: change.seed.unwrap_or(seed),
        fault_rate: change.fault_rate.unwrap_or(fault_rate),
        hold_ms: change.hold_ms.unwrap_or(hold_ms),
        webhooks: WebhookSettings {
            duplicates_percent: change.webhooks.duplicates_percent.unwrap_or(webhooks.duplicates_percent),
            reorder_percent: change.webhooks.reorder_percent.unwrap_or(webhooks.reorder_percent),
            reorder_ms: change.webhooks.reorder_ms.unwrap_or(webhooks.reorder_ms),
            backoff_ms: change.webhooks.backoff_ms.unwrap_or(webhooks.backoff_ms),
            timeout_ms: change.webhooks.timeout_ms.unwrap_or(webhooks.timeout_ms),
        },
    };
    settings.check().map_err(|why| wrong(&why))?;
    core.settings = settings;
    let body = shown(&core.settings);
    drop(core);
    sim.announce();
    Ok(body)
}

/// The lines, or those of one payment by its id or its reference.
fn ledger(sim: &Sim, query: &str) -> Value {
    let core = sim.lock();
    let mut lines: Vec<&Line> = core.lines.lines.iter().collect();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "payment_intent" => lines.retain(|line| line.payment_intent == value),
            "attempt_ref" => {
                let meant = |line: &&Line| {
                    let payment = core.book.intents.get(&line.payment_intent);
                    let metadata = [Some(&line.metadata), payment.map(|payment| &payment.metadata)];
                    let refs = metadata.into_iter().flatten().filter_map(|all| all.get("attempt_ref"));
                    refs.into_iter().any(|known| *known == value)
                };
                lines.retain(meant);
            }
            _ => {}
        }
    }
    json!({"records": core.book.last_number, "data": lines})
}

fn webhooks(sim: &Sim) -> Value {
    let core = sim.lock();
    let delivery = |((endpoint, event), delivery): (&(String, String), &super::book::Delivery)| {
        let tried = |(at_ms, outcome): &(i64, String)| json!({"at": time(*at_ms), "outcome": outcome});
        json!({
            "endpoint": endpoint,
            "event": event,
            "type": core.book.events.get(event).map(|event| &event.kind),
            "delivered": delivery.delivered,
            "attempts": delivery.attempts,
            "next_at": delivery.next_ms.map(time),
            "tried": delivery.tried.iter().map(tried).collect::<Vec<_>>(),
        })
    };
    let data: Vec<_> = core.book.deliveries.iter().map(delivery).collect();
    json!({"undelivered": core.book.undelivered.len(), "data": data})
}

/// What the buyer's bank would show.
fn challenge(sim: &Sim, id: &str) -> Result<Reply, Refusal> {
    let core = sim.lock();
    let intent = core.book.intents.get(id).ok_or_else(|| Refusal::unknown("payment_intent", id))?;
    // Ids and currencies are letters, digits and underscores.
    let (amount, currency, id) = (intent.amount, intent.currency.to_uppercase(), &intent.id);
    let form = |verdict: &str, label: &str| {
        format!("<form method=post action=/_sim/challenges/{id}/{verdict}><button>{label}</button></form>")
    };
    Ok(Reply::html(format!(
        "<!doctype html><title>Simulated bank</title><h1>Pay {amount} {currency} minor units?</h1>{}{}",
        form("pass", "Pass the challenge"),
        form("fail", "Fail it"),
    )))
}

/// Records what a buyer's bank does; the dispute as it is then.
fn disputed(
    sim: &Sim,
    decide: impl FnOnce(&Book, Moment<'_>) -> Result<Vec<Change>, Refusal>,
) -> Result<Value, Refusal> {
    sim.happens(decide, |book, changes| {
        let id = changes.iter().find_map(|change| match change {
            Change::Disputed { dispute } => Some(&dispute.id),
            Change::DisputeClosed { dispute, .. } => Some(dispute),
            _ => None,
        });
        id.and_then(|id| book.disputes.get(id)).map(super::objects::dispute).unwrap_or_default()
    })
}

fn end(sim: &Sim, id: &str, passed: bool) -> Result<Reply, Refusal> {
    let intent = sim.end_challenge(id, passed)?;
    let Some(mut url) = intent.return_url.as_deref().and_then(|url| reqwest::Url::parse(url).ok()) else {
        return Ok(Reply::json(200, &super::objects::intent(&intent, &sim.base_url)));
    };
    let status = if intent.problem.is_some() { "failed" } else { "succeeded" };
    url.query_pairs_mut().append_pair("payment_intent", id).append_pair("redirect_status", status);
    Ok(Reply::elsewhere(url.to_string()))
}
