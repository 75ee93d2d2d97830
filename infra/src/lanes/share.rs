//! How processes share lanes: each says that it lives, takes what nobody has, and gives back what is beyond
//! its share.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::Lease;

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
const ALIVE: &str = "seen_at > statement_timestamp() - make_interval(secs => 6) and exists (
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
    /// Named as operators know the process.
    #[must_use]
    pub fn of_process(pool: PgPool) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self::new(pool, format!("{host}:{}", std::process::id()))
    }

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
        let capable = capable(&mut transaction).await?;
        let (mine, beyond) = self.settle(rows, &capable, &mut transaction).await?;
        transaction.commit().await?;
        self.leaving = beyond;
        Ok(mine)
    }

    /// The lanes that are its own, and those that are beyond its share. What fewest can work on comes
    /// first: a share may be full of what others could do as well.
    async fn settle(
        &self,
        rows: Vec<Row>,
        capable: &BTreeMap<String, usize>,
        connection: &mut PgConnection,
    ) -> Result<(Vec<Lease>, BTreeSet<(String, i32)>), sqlx::Error> {
        let share = fair_share(&rows, capable);
        let mut candidates = Vec::new();
        for row in rows {
            match row.is_mine && self.leaving.contains(&(row.reader.clone(), row.lane)) {
                true => give_back(&lease(&row), connection).await?,
                false if row.is_mine || row.is_free => candidates.push(row),
                false => {}
            }
        }
        candidates.sort_by_key(|row| (capable.get(&row.reader).copied().unwrap_or(1), !row.is_mine));
        let beyond = candidates.split_off(share.min(candidates.len()));
        let mut mine = Vec::new();
        for mut row in candidates {
            if !row.is_mine {
                row.epoch = self.take(&row, connection).await?;
            }
            mine.push(lease(&row));
        }
        // Whoever works on them is to stop before they are given back.
        let beyond = beyond.into_iter().filter(|row| row.is_mine);
        Ok((mine, beyond.map(|row| (row.reader, row.lane)).collect()))
    }

    /// Takes a lane that nobody alive has. A connection on which its last holder may still be at work
    /// is ended: it would keep its locks for as long as the holder is paused.
    async fn take(&self, row: &Row, connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
        end_backend(&row.reader, row.lane, connection).await?;
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

/// Whoever worked on it has stopped; what may still wait on its connection is ended.
async fn give_back(lease: &Lease, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    end_backend(&lease.reader, lease.lane, connection).await?;
    sqlx::query(
        "update cartulary.lanes set holder = null, epoch = epoch + 1, backend = null
         where reader = $1 and lane = $2 and epoch = $3",
    )
    .bind(&lease.reader)
    .bind(lease.lane)
    .bind(lease.epoch)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends the connection on which the lane was worked on, if it still stands.
async fn end_backend(reader: &str, lane: i32, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity join cartulary.lanes
             on pid = backend and backend_start = backend_started_at
         where reader = $1 and lane = $2",
    )
    .bind(reader)
    .bind(lane)
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
