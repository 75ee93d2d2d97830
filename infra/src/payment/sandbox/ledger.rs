//! The sandbox's books: one line for each request, by its key.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use domain::payment::{Operation, Refund, RefundState, Request, State, Statement, refund_of_key};
use domain::{Currency, OrderId};
use serde::Serialize;
use sqlx::error::DatabaseError;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::super::{Booked, NoAnswer};

/// What became of what is required of the buyer.
pub const ASKED: &str = "asked";
pub const PASSED: &str = "passed";
pub const FAILED: &str = "failed";

const CHARGE_BACK: &str = "charge_back";

/// One line of the ledger.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct Line {
    pub idempotency_key: String,
    pub order_id: Uuid,
    pub operation: String,
    pub provider_reference: String,
    pub amount: i64,
    pub currency: String,
    pub declined: Option<String>,
    pub settles_at: DateTime<Utc>,
    pub asked_at: DateTime<Utc>,
    pub challenge: Option<String>,
    /// Which one of its order's it is, from 0; not of those that earlier builds entered.
    pub number: Option<i32>,
}

impl Line {
    /// The buyer's bank takes back what this line captures.
    pub fn charged_back(&self, at: DateTime<Utc>) -> Self {
        let idempotency_key = format!("{}:{CHARGE_BACK}", self.provider_reference);
        let operation = CHARGE_BACK.to_owned();
        Self { idempotency_key, operation, settles_at: at, ..self.clone() }
    }

    pub fn numbered(self, number: usize) -> Self {
        Self { number: i32::try_from(number).ok(), ..self }
    }

    fn is(&self, operation: Operation) -> bool {
        self.operation == operation.code()
    }
}

pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::Error> {
    // Several processes may begin at once.
    let mut transaction = pool.begin().await?;
    sqlx::raw_sql(
        "select pg_advisory_xact_lock(hashtext('cartulary.migrate'));
         create schema if not exists sandbox;
         create table if not exists sandbox.operations (
             idempotency_key text primary key,
             order_id uuid not null,
             operation text not null,
             provider_reference text not null,
             amount bigint not null,
             currency text not null,
             declined text,
             settles_at timestamptz not null,
             asked_at timestamptz not null
         );
         alter table sandbox.operations add column if not exists challenge text;
         alter table sandbox.operations add column if not exists number int;
         create unique index if not exists operations_number on sandbox.operations (order_id, number);
         drop index if exists sandbox.operations_order_id;
         create index if not exists operations_made on sandbox.operations (asked_at, order_id)
             where operation = 'authorize';",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Enters the lines, all or none; false, if somebody else has entered one of them, or another one in its place.
pub async fn enter(mut lines: Vec<Line>, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Always in the same order, so that nobody waits for who waits for them.
    lines.sort_by_key(|line| (line.order_id, line.number));
    let entered = sqlx::query(
        "insert into sandbox.operations
         select * from jsonb_populate_recordset(null::sandbox.operations, $1)",
    )
    .bind(Json(lines))
    .execute(connection)
    .await;
    match entered {
        Ok(_) => Ok(true),
        Err(error) if error.as_database_error().is_some_and(DatabaseError::is_unique_violation) => Ok(false),
        Err(error) => Err(error),
    }
}

/// All lines about these orders, the oldest first.
pub async fn lines(orders: &[Uuid], connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    // Each by the index, whatever Postgres thinks of a table that it has not looked at yet: `offset 0` keeps it
    // from a plan that reads all of it.
    sqlx::query_as(
        "select operations.* from (select distinct id from unnest($1::uuid[]) as id) as orders,
             lateral (select * from sandbox.operations where order_id = orders.id offset 0) as operations
         order by asked_at",
    )
    .bind(orders)
    .fetch_all(connection)
    .await
}

/// Takes down what the buyer did; whose payment it is, if it waited for that.
pub async fn answer_challenge(
    reference: &str,
    state: &str,
    pool: &PgPool,
) -> Result<Option<OrderId>, sqlx::Error> {
    let order_id: Option<Uuid> = sqlx::query_scalar(
        "update sandbox.operations as asked set challenge = $2
         where provider_reference = $1 and challenge = 'asked' and not exists
             (select from sandbox.operations as voided
              where voided.order_id = asked.order_id and voided.operation = 'void' and voided.declined is null)
         returning order_id",
    )
    .bind(reference)
    .bind(state)
    .fetch_optional(pool)
    .await?;
    Ok(order_id.map(OrderId))
}

pub async fn is_asked(reference: &str, pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from sandbox.operations where provider_reference = $1 and challenge = 'asked')",
    )
    .bind(reference)
    .fetch_one(pool)
    .await
}

