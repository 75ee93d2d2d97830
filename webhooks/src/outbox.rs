//! The outbox: a row for each event and each endpoint that wants it.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::message::{self, Message};
use crate::types;

/// Rows removed at a time, so that nobody waits for that.
const REMOVED_MAX: i64 = 5_000;

/// What was given up is kept so many times as long as what was delivered.
const DEAD_KEEP: u32 = 10;

/// Which events an endpoint is to be sent.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Wish {
    pub id: Uuid,
    pub types: Vec<String>,
    from_position: i64,
    paused_position: Option<i64>,
}

impl Wish {
    /// Whether events of this position come to it by themselves. While it's paused, none do: a replay makes up
    /// for them.
    pub fn covers(&self, position: u64) -> bool {
        let position = position.cast_signed();
        position > self.from_position && self.paused_position.is_none_or(|paused| position <= paused)
    }

    pub fn wants(&self, kind: &str) -> bool {
        self.types.iter().any(|pattern| types::matches(pattern, kind))
    }
}

/// Of all endpoints that there are.
pub(crate) async fn wishes(connection: &mut PgConnection) -> Result<Vec<Wish>, sqlx::Error> {
    sqlx::query_as(
        "select id, types, from_position, paused_position from cartulary.webhook_endpoints
         where state <> 'removed'",
    )
    .fetch_all(connection)
    .await
}

/// Adds what is not there yet. `again` makes what was delivered or given up due once more; what is on its way
/// is left alone.
pub(crate) async fn put(
    rows: Vec<(Uuid, &Message)>,
    again: bool,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let endpoints: Vec<Uuid> = rows.iter().map(|(endpoint, _)| *endpoint).collect();
    let positions: Vec<i64> = rows.iter().map(|(_, message)| message.position.cast_signed()).collect();
    let indices: Vec<i32> =
        rows.iter().map(|(_, message)| message.index.try_into().unwrap_or(i32::MAX)).collect();
    let ids: Vec<String> =
        rows.iter().map(|(endpoint, message)| message::id(*endpoint, message.event)).collect();
    let kinds: Vec<&str> = rows.iter().map(|(_, message)| message.kind.as_str()).collect();
    let bodies: Vec<&str> = rows.iter().map(|(_, message)| message.body.as_str()).collect();
    sqlx::query(
        "insert into cartulary.webhook_deliveries as old (endpoint, position, index, id, type, body)
         select * from unnest($1::uuid[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[])
         on conflict (endpoint, position, index) do update set
             state = 'pending', attempts = 0, since = clock_timestamp(), next_at = clock_timestamp(),
             body = excluded.body, done_at = null, last_error = null, last_status = null
         where $7 and old.state <> 'pending'",
    )
    .bind(endpoints)
    .bind(positions)
    .bind(indices)
    .bind(ids)
    .bind(kinds)
    .bind(bodies)
    .bind(again)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives up what was tried for long enough, even if only others were tried in its place because the endpoint was
/// down; forgets what is done with for long, and what was removed.
pub(crate) async fn tidy(give_up_after: Duration, keep: Duration, pool: &PgPool) -> Result<(), sqlx::Error> {
    let given_up = "update cartulary.webhook_deliveries set state = 'dead', done_at = clock_timestamp(),
             last_error = coalesce(last_error, 'the endpoint was down')
         where (endpoint, position, index) in (
             select d.endpoint, d.position, d.index
             from cartulary.webhook_deliveries as d join cartulary.webhook_endpoints as e on e.id = d.endpoint
             where d.state = 'pending' and e.state = 'active' and d.next_at < statement_timestamp()
               and d.since < statement_timestamp() - make_interval(secs => $1) and e.failures > 0
             limit $2 for update of d skip locked)";
    some_at_a_time(given_up, give_up_after, pool).await?;
    let delivered = "delete from cartulary.webhook_deliveries where (endpoint, position, index) in (
             select endpoint, position, index from cartulary.webhook_deliveries
             where state = 'delivered' and done_at < statement_timestamp() - make_interval(secs => $1)
             limit $2 for update skip locked)";
    some_at_a_time(delivered, keep, pool).await?;
    some_at_a_time(&delivered.replace("'delivered'", "'dead'"), keep * DEAD_KEEP, pool).await?;
    let removed = "delete from cartulary.webhook_deliveries where (endpoint, position, index) in (
             select d.endpoint, d.position, d.index
             from cartulary.webhook_deliveries as d join cartulary.webhook_endpoints as e on e.id = d.endpoint
             where e.state = 'removed' and $1 >= 0 limit $2 for update of d skip locked)";
    some_at_a_time(removed, Duration::ZERO, pool).await?;
    sqlx::query(
        "delete from cartulary.webhook_endpoints as e where state = 'removed' and not exists (
             select from cartulary.webhook_deliveries as d where d.endpoint = e.id)",
    )
    .execute(pool)
    .await?;
    Ok(())
}

