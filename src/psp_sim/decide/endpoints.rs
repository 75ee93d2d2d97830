//! Webhook endpoints: where events are sent to.

use serde_json::json;

use super::{Decision, Moment};
use crate::psp_sim::book::{Answer, Book, Change, Endpoint};
use crate::psp_sim::call::Call;
use crate::psp_sim::money::Metadata;
use crate::psp_sim::objects;
use crate::psp_sim::refusal::Refusal;

const ENDPOINTS_MAX: usize = 16;
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=128;

/// Beside Stripe's parameters, it takes a secret of the caller's choice.
pub fn create(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Decision, Refusal> {
    let params = &call.params;
    params.only(&["url", "enabled_events", "secret", "metadata"])?;
    let url = params.needed("url")?;
    if !reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && url.has_host()) {
        let message = "Not a valid URL: the simulator sends to http://host/… alone.";
        return Err(Refusal::parameter("url", "url_invalid", message));
    }
    let enabled_events: Vec<_> = params.list("enabled_events").into_iter().map(str::to_owned).collect();
    if enabled_events.is_empty() {
        return Err(Refusal::missing("enabled_events"));
    }
    let secret = match params.text("secret") {
        None => format!("whsec_{}", &moment.secret("whsec", 0)[..32]),
        Some(secret) if SECRET_CHARS.contains(&secret.chars().count()) => secret.to_owned(),
        Some(_) => {
            let message = "Secrets have 16 to 128 characters.";
            return Err(Refusal::parameter("secret", "parameter_invalid_string", message));
        }
    };
    if book.endpoints.len() >= ENDPOINTS_MAX {
        let message = format!("There are {ENDPOINTS_MAX} endpoints already.");
        return Err(Refusal::new(400, "invalid_request_error", message).executed());
    }
    let endpoint = Endpoint {
        id: moment.id("we", 0),
        created_ms: moment.at_ms,
        url: url.to_owned(),
        enabled_events,
        secret,
        metadata: params.metadata(&Metadata::new())?,
    };
    let mut body = objects::endpoint(&endpoint);
    // As at Stripe, it's told this once.
    body["secret"] = json!(endpoint.secret);
    Ok(Decision { changes: vec![Change::EndpointCreated { endpoint }], answer: Answer { status: 200, body } })
}

pub fn delete(book: &Book, call: &Call) -> Result<Decision, Refusal> {
    let endpoint =
        book.endpoints.get(&call.id).ok_or_else(|| Refusal::unknown("webhook endpoint", &call.id))?;
    let body = json!({"id": endpoint.id, "object": "webhook_endpoint", "deleted": true});
    let changes = vec![Change::EndpointDeleted { endpoint: endpoint.id.clone() }];
    Ok(Decision { changes, answer: Answer { status: 200, body } })
}
