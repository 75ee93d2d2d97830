//! Dead letters, as operators see them: what was set aside, why, and what becomes of it.
//!
//! An event that can't be applied sets its key aside (an order, a SKU): later events of that key queue up
//! behind it, and everything else goes on. After the code or the rows are mended, they are tried again, in
//! order; or an operator decides to do without the first one. All of it is recorded.

use chrono::{DateTime, Utc};
use domain::RecordedEvent;
use infra::log::{EventLog, ReadError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;

use crate::builds::Error;
use crate::letters::record;

/// Most events of one key that are shown.
const SHOWN_MAX: i64 = 100;

pub(crate) const TABLES: &str = "
    create table if not exists cartulary.parked (
        reader text,
        lane int not null,
        key text,
        build text not null,
        since timestamptz not null default clock_timestamp(),
        asked_at timestamptz,
        primary key (reader, key)
    );
    create table if not exists cartulary.dead_letters (
        reader text,
        key text,
        position bigint,
        index int,
        stream text not null,
        kind text not null,
        reason text,
        attempts int not null default 1,
        at timestamptz not null default clock_timestamp(),
        primary key (reader, key, position, index)
    );
    create table if not exists cartulary.skipped_events (
        projection text,
        position bigint,
        index int,
        reason text not null,
        at timestamptz not null default clock_timestamp(),
        primary key (projection, position, index)
    );
    create table if not exists cartulary.dead_letter_history (
        id bigint generated always as identity primary key,
        at timestamptz not null default clock_timestamp(),
        reader text not null,
        key text not null,
        position bigint,
        index int,
        what text not null,
        detail text not null
    );
    create table if not exists cartulary.newer_events (
        reader text,
        kind text,
        schema int,
        events bigint not null,
        first_position bigint not null,
        last_position bigint not null,
        primary key (reader, kind, schema)
    )";

/// What is set aside of one key.
#[derive(Debug, Clone, Serialize, Deserialize, FromRow, ToSchema)]
pub struct DeadLetter {
    /// Schema of the read model.
    #[schema(example = "orders_v7")]
    pub read_model: String,
    /// What its events are about: an order's id, a SKU.
    pub key: String,
    pub since: DateTime<Utc>,
    /// Position in the log of the event that can't be applied.
    pub position: i64,
    /// Its place in the commit, from 0.
    pub index: i32,
    #[schema(example = "order/1e9c8a3a-4f4a-5d1e-9a27-2d6b1f1f6a01")]
    pub stream: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub reason: Option<String>,
    pub attempts: i32,
    /// Events that are set aside, with this one.
    pub events: i64,
    /// Whether it is about to be tried again.
    pub is_asked: bool,
}

/// A key with its events, the first of them as the log has it, and what was done about them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterDetails {
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// Data of the event that can't be applied, without what is personal; null where the commit is not
    /// readable.
    pub data: Value,
    pub events_set_aside: Vec<EventSetAside>,
    pub history: Vec<HistoryEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize, FromRow, ToSchema)]
pub struct EventSetAside {
    pub position: i64,
    pub index: i32,
    pub stream: String,
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, FromRow, ToSchema)]
pub struct HistoryEntry {
    pub at: DateTime<Utc>,
    pub read_model: String,
    pub position: Option<i64>,
    pub what: String,
    pub detail: String,
}

const LIST: &str = "
    select p.reader as read_model, p.key, p.since, d.position, d.index, d.stream, d.kind, d.reason, d.attempts,
           (select count(*) from cartulary.dead_letters as e where e.reader = p.reader and e.key = p.key) as events,
           p.asked_at is not null as is_asked
    from cartulary.parked as p
         join lateral (select * from cartulary.dead_letters as e where e.reader = p.reader and e.key = p.key
                       order by position, index limit 1) as d on true
    where ($1::text is null or p.reader ~ ('^' || $1 || '_v[0-9]+$')) and ($2::text is null or p.key = $2)
    order by p.since, p.reader, p.key limit $3";

/// Most keys that are listed.
pub const LISTED_MAX: i64 = 1_000;

/// The keys that are set aside, of one projection's read models or of all; the oldest first, and of many
/// the first [`LISTED_MAX`].
///
/// # Errors
/// Postgres does not answer.
pub async fn list(pool: &PgPool, projection: Option<&str>) -> Result<Vec<DeadLetter>, sqlx::Error> {
    sqlx::query_as(LIST).bind(projection).bind(None::<&str>).bind(LISTED_MAX).fetch_all(pool).await
}

