//! Atomic batches (ADR-50): messages that a stream takes all or not at all, for about the price of one message's
//! fsync.
//!
//! The client library has the names of the headers, but no publisher of batches.

use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use uuid::Uuid;

use super::{Connection, Moment, Unanswered};
use crate::log::{ACK_LIMIT, Unavailable};

/// The server takes no larger batch.
pub const MESSAGES_MAX: usize = 1_000;

/// A message of a batch.
#[derive(Debug)]
pub struct Message {
    pub subject: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the stream takes no batches at all")]
    NotAllowed,
    /// Something is wrong with one of the messages, or with all: one by one, each is told what that is.
    #[error("nothing was stored: {0}")]
    Refused(String),
    #[error("nothing was stored")]
    NotStored(#[source] Unavailable),
    #[error("the user of nats-server may not publish to {subject}")]
    Denied { subject: String },
    /// All of it may be stored, or nothing.
    #[error("whether it was stored is unknown")]
    Unknown(#[source] Unavailable),
}

impl From<Error> for Unavailable {
    fn from(error: Error) -> Self {
        match error {
            Error::NotStored(reason) | Error::Unknown(reason) => reason,
            error => Self::because(error),
        }
    }
}

/// A batch on its way. Without its last message it is nothing.
#[derive(Debug)]
pub struct Batch<'c> {
    connection: &'c Connection,
    id: String,
    sent: u64,
    since: Moment,
}

impl<'c> Batch<'c> {
    #[must_use]
    pub fn new(connection: &'c Connection) -> Self {
        let id = Uuid::now_v7().simple().to_string();
        Self { connection, id, sent: 0, since: connection.now() }
    }

    /// Sends a message that is not the last one.
    ///
    /// # Errors
    /// The client does not send such a message.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        let Message { subject, headers, body } = self.next(message);
        let sent = self.connection.client.publish_with_headers(subject, headers, body).await;
        sent.map_err(|error| Error::Refused(error.to_string()))
    }

    /// Sends the last message; returns the position of the first one, with the others right behind it.
    ///
    /// # Errors
    /// As far as the server has answered, nothing is stored.
    pub async fn commit(mut self, last: Message) -> Result<u64, Error> {
        let Message { subject, mut headers, body } = self.next(last);
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let request = Request::new().headers(headers).payload(body).timeout(Some(ACK_LIMIT));
        let answer = tokio::select! {
            biased;
            answer = self.connection.client.send_request(subject.clone(), request) => answer,
            why = self.connection.unanswered(self.since, &subject) => return Err(unanswered(why, subject)),
        };
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Error::NotStored(Unavailable::because(error)),
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                Error::Refused(error.to_string())
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                Error::Unknown(Unavailable::because(error))
            }
        })?;
        acknowledged(&answer.payload, self.sent)
    }

    fn next(&mut self, mut message: Message) -> Message {
        self.sent += 1;
        message.headers.insert(NATS_BATCH_ID, self.id.as_str());
        message.headers.insert(NATS_BATCH_SEQUENCE, self.sent.to_string());
        message
    }
}

/// The connection's word on a batch that will have no answer.
fn unanswered(why: Unanswered, subject: String) -> Error {
    match why {
        Unanswered::Denied => Error::Denied { subject },
        Unanswered::Lost => Error::Unknown(Unavailable::because("the connection was lost")),
    }
}

/// The position of the first message: they stand one after the other.
fn acknowledged(answer: &[u8], length: u64) -> Result<u64, Error> {
    let unreadable = |reason: &dyn std::fmt::Display| {
        Error::Unknown(Unavailable::because(format!("an unreadable answer: {reason}")))
    };
    match serde_json::from_slice(answer).map_err(|error| unreadable(&error))? {
        Response::Ok(PublishAck { sequence, batch_size: Some(stored), .. })
            if stored == length && sequence >= length =>
        {
            Ok(sequence - length + 1)
        }
        Response::Ok(other) => Err(unreadable(&format!("{other:?}"))),
        Response::Err { error } if error.error_code() == ErrorCode::ATOMIC_PUBLISH_DISABLED => {
            Err(Error::NotAllowed)
        }
        Response::Err { error } => Err(Error::Refused(error.to_string())),
    }
}
