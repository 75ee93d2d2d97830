//! Works on a lane of a read model: rows and the checkpoint move in one transaction, or not at all.
//!
//! Events are taken in as they come, and written when there are many, or some time has passed, or nothing
//! else is there: so an event that comes alone is visible at once, and a rebuild writes thousands at a time.

mod error;
mod retry;
mod sort;
mod work;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use infra::feed::{Feed, Follower};
use infra::lanes::{Advance, Lease, Status};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::letters::Letters;
use crate::projection::Projection;
use error::Error;
use work::Work;

/// Commits that are taken in at a time.
const BATCH_MAX: usize = 1_000;

/// The busier the machine, the longer a transaction takes, and the more shall share one: this many times as
/// long as the last one took, up to a limit.
const INTERVAL_PART: u32 = 4;
const INTERVAL_MAX: Duration = Duration::from_millis(50);

/// So many commits in a transaction mean that there are probably more, and for those it waits a little.
const MANY: usize = 500;
const MORE_WAIT: Duration = Duration::from_millis(20);

/// How soon a lane that is held at a position looks whether it may go on.
const HELD_POLL: Duration = Duration::from_millis(5);

/// How often it looks whether something that was set aside is to be tried again.
const RETRY_POLL: Duration = Duration::from_secs(1);

/// How soon it goes on with that, if there is much of it: what is new comes first.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The state between attempts.
struct Lane {
    projection: Arc<dyn Projection>,
    lease: Lease,
    feed: Arc<Feed>,
    pool: PgPool,
    status: watch::Sender<Status>,
    /// Shrinks while something is rejected, so that what comes before the culprit is applied, and the
    /// culprit is known by its position.
    commits_max: usize,
    /// The commit that can't be applied, and why: it is set aside.
    culprit: Option<(u64, String)>,
}

