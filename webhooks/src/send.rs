//! One request to an endpoint: to the address that was looked at, on a connection of its own, within its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use infra::clock::Clock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::Host;

use crate::address::{Rules, Target};
use crate::outbox::{Attempt, Destination};
use crate::outcome::Outcome;
use crate::signature;

const AGENT: &str = concat!("Cartulary-Webhooks/", env!("CARGO_PKG_VERSION"));

/// How long one address of several may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How much of an answer is read, so that who sends it is not cut off: none of it is wanted.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Sends requests.
pub(crate) struct Http {
    tls: TlsConnector,
    rules: Rules,
    time_limit: Duration,
    clock: Clock,
}

impl Http {
    /// Who is to be trusted is what the system says (or `SSL_CERT_FILE`).
    pub fn new(rules: Rules, time_limit: Duration, clock: Clock) -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(errors = ?found.errors, "no certificate authorities were found: webhooks over TLS fail");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|error| unreachable!("the provider has the usual versions: {error}"))
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)), rules, time_limit, clock }
    }

    pub async fn send(&self, destination: &Destination, attempt: &Attempt) -> Outcome {
        match tokio::time::timeout(self.time_limit, self.try_send(destination, attempt)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(reason)) => Outcome::failed(&reason),
            Err(_) => Outcome::failed(&format!("no answer within {} s", self.time_limit.as_secs_f64())),
        }
    }

    async fn try_send(&self, destination: &Destination, attempt: &Attempt) -> Result<Outcome, String> {
        // The rules may be others than when it was registered.
        let target = Target::parse(&destination.url, self.rules).map_err(|why| format!("its URL {why}"))?;
        let addresses = target.addresses(self.rules).await.map_err(|error| error.to_string())?;
        let stream = connect(&addresses).await?;
        let request = self.request(&target, destination, attempt)?;
        let answer = match target.is_https {
            false => exchange(stream, request).await?,
            true => {
                let name = match &target.host {
                    Host::Domain(name) => {
                        ServerName::try_from(name.clone()).map_err(|error| error.to_string())?
                    }
                    Host::Ipv4(address) => ServerName::from(std::net::IpAddr::from(*address)),
                    Host::Ipv6(address) => ServerName::from(std::net::IpAddr::from(*address)),
                };
                let stream = self.tls.connect(name, stream).await;
                exchange(stream.map_err(|error| format!("no TLS: {error}"))?, request).await?
            }
        };
        Ok(answer)
    }

    fn request(
        &self,
        target: &Target,
        destination: &Destination,
        attempt: &Attempt,
    ) -> Result<Request<Full<Bytes>>, String> {
        let timestamp = self.clock.now().timestamp();
        let signature = signature::header(&destination.secrets, &attempt.id, timestamp, &attempt.body);
        let request = Request::post(&target.path)
            .header(HOST, &target.authority)
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", &attempt.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(Full::from(attempt.body.clone()));
        request.map_err(|error| format!("the request can't be made: {error}"))
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut trouble = "its name stands for no address".to_owned();
    for address in addresses {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => trouble = format!("no connection: {error}"),
            Err(_) => trouble = "no connection in time".to_owned(),
        }
    }
    Err(trouble)
}

/// Sends the request and reads what is answered.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Outcome, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = |error: hyper::Error| format!("the connection was lost: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(lost)?;
        let outcome = Outcome::of_status(answer.status().as_u16(), retry_after(&answer));
        let _ = tokio::time::timeout(ANSWER_LIMIT, read(answer.into_body())).await;
        Ok(outcome)
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The answer may be there whole when the connection ends.
        _ = &mut connection => answer.await,
    }
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
