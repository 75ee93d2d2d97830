//! The read models that there are: which one is live, how far each has come, and waiting for it.
//!
//! A read model is the tables of one projection at one version, in a schema of its own such as
//! `orders_v7`. At most one of a projection is live. Who asks for a projection's rows gets one read
//! model and names its schema: so a switch from one to another needs no lock that a query waits for,
//! and no query sees both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How often the table is read while somebody waits: one reader for all who wait.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The busier the machine, the longer that takes, and the more who wait shall share one look, for each wakes all
/// of them: it rests this many times as long as the last one took, up to a limit.
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
    sqlx::query_as(
        "select projection, version, code, state, coalesce(min(position), 0) as position
         from cartulary.read_models left join cartulary.lanes on reader = projection || '_v' || version
         where state <> 'retired'
         group by projection, version order by projection, version",
    )
    .fetch_all(pool)
    .await
}

/// Knows the read models and how far they have come, and lets others wait for them.
#[derive(Debug)]
pub struct ReadModels {
    pool: PgPool,
    /// Version of each projection's code in this build.
    codes: HashMap<&'static str, i32>,
    seen: watch::Sender<Option<Vec<ReadModel>>>,
    /// How many wait for one to come on.
    waiting: AtomicUsize,
    wanted: Notify,
}

/// One who waits, until it's dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadModels {
    #[must_use]
    pub fn new(pool: PgPool, codes: HashMap<&'static str, i32>) -> Self {
        let (seen, waiting, wanted) = (watch::Sender::default(), AtomicUsize::new(0), Notify::new());
        Self { pool, codes, seen, waiting, wanted }
    }

    /// The projection's read model, once it has come to the position, or as it is when the limit has
    /// passed; nothing if there is none.
    pub async fn at(&self, projection: &str, position: u64, limit: Duration) -> Option<ReadModel> {
        let mut seen = self.seen.subscribe();
        let chosen = |seen: &Option<Vec<ReadModel>>| self.choose(projection, seen.as_deref()?).cloned();
        let reached = |seen: &Option<Vec<ReadModel>>| {
            seen.is_some() && chosen(seen).is_none_or(|model| model.position.0 >= position)
        };
        if reached(&seen.borrow()) {
            return chosen(&seen.borrow());
        }
        let limit = if seen.borrow().is_some() { limit } else { limit.max(FIRST_LOOK_LIMIT) };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.wanted.notify_one();
        // At the limit it is as it is.
        let _ = tokio::time::timeout(limit, seen.wait_for(reached)).await;
        chosen(&self.seen.borrow())
    }

    /// The projection's read model, as it was when the table was last read: not long ago.
    #[must_use]
    pub fn seen(&self, projection: &str) -> Option<ReadModel> {
        self.choose(projection, self.seen.borrow().as_deref()?).cloned()
    }

    /// Waits until the projection has come to the position; false if it has not within the limit.
    pub async fn wait(&self, projection: &str, position: u64, limit: Duration) -> bool {
        self.at(projection, position, limit).await.is_some_and(|model| model.position.0 >= position)
    }

    /// The live one; but if that is of newer code than this build's, and the one before it, of this
    /// build's code, is still kept, then that: while two builds run at a time, each queries the
    /// tables that it knows.
    fn choose<'a>(&self, projection: &str, models: &'a [ReadModel]) -> Option<&'a ReadModel> {
        let of_projection = || models.iter().filter(|model| model.projection == projection);
        let live = of_projection().find(|model| model.state == "live")?;
        let fits = |model: &&ReadModel| self.codes.get(projection) == Some(&model.code);
        if fits(&live) {
            return Some(live);
        }
        let kept = |model: &&ReadModel| {
            model.state == "standby" && model.version < live.version && model.code < live.code && fits(model)
        };
        of_projection().rfind(kept).or(Some(live))
    }

    /// Reads the table now and then, and again and again while somebody waits. Runs until it is dropped.
    pub async fn run(&self) {
        loop {
            let began = Instant::now();
            match all(&self.pool).await {
                Ok(models) => {
                    self.seen.send_if_modified(|seen| {
                        let is_news = seen.as_ref() != Some(&models);
                        *seen = Some(models);
                        is_news
                    });
                }
                // Those who wait run into their limit; the next one asks again.
                Err(error) => tracing::debug!(%error, "the read models are not readable"),
            }
            let pause = (began.elapsed() * POLL_PART).clamp(POLL_INTERVAL, POLL_INTERVAL_MAX);
            tokio::time::sleep(pause).await;
            if self.waiting.load(Ordering::Relaxed) == 0 {
                let _ = tokio::time::timeout(IDLE_POLL_INTERVAL, self.wanted.notified()).await;
            }
        }
    }
}
