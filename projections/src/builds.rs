//! The life of a read model: built beside the live one, switched in, kept for a while, dropped.
//!
//! | state     | what it is                                                              |
//! |-----------|-------------------------------------------------------------------------|
//! | building  | follows the log from its beginning; takes the live one's place when it has caught up |
//! | verifying | the same, to be compared with the live one and dropped                  |
//! | live      | what queries see                                                        |
//! | standby   | was live; still follows the log, so that a rollback is current          |
//! | retired   | nobody asks for it any more; is dropped in a moment                     |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use infra::feed::Feed;
use infra::lanes;
use infra::log::EventLog;
use infra::read_models::{self, schema};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::Notify;

use crate::attend::{more_set_aside, show};
use crate::dead_letters;
use crate::projection::Projection;
use crate::verify;

/// How long a replaced read model is kept, unless something else is asked for.
pub const KEEP_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the one that is replaced may be stopped at the moment of the switch.
const SWITCH_LIMIT: Duration = Duration::from_secs(1);
/// How long after an attempt that did not work out another one is made, so that the live one gets on.
const SWITCH_PAUSE: Duration = Duration::from_secs(5);

const SWITCH_POLL: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no projection `{0}`")]
    UnknownProjection(String),
    /// What is asked for does not fit the state that the read models are in.
    #[error("{0}")]
    Refused(String),
    #[error("Postgres does not answer, or not as it should: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Log(#[from] infra::log::Unavailable),
}

/// What a build is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To take the live one's place, after a comparison if that is wanted, and then to keep the old
    /// one for so long.
    Replace { verify: bool, keep: Duration },
    /// To be compared with the live one.
    Verify,
}

/// Who wants a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    /// Nobody is looking: nothing may get worse by it.
    ByItself,
    ByOperator,
}

/// Makes the tables of all read models where there are none yet, and begins a build where the live
/// one is of older code.
///
/// # Errors
/// Postgres does not answer or does not accept them.
pub async fn set_up(projections: &[Arc<dyn Projection>], pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    // Several processes may start at a time, and `if not exists` alone does not make that safe.
    sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.migrate'))")
        .execute(&mut *transaction)
        .await?;
    read_models::migrate(&mut transaction).await?;
    sqlx::raw_sql(verify::TABLE).execute(&mut *transaction).await?;
    sqlx::raw_sql(dead_letters::TABLES).execute(&mut *transaction).await?;
    sqlx::raw_sql("create extension if not exists fuzzystrmatch schema public")
        .execute(&mut *transaction)
        .await?;
    for projection in projections {
        set_up_one(projection.as_ref(), &mut transaction).await?;
    }
    transaction.commit().await
}

async fn set_up_one(projection: &dyn Projection, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let known: Vec<(i32, String)> = sqlx::query_as(
        "select code, state from cartulary.read_models where projection = $1 and state <> 'retired'",
    )
    .bind(projection.name())
    .fetch_all(&mut *connection)
    .await?;
    let live = known.iter().find(|(_, state)| state == "live");
    let is_there = known.iter().any(|(code, state)| *code == projection.version() && state != "verifying");
    match live {
        None => {
            let version = create(projection, "live", None, false, &mut *connection).await?;
            index(projection, version, &mut *connection).await?;
            show(projection, version, &mut *connection).await
        }
        // Of an older build beside a newer one, or put back by a rollback: it's meant to be so.
        Some((code, _)) if *code >= projection.version() || is_there => Ok(()),
        Some((code, _)) => {
            let (name, old, new) = (projection.name(), code, projection.version());
            tracing::info!(
                projection = name,
                old,
                new,
                "the code is newer than the read model: building another"
            );
            retire_build(name, &mut *connection).await?;
            create(projection, "building", Some(KEEP_DEFAULT), false, connection).await.map(drop)
        }
    }
}

/// Adds a read model without rows.
async fn create(
    projection: &dyn Projection,
    state: &str,
    keep: Option<Duration>,
    verify: bool,
    connection: &mut PgConnection,
) -> Result<i32, sqlx::Error> {
    let version: i32 = sqlx::query_scalar(
        "insert into cartulary.read_models (projection, version, code, state, keep_s, verify)
         select $1, 1 + coalesce(max(version), 0), $2, $3, $4, $5
         from (select version from cartulary.read_models where projection = $1
               union all select version from cartulary.verifications where projection = $1) as known
         returning version",
    )
    .bind(projection.name())
    .bind(projection.version())
    .bind(state)
    .bind(keep.map(|keep| i64::try_from(keep.as_secs()).unwrap_or(i64::MAX)))
    .bind(verify)
    .fetch_one(&mut *connection)
    .await?;
    let schema = schema(projection.name(), version);
    let definition = format!(
        "drop schema if exists {schema} cascade; create schema {schema};
         set local search_path = {schema}, public; {}; set local search_path to default",
        projection.definition()
    );
    // Names and definitions are this program's own.
    sqlx::raw_sql(AssertSqlSafe(definition)).execute(&mut *connection).await?;
    lanes::add(connection, &schema, projection.lanes()).await?;
    Ok(version)
}