/// The order that the payment of this name was made for.
pub async fn order_of(reference: &str, pool: &PgPool) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select order_id from sandbox.operations where provider_reference = $1 limit 1")
        .bind(reference)
        .fetch_optional(pool)
        .await
}

/// When a payment was made, and for which order: where a page of them ends.
#[derive(Debug, Clone, FromRow)]
pub struct Cursor {
    pub asked_at: DateTime<Utc>,
    pub order_id: Uuid,
}

impl Cursor {
    pub fn parse(text: &str) -> Result<Self, NoAnswer> {
        let invalid = || NoAnswer(format!("`{text}` is no cursor"));
        let (asked_at, order_id) = text.split_once('_').ok_or_else(invalid)?;
        let asked_at = asked_at.parse().ok().and_then(DateTime::from_timestamp_micros);
        let asked_at = asked_at.ok_or_else(invalid)?;
        Ok(Self { asked_at, order_id: order_id.parse().map_err(|_| invalid())? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_{}", self.asked_at.timestamp_micros(), self.order_id)
    }
}

/// Payments made in this time, the newest first.
pub async fn made(
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    before: Option<Cursor>,
    most: i64,
    connection: &mut PgConnection,
) -> Result<Vec<Cursor>, sqlx::Error> {
    let before = before.unwrap_or(Cursor { asked_at: until, order_id: Uuid::max() });
    sqlx::query_as(
        "select asked_at, order_id from sandbox.operations
         where operation = 'authorize' and asked_at >= $1 and (asked_at, order_id) < ($2, $3)
         order by asked_at desc, order_id desc limit $4",
    )
    .bind(since)
    .bind(before.asked_at)
    .bind(before.order_id)
    .bind(most)
    .fetch_all(connection)
    .await
}

/// What the lines come to at this time, for each payment.
pub fn statements(lines: &[Line], now: DateTime<Utc>) -> Vec<Booked> {
    let mut payments: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        payments.entry(&line.provider_reference).or_default().push(line);
    }
    payments.into_values().filter_map(|lines| booked(&lines, now)).collect()
}

fn booked(lines: &[&Line], now: DateTime<Utc>) -> Option<Booked> {
    let made = lines.iter().find(|line| line.is(Operation::Authorize))?;
    let currency: Currency = made.currency.parse().ok()?;
    let has_settled = |line: &&&Line| line.settles_at <= now;
    let done = |operation: &'static str| {
        let done = move |line: &&&Line| line.operation == operation && line.declined.is_none();
        lines.iter().filter(done)
    };
    let sum = |lines: &mut dyn Iterator<Item = &&Line>| {
        lines.fold(0_i64, |sum, line| sum.saturating_add(line.amount))
    };
    let captured = sum(&mut done(Operation::Capture.code()));
    let is_authorized = made.declined.is_none()
        && made.settles_at <= now
        && made.challenge.as_deref().is_none_or(|challenge| challenge == PASSED);
    let declined = |reason: &str| State::Declined { reason: reason.to_owned() };
    let state = match (&made.declined, made.challenge.as_deref()) {
        _ if captured > 0 => State::Captured,
        _ if done(Operation::Void.code()).next().is_some() => State::Voided,
        (Some(reason), _) => declined(reason),
        (None, Some(FAILED)) => declined("challenge_failed"),
        (None, Some(ASKED)) => State::ActionRequired,
        _ if is_authorized => State::Authorized,
        _ => State::Processing,
    };
    let order_id = OrderId(made.order_id);
    let refund = |line: &&Line| Refund {
        name: refund_of_key(order_id, &line.idempotency_key).map(str::to_owned),
        reference: line.idempotency_key.clone(),
        amount: line.amount,
        state: if line.settles_at <= now { RefundState::Done } else { RefundState::Processing },
    };
    let statement = Statement {
        reference: made.provider_reference.clone(),
        state,
        currency,
        authorized: if is_authorized { made.amount } else { 0 },
        captured,
        charged_back: sum(&mut done(CHARGE_BACK).filter(has_settled)),
        reinstated: 0,
        refunds: done(Operation::Refund.code()).map(refund).collect(),
    };
    Some(Booked { order_id: Some(order_id), made_at: made.asked_at, statement })
}

/// The same for every repeat of a request.
pub fn new_reference(request: &Request) -> String {
    format!("sandbox-{}", Uuid::new_v5(&request.order_id.0, request.idempotency_key().as_bytes()))
}
