//! Runs a projection: a batch's rows and the checkpoint move in one transaction, or not at all.

use std::sync::Arc;
use std::time::Duration;

use infra::checkpoint;
use infra::follow::Follower;
use infra::log::{EventLog, Stored};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::watch;

use crate::projection::{Happened, Projection};

/// Most commits in one transaction.
const BATCH_MAX: usize = 1_000;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How a projection is doing, for readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Its rows are those of the log up to here.
    pub position: u64,
    /// Why it can't go on, if it can't.
    pub stopped: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Log(#[from] infra::log::ReadError),
    #[error("position {position}: {source}")]
    Event { position: u64, source: domain::commit::DecodeError },
    #[error("another worker moved the checkpoint")]
    Overtaken,
}

/// Keeps the projection's rows up to date. Runs until it's dropped: outages are waited out, and
/// an event that can't be applied is never skipped.
pub async fn run(
    projection: Arc<dyn Projection>,
    log: Arc<dyn EventLog>,
    pool: PgPool,
    status: watch::Sender<Status>,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = status.borrow().position;
        let Err(error) = follow(projection.as_ref(), &log, &pool, &status).await;
        if status.borrow().position > before {
            backoff = BACKOFF_MIN;
        }
        if !matches!(error, Error::Overtaken) {
            tracing::error!(projection = projection.name(), %error, "the projection is stopped");
            status.send_modify(|status| status.stopped = Some(error.to_string()));
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn follow(
    projection: &dyn Projection,
    log: &Arc<dyn EventLog>,
    pool: &PgPool,
    status: &watch::Sender<Status>,
) -> Result<std::convert::Infallible, Error> {
    let mut connection = pool.acquire().await?;
    let mut position = checkpoint::read(&mut connection, projection.name()).await?;
    drop(connection);
    status.send_modify(|status| status.position = position);
    let mut follower = Follower::new(log.clone(), position);
    loop {
        let batch = follower.batch(BATCH_MAX).await?;
        position = apply(projection, pool, position, &batch).await?;
        status.send_modify(|status| *status = Status { position, stopped: None });
    }
}

/// Applies a batch that begins right after the position, and returns the one that it ends with.
async fn apply(
    projection: &dyn Projection,
    pool: &PgPool,
    from: u64,
    batch: &[Stored],
) -> Result<u64, Error> {
    let Some(to) = batch.last().map(|stored| stored.sequence) else { return Ok(from) };
    let mut happened = Vec::with_capacity(batch.len());
    for stored in batch {
        let unreadable = |source| Error::Event { position: stored.sequence, source };
        happened.extend(Happened::all_of(stored).map_err(unreadable)?);
    }
    let mut transaction = pool.begin().await?;
    let path = format!("set local search_path = {}, public", projection.schema());
    sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut *transaction).await?;
    projection.apply(&happened, &mut transaction).await?;
    if !checkpoint::advance(&mut transaction, projection.name(), from, to).await? {
        return Err(Error::Overtaken);
    }
    transaction.commit().await?;
    Ok(to)
}