async fn some_at_a_time(query: &str, time: Duration, pool: &PgPool) -> Result<(), sqlx::Error> {
    loop {
        let changed = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(time.as_secs_f64())
            .bind(REMOVED_MAX)
            .execute(pool)
            .await?;
        if changed.rows_affected() < REMOVED_MAX.unsigned_abs() {
            return Ok(());
        }
    }
}

/// A claimed row: an attempt that this process is to make.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Attempt {
    pub endpoint: Uuid,
    pub position: i64,
    pub index: i32,
    pub id: String,
    pub body: String,
    pub attempts: i32,
    pub claim: Uuid,
}

/// Where attempts at an endpoint go, and how they are signed.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub url: String,
    /// Sealed.
    pub secrets: Vec<String>,
    pub failures: i32,
}

#[derive(FromRow)]
struct Active {
    url: String,
    secret: String,
    previous_secret: Option<String>,
    failures: i32,
}

/// Endpoints for which something is due.
pub(crate) async fn due(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "select id from cartulary.webhook_endpoints as e
         where state = 'active' and (rest_until is null or rest_until <= statement_timestamp())
           and exists (select from cartulary.webhook_deliveries as d
                       where d.endpoint = e.id and d.state = 'pending' and d.next_at <= statement_timestamp())",
    )
    .fetch_all(pool)
    .await
}

/// Claims what is due for an endpoint, for a while: if the process dies meanwhile, it's due again then. However
/// many processes there are, no more than `in_flight_max` are on their way, and to one that is down a single one.
pub(crate) async fn claim(
    endpoint: Uuid,
    in_flight_max: u32,
    claim_for: Duration,
    pool: &PgPool,
) -> Result<Option<(Destination, Vec<Attempt>)>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    // Whoever else claims for this endpoint waits, and counts what was claimed here.
    let active: Option<Active> = sqlx::query_as(
        "select url, secret, case when previous_until > statement_timestamp() then previous_secret end as previous_secret,
                failures
         from cartulary.webhook_endpoints
         where id = $1 and state = 'active' and (rest_until is null or rest_until <= statement_timestamp()) for update",
    )
    .bind(endpoint)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(Active { url, secret, previous_secret, failures }) = active else { return Ok(None) };
    let most = if failures >= crate::outcome::DOWN_AFTER { 1 } else { i64::from(in_flight_max) };
    let attempts: Vec<Attempt> = sqlx::query_as(
        "update cartulary.webhook_deliveries as d
         set claim = $2, next_at = clock_timestamp() + make_interval(secs => $3)
         from (select position, index from cartulary.webhook_deliveries
               where endpoint = $1 and state = 'pending' and next_at <= statement_timestamp()
               order by next_at
               limit greatest(0, $4 - (select count(*) from cartulary.webhook_deliveries
                   where endpoint = $1 and state = 'pending' and claim is not null and next_at > statement_timestamp()))
               for update skip locked) as due
         where d.endpoint = $1 and d.position = due.position and d.index = due.index
         returning d.endpoint, d.position, d.index, d.id, d.body, d.attempts, d.claim",
    )
    .bind(endpoint)
    .bind(Uuid::now_v7())
    .bind(claim_for.as_secs_f64())
    .bind(most)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let secrets = [Some(secret), previous_secret].into_iter().flatten().collect();
    Ok(Some((Destination { url, secrets, failures }, attempts)))
}

