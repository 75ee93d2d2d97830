//! What a projection is.

use chrono::{DateTime, Utc};
use domain::commit::DecodeError;
use domain::{Event, StreamId};
use futures_util::future::BoxFuture;
use infra::log::Stored;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

/// Code that turns events into rows of tables that only it writes.
///
/// Its tables live in the schema `<name>_v<version>`; views in the schema `<name>` show the live
/// version, and all queries go there. So another version can be built beside it and switched in.
pub trait Projection: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// To be raised whenever tables or rows are to become different.
    fn version(&self) -> u32;

    /// The tables, by name.
    fn tables(&self) -> &'static [&'static str];

    /// Makes the tables and their indexes, in the schema that is on the search path.
    fn definition(&self) -> &'static str;

    /// Brings the tables to after these events. No side effects but rows: a rebuild does it again.
    fn apply<'a>(
        &'a self,
        batch: &'a [Happened],
        transaction: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;

    fn schema(&self) -> String {
        format!("{}_v{}", self.name(), self.version())
    }
}

/// An event as a projection sees it.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Position of its commit in the log.
    pub position: u64,
    /// Its place in the commit, from 0.
    pub index: u32,
    pub stream: StreamId,
    /// Version of the stream after it.
    pub version: u64,
    /// Such as `order.placed`.
    pub kind: String,
    pub at: DateTime<Utc>,
    pub event: Event,
}

impl Happened {
    /// The events of a commit that the rules know.
    ///
    /// # Errors
    /// An event of a known category is not readable.
    pub fn all_of(stored: &Stored) -> Result<Vec<Self>, DecodeError> {
        let mut all = Vec::with_capacity(stored.commit.events.len());
        for (index, recorded) in (0_u32..).zip(&stored.commit.events) {
            if let Some(event) = Event::decode(recorded)? {
                all.push(Self {
                    position: stored.sequence,
                    index,
                    stream: stored.commit.stream.clone(),
                    version: stored.commit.version + u64::from(index),
                    kind: recorded.kind.clone(),
                    at: recorded.occurred_at,
                    event,
                });
            }
        }
        Ok(all)
    }
}

/// Makes the projection's tables where there are none yet, and shows them as the live ones.
///
/// # Errors
/// Postgres does not answer or does not accept them.
pub async fn migrate(projection: &dyn Projection, pool: &PgPool) -> Result<(), sqlx::Error> {
    let (name, schema) = (projection.name(), projection.schema());
    let mut transaction = pool.begin().await?;
    // Several processes may start at a time, and `if not exists` alone does not make that safe.
    sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.migrate'))")
        .execute(&mut *transaction)
        .await?;
    let there: bool = sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
        .bind(&schema)
        .fetch_one(&mut *transaction)
        .await?;
    if !there {
        let views = projection
            .tables()
            .iter()
            .map(|table| format!("create or replace view {name}.{table} as select * from {schema}.{table};"));
        let definition = format!(
            "create schema {schema}; create schema if not exists {name};
             create extension if not exists pg_trgm schema public;
             create extension if not exists fuzzystrmatch schema public;
             set local search_path = {schema}, public; {}; {}",
            projection.definition(),
            views.collect::<String>(),
        );
        // Names and definitions are this program's own.
        sqlx::raw_sql(AssertSqlSafe(definition)).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}