/// Keeps the lane's rows up to date. Runs until it's dropped, or until somebody else has the lane:
/// outages are waited out, and an event that can't be applied is set aside.
pub(crate) async fn run(
    projection: Arc<dyn Projection>,
    lease: Lease,
    feed: Arc<Feed>,
    pool: PgPool,
    status: watch::Sender<Status>,
) {
    let commits_max = work::COMMITS_MAX;
    let mut lane = Lane { projection, lease, feed, pool, status, commits_max, culprit: None };
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = lane.status.borrow().position;
        let Err(error) = lane.follow().await;
        if lane.status.borrow().position > before {
            backoff = BACKOFF_MIN;
        }
        match error {
            Error::Lost => return,
            Error::Rejected { first, last, .. } if lane.commits_max > 1 => {
                // Those before the culprit come first, however many they are.
                lane.commits_max = usize::try_from(last - first).unwrap_or(0).clamp(10, 10_000) / 10;
                continue;
            }
            Error::Rejected { last, reason, .. } if !lane.is_culprit(last) => {
                lane.culprit = Some((last, reason));
                continue;
            }
            Error::Rejected { .. } | Error::Unavailable(_) => lane.stopped(&error),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Lane {
    async fn follow(&mut self) -> Result<Infallible, Error> {
        let mut connection = self.connect().await?;
        let position = self.lease.begin(&mut connection).await?.ok_or(Error::Lost)?;
        self.status.send_replace(Status { position, stopped: None });
        let mut letters = Letters::load(&self.lease, self.projection.name(), &mut connection).await?;
        let mut work = Work::new(self.projection.writer(), position);
        let mut follower = self.feed.follow(position);
        let mut retry_at = Instant::now();
        loop {
            if retry_at <= Instant::now() {
                let more = self.retry_asked(&mut letters, &mut work, &mut connection).await?;
                retry_at = Instant::now() + if more { RETRY_PAUSE } else { RETRY_POLL };
            }
            let Ok(batch) = tokio::time::timeout_at(retry_at, follower.batch(BATCH_MAX)).await else {
                continue;
            };
            let begun_at = Instant::now();
            let mut next = Some(batch);
            while let Some(batch) = next {
                for entries in batch.chunks(self.commits_max) {
                    self.take(entries, &mut letters, &mut work, &mut connection).await?;
                    if work.commits >= self.commits_max {
                        self.flush(&mut letters, &mut work, &mut connection).await?;
                    }
                }
                next = if work.is_due() { None } else { more(&mut follower, &work).await };
            }
            let few = work.commits < MANY;
            self.flush(&mut letters, &mut work, &mut connection).await?;
            if few {
                let interval = begun_at.elapsed() * INTERVAL_PART;
                let interval = interval.clamp(self.projection.interval_min(), INTERVAL_MAX);
                tokio::time::sleep_until(begun_at + interval).await;
            }
        }
    }

    /// A connection of the lane's own: whoever takes the lane over ends it.
    async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.pool.connect_options().as_ref().clone();
        let search_path = format!("{},public", self.lease.reader);
        let connection = options
            .application_name(&format!("cartulary {}/{}", self.lease.reader, self.lease.lane))
            .options([
                ("search_path", search_path.as_str()),
                // All that a lane does is by key. Postgres knows neither how few rows a batch has nor, before it has
                // looked, how large a table is: it would read all of it, or keep a plan from when it was small.
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                // Rows and checkpoint are lost together, if they are, and applied again.
                ("synchronous_commit", "off"),
            ])
            .connect()
            .await;
        Ok(connection?)
    }

    /// Writes all that was taken in, with the checkpoint behind it.
    async fn flush(
        &mut self,
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        let (from, to) = (work.from, work.position);
        if from == to {
            return Ok(());
        }
        let mut transaction = connection.begin().await?;
        // The checkpoint comes first: who has no right to move it has done nothing yet.
        let advanced = self.lease.advance(&mut transaction, from, to, work.hash(), work.events).await?;
        match advanced {
            Advance::Done => {}
            Advance::Lost => return Err(Error::Lost),
            Advance::Held(at) => {
                transaction.rollback().await?;
                return self.stay(at, letters, work, connection).await;
            }
        }
        letters.store(&mut transaction).await?;
        work.flush(&mut transaction).await?;
        transaction.commit().await?;
        if work.commits >= MANY {
            connection.shrink_buffers();
        }
        work.written();
        self.status.send_replace(Status { position: to, stopped: None });
        self.commits_max = (self.commits_max * 2).min(work::COMMITS_MAX);
        Ok(())
    }

    /// Goes as far as the lane may go now, waits there, and then takes the rest in again.
    async fn stay(
        &mut self,
        at: u64,
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        let (from, to) = (work.from, work.position);
        *letters = Letters::load(&self.lease, self.projection.name(), connection).await?;
        *work = Work::new(self.projection.writer(), from);
        let mut follower = self.feed.follow(from);
        while work.position < to {
            let wanted = usize::try_from(to - work.position).unwrap_or(BATCH_MAX).min(BATCH_MAX);
            for entry in follower.batch(wanted).await {
                if work.position == at && work.from < at {
                    Box::pin(self.flush(letters, work, connection)).await?;
                }
                while work.position == at && self.lease.is_held(connection).await? {
                    tokio::time::sleep(HELD_POLL).await;
                }
                self.take(&[entry], letters, work, connection).await?;
            }
        }
        Box::pin(self.flush(letters, work, connection)).await
    }

    fn is_culprit(&self, position: u64) -> bool {
        self.culprit.as_ref().is_some_and(|(culprit, _)| *culprit == position)
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

/// What else is there. Who has taken in much waits a moment for more.
async fn more(follower: &mut Follower, work: &Work) -> Option<Vec<Arc<infra::feed::Entry>>> {
    match follower.ready(BATCH_MAX) {
        None if work.commits >= MANY => tokio::time::timeout(MORE_WAIT, follower.batch(BATCH_MAX)).await.ok(),
        ready => ready,
    }
}
