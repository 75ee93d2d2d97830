//! A request of the API on its way through the layers: who asks, what, under which key, and what goes
//! wrong with it.
//!
//! What was begun is finished, whether the caller waits for it or has gone.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};

use super::call::{Call, route};
use super::faults::{Kind, Plan};
use super::idempotency::{KEY_CHARS_MAX, in_use, not_a_key};
use super::objects::API_VERSION;
use super::params::{Params, is_a_card};
use super::refusal::Refusal;
use super::reply::{Ending, Receipt, Reply};
use super::server::Asked;
use super::sim::{Begun, Sim};
use super::webhooks;

pub async fn answer(sim: Arc<Sim>, asked: &Asked) -> Reply {
    let request_id = sim.request_id();
    let reply = match understand(asked) {
        Err(refusal) => Reply::refusal(&refusal),
        Ok(call) => {
            let (operation, key) = (call.operation.name(), call.key.clone());
            let reply = attend(&sim, call, request_id.clone()).await;
            let status = (reply.ending != Ending::Cut).then(|| reply.status());
            tracing::info!(request = request_id, operation, status, ending = ?reply.ending, "attended to");
            match key {
                Some(key) => reply.header("idempotency-key", key),
                None => reply,
            }
        }
    };
    reply.header("request-id", request_id).header("stripe-version", API_VERSION)
}

/// Reads what the request asks for, and whether its caller may.
fn understand(asked: &Asked) -> Result<Call, Refusal> {
    authorise(&asked.headers)?;
    let (operation, id) = route(asked.method.as_str(), &asked.path).ok_or_else(|| {
        Refusal::new(404, "invalid_request_error", "There is nothing at this method and URL.")
    })?;
    let content_type =
        asked.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !asked.body.is_empty() && !content_type.starts_with("application/x-www-form-urlencoded") {
        let message = "Parameters are sent as application/x-www-form-urlencoded.";
        return Err(Refusal::new(400, "invalid_request_error", message));
    }
    let form = [asked.query.as_bytes(), &asked.body].join(&b'&');
    let params = Params::read(&form)?;
    let (path, id) = (asked.path.clone(), id.to_owned());
    Ok(Call { operation, path, id, params, key: key(&asked.headers)? })
}

/// Any secret key for tests will do, as `Bearer` or as the user of `Basic`.
fn authorise(headers: &HeaderMap) -> Result<(), Refusal> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(value) = value else {
        return Err(Refusal::nobody("No API key was given: send 'Authorization: Bearer sk_test_…'."));
    };
    let (scheme, credentials) = value.split_once(' ').unwrap_or((value, ""));
    let key = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => credentials.trim().to_owned(),
        "basic" => {
            let decoded = BASE64_STANDARD.decode(credentials.trim()).unwrap_or_default();
            let text = String::from_utf8(decoded).unwrap_or_default();
            text.split(':').next().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    };
    let secret = key.strip_prefix("sk_test_").or_else(|| key.strip_prefix("rk_test_"));
    match secret.is_some_and(|secret| !secret.is_empty()) {
        true => Ok(()),
        false => Err(Refusal::nobody("Invalid API key: only secret keys for tests are taken (sk_test_…).")),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(key) if key.len() <= KEY_CHARS_MAX && !is_a_card(key) => Ok(Some(key.to_owned())),
        _ => Err(not_a_key()),
    }
}

async fn attend(sim: &Arc<Sim>, call: Call, request_id: String) -> Reply {
    let plan = sim.plan(&call);
    if let Some(fault) = plan.get(Kind::RateLimit) {
        let refusal = Refusal::new(429, "invalid_request_error", "Too many requests.").code("rate_limit");
        let seconds = fault.retry_after_s.unwrap_or(1);
        return Reply::refusal(&refusal).header("retry-after", seconds.to_string());
    }
    if plan.has(Kind::Conflict) {
        return Reply::refusal(&in_use());
    }
    let usual = sim.lock().settings.hold_ms;
    if let Some(ms) = plan.ms(Kind::TimeoutBefore, usual) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        return Reply::cut();
    }
    let carried_out = tokio::spawn(carry_out(sim.clone(), call, request_id, plan, usual));
    carried_out.await.unwrap_or_else(|_| Reply::cut())
}

async fn carry_out(sim: Arc<Sim>, call: Call, request_id: String, plan: Plan, usual: u64) -> Reply {
    let pause = async |kind| {
        if let Some(ms) = plan.ms(kind, usual) {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    };
    let begun = match sim.begin(&call) {
        Ok(begun) => begun,
        Err(refusal) => return Reply::refusal(&refusal),
    };
    let (executed, key_in_use) = match begun {
        Begun::Replay(executed) => (Ok(executed), None),
        Begun::Execute(key_in_use) => {
            pause(Kind::Slow).await;
            (sim.execute(&call, &request_id, &plan), key_in_use)
        }
    };
    let executed = match executed {
        Ok(executed) => executed,
        Err(refusal) => return Reply::refusal(&refusal),
    };
    // From here on, the receipt tells what became of the answer.
    let receipt = executed.record.map(|record| Receipt::new(sim.clone(), record));
    if sim.is_durable().await.is_err() {
        return Reply::cut().receipt(receipt);
    }
    drop(key_in_use);
    if plan.has(Kind::WebhookFirst)
        && let Some(record) = executed.record
    {
        sim.release(record);
        webhooks::sent_once(&sim, record).await;
    }
    if plan.has(Kind::TimeoutAfter) {
        // Events don't wait for an answer that never comes.
        drop(receipt);
        pause(Kind::TimeoutAfter).await;
        return Reply::cut();
    }
    pause(Kind::SlowAnswer).await;
    let mut reply = Reply::json(executed.answer.status, &executed.answer.body).receipt(receipt);
    if let Some(first) = executed.replayed {
        reply = reply.header("idempotent-replayed", "true").header("original-request", first);
    }
    if plan.has(Kind::Reset) { reply.ending(Ending::Half) } else { reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secret_keys_for_tests_are_taken() {
        let allowed = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            authorise(&headers).is_ok()
        };
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for fine in ["Bearer sk_test_1", "bearer rk_test_x", &basic("sk_test_1:"), &basic("sk_test_1:x")] {
            assert!(allowed(fine), "{fine}");
        }
        for wrong in
            ["Bearer sk_live_1", "Bearer sk_test_", "Bearer", "sk_test_1", "Basic !", &basic(":sk_test_1")]
        {
            assert!(!allowed(wrong), "{wrong}");
        }
        assert!(authorise(&HeaderMap::new()).is_err());
    }
}
