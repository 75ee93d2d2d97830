//! Requests to others: over connections that are kept for the next one, to whom the system trusts.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Sends requests to wherever the names lead that `R` looks up.
pub type Outgoing<R> = Client<HttpsConnector<HttpConnector<R>>, Full<Bytes>>;

/// A client whose connections are kept for so long while nobody uses them.
///
/// # Errors
/// There is nobody whom this machine trusts, so nothing can be encrypted.
pub fn client<R>(mut connector: HttpConnector<R>, idle_limit: Duration) -> std::io::Result<Outgoing<R>>
where
    HttpsConnector<HttpConnector<R>>: Connect + Clone,
{
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    let provider = rustls::crypto::ring::default_provider();
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(provider)?
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    // It follows nobody elsewhere: who redirects is not who was asked, and would be shown what is secret.
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle_limit)
        // What is sent on a connection that just broke may have been done.
        .retry_canceled_requests(false)
        .build(connector))
}
