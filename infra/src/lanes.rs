//! Lanes: who reads which share of the log, how far, and by which right.
//!
//! A reader (a read model, or the sagas) has one or more lanes, each with a range of partitions. A
//! lane is a checkpoint and a lease in one row: whoever holds it moves the checkpoint in the
//! transaction that writes what follows from the events, if the lane's epoch is still the one at
//! which it was given to them. So nothing is done twice, however long somebody was paused.

mod share;
mod tasks;
mod working;

use std::ops::RangeInclusive;

use domain::commit::Hash;
use sqlx::{Connection, PgConnection};

pub use share::Worker;
pub use tasks::Tasks;
pub use working::{Status, Working};

/// Makes the tables of lanes and workers, and that of the log's identity, where there are none yet,
/// and takes over what earlier builds had in another form.
///
/// # Errors
/// Postgres does not answer or does not accept the tables.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create schema if not exists cartulary;
         create table if not exists cartulary.log (
             one bool primary key default true check (one),
             identity text not null
         );
         create table if not exists cartulary.workers (
             id uuid primary key,
             name text not null,
             readers text[] not null,
             seen_at timestamptz not null,
             backend int not null,
             backend_started_at timestamptz not null
         );
         create table if not exists cartulary.lanes (
             reader text,
             lane int,
             first_partition int not null,
             last_partition int not null,
             position bigint not null default 0,
             events bigint not null default 0,
             hash text,
             moved_at timestamptz not null default now(),
             epoch bigint not null default 0,
             holder uuid,
             backend int,
             backend_started_at timestamptz,
             hold_at bigint,
             hold_until timestamptz,
             primary key (reader, lane)
         ) with (fillfactor = 50);",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a reader's lanes, all at the log's beginning, where there are none of that reader yet.
///
/// # Errors
/// Postgres does not answer.
pub async fn add(connection: &mut PgConnection, reader: &str, lanes: u64) -> Result<(), sqlx::Error> {
    let bounds = (0..lanes).map(|lane| partitions(lane, lanes));
    let (first, last): (Vec<i64>, Vec<i64>) =
        bounds.map(|bounds| (bounds.start().cast_signed(), bounds.end().cast_signed())).unzip();
    sqlx::query(
        // Epochs go on from any that a reader of the same name may have had.
        "insert into cartulary.lanes (reader, lane, first_partition, last_partition, epoch)
         select $1, ordinality - 1, first, last, (extract(epoch from clock_timestamp()) * 1000)::bigint from unnest($2::bigint[], $3::bigint[]) with ordinality as lane (first, last)
         on conflict do nothing",
    )
    .bind(reader)
    .bind(first)
    .bind(last)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a reader so many lanes, where it has another number of them: each goes on where the last of the
/// earlier ones was.
///
/// # Errors
/// Postgres does not answer.
pub async fn resize(connection: &mut PgConnection, reader: &str, lanes: u64) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.lanes'))")
        .execute(&mut *transaction)
        .await?;
    let known: i64 = sqlx::query_scalar("select count(*) from cartulary.lanes where reader = $1")
        .bind(reader)
        .fetch_one(&mut *transaction)
        .await?;
    if known.cast_unsigned() != lanes {
        let from = position(&mut transaction, reader).await?;
        sqlx::query("delete from cartulary.lanes where reader = $1")
            .bind(reader)
            .execute(&mut *transaction)
            .await?;
        add(&mut transaction, reader, lanes).await?;
        sqlx::query("update cartulary.lanes set position = $2 where reader = $1")
            .bind(reader)
            .bind(from.cast_signed())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

/// The partitions of one of so many lanes.
fn partitions(lane: u64, lanes: u64) -> RangeInclusive<u64> {
    let bound = |lane: u64| lane * domain::ids::PARTITIONS / lanes;
    bound(lane)..=bound(lane + 1) - 1
}

/// Up to where all lanes of a reader have come; 0 for one that never read.
///
/// # Errors
/// Postgres does not answer.
pub async fn position(connection: &mut PgConnection, reader: &str) -> Result<u64, sqlx::Error> {
    let position: i64 =
        sqlx::query_scalar("select coalesce(min(position), 0) from cartulary.lanes where reader = $1")
            .bind(reader)
            .fetch_one(connection)
            .await?;
    Ok(position.cast_unsigned())
}

/// The right to work on a lane, as long as nobody else was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub reader: String,
    pub lane: i32,
    /// Only what is in these partitions is worked on.
    pub partitions: RangeInclusive<u64>,
    pub epoch: i64,
}

/// What became of an attempt to move a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    Done,
    /// The lane is to stay at this position for a moment: something is compared with it.
    Held(u64),
    /// Somebody else has the lane now, or the checkpoint is not where it was left.
    Lost,
}

