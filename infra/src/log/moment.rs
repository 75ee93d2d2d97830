//! Positions by time. Commits are recorded in the order of time, so they are searched by halves.

use std::ops::Range;

use chrono::{DateTime, Utc};

use super::{EventLog, ReadError, Unavailable};

/// The first position that was recorded at this time or later; the one after the end, if none was. What this
/// build can't read is passed over.
///
/// # Errors
/// The log does not answer, or a replica of it is behind.
pub async fn first_at(log: &dyn EventLog, time: DateTime<Utc>) -> Result<u64, ReadError> {
    let (mut low, mut high) = (1, log.end().await? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match readable(log, middle..high).await? {
            Some((position, recorded_at)) if recorded_at < time => low = position + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first of these positions whose commit can be read, and its time.
async fn readable(
    log: &dyn EventLog,
    positions: Range<u64>,
) -> Result<Option<(u64, DateTime<Utc>)>, ReadError> {
    for position in positions {
        match log.read(position).await {
            Ok(Some(stored)) => return Ok(Some((position, stored.commit.recorded_at))),
            Ok(None) => return Err(Unavailable::because("a replica of the log is behind").into()),
            Err(ReadError::Unreadable { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
