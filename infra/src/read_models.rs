//! The read models that there are: which one is live, how far each has come, and waiting for it.
//!
//! A read model is the tables of one projection at one version, in a schema of its own such as
//! `orders_v7`. At most one of a projection is live. Who asks for a projection's rows gets one read
//! model and names its schema: so a switch from one to another needs no lock that a query waits for,
//! and no query sees both.

mod known;
mod seen;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lanes::Lease;
use known::Known;

/// How often the table is read while somebody waits: one reader for all who wait. It tells of what other processes do;
/// the lanes of this one say themselves how far they have come.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The busier the machine, the longer that takes, and the more who wait shall share one look: it rests this many times
/// as long as the last one took, up to a limit. So long it rests, too, where no other process has a lane.
const POLL_PART: u32 = 2;
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(40);

/// How often it is read when nobody waits. A read model that nobody asks for any more is kept for
/// much longer than this.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long a query waits for the first look at the table.
const FIRST_LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Makes the table of read models, and takes over those of builds that had none.
///
/// # Errors
/// Postgres does not answer or does not accept the table.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    crate::lanes::migrate(&mut *connection).await?;
    sqlx::raw_sql(
        "create table if not exists cartulary.read_models (
             projection text,
             version int,
             code int not null,
             state text not null check (state in ('building', 'verifying', 'live', 'standby', 'retired')),
             started_at timestamptz not null default now(),
             indexed_at timestamptz,
             state_since timestamptz not null default now(),
             keep_s bigint,
             verify bool not null default false,
             note text,
             primary key (projection, version)
         );
         create unique index if not exists one_of_a_state on cartulary.read_models (projection, state)
             where state in ('building', 'verifying', 'live');
         do $$ begin
             if to_regclass('cartulary.checkpoints') is not null then
                 alter table cartulary.checkpoints add column if not exists hash text;
                 insert into cartulary.read_models (projection, version, code, state, indexed_at)
                     select reader, version, version, 'live', now() from cartulary.checkpoints
                     where to_regnamespace(reader || '_v' || version) is not null;
                 insert into cartulary.lanes (reader, lane, first_partition, last_partition, position, hash, moved_at)
                     select case when to_regnamespace(reader || '_v' || version) is null then reader
                                 else reader || '_v' || version end,
                            0, 0, 63, position, hash, moved_at
                     from cartulary.checkpoints;
                 drop table cartulary.checkpoints;
             end if;
         end $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The rows of a projection at one version.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ReadModel {
    pub projection: String,
    pub version: i32,
    /// Version of the projection's code that these are the rows of.
    pub code: i32,
    pub state: String,
    #[sqlx(try_from = "i64")]
    pub position: Position,
}

/// Up to where all its lanes have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl From<i64> for Position {
    fn from(position: i64) -> Self {
        Self(position.cast_unsigned())
    }
}

/// The schema of a projection's read model.
#[must_use]
pub fn schema(projection: &str, version: i32) -> String {
    format!("{projection}_v{version}")
}

impl ReadModel {
    #[must_use]
    pub fn schema(&self) -> String {
        schema(&self.projection, self.version)
    }

    /// A query over its tables, which are written `{schema}.table` in it.
    #[must_use]
    pub fn sql(&self, query: &str) -> AssertSqlSafe<String> {
        // Names of projections are this program's own.
        AssertSqlSafe(query.replace("{schema}", &self.schema()))
    }

    /// A transaction whose queries all see the same moment.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn snapshot(&self, pool: &PgPool) -> Result<Snapshot, sqlx::Error> {
        let transaction = pool.begin_with("begin isolation level repeatable read read only").await?;
        Ok(Snapshot { model: self.clone(), transaction })
    }
}

/// A read model at one moment.
#[derive(Debug)]
pub struct Snapshot {
    model: ReadModel,
    transaction: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl Snapshot {
    /// A query over the read model's tables, which are written `{schema}.table` in it.
    #[must_use]
    pub fn sql(&self, query: &str) -> AssertSqlSafe<String> {
        self.model.sql(query)
    }

    #[must_use]
    pub fn schema(&self) -> String {
        self.model.schema()
    }

    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// The position in the log at which the rows are true.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn position(&mut self) -> Result<u64, sqlx::Error> {
        let schema = self.model.schema();
        crate::lanes::position(&mut self.transaction, &schema).await
    }
}

/// All read models that are not retired.
///
/// # Errors
/// Postgres does not answer.
pub async fn all(pool: &PgPool) -> Result<Vec<ReadModel>, sqlx::Error> {
    Ok(seen::look(pool).await?.into_iter().map(|seen| seen.model).collect())
}

/// Knows the read models and how far they have come, and lets others wait for them.
#[derive(Debug)]
pub struct ReadModels {
    pool: PgPool,
    known: Mutex<Known>,
    /// Somebody waits for one to come on.
    wanted: Notify,
}

impl ReadModels {
    /// With the version of each projection's code in this build.
    #[must_use]
    pub fn new(pool: PgPool, codes: HashMap<&'static str, i32>) -> Self {
        Self { pool, known: Mutex::new(Known::new(codes)), wanted: Notify::new() }
    }

    /// The projection's read model, once it has come to the position, or as it is when the limit has
    /// passed; nothing if there is none.
    pub async fn at(&self, projection: &str, position: u64, limit: Duration) -> Option<ReadModel> {
        let (number, told, limit) = {
            let mut known = self.known();
            if known.has_reached(projection, position) {
                return known.choose(projection).cloned();
            }
            let limit = if known.has_looked() { limit } else { limit.max(FIRST_LOOK_LIMIT) };
            let (number, told) = known.wait(projection, position);
            (number, told, limit)
        };
        let _waiting = Waiting { read_models: self, projection, position, number };
        self.wanted.notify_one();
        // At the limit it is as it is.
        let _ = tokio::time::timeout(limit, told).await;
        self.seen(projection)
    }

    /// The holder of this lane has written its rows up to here.
    pub fn moved(&self, lease: &Lease, position: u64) {
        self.known().moved(lease, position);
    }

    /// The projection's read model, as it was when it was last heard of: not long ago.
    #[must_use]
    pub fn seen(&self, projection: &str) -> Option<ReadModel> {
        self.known().choose(projection).cloned()
    }

    /// Waits until the projection has come to the position; false if it has not within the limit.
    pub async fn wait(&self, projection: &str, position: u64, limit: Duration) -> bool {
        self.at(projection, position, limit).await.is_some_and(|model| model.position.0 >= position)
    }

    /// Reads the table now and then, and again and again while somebody waits. Runs until it is dropped.
    pub async fn run(&self) {
        loop {
            let (began, before) = (Instant::now(), self.known().seen());
            match seen::look(&self.pool).await {
                Ok(looked) => self.known().looked(&before, looked),
                // Those who wait run into their limit; the next one asks again.
                Err(error) => tracing::debug!(%error, "the read models are not readable"),
            }
            let pause = match began.elapsed() * POLL_PART {
                _ if self.known().are_ours() => POLL_INTERVAL_MAX,
                pause => pause.clamp(POLL_INTERVAL, POLL_INTERVAL_MAX),
            };
            tokio::time::sleep(pause).await;
            if !self.known().is_waited_for() {
                let _ = tokio::time::timeout(IDLE_POLL_INTERVAL, self.wanted.notified()).await;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits, until it's dropped.
struct Waiting<'a> {
    read_models: &'a ReadModels,
    projection: &'a str,
    position: u64,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.read_models.known().wait_no_more(self.projection, self.position, self.number);
    }
}