/// One key of a projection, in each of its read models that has set it aside.
///
/// # Errors
/// Postgres or the log does not answer.
pub async fn show(
    pool: &PgPool,
    log: &dyn EventLog,
    projection: &str,
    key: &str,
) -> Result<Vec<DeadLetterDetails>, Error> {
    let letters: Vec<DeadLetter> =
        sqlx::query_as(LIST).bind(projection).bind(key).bind(SHOWN_MAX).fetch_all(pool).await?;
    let mut all = Vec::new();
    for letter in letters {
        let events_set_aside = sqlx::query_as(
            "select position, index, stream, kind from cartulary.dead_letters where reader = $1 and key = $2
             order by position, index limit $3",
        )
        .bind(&letter.read_model)
        .bind(key)
        .bind(SHOWN_MAX)
        .fetch_all(pool)
        .await?;
        let history = sqlx::query_as(
            "select at, reader as read_model, position, what, detail from cartulary.dead_letter_history
             where reader = $1 and key = $2 order by id desc limit $3",
        )
        .bind(&letter.read_model)
        .bind(key)
        .bind(SHOWN_MAX)
        .fetch_all(pool)
        .await?;
        let data = data(log, &letter).await?;
        all.push(DeadLetterDetails { letter, data, events_set_aside, history });
    }
    Ok(all)
}

async fn data(log: &dyn EventLog, letter: &DeadLetter) -> Result<Value, Error> {
    let read = log.read(letter.position.cast_unsigned()).await;
    let stored = match read {
        Ok(stored) => stored,
        Err(ReadError::Unreadable { .. }) => None,
        Err(ReadError::Unavailable(error)) => return Err(error.into()),
    };
    let index = usize::try_from(letter.index).unwrap_or(usize::MAX);
    let event = stored.and_then(|stored| stored.commit.events.into_iter().nth(index));
    let data = |event: RecordedEvent| serde_json::from_str(event.data.get()).unwrap_or(Value::Null);
    Ok(event.map_or(Value::Null, data))
}

/// Asks for what is set aside to be tried again, in order: of one key, or of all. Returns how many keys
/// were asked for; whoever has their lanes gets to it within a second or two.
///
/// # Errors
/// Postgres does not answer.
pub async fn retry(pool: &PgPool, projection: &str, key: Option<&str>) -> Result<u64, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let asked = ask(projection, key, None, "an operator asked for another try", &mut transaction).await?;
    transaction.commit().await?;
    Ok(asked)
}

/// Decides to do without the first event that is set aside of the key, in all read models of the
/// projection that there are or will be; what waits behind it is tried again. Returns how many read
/// models had it.
///
/// # Errors
/// Nothing of the key is set aside, or Postgres does not answer.
pub async fn skip(pool: &PgPool, projection: &str, key: &str, reason: &str) -> Result<u64, Error> {
    let mut transaction = pool.begin().await?;
    let first: Option<(i64, i32)> = sqlx::query_as(
        "select position, index from cartulary.dead_letters
         where reader ~ ('^' || $1 || '_v[0-9]+$') and key = $2 order by position, index limit 1",
    )
    .bind(projection)
    .bind(key)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((position, index)) = first else {
        return Err(Error::Refused(format!("nothing of `{key}` is set aside in {projection}")));
    };
    sqlx::query(
        "insert into cartulary.skipped_events (projection, position, index, reason) values ($1, $2, $3, $4)
         on conflict do nothing",
    )
    .bind(projection)
    .bind(position)
    .bind(index)
    .bind(reason)
    .execute(&mut *transaction)
    .await?;
    let place = Some((position.cast_unsigned(), index.cast_unsigned()));
    let asked = ask(projection, Some(key), place, &format!("skipped: {reason}"), &mut transaction).await?;
    transaction.commit().await?;
    Ok(asked)
}

async fn ask(
    projection: &str,
    key: Option<&str>,
    place: Option<(u64, u32)>,
    detail: &str,
    transaction: &mut PgConnection,
) -> Result<u64, sqlx::Error> {
    let asked: Vec<(String, String)> = sqlx::query_as(
        "update cartulary.parked set asked_at = clock_timestamp()
         where reader ~ ('^' || $1 || '_v[0-9]+$') and ($2::text is null or key = $2) returning reader, key",
    )
    .bind(projection)
    .bind(key)
    .fetch_all(&mut *transaction)
    .await?;
    let what = if place.is_some() { "skipped" } else { "asked for" };
    for (reader, key) in &asked {
        record(reader, key, place, what, detail, transaction).await?;
    }
    Ok(asked.len() as u64)
}
