//! Comparisons and what they found, as operators see them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Error, Report};

/// What a difference is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Missed,
    Stray,
    Orphan,
    Absent,
    Unresolved,
    GivenUp,
}

impl Kind {
    pub fn code(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Stray => "stray",
            Self::Orphan => "orphan",
            Self::Absent => "absent",
            Self::Unresolved => "unresolved",
            Self::GivenUp => "given_up",
        }
    }
}

/// A payment that the provider's books and the log have otherwise.
#[derive(Debug, Clone)]
pub struct Difference {
    pub kind: Kind,
    pub order_id: Option<Uuid>,
    /// The provider's name for the payment, if it has one.
    pub reference: String,
    /// In minor units.
    pub amount: i64,
    pub currency: String,
    /// What is wrong, or what was recorded.
    pub what: String,
    /// Nobody has to do anything.
    pub is_repaired: bool,
}

/// A comparison that is asked for, or under way.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Run {
    pub id: Uuid,
    pub since: Option<DateTime<Utc>>,
    pub is_by_operator: bool,
}

/// A comparison, and what it found.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Reconciliation {
    pub id: Uuid,
    pub asked_at: DateTime<Utc>,
    pub begun_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Payments in the providers' books that were compared so far.
    pub payments: i64,
    /// Providers whose books could not be compared, and why.
    pub error: Option<String>,
    pub differences: Vec<Found>,
}

/// A difference between a provider's books and the log.
#[derive(Debug, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Found {
    pub provider: String,
    /// `missed`, `stray`, `orphan`, `absent`, `unresolved`, `given_up`
    pub kind: String,
    pub order_id: Option<Uuid>,
    /// The provider's name for the payment, if it has one.
    pub reference: String,
    /// In minor units.
    pub amount: i64,
    pub currency: String,
    /// What is wrong, or what was recorded.
    pub what: String,
    /// Nobody has to do anything.
    pub is_repaired: bool,
}

pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists cartulary.reconciliations (
             id uuid primary key,
             since timestamptz,
             is_by_operator bool not null,
             asked_at timestamptz not null default clock_timestamp(),
             begun_at timestamptz,
             ended_at timestamptz,
             payments bigint not null default 0,
             error text
         );
         create index if not exists reconciliations_asked_for
             on cartulary.reconciliations (asked_at) where ended_at is null;
         create table if not exists cartulary.reconciled (
             provider text primary key,
             until timestamptz not null
         );
         create table if not exists cartulary.payment_differences (
             provider text not null,
             kind text not null,
             subject text not null,
             reconciliation uuid not null,
             order_id uuid,
             reference text not null,
             amount bigint not null,
             currency text not null,
             what text not null,
             is_repaired bool not null,
             first_at timestamptz not null default clock_timestamp(),
             last_at timestamptz not null default clock_timestamp(),
             primary key (provider, kind, subject)
         );
         create index if not exists payment_differences_of
             on cartulary.payment_differences (reconciliation);",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether this connection is the one that may reconcile now.
pub(super) async fn is_alone(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_try_advisory_lock(hashtext('cartulary.reconcile'))")
        .fetch_one(connection)
        .await
}

/// The oldest one that is not done, begun now.
pub(super) async fn asked_for(connection: &mut PgConnection) -> Result<Option<Run>, sqlx::Error> {
    sqlx::query_as(
        "update cartulary.reconciliations set begun_at = clock_timestamp(), payments = 0
         where id = (select id from cartulary.reconciliations where ended_at is null order by asked_at limit 1)
         returning id, since, is_by_operator",
    )
    .fetch_optional(connection)
    .await
}