impl Lease {
    /// Notes the connection as the one that works on the lane, so that who takes the lane over can
    /// end it, and tells where the checkpoint is; nothing if the lane is somebody else's now.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn begin(&self, connection: &mut PgConnection) -> Result<Option<u64>, sqlx::Error> {
        let position: Option<i64> = sqlx::query_scalar(
            "update cartulary.lanes set backend = pid, backend_started_at = backend_start
             from pg_stat_activity
             where reader = $1 and lane = $2 and epoch = $3 and pid = pg_backend_pid()
             returning position",
        )
        .bind(&self.reader)
        .bind(self.lane)
        .bind(self.epoch)
        .fetch_optional(connection)
        .await?;
        Ok(position.map(i64::cast_unsigned))
    }

    /// Moves the checkpoint, in the transaction of what follows from the events. The hash is that of
    /// the commit at the new position, by which another log is noticed; and so many events lie on the way, this lane's or not.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn advance(
        &self,
        connection: &mut PgConnection,
        from: u64,
        to: u64,
        hash: Option<Hash>,
        events: usize,
    ) -> Result<Advance, sqlx::Error> {
        let moved = sqlx::query(
            "update cartulary.lanes set position = $5, hash = $6, events = events + $7, moved_at = now()
             where reader = $1 and lane = $2 and epoch = $3 and position = $4
               and (hold_at is null or hold_at >= $5 or hold_until < statement_timestamp())",
        )
        .bind(&self.reader)
        .bind(self.lane)
        .bind(self.epoch)
        .bind(from.cast_signed())
        .bind(to.cast_signed())
        .bind(hash.map(String::from))
        .bind(i64::try_from(events).unwrap_or(i64::MAX))
        .execute(&mut *connection)
        .await?;
        if moved.rows_affected() == 1 {
            return Ok(Advance::Done);
        }
        let held: Option<i64> = sqlx::query_scalar(
            "select hold_at from cartulary.lanes
             where reader = $1 and lane = $2 and epoch = $3 and position = $4 and hold_at is not null",
        )
        .bind(&self.reader)
        .bind(self.lane)
        .bind(self.epoch)
        .bind(from.cast_signed())
        .fetch_optional(connection)
        .await?;
        Ok(held.map_or(Advance::Lost, |at| Advance::Held(at.cast_unsigned())))
    }

    /// Keeps all lanes of the reader where they are, until the transaction ends.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn lock_all(&self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("select from cartulary.lanes where reader = $1 order by lane for update")
            .bind(&self.reader)
            .execute(transaction)
            .await?;
        Ok(())
    }

    /// Whether the lane is to stay where it is for a moment.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn is_held(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "select exists (select from cartulary.lanes where reader = $1 and lane = $2
                            and hold_at is not null and hold_until >= statement_timestamp())",
        )
        .bind(&self.reader)
        .bind(self.lane)
        .fetch_one(connection)
        .await
    }

    /// Whether the lane is still the holder's; if so, nobody takes it before the transaction ends.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn is_valid(&self, transaction: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let valid: Option<i64> = sqlx::query_scalar(
            "select epoch from cartulary.lanes where reader = $1 and lane = $2 and epoch = $3 for update",
        )
        .bind(&self.reader)
        .bind(self.lane)
        .bind(self.epoch)
        .fetch_optional(transaction)
        .await?;
        Ok(valid.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_cover_every_partition_once() {
        for lanes in 1..=domain::ids::PARTITIONS {
            let all: Vec<u64> = (0..lanes).flat_map(|lane| partitions(lane, lanes)).collect();
            assert_eq!(all, (0..domain::ids::PARTITIONS).collect::<Vec<_>>(), "{lanes} lanes");
        }
    }
}
