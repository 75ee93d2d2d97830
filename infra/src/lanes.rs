//! Lanes: who reads which share of the log, how far, and by which right.
//!
//! A reader (a read model, or the sagas) has one or more lanes, each with a range of partitions. A
//! lane is a checkpoint and a lease in one row: whoever holds it moves the checkpoint in the
//! transaction that writes what follows from the events, if the lane's epoch is still the one at
//! which it was given to them. So nothing is done twice, however long somebody was paused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use domain::commit::Hash;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

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
        "insert into cartulary.lanes (reader, lane, first_partition, last_partition)
         select $1, ordinality - 1, first, last from unnest($2::bigint[], $3::bigint[]) with ordinality as lane (first, last)
         on conflict do nothing",
    )
    .bind(reader)
    .bind(first)
    .bind(last)
    .execute(connection)
    .await?;
    Ok(())
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

/// Moves the checkpoint of a reader that has one lane and no lease, because all that it does is
/// recognised when it's done again; false, and nothing moved, if it is not where the caller left it.
///
/// # Errors
/// Postgres does not answer.
pub async fn advance_unleased(
    connection: &mut PgConnection,
    reader: &str,
    from: u64,
    to: u64,
    hash: Option<Hash>,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "update cartulary.lanes set position = $3, hash = $4, moved_at = now()
         where reader = $1 and lane = 0 and position = $2",
    )
    .bind(reader)
    .bind(from.cast_signed())
    .bind(to.cast_signed())
    .bind(hash.map(String::from))
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
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
               and (hold_at is null or hold_at >= $5 or hold_until < clock_timestamp())",
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

    /// Whether the lane is to stay where it is for a moment.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn is_held(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "select exists (select from cartulary.lanes where reader = $1 and lane = $2
                            and hold_at is not null and hold_until >= clock_timestamp())",
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

/// A process that works on lanes, and says so as long as it lives.
#[derive(Debug)]
pub struct Worker {
    id: Uuid,
    name: String,
    pool: PgPool,
    /// A connection of its own: when it ends, so has the process, and others need not wait until
    /// its last sign of life is old.
    connection: Option<PgConnection>,
    /// Lanes beyond its share, which it has stopped to work on and gives back next time.
    leaving: BTreeSet<(String, i32)>,
}

/// Who is alive: has given a sign of life lately, and its connection still stands.
const ALIVE: &str = "seen_at > clock_timestamp() - make_interval(secs => 6) and exists (
    select from pg_stat_activity as a where a.pid = w.backend and a.backend_start = w.backend_started_at)";

#[derive(FromRow)]
struct Row {
    reader: String,
    lane: i32,
    first_partition: i32,
    last_partition: i32,
    epoch: i64,
    is_mine: bool,
    is_free: bool,
}

impl Worker {
    /// The name tells people which process it is.
    #[must_use]
    pub fn new(pool: PgPool, name: String) -> Self {
        Self { id: Uuid::now_v7(), name, pool, connection: None, leaving: BTreeSet::new() }
    }

