//! Connecting to nats-server.

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};

/// Connects to one of the servers whose URLs these are, separated by commas, with the user and password
/// that the first may hold. Later outages are waited out, on any of the servers.
///
/// # Errors
/// A URL is not of its form, or no server can be reached.
pub async fn connect(urls: &str) -> Result<Client, async_nats::ConnectError> {
    let addresses: Result<Vec<ServerAddr>, _> = urls.split(',').map(|url| url.trim().parse()).collect();
    let addresses =
        addresses.map_err(|error| ConnectError::with_source(ConnectErrorKind::ServerParse, error))?;
    let options = ConnectOptions::new().name("cartulary").event_callback(async |event| tell(&event));
    // The client library takes credentials from its options only.
    let credentials = addresses.first().and_then(|address| Some((address.username()?, address.password()?)));
    let options = match credentials {
        Some((user, password)) => options.user_and_password(user.to_owned(), password.to_owned()),
        None => options,
    };
    options.connect(addresses).await
}

/// A missing permission is told in no other way: whoever asked waits in vain.
fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to nats-server"),
        Event::Disconnected => tracing::warn!("disconnected from nats-server"),
        Event::ServerError(error) => tracing::error!(%error, "nats-server refuses"),
        Event::ClientError(error) => tracing::warn!(%error, "the connection to nats-server has trouble"),
        other => tracing::debug!(event = %other, "of the connection to nats-server"),
    }
}
