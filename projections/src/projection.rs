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

    /// Categories of the streams that it's about. What is in others, readable or not, is no concern
    /// of its.
    fn categories(&self) -> &'static [&'static str];

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

/// Makes the projection's tables where there are none of its version yet, and shows them as the live
/// ones. They are filled from the log's beginning then.
///
/// # Errors
/// Postgres does not answer or does not accept them.
pub async fn migrate(projection: &dyn Projection, pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    // Several processes may start at a time, and `if not exists` alone does not make that safe.
    sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.migrate'))")
        .execute(&mut *transaction)
        .await?;
    let is_live: bool = sqlx::query_scalar(
        "select exists (select from pg_namespace where nspname = $1)
            and exists (select from cartulary.checkpoints where reader = $2 and version = $3)",
    )
    .bind(projection.schema())
    .bind(projection.name())
    .bind(projection.version().cast_signed())
    .fetch_one(&mut *transaction)
    .await?;
    if !is_live {
        // Names and definitions are this program's own.
        sqlx::raw_sql(AssertSqlSafe(definition(projection))).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

fn definition(projection: &dyn Projection) -> String {
    let (name, schema, version) = (projection.name(), projection.schema(), projection.version());
    let tables = projection.definition();
    let view = |table| format!("create view {name}.{table} as select * from {schema}.{table};");
    let views: String = projection.tables().iter().map(view).collect();
    format!(
        "drop schema if exists {schema} cascade; create schema {schema};
         drop schema if exists {name} cascade; create schema {name};
         create extension if not exists fuzzystrmatch schema public;
         set local search_path = {schema}, public; {tables}; {views}
         delete from cartulary.checkpoints where reader = '{name}';
         insert into cartulary.checkpoints (reader, version) values ('{name}', {version})"
    )
}
