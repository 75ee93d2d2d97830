//! Commits that are appended all or not at all.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;

use super::jetstream::headers;
use super::subjects::subject;
use super::{Append, AppendError, Expected};
use crate::fail_points;
use crate::nats::Connection;
use crate::nats::batch::{Batch, Error, Message};

/// Appends all of them or none; returns the position of the first.
pub(super) async fn publish(connection: &Connection, batch: &[Append]) -> Result<u64, Error> {
    let Some((last, before)) = batch.split_last() else {
        return Err(Error::Refused("an empty batch".to_owned()));
    };
    let mut on_its_way = Batch::new(connection);
    for append in before {
        on_its_way.send(message(append)).await?;
    }
    fail_points::may_die(fail_points::BATCH_HALF_SENT);
    let first = on_its_way.commit(message(last)).await?;
    fail_points::may_die(fail_points::APPEND_ACKNOWLEDGED);
    Ok(first)
}

fn message(append: &Append) -> Message {
    let mut headers: HeaderMap = headers(&append.message);
    if let Expected::Position(position) = append.expected {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, position.to_string());
    }
    Message { subject: subject(&append.message.stream), headers, body: append.message.body.clone() }
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        match error {
            // One by one, each is told what is wrong with it.
            Error::NotAllowed | Error::Refused(_) => Self::Conflict,
            Error::NotStored(reason) => Self::NotAppended(reason),
            Error::Denied { subject } => Self::Denied { subject },
            Error::Unknown(reason) => Self::Unknown(reason),
        }
    }
}
