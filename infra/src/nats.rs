//! Connecting to nats-server.

use async_nats::{Client, ConnectOptions, ServerAddr};

/// Connects, with the user and password that the URL may hold. Later outages are waited out.
///
/// # Errors
/// The URL is not of its form, or the server can't be reached.
pub async fn connect(url: &str) -> Result<Client, async_nats::ConnectError> {
    let options = ConnectOptions::new().name("cartulary");
    // The client library takes credentials from its options only.
    let options = match url.parse::<ServerAddr>() {
        Ok(address) => match (address.username(), address.password()) {
            (Some(user), Some(password)) => options.user_and_password(user.to_owned(), password.to_owned()),
            _ => options,
        },
        Err(_) => options,
    };
    options.connect(url).await
}
