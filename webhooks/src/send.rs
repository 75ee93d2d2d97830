//! One request to an endpoint: to an address that was looked at, over a connection that is kept for the next one,
//! within its time.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use infra::clock::Clock;
use infra::outgoing::{self, Outgoing};

use crate::Settings;
use crate::address::{Looked, Target};
use crate::outbox::{Attempt, Destination};
use crate::outcome::Outcome;
use crate::signature;

const AGENT: &str = concat!("Cartulary-Webhooks/", env!("CARGO_PKG_VERSION"));

/// How long a connection is kept that nobody uses: shorter than most servers keep it.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// How much of an answer is read, so that its connection can be used again: none of it is wanted.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Sends requests.
pub(crate) struct Http {
    /// With TLS, and without: other addresses are open to each.
    clients: std::io::Result<[Outgoing<Looked>; 2]>,
    settings: Settings,
    clock: Clock,
}

impl Http {
    /// Who is to be trusted is what the system says (or `SSL_CERT_FILE`).
    pub fn new(settings: &Settings, clock: Clock) -> Self {
        let client = |is_https| {
            let looked = Looked { rules: settings.rules, is_https };
            outgoing::client(HttpConnector::new_with_resolver(looked), IDLE_LIMIT)
        };
        let clients = client(true).and_then(|encrypted| Ok([client(false)?, encrypted]));
        if let Err(error) = &clients {
            tracing::warn!(%error, "no certificate authorities were found: webhooks fail");
        }
        Self { clients, settings: settings.clone(), clock }
    }

    pub async fn send(&self, destination: &Destination, attempt: &Attempt) -> Outcome {
        match tokio::time::timeout(self.settings.time_limit, self.try_send(destination, attempt)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(reason)) => Outcome::failed(&reason),
            Err(_) => {
                Outcome::failed(&format!("no answer within {} s", self.settings.time_limit.as_secs_f64()))
            }
        }
    }

    async fn try_send(&self, destination: &Destination, attempt: &Attempt) -> Result<Outcome, String> {
        // The rules may be others than when it was registered.
        let target = Target::parse(&destination.url, self.settings.rules);
        let target = target.map_err(|why| format!("its URL {why}"))?;
        let clients = self.clients.as_ref().map_err(|error| format!("no TLS: {error}"))?;
        let client = &clients[usize::from(target.is_https)];
        let request = self.request(&target, destination, attempt)?;
        let answer = match client.request(request.clone()).await {
            // The connection was kept, and is gone just now; that a request comes twice is allowed for.
            Err(error) if is_cut_off(&error) => client.request(request).await,
            answer => answer,
        };
        let answer = answer.map_err(|error| reason(&error))?;
        let outcome = Outcome::of_status(answer.status().as_u16(), retry_after(&answer));
        let _ = tokio::time::timeout(ANSWER_LIMIT, read(answer.into_body())).await;
        Ok(outcome)
    }

    fn request(
        &self,
        target: &Target,
        destination: &Destination,
        attempt: &Attempt,
    ) -> Result<Request<Full<Bytes>>, String> {
        let timestamp = self.clock.now().timestamp();
        let open = |sealed: &String| self.settings.keys.open(attempt.endpoint, sealed);
        let secrets: Result<Vec<String>, _> = destination.secrets.iter().map(open).collect();
        let secrets = secrets.map_err(|error| error.to_string())?;
        let signature = signature::header(&secrets, &attempt.id, timestamp, &attempt.body);
        let request = Request::post(target.uri())
            .header(HOST, &target.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", &attempt.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(Full::from(attempt.body.clone()));
        request.map_err(|error| format!("the request can't be made: {error}"))
    }
}

/// Nothing of an answer came before the connection ended.
fn is_cut_off(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    })
}

/// What went wrong, from the inside out: the innermost cause says most.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let is_tls = causes(error).filter_map(|cause| cause.downcast_ref()).any(is_of_tls);
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    match error.is_connect() {
        true if is_tls => format!("no TLS: {innermost}"),
        true => format!("no connection: {innermost}"),
        false => format!("the connection was lost: {innermost}"),
    }
}

/// Errors of input and output don't tell of those that they are about as their sources.
fn is_of_tls(error: &std::io::Error) -> bool {
    let about = error.get_ref();
    about.is_some_and(|about| about.is::<rustls::Error>() || about.downcast_ref().is_some_and(is_of_tls))
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

async fn read(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > ANSWER_BYTES_MAX {
            return;
        }
    }
}

/// In seconds, or a date (RFC 9110, 10.2.3), which counts from the answer's own.
fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let header = |name| answer.headers().get(name)?.to_str().ok();
    let value = header(RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text| DateTime::parse_from_rfc2822(text).ok().map(|time| time.with_timezone(&Utc));
    let now = time(header(hyper::header::DATE)?)?;
    (time(value)? - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{Keys, Rules};

    async fn send(rules: Rules, url: String) -> Outcome {
        let keys = Keys::new(vec!["a".repeat(64).parse().unwrap()]);
        let settings = Settings {
            rules,
            keys,
            in_flight_max: 1,
            time_limit: Duration::from_secs(10),
            retry_first: Duration::ZERO,
            retry_max: Duration::ZERO,
            give_up_after: Duration::ZERO,
            keep: Duration::ZERO,
        };
        let endpoint = Uuid::nil();
        let secrets = vec![settings.keys.seal(endpoint, "whsec_AAAA").unwrap()];
        let destination = Destination { url, secrets, failures: 0 };
        let (id, body, claim) = ("msg_1".to_owned(), "{}".to_owned(), Uuid::nil());
        let attempt = Attempt { endpoint, position: 1, index: 0, id, body, attempts: 0, claim };
        Http::new(&settings, Clock::system()).send(&destination, &attempt).await
    }

    /// A name that was harmless when the endpoint was registered leads to this machine by now.
    #[tokio::test]
    async fn who_may_not_be_connected_to_is_not_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let said = |outcome| match outcome {
            Outcome::Failed { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let reason = said(send(Rules::default(), url.clone()).await);
        assert!(reason.contains("must be one of the public network"), "{reason}");
        assert!(listener.accept().is_err(), "nobody came");
        // Where that is open, somebody comes, and is not answered.
        let open = Rules { loopback: true, private: false };
        let came = async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            drop(listener.accept().await.unwrap());
        };
        let (outcome, ()) = tokio::join!(send(open, url), came);
        let reason = said(outcome);
        assert!(reason.starts_with("no "), "{reason}");
    }
}
