//! Stripe's API as a carrier: a form goes there, JSON comes back, and everything else is no answer.
//!
//! | what comes                                     | what it means                                     |
//! |------------------------------------------------|---------------------------------------------------|
//! | 2xx with the object that was asked for         | done                                              |
//! | 402, 400 and other 4xx                         | refused: nothing was done, and will not be        |
//! | 401, 403                                       | no answer: our key is wrong, the payment may be fine |
//! | 409, 429                                       | no answer: not now                                |
//! | 400 `idempotency_error`                        | no answer, and a fault of ours                    |
//! | 5xx, redirects, broken or strange answers      | no answer: it may have been done                  |
//! | 5xx that is the repeat of an earlier one       | failed for good under this key; it may have been done |
//!
//! (docs.stripe.com/error-low-level, docs.stripe.com/api/idempotent_requests)

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::outgoing::{self, Outgoing};
use crate::payment::NoAnswer;
use crate::secret::Secret;

/// Largest answer that is read: a full page of payments is a third of it.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Shorter than a server keeps a connection that nobody uses.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// How often something is read again before it's given up.
const READS: u32 = 3;

/// The shapes that are understood here.
const VERSION: &str = "2025-03-31.basil";

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the address of the payment provider is none: {0}")]
    Address(String),
    #[error("the address of the payment provider has to begin with https://, unless it is on this machine")]
    NotEncrypted,
    #[error("the key for the payment provider is none: it has characters that no key has")]
    Key,
    #[error("no encrypted connection can be made, because this machine trusts nobody: {0}")]
    Encryption(#[from] std::io::Error),
}

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was not done, and will not be. Some refusals show the payment that is in the way.
    Refused {
        reason: String,
        intent: Option<Value>,
    },
    /// The request with this key failed, and the same failure is all that this key gets.
    Failed {
        reason: String,
    },
    NoAnswer(NoAnswer),
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        Self::NoAnswer(error)
    }
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { reason, .. } | Failure::Failed { reason } => NoAnswer(reason),
            Failure::NoAnswer(error) => error,
        }
    }
}

pub(super) struct Api {
    http: Outgoing<GaiResolver>,
    base: String,
    authorization: HeaderValue,
    answer_limit: Duration,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorOfApi,
}

#[derive(Default, Deserialize)]
struct ErrorOfApi {
    #[serde(rename = "type", default)]
    kind: String,
    code: Option<String>,
    decline_code: Option<String>,
    payment_intent: Option<Value>,
}

struct Received {
    status: StatusCode,
    is_replay: bool,
    body: Vec<u8>,
}

impl Api {
    pub fn new(url: &str, key: &Secret, answer_limit: Duration) -> Result<Self, SetupError> {
        let uri: Uri = url.parse().map_err(|_| SetupError::Address(url.to_owned()))?;
        let host = uri.host().ok_or_else(|| SetupError::Address(url.to_owned()))?;
        let is_here = ["127.0.0.1", "localhost", "[::1]"].contains(&host);
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_here => {}
            _ => return Err(SetupError::NotEncrypted),
        }
        let authorization = HeaderValue::from_str(&format!("Bearer {}", key.reveal()));
        let mut authorization = authorization.map_err(|_| SetupError::Key)?;
        authorization.set_sensitive(true);
        let http = outgoing::client(HttpConnector::new(), IDLE_LIMIT)?;
        Ok(Self { http, base: url.trim_end_matches('/').to_owned(), authorization, answer_limit })
    }

    /// Asks for something to be done, under a key.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        form: &[(&str, &str)],
        idempotency_key: &str,
    ) -> Result<T, Failure> {
        let key = HeaderValue::from_str(idempotency_key);
        let key = key.map_err(|_| NoAnswer("the request has a key that is none".to_owned()))?;
        let mut request = self.request(Method::POST, path, encoded(form))?;
        request.headers_mut().insert("idempotency-key", key);
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        let received = self.send(request).await?;
        if received.status.is_success() {
            return Ok(understand(&received.body)?);
        }
        Err(failure(&received))
    }

    /// Reads something; nothing, if it is not there. Reading changes nothing, so it's tried again at once.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<T>, NoAnswer> {
        let path = format!("{path}?{}", encoded(query));
        let mut reads = 1;
        loop {
            let read = self.read(&path).await;
            if read.is_ok() || reads == READS {
                return read;
            }
            let jitter = fastrand::u64(50..150) << reads;
            tokio::time::sleep(Duration::from_millis(jitter)).await;
            reads += 1;
        }
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, NoAnswer> {
        let received = self.send(self.request(Method::GET, path, String::new())?).await?;
        match received.status {
            status if status.is_success() => understand(&received.body).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(failure(&received).into()),
        }
    }

    fn request(&self, method: Method, path: &str, body: String) -> Result<Request<Full<Bytes>>, NoAnswer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(USER_AGENT, concat!("cartulary/", env!("CARGO_PKG_VERSION")))
            .header("stripe-version", VERSION)
            .body(Full::from(body));
        request.map_err(|error| NoAnswer(error.to_string()))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Received, NoAnswer> {
        let received = tokio::time::timeout(self.answer_limit, self.receive(request)).await;
        received.unwrap_or_else(|_| Err(NoAnswer("it took too long".to_owned())))
    }

    /// Reads the whole answer, if it is not too long.
    async fn receive(&self, request: Request<Full<Bytes>>) -> Result<Received, NoAnswer> {
        let response = self.http.request(request).await.map_err(|error| {
            let what = if error.is_connect() { "it can't be reached" } else { "the connection was cut" };
            NoAnswer(what.to_owned())
        })?;
        let status = response.status();
        let is_replay = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        let (mut stream, mut body) = (response.into_body(), Vec::new());
        while let Some(frame) = stream.frame().await {
            let frame = frame.map_err(|_| NoAnswer("the answer did not arrive whole".to_owned()))?;
            let data = frame.into_data().unwrap_or_default();
            if body.len() + data.len() > BODY_BYTES_MAX {
                return Err(NoAnswer("the answer is too long".to_owned()));
            }
            body.extend_from_slice(&data);
        }
        Ok(Received { status, is_replay, body })
    }
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// What the answer says is never repeated in an error: it may be anything.
fn understand<T: DeserializeOwned>(body: &[u8]) -> Result<T, NoAnswer> {
    serde_json::from_slice(body).map_err(|error| {
        NoAnswer(format!("the answer can't be understood (line {}, column {})", error.line(), error.column()))
    })
}

