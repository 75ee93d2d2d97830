//! The connection to nats-server, and what is told beside the answers to what was asked.

pub mod batch;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::watch;

/// How often the server is asked whether it's there. When it has not answered three times, the
/// connection is taken for dead: one that is half-open tells nobody.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Longest pause before the next try to reach a server.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Subjects that are remembered as denied.
const DENIED_MAX: usize = 1_000;

/// A connection that waits out outages.
#[derive(Debug, Clone)]
pub struct Connection {
    pub client: Client,
    news: watch::Receiver<News>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct News {
    /// How often the connection was lost.
    losses: u64,
    denials: u64,
    /// Subjects that may not be published to, each with the number of its last denial.
    denied: BTreeMap<String, u64>,
}

/// A moment, to ask what was told since.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    losses: u64,
    denials: u64,
}

/// Why the answer to what was published will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The connection was lost on which it would have come.
    Lost,
    /// This user may not publish there.
    Denied,
}

impl Connection {
    #[must_use]
    pub fn now(&self) -> Moment {
        let news = self.news.borrow();
        Moment { losses: news.losses, denials: news.denials }
    }

    /// Waits until it's certain that what was published since then gets no answer.
    pub async fn unanswered(&self, since: Moment, subject: &str) -> Unanswered {
        let mut news = self.news.clone();
        let denied = |news: &News| news.denied.get(subject).is_some_and(|number| *number > since.denials);
        let found = news.wait_for(|news| news.losses > since.losses || denied(news)).await;
        match found.map(|news| denied(&news)) {
            Ok(true) => Unanswered::Denied,
            Ok(false) | Err(_) => Unanswered::Lost,
        }
    }
}

/// Connects to one of the servers whose URLs these are, separated by commas, with the user and password
/// that the first may hold. Later outages are waited out, on any of the servers.
///
/// # Errors
/// A URL is not of its form, or no server can be reached.
pub async fn connect(urls: &str) -> Result<Connection, ConnectError> {
    let addresses: Result<Vec<ServerAddr>, _> = urls.split(',').map(|url| url.trim().parse()).collect();
    let addresses =
        addresses.map_err(|error| ConnectError::with_source(ConnectErrorKind::ServerParse, error))?;
    let (sender, news) = watch::channel(News::default());
    let sender = std::sync::Arc::new(sender);
    let options = ConnectOptions::new()
        .name("cartulary")
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(reconnect_pause)
        .event_callback(move |event| {
            tell(&event);
            note(&sender, &event);
            std::future::ready(())
        });
    // The client library takes credentials from its options only.
    let credentials = addresses.first().and_then(|address| Some((address.username()?, address.password()?)));
    let options = match credentials {
        Some((user, password)) => options.user_and_password(user.to_owned(), password.to_owned()),
        None => options,
    };
    Ok(Connection { client: options.connect(addresses).await?, news })
}

fn reconnect_pause(attempts: usize) -> Duration {
    let doubled = Duration::from_millis(1 << attempts.min(20));
    if attempts <= 1 { Duration::ZERO } else { doubled.min(RECONNECT_PAUSE_MAX) }
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to nats-server"),
        Event::Disconnected => tracing::warn!("disconnected from nats-server"),
        Event::ServerError(error) => tracing::error!(%error, "nats-server refuses"),
        Event::ClientError(error) => tracing::warn!(%error, "the connection to nats-server has trouble"),
        other => tracing::debug!(event = %other, "of the connection to nats-server"),
    }
}

fn note(news: &watch::Sender<News>, event: &Event) {
    match event {
        Event::Disconnected => news.send_modify(|news| news.losses += 1),
        Event::ServerError(ServerError::Other(error)) => {
            let Some(subject) = denied_subject(error) else { return };
            news.send_modify(|news| {
                if news.denied.len() >= DENIED_MAX {
                    news.denied.clear();
                }
                news.denials += 1;
                news.denied.insert(subject.to_owned(), news.denials);
            });
        }
        _ => {}
    }
}

/// `Permissions Violation for Publish to "a.b"` → `a.b`. A missing permission is told in no other way:
/// whoever published waits in vain.
fn denied_subject(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once("Permissions Violation for Publish to \"")?;
    rest.split_once('"').map(|(subject, _)| subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_its_subject() {
        let error = "Permissions Violation for Publish to \"cartulary.e.stock.A-1\"";
        assert_eq!(denied_subject(error), Some("cartulary.e.stock.A-1"));
        assert_eq!(denied_subject("Permissions Violation for Subscription to \"a\""), None);
    }

    #[test]
    fn nobody_is_asked_again_and_again_without_a_pause() {
        assert_eq!(reconnect_pause(1), Duration::ZERO);
        assert_eq!(reconnect_pause(3), Duration::from_millis(8));
        assert_eq!(reconnect_pause(9), RECONNECT_PAUSE_MAX);
        assert_eq!(reconnect_pause(usize::MAX), RECONNECT_PAUSE_MAX);
    }
}