/// One that is to be made because the last was so long ago.
pub(super) async fn due(
    interval: Duration,
    connection: &mut PgConnection,
) -> Result<Option<Run>, sqlx::Error> {
    sqlx::query(
        "delete from cartulary.reconciliations where ended_at < statement_timestamp() - interval '30 days'",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query_as(
        "insert into cartulary.reconciliations (id, is_by_operator, begun_at)
         select $1, false, clock_timestamp() where not exists (
             select from cartulary.reconciliations
             where not is_by_operator and begun_at > statement_timestamp() - make_interval(secs => $2))
         returning id, since, is_by_operator",
    )
    .bind(Uuid::now_v7())
    .bind(interval.as_secs_f64())
    .fetch_optional(connection)
    .await
}

pub(super) async fn reconciled_until(
    provider: &str,
    connection: &mut PgConnection,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar("select until from cartulary.reconciled where provider = $1")
        .bind(provider)
        .fetch_optional(connection)
        .await
}

pub(super) async fn reconciled(
    provider: &str,
    until: DateTime<Utc>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into cartulary.reconciled (provider, until) values ($1, $2)
         on conflict (provider) do update set until = greatest(reconciled.until, excluded.until)",
    )
    .bind(provider)
    .bind(until)
    .execute(connection)
    .await?;
    Ok(())
}

/// Keeps what is told of a comparison where operators see it.
pub(super) struct Recorded<'a> {
    pub run: &'a Run,
    pub connection: &'a mut PgConnection,
}

impl Report for Recorded<'_> {
    fn progress(&mut self, payments: usize) -> BoxFuture<'_, Result<(), Error>> {
        progress(self.run, payments, self.connection).err_into().boxed()
    }

    fn difference<'a>(
        &'a mut self,
        provider: &'static str,
        found: &'a Difference,
    ) -> BoxFuture<'a, Result<(), Error>> {
        report(self.run, provider, found, self.connection).err_into().boxed()
    }
}

async fn progress(run: &Run, payments: usize, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("update cartulary.reconciliations set payments = payments + $2 where id = $1")
        .bind(run.id)
        .bind(i64::try_from(payments).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn ended(run: &Run, error: &str, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update cartulary.reconciliations set ended_at = clock_timestamp(), error = nullif($2, '') where id = $1",
    )
    .bind(run.id)
    .bind(error)
    .execute(connection)
    .await?;
    Ok(())
}

/// A difference that is found again is the same one.
async fn report(
    run: &Run,
    provider: &str,
    found: &Difference,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let subject = match (&found.reference, found.order_id) {
        (reference, _) if !reference.is_empty() => reference.clone(),
        (_, order_id) => order_id.unwrap_or_default().to_string(),
    };
    sqlx::query(
        "insert into cartulary.payment_differences
             (provider, kind, subject, reconciliation, order_id, reference, amount, currency, what, is_repaired)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (provider, kind, subject) do update set reconciliation = excluded.reconciliation,
             amount = excluded.amount, what = excluded.what, is_repaired = excluded.is_repaired,
             last_at = excluded.last_at",
    )
    .bind(provider)
    .bind(found.kind.code())
    .bind(subject)
    .bind(run.id)
    .bind(found.order_id)
    .bind(&found.reference)
    .bind(found.amount)
    .bind(&found.currency)
    .bind(&found.what)
    .bind(found.is_repaired)
    .execute(connection)
    .await?;
    Ok(())
}

/// Asks for a comparison, of what was made since then, or since the last one; its id.
///
/// # Errors
/// Postgres does not answer.
pub async fn ask(since: Option<DateTime<Utc>>, pool: &PgPool) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::now_v7();
    sqlx::query("insert into cartulary.reconciliations (id, since, is_by_operator) values ($1, $2, true)")
        .bind(id)
        .bind(since)
        .execute(pool)
        .await?;
    Ok(id)
}

/// How a comparison goes, and what it found so far; nothing, if there is none of this id.
///
/// # Errors
/// Postgres does not answer.
pub async fn show(id: Uuid, pool: &PgPool) -> Result<Option<Reconciliation>, sqlx::Error> {
    type Row = (DateTime<Utc>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, i64, Option<String>);
    let query =
        "select asked_at, begun_at, ended_at, payments, error from cartulary.reconciliations where id = $1";
    let row: Option<Row> = sqlx::query_as(query).bind(id).fetch_optional(pool).await?;
    let Some((asked_at, begun_at, ended_at, payments, error)) = row else { return Ok(None) };
    let differences = sqlx::query_as(
        "select provider, kind, order_id, reference, amount, currency, what, is_repaired
         from cartulary.payment_differences where reconciliation = $1 order by is_repaired, first_at, subject",
    );
    let differences = differences.bind(id).fetch_all(pool).await?;
    Ok(Some(Reconciliation { id, asked_at, begun_at, ended_at, payments, error, differences }))
}
