//! What payment providers tell by themselves.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use infra::http::Problem;
use infra::payment::stripe::webhook::Error;

use crate::CommandApi;

/// Largest webhook that is read: several times of what one can be.
pub(crate) const BODY_BYTES_MAX: usize = 512 * 1024;

/// Webhooks of Stripe
///
/// Of an event that is signed as it should be, the payment is looked up at Stripe; nothing else is taken from it.
/// Events about nothing of this shop are answered the same.
#[utoipa::path(post, path = "/v1/webhooks/stripe", tag = "webhooks",
    params(("Stripe-Signature" = String, Header, description = "`t=…,v1=…`, at most five minutes old")),
    request_body(content = Object, description = "An event, as Stripe signed it"),
    responses(
        (status = 200, description = "It is on disk that there is news"),
        (status = 400, description = "`invalid_signature`, `invalid_event`", body = Problem),
        (status = 404, description = "`not_found`: this shop takes none", body = Problem),
        (status = 413, description = "`body_too_large`", body = Problem),
        (status = 503, description = "`unavailable`: to be sent again", body = Problem),
    ))]
pub(crate) async fn stripe(
    State(api): State<Arc<CommandApi>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let Some(webhooks) = &api.webhooks else {
        let detail = "this shop has no secret to know webhooks by";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", detail));
    };
    let too_large = |_| {
        let detail = format!("a webhook is at most {BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let body = body.map_err(too_large)?;
    let signature = headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    webhooks.take(signature, &body).await.map(|()| StatusCode::OK).map_err(problem)
}

/// No larger body is read.
pub(crate) fn limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(BODY_BYTES_MAX)
}

fn problem(error: Error) -> Problem {
    match error {
        Error::Forged(forged) => {
            tracing::warn!(%forged, "a webhook was refused");
            Problem::new(StatusCode::BAD_REQUEST, "invalid_signature", forged.to_string())
        }
        Error::NoEvent => Problem::new(StatusCode::BAD_REQUEST, "invalid_event", "the body is no event"),
        Error::NoAnswer(_) | Error::Unavailable(_) => {
            tracing::warn!(%error, "a webhook is to be sent again");
            Problem::unavailable("unavailable", "it can't be dealt with now; please send it again", 1)
        }
    }
}