    /// Gives a sign of life, takes lanes that nobody has up to a fair share, and gives back what was
    /// beyond it. Returns the lanes that this worker is to work on now; whoever works on another one
    /// is to stop before the next call.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn share(&mut self, readers: &[String]) -> Result<Vec<Lease>, sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                // Who is paused here must not keep everybody else from sharing.
                let options = self.pool.connect_options().as_ref().clone();
                options.options([("idle_in_transaction_session_timeout", "3s")]).connect().await?
            }
        };
        let mine = self.share_on(&mut connection, readers).await?;
        // A connection with trouble is not kept.
        self.connection = Some(connection);
        Ok(mine)
    }

    /// Whether there are lanes that it will give back with the next call.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    async fn share_on(
        &mut self,
        connection: &mut PgConnection,
        readers: &[String],
    ) -> Result<Vec<Lease>, sqlx::Error> {
        // A sign of life stays one, whatever becomes of the rest.
        sqlx::query(
            "insert into cartulary.workers (id, name, readers, seen_at, backend, backend_started_at)
             select $1, $2, $3, clock_timestamp(), pid, backend_start from pg_stat_activity where pid = pg_backend_pid()
             on conflict (id) do update set readers = excluded.readers, seen_at = excluded.seen_at,
                 backend = excluded.backend, backend_started_at = excluded.backend_started_at",
        )
        .bind(self.id)
        .bind(&self.name)
        .bind(readers)
        .execute(&mut *connection)
        .await?;
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(
            "set local lock_timeout = '2s';
             select pg_advisory_xact_lock(hashtext('cartulary.lanes'));
             delete from cartulary.workers where seen_at < now() - interval '1 hour'",
        )
        .execute(&mut *transaction)
        .await?;
        let rows = format!(
            "select reader, lane, first_partition, last_partition, epoch,
                    holder is not distinct from $1 as is_mine,
                    not exists (select from cartulary.workers as w where id = holder and {ALIVE}) as is_free
             from cartulary.lanes where reader = any($2) order by reader, lane"
        );
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(rows))
            .bind(self.id)
            .bind(readers)
            .fetch_all(&mut *transaction)
            .await?;
        let share = fair_share(&rows, &capable(&mut transaction).await?);
        let (mine, beyond) = self.settle(rows, share, &mut transaction).await?;
        transaction.commit().await?;
        self.leaving = beyond;
        Ok(mine)
    }

    /// The lanes that are its own, and those that are beyond its share.
    async fn settle(
        &self,
        rows: Vec<Row>,
        share: usize,
        connection: &mut PgConnection,
    ) -> Result<(Vec<Lease>, BTreeSet<(String, i32)>), sqlx::Error> {
        let (mut mine, mut free) = (Vec::new(), Vec::new());
        for row in rows {
            match (row.is_mine, row.is_free) {
                (true, _) if self.leaving.contains(&(row.reader.clone(), row.lane)) => {
                    give_back(&lease(&row), connection).await?;
                }
                (true, _) => mine.push(row),
                (false, true) => free.push(row),
                (false, false) => {}
            }
        }
        let beyond = mine.split_off(share.min(mine.len()));
        for mut row in free.into_iter().take(share.saturating_sub(mine.len())) {
            row.epoch = self.take(&row, connection).await?;
            mine.push(row);
        }
        let beyond = beyond.into_iter().map(|row| (row.reader, row.lane)).collect();
        Ok((mine.iter().map(lease).collect(), beyond))
    }

    /// Takes a lane that nobody alive has. A connection on which its last holder may still be at work
    /// is ended: it would keep its locks for as long as the holder is paused.
    async fn take(&self, row: &Row, connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity join cartulary.lanes
                 on pid = backend and backend_start = backend_started_at
             where reader = $1 and lane = $2",
        )
        .bind(&row.reader)
        .bind(row.lane)
        .execute(&mut *connection)
        .await?;
        sqlx::query_scalar(
            "update cartulary.lanes set holder = $3, epoch = epoch + 1, backend = null
             where reader = $1 and lane = $2 returning epoch",
        )
        .bind(&row.reader)
        .bind(row.lane)
        .bind(self.id)
        .fetch_one(connection)
        .await
    }

    /// Gives all its lanes back, so that others need not wait until it counts as dead.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn leave(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("update cartulary.lanes set holder = null, epoch = epoch + 1 where holder = $1")
            .bind(self.id)
            .execute(&mut *transaction)
            .await?;
        let gone = sqlx::query("delete from cartulary.workers where id = $1").bind(self.id);
        gone.execute(&mut *transaction).await?;
        transaction.commit().await
    }
}

fn lease(row: &Row) -> Lease {
    let partitions = row.first_partition.cast_unsigned().into()..=row.last_partition.cast_unsigned().into();
    Lease { reader: row.reader.clone(), lane: row.lane, partitions, epoch: row.epoch }
}

async fn give_back(lease: &Lease, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update cartulary.lanes set holder = null, epoch = epoch + 1
         where reader = $1 and lane = $2 and epoch = $3",
    )
    .bind(&lease.reader)
    .bind(lease.lane)
    .bind(lease.epoch)
    .execute(connection)
    .await?;
    Ok(())
}

/// How many living workers can work on each reader.
async fn capable(connection: &mut PgConnection) -> Result<BTreeMap<String, usize>, sqlx::Error> {
    let workers = format!("select readers from cartulary.workers as w where {ALIVE}");
    let workers: Vec<Vec<String>> = sqlx::query_scalar(AssertSqlSafe(workers)).fetch_all(connection).await?;
    let mut counts = BTreeMap::new();
    for reader in workers.into_iter().flat_map(BTreeSet::from_iter) {
        *counts.entry(reader).or_default() += 1;
    }
    Ok(counts)
}

/// What one worker should have of lanes that it and others can work on; rounded up, so that the
/// shares of all cover all.
fn fair_share(rows: &[Row], capable: &BTreeMap<String, usize>) -> usize {
    let mut lanes: BTreeMap<usize, usize> = BTreeMap::new();
    for row in rows {
        *lanes.entry(capable.get(&row.reader).copied().unwrap_or(1)).or_default() += 1;
    }
    let share: f64 = lanes.into_iter().map(|(workers, lanes)| lanes as f64 / workers as f64).sum();
    // A third three times is one.
    (share - 1e-9).ceil() as usize
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

    #[test]
    fn shares_cover_all_lanes() {
        let row = |reader: &str| Row {
            reader: reader.to_owned(),
            lane: 0,
            first_partition: 0,
            last_partition: 63,
            epoch: 0,
            is_mine: false,
            is_free: true,
        };
        let rows: Vec<Row> = ["a", "a", "a", "b", "c"].into_iter().map(row).collect();
        for workers in 1..7_usize {
            let capable = ["a", "b", "c"].map(|reader| (reader.to_owned(), workers)).into();
            let share = fair_share(&rows, &capable);
            assert_eq!(share, 5_usize.div_ceil(workers));
        }
    }
}
