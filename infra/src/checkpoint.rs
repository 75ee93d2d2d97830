//! How far each reader of the log has come, and waiting until one is far enough.
//!
//! A projection moves its checkpoint in the transaction that writes its rows; sagas move theirs
//! when all that follows from an event is in the log.

use std::collections::HashMap;
use std::time::Duration;

use domain::commit::Hash;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, watch};

/// How often the table is read while somebody waits: one reader for all who wait.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Makes the table of checkpoints, and that of the log's identity, where there are none yet.
///
/// # Errors
/// Postgres does not answer or does not accept the table.
pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create schema if not exists cartulary;
         create table if not exists cartulary.checkpoints (
             reader text primary key,
             version int not null default 1,
             position bigint not null default 0,
             moved_at timestamptz not null default now(),
             hash text
         );
         create table if not exists cartulary.log (
             one bool primary key default true check (one),
             identity text not null
         );",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Position up to which the reader has read; 0 for one that never read.
///
/// # Errors
/// Postgres does not answer.
pub async fn read(connection: &mut PgConnection, reader: &str) -> Result<u64, sqlx::Error> {
    let position: Option<i64> =
        sqlx::query_scalar("select position from cartulary.checkpoints where reader = $1")
            .bind(reader)
            .fetch_optional(connection)
            .await?;
    Ok(position.map_or(0, i64::cast_unsigned))
}

/// Moves the reader's checkpoint; false, and nothing moved, if it is not where the caller left it.
/// The hash is that of the commit at the new position, by which another log is noticed.
///
/// # Errors
/// Postgres does not answer.
pub async fn advance(
    connection: &mut PgConnection,
    reader: &str,
    from: u64,
    to: u64,
    hash: Option<Hash>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into cartulary.checkpoints as checkpoint (reader, position, hash)
         select $1, $3, $4 where $2 = 0 or exists (select from cartulary.checkpoints where reader = $1)
         on conflict (reader) do update set position = excluded.position, hash = excluded.hash, moved_at = now()
         where checkpoint.position = $2",
    )
    .bind(reader)
    .bind(from.cast_signed())
    .bind(to.cast_signed())
    .bind(hash.map(String::from))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Knows how far all readers have come, and lets others wait for them.
#[derive(Debug)]
pub struct Checkpoints {
    pool: PgPool,
    positions: watch::Sender<HashMap<String, u64>>,
    wanted: Notify,
}

impl Checkpoints {
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, positions: watch::Sender::default(), wanted: Notify::new() }
    }

    /// Waits until the reader has come to the position; false if it has not within the limit.
    pub async fn wait(&self, reader: &str, position: u64, limit: Duration) -> bool {
        let mut positions = self.positions.subscribe();
        let reached = positions.wait_for(|positions| positions.get(reader).is_some_and(|at| *at >= position));
        let asking = async {
            loop {
                self.wanted.notify_one();
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            reached = reached => reached.is_ok(),
            () = asking => false,
            () = tokio::time::sleep(limit) => false,
        }
    }

    /// Reads the table whenever somebody waits. Runs until it is dropped.
    pub async fn run(&self) {
        loop {
            self.wanted.notified().await;
            match self.read_all().await {
                Ok(positions) => {
                    self.positions.send_replace(positions);
                }
                // Those who wait run into their limit; the next one asks again.
                Err(error) => tracing::debug!(%error, "checkpoints are not readable"),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// How far every reader has come.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn read_all(&self) -> Result<HashMap<String, u64>, sqlx::Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as("select reader, position from cartulary.checkpoints")
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().map(|(reader, position)| (reader, position.cast_unsigned())).collect())
    }
}
