//! Atomic batches (ADR-50): messages that are appended all or not at all, for about the price of
//! one append's fsync.
//!
//! The client library has the names of the headers, but no publisher of batches.

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, Request, RequestErrorKind};
use uuid::Uuid;

use super::jetstream::{ACK_LIMIT, headers, unanswered};
use super::subjects::subject;
use super::{Append, AppendError, Expected, Unavailable};
use crate::fail_points;
use crate::nats::Connection;

/// The server takes no larger batch.
pub(super) const MESSAGES_MAX: usize = 1_000;

#[derive(Debug)]
pub(super) enum Error {
    /// The stream takes no batches at all.
    NotAllowed,
    Append(AppendError),
}

/// Appends all of them or none; returns the position of the first.
pub(super) async fn publish(connection: &Connection, batch: &[Append]) -> Result<u64, Error> {
    let Some((last, before)) = batch.split_last() else {
        return Err(Error::Append(AppendError::NotAppended(Unavailable::because("an empty batch"))));
    };
    let id = Uuid::now_v7().simple().to_string();
    let (client, since) = (&connection.client, connection.now());
    for (append, place) in before.iter().zip(1_u64..) {
        let headers = batch_headers(append, &id, place);
        let sent = client.publish_with_headers(
            subject(&append.message.stream),
            headers,
            append.message.body.clone(),
        );
        // Without its last message, a batch is nothing: one by one, each is told what is wrong.
        sent.await.map_err(|_| Error::Append(AppendError::Conflict))?;
    }
    fail_points::may_die(fail_points::BATCH_HALF_SENT);
    let mut headers = batch_headers(last, &id, batch.len() as u64);
    headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    let request = Request::new().headers(headers).payload(last.message.body.clone()).timeout(Some(ACK_LIMIT));
    let subject = subject(&last.message.stream);
    let answer = tokio::select! {
        biased;
        answer = client.send_request(subject.clone(), request) => answer,
        why = connection.unanswered(since, &subject) => {
            return Err(Error::Append(unanswered(why, subject)));
        }
    };
    let answer = answer.map_err(|error| {
        Error::Append(match error.kind() {
            RequestErrorKind::NoResponders => AppendError::NotAppended(Unavailable::because(error)),
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => AppendError::Conflict,
            RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                AppendError::Unknown(Unavailable::because(error))
            }
        })
    })?;
    fail_points::may_die(fail_points::APPEND_ACKNOWLEDGED);
    acknowledged(&answer.payload, batch.len() as u64)
}

fn batch_headers(append: &Append, id: &str, place: u64) -> HeaderMap {
    let mut headers = headers(&append.message);
    headers.insert(NATS_BATCH_ID, id);
    headers.insert(NATS_BATCH_SEQUENCE, place.to_string());
    if let Expected::Position(position) = append.expected {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, position.to_string());
    }
    headers
}

/// The position of the first message: they stand one after the other.
fn acknowledged(answer: &[u8], length: u64) -> Result<u64, Error> {
    let unreadable = |reason: &dyn std::fmt::Display| {
        Error::Append(AppendError::Unknown(Unavailable::because(format!("an unreadable answer: {reason}"))))
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
        // Whatever is wrong with the batch, the messages one by one are told what is wrong with them.
        Response::Err { .. } => Err(Error::Append(AppendError::Conflict)),
    }
}