/// It arrived. What waits because of earlier failures need not wait any longer.
pub(crate) async fn delivered(
    attempt: &Attempt,
    status: u16,
    had_failed: bool,
    pool: &PgPool,
) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    if had_failed {
        let again: Option<Uuid> = sqlx::query_scalar(
            "update cartulary.webhook_endpoints set failures = 0, failing_since = null, rest_until = null
             where id = $1 and failures > 0 returning id",
        )
        .bind(attempt.endpoint)
        .fetch_optional(&mut *transaction)
        .await?;
        if again.is_some() {
            sqlx::query(
                "update cartulary.webhook_deliveries set next_at = clock_timestamp()
                 where endpoint = $1 and state = 'pending' and claim is null and next_at > statement_timestamp()",
            )
            .bind(attempt.endpoint)
            .execute(&mut *transaction)
            .await?;
        }
    }
    sqlx::query(
        "update cartulary.webhook_deliveries
         set state = 'delivered', attempts = attempts + 1, claim = null, last_at = clock_timestamp(),
             last_status = $5, last_error = null, done_at = clock_timestamp()
         where endpoint = $1 and position = $2 and index = $3 and claim = $4",
    )
    .bind(attempt.endpoint)
    .bind(attempt.position)
    .bind(attempt.index)
    .bind(attempt.claim)
    .bind(i32::from(status))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// What is known of an attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure<'a> {
    pub status: Option<u16>,
    pub reason: &'a str,
    /// Until the next attempt.
    pub pause: Duration,
    /// For how long the endpoint is left alone, if it is.
    pub rest: Option<Duration>,
    pub give_up_after: Duration,
}

/// It did not arrive: it's due again later, or given up. Whether it was.
pub(crate) async fn failed(
    attempt: &Attempt,
    failure: &Failure<'_>,
    pool: &PgPool,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query(
        "update cartulary.webhook_endpoints
         set failures = failures + 1, failing_since = coalesce(failing_since, clock_timestamp()),
             rest_until = greatest(rest_until, clock_timestamp() + make_interval(secs => $2))
         where id = $1",
    )
    .bind(attempt.endpoint)
    .bind(failure.rest.map(|rest| rest.as_secs_f64()))
    .execute(&mut *transaction)
    .await?;
    let state: Option<String> = sqlx::query_scalar(
        "update cartulary.webhook_deliveries as d
         set state = case when late then 'dead' else 'pending' end,
             done_at = case when late then clock_timestamp() end,
             attempts = attempts + 1, claim = null, last_at = clock_timestamp(), last_status = $5, last_error = $6,
             next_at = clock_timestamp() + make_interval(secs => $7)
         from (select clock_timestamp() + make_interval(secs => $7) > since + make_interval(secs => $8) as late
               from cartulary.webhook_deliveries where endpoint = $1 and position = $2 and index = $3) as time
         where endpoint = $1 and position = $2 and index = $3 and claim = $4 returning state",
    )
    .bind(attempt.endpoint)
    .bind(attempt.position)
    .bind(attempt.index)
    .bind(attempt.claim)
    .bind(failure.status.map(i32::from))
    .bind(failure.reason)
    .bind(failure.pause.as_secs_f64())
    .bind(failure.give_up_after.as_secs_f64())
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(state.as_deref() == Some("dead"))
}

/// Puts it back, for an endpoint that wants no more for now.
pub(crate) async fn put_back(attempt: &Attempt, pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update cartulary.webhook_deliveries set attempts = attempts + 1, claim = null, last_at = clock_timestamp(),
             last_status = 410, last_error = 'it answers 410', next_at = clock_timestamp()
         where endpoint = $1 and position = $2 and index = $3 and claim = $4",
    )
    .bind(attempt.endpoint)
    .bind(attempt.position)
    .bind(attempt.index)
    .bind(attempt.claim)
    .execute(pool)
    .await?;
    Ok(())
}

/// How many wait, and how many were given up.
pub(crate) async fn counts(pool: &PgPool) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "select (select count(*) from cartulary.webhook_deliveries where state = 'pending'),
                (select count(*) from cartulary.webhook_deliveries where state = 'dead')",
    )
    .fetch_one(pool)
    .await
}