/// Makes the indexes, and says that they are there.
pub(crate) async fn index(
    projection: &dyn Projection,
    version: i32,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let schema = schema(projection.name(), version);
    let indexes = format!(
        "set local search_path = {schema}, public; {}; analyze {}; set local search_path to default",
        projection.indexes().join("; "),
        projection.tables().iter().map(|(table, _)| *table).collect::<Vec<_>>().join(", "),
    );
    sqlx::raw_sql(AssertSqlSafe(indexes)).execute(&mut *connection).await?;
    let done = "update cartulary.read_models set indexed_at = clock_timestamp() where projection = $1 and version = $2";
    sqlx::query(done).bind(projection.name()).bind(version).execute(connection).await?;
    Ok(())
}

async fn retire_build(name: &str, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let retired = sqlx::query(
        "update cartulary.read_models set state = 'retired', state_since = clock_timestamp()
         where projection = $1 and state in ('building', 'verifying')",
    )
    .bind(name)
    .execute(connection)
    .await?;
    Ok(retired.rows_affected())
}

/// Looks after the read models: what operators ask for, and what comes of it by and by.
#[derive(Clone)]
pub struct Builds {
    projections: Arc<Vec<Arc<dyn Projection>>>,
    feed: Arc<Feed>,
    pool: PgPool,
    /// There are lanes that a worker may not know of yet.
    news: Arc<Notify>,
    /// When a switch was tried in vain.
    in_vain: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Builds {
    #[must_use]
    pub fn new(projections: Vec<Arc<dyn Projection>>, feed: Arc<Feed>, pool: PgPool) -> Self {
        Self { projections: Arc::new(projections), feed, pool, news: Arc::default(), in_vain: Arc::default() }
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        self.feed.log()
    }

    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Whether the last attempt to switch was not just now.
    pub(crate) fn may_try_to_switch(&self, projection: &str) -> bool {
        let in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        in_vain.get(projection).is_none_or(|at| at.elapsed() > SWITCH_PAUSE)
    }

    pub(crate) fn switched_in_vain(&self, projection: &str) {
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        in_vain.insert(projection.to_owned(), Instant::now());
    }

    /// Waits for lanes that came with a build which was begun here.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    #[must_use]
    pub fn projections(&self) -> &[Arc<dyn Projection>] {
        &self.projections
    }

    /// # Errors
    /// There is none of this name.
    pub fn projection(&self, name: &str) -> Result<&Arc<dyn Projection>, Error> {
        let found = self.projections.iter().find(|projection| projection.name() == name);
        found.ok_or_else(|| Error::UnknownProjection(name.to_owned()))
    }

    /// Begins a build beside the live read model; returns its version.
    ///
    /// # Errors
    /// One is under way already, or Postgres does not answer.
    pub async fn begin(&self, name: &str, purpose: Purpose) -> Result<i32, Error> {
        let projection = self.projection(name)?;
        let mut transaction = self.pool.begin().await?;
        let version = begin(projection.as_ref(), purpose, &mut transaction).await?;
        transaction.commit().await?;
        self.news.notify_one();
        Ok(version)
    }

    /// Begins a build of every projection, or of none, all at once: so they share one reading of the log.
    /// Returns their names and versions.
    ///
    /// # Errors
    /// One is under way already, or Postgres does not answer.
    pub async fn begin_all(&self, purpose: Purpose) -> Result<Vec<(&'static str, i32)>, Error> {
        let mut transaction = self.pool.begin().await?;
        let mut begun: Vec<(&'static str, i32)> = Vec::new();
        for name in self.projections.iter().map(|projection| projection.name()) {
            // An older version may stand beside the newest.
            if begun.iter().all(|(other, _)| *other != name) {
                let projection = self.projection(name)?;
                begun.push((name, begin(projection.as_ref(), purpose, &mut transaction).await?));
            }
        }
        transaction.commit().await?;
        self.news.notify_one();
        Ok(begun)
    }

    /// Ends a build that is under way, cleanly: what there is of it is dropped.
    ///
    /// # Errors
    /// There is none, or Postgres does not answer.
    pub async fn cancel(&self, name: &str) -> Result<(), Error> {
        self.projection(name)?;
        let mut transaction = self.pool.begin().await?;
        lock(name, &mut transaction).await?;
        if retire_build(name, &mut transaction).await? == 0 {
            return Err(Error::Refused(format!("no build of {name} is under way")));
        }
        Ok(transaction.commit().await?)
    }

    /// Puts the last live read model back, which is as current as the one it replaces; returns its
    /// version.
    ///
    /// # Errors
    /// There is none, it does not follow the log, or Postgres does not answer.
    pub async fn roll_back(&self, name: &str) -> Result<i32, Error> {
        self.projection(name)?;
        let last: Option<i32> = sqlx::query_scalar(
            "select version from cartulary.read_models where projection = $1 and state = 'standby'
             order by state_since desc limit 1",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        let last = last.ok_or_else(|| Error::Refused(format!("no earlier read model of {name} is kept")))?;
        match self.switch(name, last, Decided::ByOperator).await? {
            true => Ok(last),
            false => {
                let detail = format!("{} is behind the live one and does not catch up", schema(name, last));
                Err(Error::Refused(detail))
            }
        }
    }

    /// Takes the build that waits for a decision into use, although it differs from the live one.
    ///
    /// # Errors
    /// There is none that has caught up, or Postgres does not answer.
    pub async fn cut_over(&self, name: &str) -> Result<i32, Error> {
        self.projection(name)?;
        let build: Option<i32> = sqlx::query_scalar(
            "select version from cartulary.read_models
             where projection = $1 and state = 'building' and indexed_at is not null",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        let build = build.ok_or_else(|| Error::Refused(format!("no build of {name} has caught up")))?;
        match self.switch(name, build, Decided::ByOperator).await? {
            true => Ok(build),
            false => Err(Error::Refused(format!("{} is behind the live one", schema(name, build)))),
        }
    }

    /// Makes another read model the live one, in one short transaction: the present one is stopped
    /// until the other is as far, and queries go on all the while. False if it does not get there.
    pub(crate) async fn switch(&self, name: &str, version: i32, decided: Decided) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        // Who is paused here must not keep the live one stopped.
        let limit = "set local idle_in_transaction_session_timeout = '5s'; set local lock_timeout = '5s'";
        sqlx::raw_sql(limit).execute(&mut *transaction).await?;
        let models = lock(name, &mut transaction).await?;
        if !models
            .iter()
            .any(|(other, _, state)| *other == version && (state == "building" || state == "standby"))
        {
            return Err(Error::Refused(format!("{} is not there any more", schema(name, version))));
        }
        if let Some((live, ..)) = models.iter().find(|(_, _, state)| state == "live") {
            let stopped: Vec<i64> = sqlx::query_scalar(
                "select position from cartulary.lanes where reader = $1 order by lane for update",
            )
            .bind(schema(name, *live))
            .fetch_all(&mut *transaction)
            .await?;
            let goal = stopped.into_iter().min().unwrap_or(0).cast_unsigned();
            let (old, new) = (schema(name, *live), schema(name, version));
            if !reaches(&new, goal, &mut transaction).await? {
                return Ok(false);
            }
            // It may have set something aside on the last stretch.
            if decided == Decided::ByItself && more_set_aside(&new, &old, &mut transaction).await? > 0 {
                return Ok(false);
            }
        }
        sqlx::query(
            "update cartulary.read_models as old set state = 'standby', state_since = clock_timestamp(),
                 keep_s = coalesce((select keep_s from cartulary.read_models as new
                                    where new.projection = $1 and new.version = $2 and new.state = 'building'), $3)
             where projection = $1 and state = 'live'",
        )
        .bind(name)
        .bind(version)
        .bind(i64::try_from(KEEP_DEFAULT.as_secs()).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "update cartulary.read_models set state = 'live', state_since = clock_timestamp(), note = null
             where projection = $1 and version = $2",
        )
        .bind(name)
        .bind(version)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        tracing::info!(read_model = schema(name, version), "is live now");
        Ok(true)
    }
}

async fn begin(
    projection: &dyn Projection,
    purpose: Purpose,
    transaction: &mut PgConnection,
) -> Result<i32, Error> {
    let name = projection.name();
    let (state, keep, verify) = match purpose {
        Purpose::Replace { verify, keep } => ("building", Some(keep), verify),
        Purpose::Verify => ("verifying", None, true),
    };
    let models = lock(name, transaction).await?;
    if let Some((version, ..)) = models.iter().find(|(_, _, under_way)| under_way == state) {
        return Err(Error::Refused(format!("{} is {state} already", schema(name, *version))));
    }
    let live = models.iter().find(|(_, _, state)| state == "live");
    if purpose == Purpose::Verify && live.is_none_or(|(_, code, _)| *code != projection.version()) {
        let detail = format!("the live read model of {name} is of other code, so its rows are to differ");
        return Err(Error::Refused(detail));
    }
    Ok(create(projection, state, keep, verify, transaction).await?)
}

/// Version, code and state of a projection's read models, which nobody else changes meanwhile.
pub(crate) async fn lock(
    name: &str,
    connection: &mut PgConnection,
) -> Result<Vec<(i32, i32, String)>, sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.read_models.' || $1))")
        .bind(name)
        .execute(&mut *connection)
        .await?;
    sqlx::query_as(
        "select version, code, state from cartulary.read_models where projection = $1 and state <> 'retired'",
    )
    .bind(name)
    .fetch_all(connection)
    .await
}

/// Whether the reader comes to the position in the time that there is.
async fn reaches(reader: &str, goal: u64, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + SWITCH_LIMIT;
    while lanes::position(connection, reader).await? < goal {
        if tokio::time::Instant::now() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(SWITCH_POLL).await;
    }
    Ok(true)
}
