//! Runs a projection: a batch's rows and the checkpoint move in one transaction, or not at all.

use std::convert::Infallible;
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
    /// Nothing is wrong with the events; waiting helps.
    #[error("Postgres does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// One of the events can't be applied.
    #[error("position {first} to {last} can't be applied: {source}")]
    Rejected { first: u64, last: u64, source: sqlx::Error },
    #[error(transparent)]
    Log(#[from] infra::log::ReadError),
    #[error("position {position} can't be applied: {}", chain(.source))]
    Event { position: u64, source: domain::commit::DecodeError },
    #[error("another worker moved the checkpoint")]
    Overtaken,
}

/// One worker's state between its attempts.
struct Worker {
    projection: Arc<dyn Projection>,
    log: Arc<dyn EventLog>,
    pool: PgPool,
    status: watch::Sender<Status>,
    /// Shrinks while a batch is rejected, so that what comes before the culprit is applied, and
    /// the culprit is known by its position.
    batch_max: usize,
    /// The last attempt ended because Postgres did not answer.
    outage: bool,
}

/// Keeps the projection's rows up to date. Runs until it's dropped: outages are waited out, and
/// an event that can't be applied is never skipped.
pub async fn run(
    projection: Arc<dyn Projection>,
    log: Arc<dyn EventLog>,
    pool: PgPool,
    status: watch::Sender<Status>,
) {
    let mut worker = Worker { projection, log, pool, status, batch_max: BATCH_MAX, outage: false };
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = worker.status.borrow().position;
        let Err(error) = worker.follow().await;
        if worker.status.borrow().position > before {
            backoff = BACKOFF_MIN;
        }
        worker.outage = matches!(error, Error::Unavailable(_));
        match &error {
            Error::Overtaken => {}
            Error::Rejected { .. } if worker.batch_max > 1 => {
                worker.batch_max /= 10;
                continue;
            }
            error => worker.stopped(error),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Worker {
    async fn follow(&mut self) -> Result<Infallible, Error> {
        let mut position = self.checkpoint().await.map_err(Error::Unavailable)?;
        self.status.send_modify(|status| {
            status.position = position;
            // An outage is over when Postgres answers; a rejected event stays one until it's applied.
            status.stopped.take_if(|_| self.outage);
        });
        let mut follower = Follower::new(self.log.clone(), position);
        loop {
            let batch = follower.batch(self.batch_max).await?;
            let (happened, unreadable) = decode(&batch, self.projection.categories());
            if let Some((last, happened)) = happened {
                self.apply(position, last, &happened).await?;
                position = last.sequence;
                self.status.send_replace(Status { position, stopped: None });
                self.batch_max = (self.batch_max * 2).min(BATCH_MAX);
            }
            unreadable?;
        }
    }

    async fn checkpoint(&self) -> Result<u64, sqlx::Error> {
        checkpoint::read(&mut *self.pool.acquire().await?, self.projection.name()).await
    }

    /// Applies what happened after a position, up to and with a commit.
    async fn apply(&self, from: u64, last: &Stored, happened: &[Happened]) -> Result<(), Error> {
        let projection = self.projection.as_ref();
        let settings = format!(
            "set local search_path = {}, public; set local plan_cache_mode = force_custom_plan",
            projection.schema()
        );
        let mut transaction = self.pool.begin().await.map_err(Error::Unavailable)?;
        // A plan made while a table was small would be kept when it is large.
        sqlx::raw_sql(AssertSqlSafe(settings))
            .execute(&mut *transaction)
            .await
            .map_err(Error::Unavailable)?;
        // The checkpoint comes first: another worker waits for it here, before it has done anything.
        let (to, hash) = (last.sequence, Some(last.hash));
        let advanced = checkpoint::advance(&mut transaction, projection.name(), from, to, hash).await;
        if !advanced.map_err(Error::Unavailable)? {
            return Err(Error::Overtaken);
        }
        let rejected = |source| Error::Rejected { first: from + 1, last: to, source };
        projection.apply(happened, &mut transaction).await.map_err(|error| match is_outage(&error) {
            true => Error::Unavailable(error),
            false => rejected(error),
        })?;
        transaction.commit().await.map_err(Error::Unavailable)
    }

    fn stopped(&self, error: &Error) {
        let (name, reason) = (self.projection.name(), error.to_string());
        let known = self.status.borrow().stopped.as_ref() == Some(&reason);
        if !known {
            tracing::error!(projection = name, reason, "the projection is stopped, and tries again");
            self.status.send_modify(|status| status.stopped = Some(reason));
        }
    }
}

/// What happened up to the last commit that is readable, and the trouble with the next one.
type Decoded<'b> = (Option<(&'b Stored, Vec<Happened>)>, Result<(), Error>);

fn decode<'b>(batch: &'b [Stored], categories: &[&str]) -> Decoded<'b> {
    let mut all = Vec::with_capacity(batch.len());
    let mut last = None;
    for stored in batch {
        let ours = categories.contains(&stored.commit.stream.category());
        match if ours { Happened::all_of(stored) } else { Ok(Vec::new()) } {
            Ok(happened) => all.extend(happened),
            Err(source) => {
                let error = Error::Event { position: stored.sequence, source };
                return (last.map(|last| (last, all)), Err(error));
            }
        }
        last = Some(stored);
    }
    (last.map(|last| (last, all)), Ok(()))
}

/// Whether the trouble lies with Postgres or the way there, and not with what it was given.
fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        // Class 22: bad data; 23: a constraint; 54: beyond a limit. All else passes, or is mended.
        sqlx::Error::Database(error) => {
            !error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
        }
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

/// The error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
