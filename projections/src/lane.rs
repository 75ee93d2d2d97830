//! Works on a lane of a read model: a batch's rows and the checkpoint move in one transaction, or not
//! at all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::partition;
use infra::follow::Follower;
use infra::lanes::{Advance, Lease};
use infra::log::{EventLog, Stored};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::watch;

use crate::projection::{Happened, Projection};

/// Most commits in one transaction.
const BATCH_MAX: usize = 1_000;

/// Shortest time from the beginning of one batch to that of the next: what comes meanwhile shares a
/// transaction. What comes alone is not kept waiting.
const INTERVAL_MIN: Duration = Duration::from_millis(4);

/// How soon a lane that is held at a position looks whether it may go on.
const HELD_POLL: Duration = Duration::from_millis(5);

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How a lane is doing, for readiness.
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
    #[error("somebody else has the lane now")]
    Lost,
}

/// The state between attempts.
struct Worker {
    projection: Arc<dyn Projection>,
    lease: Lease,
    log: Arc<dyn EventLog>,
    pool: PgPool,
    status: watch::Sender<Status>,
    /// Shrinks while a batch is rejected, so that what comes before the culprit is applied, and
    /// the culprit is known by its position.
    batch_max: usize,
    /// The last attempt ended because Postgres did not answer.
    outage: bool,
}

/// Keeps the lane's rows up to date. Runs until it's dropped, or until somebody else has the lane:
/// outages are waited out, and an event that can't be applied is never skipped.
pub(crate) async fn run(
    projection: Arc<dyn Projection>,
    lease: Lease,
    log: Arc<dyn EventLog>,
    pool: PgPool,
    status: watch::Sender<Status>,
) {
    let mut worker = Worker { projection, lease, log, pool, status, batch_max: BATCH_MAX, outage: false };
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = worker.status.borrow().position;
        let Err(error) = worker.follow().await;
        if worker.status.borrow().position > before {
            backoff = BACKOFF_MIN;
        }
        worker.outage = matches!(error, Error::Unavailable(_));
        match &error {
            Error::Lost => return,
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
        let mut connection = self.connect().await.map_err(Error::Unavailable)?;
        let begun = self.lease.begin(&mut connection).await.map_err(Error::Unavailable)?;
        let mut position = begun.ok_or(Error::Lost)?;
        self.status.send_modify(|status| {
            status.position = position;
            // An outage is over when Postgres answers; a rejected event stays one until it's applied.
            status.stopped.take_if(|_| self.outage);
        });
        let mut follower = Follower::new(self.log.clone(), position);
        loop {
            let batch = follower.batch(self.batch_max).await?;
            let begun_at = tokio::time::Instant::now();
            let (decoded, unreadable) = decode(&batch, self.projection.categories());
            let mut rest = decoded.as_slice();
            while !rest.is_empty() {
                let to = self.apply(position, rest, &mut connection).await?;
                rest = &rest[rest.partition_point(|(stored, _)| stored.sequence <= to)..];
                position = to;
                self.status.send_replace(Status { position, stopped: None });
                self.batch_max = (self.batch_max * 2).min(BATCH_MAX);
            }
            unreadable?;
            if batch.len() < self.batch_max {
                tokio::time::sleep_until(begun_at + INTERVAL_MIN).await;
            }
        }
    }

    /// A connection of the lane's own: whoever takes the lane over ends it.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self.pool.connect_options().as_ref().clone();
        let search_path = format!("{},public", self.lease.reader);
        options
            .application_name(&format!("cartulary {}/{}", self.lease.reader, self.lease.lane))
            .options([
                ("search_path", search_path.as_str()),
                // A plan made while a table was small would be kept when it is large.
                ("plan_cache_mode", "force_custom_plan"),
                // Rows and checkpoint are lost together, if they are, and applied again.
                ("synchronous_commit", "off"),
            ])
            .connect()
            .await
    }

    /// Applies what happened after a position, up to and with the last of the commits, or as far as
    /// the lane may go now; returns how far that is.
    async fn apply(
        &self,
        from: u64,
        commits: &[(&Stored, Vec<Happened>)],
        connection: &mut PgConnection,
    ) -> Result<u64, Error> {
        let Some(((last, _), _)) = commits.split_last() else { return Ok(from) };
        let mut transaction = connection.begin().await.map_err(Error::Unavailable)?;
        // The checkpoint comes first: who has no right to move it has done nothing yet.
        let (to, hash) = (last.sequence, Some(last.hash));
        let events = commits.iter().map(|(stored, _)| stored.commit.events.len()).sum();
        let advanced = self.lease.advance(&mut transaction, from, to, hash, events).await;
        match advanced.map_err(Error::Unavailable)? {
            Advance::Done => {}
            Advance::Lost => return Err(Error::Lost),
            Advance::Held(at) => {
                transaction.rollback().await.map_err(Error::Unavailable)?;
                let allowed = commits.partition_point(|(stored, _)| stored.sequence <= at);
                if allowed > 0 && allowed < commits.len() {
                    return Box::pin(self.apply(from, &commits[..allowed], connection)).await;
                }
                tokio::time::sleep(HELD_POLL).await;
                return Ok(from);
            }
        }
        let ours: Vec<Happened> = commits
            .iter()
            .flat_map(|(_, happened)| happened)
            .filter(|happened| self.is_ours(happened))
            .cloned()
            .collect();
        if !ours.is_empty() {
            let rejected = |source| Error::Rejected { first: from + 1, last: to, source };
            self.projection.apply(&ours, &mut transaction).await.map_err(|error| {
                match is_outage(&error) {
                    true => Error::Unavailable(error),
                    false => rejected(error),
                }
            })?;
        }
        transaction.commit().await.map_err(Error::Unavailable)?;
        Ok(to)
    }

    /// Whether it touches rows of this lane.
    fn is_ours(&self, happened: &Happened) -> bool {
        let key = self.projection.key(happened);
        key.is_some_and(|key| self.lease.partitions.contains(&partition(&key)))
    }

    fn stopped(&self, error: &Error) {
        let (name, reason) = (&self.lease.reader, error.to_string());
        let known = self.status.borrow().stopped.as_ref() == Some(&reason);
        if !known {
            tracing::error!(read_model = name, reason, "a lane is stopped, and tries again");
            self.status.send_modify(|status| status.stopped = Some(reason));
        }
    }
}

/// The commits up to the last that is readable, and the trouble with the next one.
type Decoded<'b> = (Vec<(&'b Stored, Vec<Happened>)>, Result<(), Error>);

fn decode<'b>(batch: &'b [Stored], categories: &[&str]) -> Decoded<'b> {
    let mut all = Vec::with_capacity(batch.len());
    for stored in batch {
        let ours = categories.contains(&stored.commit.stream.category());
        match if ours { Happened::all_of(stored) } else { Ok(Vec::new()) } {
            Ok(happened) => all.push((stored, happened)),
            Err(source) => {
                let error = Error::Event { position: stored.sequence, source };
                return (all, Err(error));
            }
        }
    }
    (all, Ok(()))
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
