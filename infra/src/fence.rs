//! The regression fence: notices a log that is not the one that the read models were built from.
//!
//! A log that was recreated begins at 1 again, and one that was restored from a backup lacks its end;
//! whoever went on over it would skip, or apply twice, without a word.

use std::time::Duration;

use domain::commit::Hash;
use sqlx::PgPool;

use crate::log::{EventLog, ReadError, Unavailable};

/// For how long a replica may be behind.
const REPLICA_ATTEMPTS: u32 = 30;
const REPLICA_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the read models do not answer")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Log(#[from] ReadError),
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        Self::Log(error.into())
    }
}

/// What is at a position that the log reaches. Any replica may answer, and one may be a moment behind.
async fn read(log: &dyn EventLog, position: u64) -> Result<Option<Hash>, ReadError> {
    for _ in 0..REPLICA_ATTEMPTS {
        match log.read(position).await {
            Ok(Some(stored)) => return Ok(Some(stored.hash())),
            Ok(None) => tokio::time::sleep(REPLICA_PAUSE).await,
            // Read models set aside what they can't read, and read on: a checkpoint may be just there.
            Err(ReadError::Unreadable { body, .. }) => return Ok(Some(Hash::of(&body))),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Compares the log with what is known of it, and says what is wrong; nothing if it is the same, or
/// if nothing is known yet. A log that is seen for the first time is remembered.
///
/// # Errors
/// The log or Postgres does not answer.
pub async fn check(pool: &PgPool, log: &dyn EventLog) -> Result<Vec<String>, Error> {
    let identity = log.identity().await?;
    let known: String = sqlx::query_scalar(
        "with new as (insert into cartulary.log (identity) values ($1) on conflict (one) do nothing returning identity)
         select identity from new union all select identity from cartulary.log limit 1",
    )
    .bind(&identity)
    .fetch_one(pool)
    .await?;
    if known != identity {
        return Ok(vec![format!("the log is another one: it was made at {identity}, not at {known}")]);
    }
    let checkpoints: Vec<(String, i64, Option<String>)> = sqlx::query_as(
        "select reader, position, hash from cartulary.lanes where position > 0 order by reader, lane",
    )
    .fetch_all(pool)
    .await?;
    // Asked for last: others may be reading on.
    let end = log.end().await?;
    let mut wrong = Vec::new();
    for (reader, position, hash) in checkpoints {
        let position = position.cast_unsigned();
        let read = if position <= end { read(log, position).await? } else { None };
        match (read, hash.and_then(|hash| hash.parse::<Hash>().ok())) {
            (None, _) => {
                wrong.push(format!("{reader} has read up to position {position}, and the log ends at {end}"))
            }
            (Some(found), Some(hash)) if found != hash => {
                wrong.push(format!(
                    "position {position} of the log is not the commit that {reader} has read there"
                ));
            }
            (Some(_), _) => {}
        }
    }
    Ok(wrong)
}
