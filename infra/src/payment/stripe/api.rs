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

use reqwest::{Method, StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::payment::{NoAnswer, Secret};

/// Largest answer that is read: a full page of payments is a third of it.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

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
    #[error("no connection to the payment provider can be made: {0}")]
    Client(#[from] reqwest::Error),
    #[error("no encrypted connection can be made: {0}")]
    Encryption(#[from] rustls::Error),
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
    http: reqwest::Client,
    base: Url,
    key: Secret,
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
    pub fn new(url: &str, key: Secret, answer_limit: Duration) -> Result<Self, SetupError> {
        let base = Url::parse(url).map_err(|error| SetupError::Address(error.to_string()))?;
        let is_here = match base.host() {
            None => return Err(SetupError::Address("it names no host".to_owned())),
            Some(host) => ["127.0.0.1", "localhost", "[::1]"].contains(&host.to_string().as_str()),
        };
        if base.scheme() != "https" && !(is_here && base.scheme() == "http") {
            return Err(SetupError::NotEncrypted);
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(encryption()?)
            .connect_timeout(CONNECT_LIMIT)
            .timeout(answer_limit)
            // Whoever redirects is not who was asked, and would be shown the key.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("cartulary/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, base, key })
    }

    /// Asks for something to be done, under a key.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        form: &[(&str, &str)],
        idempotency_key: &str,
    ) -> Result<T, Failure> {
        let request = self
            .request(Method::POST, path)?
            .header("Idempotency-Key", idempotency_key)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(encoded(form));
        let received = receive(request).await?;
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
        let received = receive(self.request(Method::GET, path)?).await?;
        match received.status {
            status if status.is_success() => understand(&received.body).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(failure(&received).into()),
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, NoAnswer> {
        let url = self.base.join(path).map_err(|error| NoAnswer(error.to_string()))?;
        let request = self.http.request(method, url).bearer_auth(self.key.reveal());
        Ok(request.header("Stripe-Version", VERSION))
    }
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Trusts whom this machine trusts.
fn encryption() -> Result<rustls::ClientConfig, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Reads the whole answer, if it is not too long.
async fn receive(request: reqwest::RequestBuilder) -> Result<Received, NoAnswer> {
    let mut response = request.send().await.map_err(|error| not_received(&error))?;
    let status = response.status();
    let is_replay = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| not_received(&error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(NoAnswer("the answer is too long".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Received { status, is_replay, body })
}

/// In words of ours: the error's own have the address with all its parameters.
fn not_received(error: &reqwest::Error) -> NoAnswer {
    NoAnswer(
        match error {
            _ if error.is_timeout() => "it took too long",
            _ if error.is_connect() => "it can't be reached",
            _ => "the connection was cut",
        }
        .to_owned(),
    )
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
        let new = |url| Api::new(url, "sk_test_1".parse().unwrap(), CONNECT_LIMIT);
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
