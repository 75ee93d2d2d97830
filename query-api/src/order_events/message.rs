//! What goes over the wire, in which order, and how it ends.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use axum::response::sse;
use chrono::SecondsFormat;
use domain::RecordedEvent;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::ToSchema;

use super::life::Life;
use super::live::Watching;

/// How soon a client comes again whose connection was lost; not all of them at a time.
const RETRY_MS: std::ops::Range<u64> = 500..3_000;

/// An event's place in the log, which is its id: `<position>.<index in the commit>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub position: u64,
    pub index: usize,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.position, self.index)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        let place = text.split_once('.').and_then(|(position, index)| {
            Some(Self { position: number(position)?, index: usize::try_from(number(index)?).ok()? })
        });
        place.ok_or_else(|| "must be an event's id as it was sent, such as 42.0".to_owned())
    }
}

/// Something that happened to the order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderEvent {
    #[serde(skip)]
    place: Place,
    #[serde(rename = "type")]
    #[schema(example = "order.placed")]
    kind: String,
    /// To the microsecond, as in the order's timeline.
    #[schema(value_type = String, format = DateTime)]
    occurred_at: String,
    /// In the log: a query with it as `Min-Log-Position` shows what this led to.
    position: u64,
    /// Depends on the type: lines, total and country of an order, the reason of a cancellation, an amount.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

impl OrderEvent {
    pub(super) fn new(place: Place, event: &RecordedEvent, data: Map<String, Value>) -> Self {
        let occurred_at = event.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        Self { place, kind: event.kind.clone(), occurred_at, position: place.position, data }
    }

    fn message(&self) -> sse::Event {
        let data = serde_json::to_string(self).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        sse::Event::default().id(self.place.to_string()).event(&self.kind).data(data)
    }
}

/// Why there is nothing more on this connection.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Nothing more can happen to the order.
    OrderOver,
    /// It goes on elsewhere, or later: the process stops, or the log does not answer.
    Reconnect,
}

impl End {
    fn message(self) -> sse::Event {
        let reason = match self {
            Self::OrderOver => "order_over",
            Self::Reconnect => "reconnect",
        };
        // Without an id: the last event's is where to go on from.
        let event = sse::Event::default().event("end").data(json!({ "reason": reason }).to_string());
        match self {
            Self::OrderOver => event,
            Self::Reconnect => event.retry(retry()),
        }
    }
}

fn retry() -> Duration {
    Duration::from_millis(fastrand::u64(RETRY_MS))
}

/// An open stream.
pub(super) struct Stream {
    life: Life,
    watching: Watching,
    stopped: watch::Receiver<bool>,
    has_begun: bool,
    has_ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    pub fn new(
        life: Life,
        watching: Watching,
        stopped: watch::Receiver<bool>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { life, watching, stopped, has_begun: false, has_ended: false, _place: place }
    }

    /// Made one by one, when the reader has taken the one before.
    pub fn messages(self) -> impl stream::Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut stream| async {
            let message = stream.next().await?;
            Some((Ok(message), stream))
        })
    }

    async fn next(&mut self) -> Option<sse::Event> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // Known before the first loss of the connection.
            return Some(sse::Event::default().retry(retry()));
        }
        while !self.has_ended {
            if let Some(event) = self.life.next() {
                return Some(event.message());
            }
            if self.life.is_over() {
                return Some(self.end(End::OrderOver));
            }
            let reach = tokio::select! {
                biased;
                // If the sender is gone, so is the platform.
                _ = self.stopped.wait_for(|stopped| *stopped) => None,
                reach = self.watching.beyond(self.life.read()) => Some(reach),
            };
            let Some(reach) = reach else { return Some(self.end(End::Reconnect)) };
            if let Err(error) = self.life.take_in(reach, reach.last()).await {
                tracing::warn!(%error, "an order's events can't be read on");
                return Some(self.end(End::Reconnect));
            }
        }
        None
    }

    fn end(&mut self, end: End) -> sse::Event {
        self.has_ended = true;
        end.message()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_is_an_id() {
        let place = Place { position: 42, index: 1 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for hostile in
            ["", "42", ".", "42.", ".1", "+42.1", "42.-1", "4 2.1", "42.1.0", "18446744073709551616.0"]
        {
            assert!(hostile.parse::<Place>().is_err(), "{hostile}");
        }
    }
}
