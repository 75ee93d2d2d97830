//! Whether two read models of a projection have the same rows at the same position.

use std::time::Duration;

use infra::read_models::ReadModel;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgPool};
use utoipa::ToSchema;

use crate::projection::Projection;

/// What a build's note says when it was found equal.
pub(crate) const EQUAL: &str = "equal";

/// Differences that are shown of each table.
const SHOWN_MAX: i64 = 10;

/// How long the lanes are held at one position until all of them are there.
const HOLD_LIMIT: Duration = Duration::from_secs(5);
const HOLD_POLL: Duration = Duration::from_millis(5);

/// What was found, for who asks later.
pub(crate) const TABLE: &str = "
    create table if not exists cartulary.verifications (
        projection text,
        version int,
        at timestamptz not null default now(),
        result jsonb not null,
        primary key (projection, version, at)
    )";

/// What a comparison found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Both are compared as they are here.
    pub position: u64,
    pub tables: Vec<TableComparison>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TableComparison {
    pub table: String,
    pub live: Content,
    pub rebuilt: Content,
    /// In how many rows they differ.
    pub differences: i64,
    /// The first of them.
    pub first: Vec<Difference>,
}

/// Of all rows of a table: how many they are, and a sum of their hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Content {
    pub rows: i64,
    pub hash: String,
}

/// A row that is only in one of them, or not the same in both.
#[derive(Debug, Clone, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Difference {
    pub key: String,
    pub live: Option<String>,
    pub rebuilt: Option<String>,
}

impl Comparison {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.differences == 0 && table.live == table.rebuilt)
    }
}

/// Compares them, at a position at which both are held for a moment; nothing if that does not work
/// out now.
pub(crate) async fn compare(
    projection: &dyn Projection,
    rebuilt: &ReadModel,
    live: &ReadModel,
    pool: &PgPool,
) -> Result<Option<Comparison>, sqlx::Error> {
    let readers = vec![rebuilt.schema(), live.schema()];
    let position = hold(&readers, pool).await?;
    let mut snapshot = match all_at(&readers, position, pool).await? {
        true => Some(live.snapshot(pool).await?),
        false => None,
    };
    // A snapshot begins with its first query, which is to be before the lanes go on.
    let is_there = match &mut snapshot {
        Some(snapshot) => is_at(&readers, position, snapshot.connection()).await?,
        None => false,
    };
    let release = "update cartulary.lanes set hold_at = null, hold_until = null where reader = any($1)";
    sqlx::query(release).bind(&readers).execute(pool).await?;
    let Some(mut snapshot) = snapshot.filter(|_| is_there) else { return Ok(None) };
    let mut tables = Vec::new();
    for (table, key) in projection.tables() {
        tables.push(compare_table(table, key, rebuilt, live, snapshot.connection()).await?);
    }
    Ok(Some(Comparison { position: position.cast_unsigned(), tables }))
}

async fn hold(readers: &[String], pool: &PgPool) -> Result<i64, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let positions: Vec<i64> = sqlx::query_scalar(
        "select position from cartulary.lanes where reader = any($1) order by reader, lane for update",
    )
    .bind(readers)
    .fetch_all(&mut *transaction)
    .await?;
    let position = positions.into_iter().max().unwrap_or(0);
    sqlx::query(
        "update cartulary.lanes set hold_at = $2, hold_until = clock_timestamp() + make_interval(secs => $3)
         where reader = any($1)",
    )
    .bind(readers)
    .bind(position)
    .bind(HOLD_LIMIT.as_secs_f64() + 1.0)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(position)
}

async fn all_at(readers: &[String], position: i64, pool: &PgPool) -> Result<bool, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + HOLD_LIMIT;
    let mut connection = pool.acquire().await?;
    while !is_at(readers, position, &mut connection).await? {
        if tokio::time::Instant::now() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(HOLD_POLL).await;
    }
    Ok(true)
}

async fn is_at(
    readers: &[String],
    position: i64,
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select bool_and(position = $2) from cartulary.lanes where reader = any($1)")
        .bind(readers)
        .bind(position)
        .fetch_one(connection)
        .await
}

async fn compare_table(
    table: &str,
    key: &str,
    rebuilt: &ReadModel,
    live: &ReadModel,
    connection: &mut PgConnection,
) -> Result<TableComparison, sqlx::Error> {
    let content = |model: &ReadModel| {
        let schema = model.schema();
        AssertSqlSafe(format!(
            "select count(*) as rows, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text as hash
             from {schema}.{table} as t"
        ))
    };
    let live_content: Content = sqlx::query_as(content(live)).fetch_one(&mut *connection).await?;
    let rebuilt_content: Content = sqlx::query_as(content(rebuilt)).fetch_one(&mut *connection).await?;
    let mut comparison = TableComparison {
        table: table.to_owned(),
        live: live_content,
        rebuilt: rebuilt_content,
        differences: 0,
        first: Vec::new(),
    };
    if comparison.live == comparison.rebuilt {
        return Ok(comparison);
    }
    let keyed = |model: &ReadModel| {
        let schema = model.schema();
        format!("(select concat_ws(', ', {key}) as key, t::text as row from {schema}.{table} as t)")
    };
    let differing = format!(
        "from {} as live full join {} as rebuilt using (key) where live.row is distinct from rebuilt.row",
        keyed(live),
        keyed(rebuilt)
    );
    comparison.differences = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) {differing}")))
        .fetch_one(&mut *connection)
        .await?;
    let first = format!(
        "select key, live.row as live, rebuilt.row as rebuilt {differing} order by key limit {SHOWN_MAX}"
    );
    comparison.first = sqlx::query_as(AssertSqlSafe(first)).fetch_all(connection).await?;
    Ok(comparison)
}

/// Keeps what was found, and says at the build what it is.
pub(crate) async fn record(
    comparison: &Comparison,
    build: &ReadModel,
    live: &ReadModel,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into cartulary.verifications (projection, version, result) values ($1, $2, $3)")
        .bind(&build.projection)
        .bind(build.version)
        .bind(Json(comparison))
        .execute(&mut *connection)
        .await?;
    let note = match comparison.is_equal() {
        true => EQUAL.to_owned(),
        false => {
            let rows: i64 = comparison.tables.iter().map(|table| table.differences).sum();
            format!("differs from {} in {rows} rows", live.schema())
        }
    };
    sqlx::query("update cartulary.read_models set note = $3 where projection = $1 and version = $2")
        .bind(&build.projection)
        .bind(build.version)
        .bind(note)
        .execute(connection)
        .await?;
    Ok(())
}

/// The last comparison with this build, if there was one.
///
/// # Errors
/// Postgres does not answer.
pub async fn result(
    pool: &PgPool,
    projection: &str,
    version: i32,
) -> Result<Option<Comparison>, sqlx::Error> {
    let found: Option<Json<Comparison>> = sqlx::query_scalar(
        "select result from cartulary.verifications
         where projection = $1 and version = $2 order by at desc limit 1",
    )
    .bind(projection)
    .bind(version)
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|Json(result)| result))
}
