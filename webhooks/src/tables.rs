//! The tables: endpoints, what each is to be sent, and what is to be sent again.

use infra::lanes;
use sqlx::{Connection, PgConnection, PgPool};

use crate::unreadable;

/// Name under which webhooks read the log.
pub(crate) const READER: &str = "webhooks";

/// What the log leads to is a row or two; to send them is what takes time, and that is shared row by row.
const LANES: u64 = 1;

/// Makes the tables and the lane where there are none yet.
///
/// # Errors
/// Postgres does not answer or does not accept the tables.
pub async fn set_up(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.migrate'))")
        .execute(&mut *transaction)
        .await?;
    lanes::migrate(&mut transaction).await?;
    sqlx::raw_sql(
        "create table if not exists cartulary.webhook_endpoints (
             id uuid primary key,
             url text not null,
             types text[] not null,
             secret text not null,
             previous_secret text,
             previous_until timestamptz,
             state text not null check (state in ('active', 'paused', 'removed')),
             reason text,
             -- Events behind this position come by themselves; earlier ones by a replay.
             from_position bigint not null,
             paused_position bigint,
             created_at timestamptz not null default clock_timestamp(),
             failures int not null default 0,
             failing_since timestamptz,
             rest_until timestamptz
         );
         create table if not exists cartulary.webhook_deliveries (
             endpoint uuid not null,
             position bigint not null,
             index int not null,
             id text not null,
             type text not null,
             body text not null,
             state text not null default 'pending' check (state in ('pending', 'delivered', 'dead')),
             attempts int not null default 0,
             -- It is given up so long after this.
             since timestamptz not null default clock_timestamp(),
             -- When it's due; of one that is claimed, when the claim ends.
             next_at timestamptz not null default clock_timestamp(),
             claim uuid,
             last_at timestamptz,
             last_status int,
             last_error text,
             done_at timestamptz,
             primary key (endpoint, position, index)
         ) with (fillfactor = 70);
         create index if not exists webhook_deliveries_due
             on cartulary.webhook_deliveries (endpoint, next_at) where state = 'pending';
         create index if not exists webhook_deliveries_dead
             on cartulary.webhook_deliveries (endpoint, position) where state = 'dead';
         create index if not exists webhook_deliveries_done
             on cartulary.webhook_deliveries (done_at) where state <> 'pending';
         create table if not exists cartulary.webhook_replays (
             id uuid primary key,
             endpoint uuid not null,
             next_position bigint not null,
             until_position bigint not null,
             -- Whether what was delivered is sent again.
             again bool not null,
             asked_at timestamptz not null default clock_timestamp()
         );",
    )
    .execute(&mut *transaction)
    .await?;
    unreadable::set_up(&mut transaction).await?;
    lanes::add(&mut transaction, READER, LANES).await?;
    transaction.commit().await
}

/// Lets no checkpoint move before the transaction ends, and tells where they are: what is said of an endpoint
/// by position is so exactly from there on.
pub(crate) async fn hold_checkpoints(transaction: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let positions: Vec<i64> =
        sqlx::query_scalar("select position from cartulary.lanes where reader = $1 order by lane for update")
            .bind(READER)
            .fetch_all(transaction)
            .await?;
    Ok(positions.into_iter().min().unwrap_or(0).cast_unsigned())
}