fn failure(received: &Received) -> Failure {
    let Received { status, is_replay, body } = received;
    let error: ErrorOfApi = serde_json::from_slice(body).map(|ErrorBody { error }| error).unwrap_or_default();
    let no_answer = |what: &str| Failure::NoAnswer(NoAnswer(format!("{what} ({status})")));
    match status.as_u16() {
        400 if error.kind == "idempotency_error" => {
            tracing::error!(
                "the payment provider was asked for two things with one key, which is a fault here"
            );
            no_answer("the key was used for another request")
        }
        401 | 403 => {
            tracing::error!(%status, "the payment provider does not accept our key; payments wait for another");
            no_answer("our key is not accepted")
        }
        409 => no_answer("it is still at it"),
        429 => no_answer("it is asked too often"),
        408 | 425 => no_answer("it did not take the request"),
        400..500 if !error.kind.is_empty() => {
            let reason = error.decline_code.or(error.code).unwrap_or(error.kind);
            Failure::Refused { reason: code(&reason), intent: error.payment_intent }
        }
        500..600 if *is_replay => Failure::Failed { reason: format!("it failed ({status})") },
        _ => no_answer("it says nothing of use"),
    }
}

/// Only what can be a code: reasons are kept in the log for ever.
pub(super) fn code(text: &str) -> String {
    let is_code = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
    text.chars().filter(is_code).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, is_replay: bool, body: &str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        failure(&Received { status, is_replay, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn what_is_definite_and_what_is_not() {
        let declined = r#"{"error":{"type":"card_error","code":"card_declined","decline_code":"lost_card"}}"#;
        assert!(matches!(of(402, false, declined), Failure::Refused { reason, .. } if reason == "lost_card"));
        let invalid = r#"{"error":{"type":"invalid_request_error","code":"resource_missing"}}"#;
        for status in [400, 404] {
            assert!(matches!(of(status, false, invalid), Failure::Refused { .. }), "{status}");
        }
        for status in [301, 401, 403, 408, 409, 425, 429, 500, 502, 503] {
            assert!(matches!(of(status, false, invalid), Failure::NoAnswer(_)), "{status}");
        }
        let reused = r#"{"error":{"type":"idempotency_error"}}"#;
        assert!(matches!(of(400, false, reused), Failure::NoAnswer(_)));
        // Whatever stands between us and the provider may say 400, too.
        assert!(matches!(of(400, false, "<html>"), Failure::NoAnswer(_)));
        assert!(matches!(of(500, true, "{}"), Failure::Failed { .. }));
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        let new = |url| Api::new(url, &"sk_test_1".parse().unwrap(), IDLE_LIMIT);
        for fine in ["https://api.stripe.com", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert!(new(fine).is_ok(), "{fine}");
        }
        for wrong in
            ["http://api.stripe.com", "ftp://127.0.0.1", "api.stripe.com", "http://127.0.0.1.evil.org"]
        {
            assert!(new(wrong).is_err(), "{wrong}");
        }
    }
}
