//! Which sagas are under way, what each waits for, and what they can't get done: the table that operators ask,
//! and in which timers are found that did not fire. The sagas themselves are in the log alone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use domain::OrderId;
use infra::storable::storable;
use metrics::gauge;
use serde::Serialize;
use sqlx::{Connection, FromRow, PgConnection};
use uuid::Uuid;

use crate::aside::{self, Aside};
use crate::follow_up::Acted;
use crate::saga::Summary;
use crate::work::Kind;

/// Sagas that can't get something done, as a metric.
const IN_TROUBLE: &str = "cartulary_sagas_in_trouble";

/// How long one that is over is remembered, so that somebody who is behind does not bring it back.
const OVER_FOR_S: f64 = 3_600.0;

/// No attempt takes longer, with the pause before it.
const TROUBLE_FOR_S: f64 = 5.0 * 60.0;

/// Due timers that are looked for at a time.
const DUE_MAX: i64 = 256;

/// What is known of sagas and not yet in the tables.
#[derive(Debug, Default)]
pub struct Index {
    pending: Mutex<Pending>,
    /// Who stores holds it, so that nobody takes for stored what is still on its way.
    storing: tokio::sync::Mutex<()>,
    /// What waits for a build that can read it.
    pub(crate) aside: Aside,
    /// What was recorded and acted on here.
    pub(crate) acted: Acted,
    /// Answers that were heard here when they were given.
    pub(crate) heard: Acted,
}

#[derive(Debug, Default)]
struct Pending {
    known: HashMap<(Kind, OrderId), Known>,
    troubles: HashMap<(Kind, OrderId), Trouble>,
    out_of_trouble: HashSet<(Kind, OrderId)>,
    /// Who is in trouble as far as the table knows.
    in_trouble: HashSet<(Kind, OrderId)>,
}

#[derive(Debug)]
struct Known {
    /// Grows with each change.
    version: u64,
    summary: Summary,
}

/// What a saga can't get done.
#[derive(Debug, Clone)]
struct Trouble {
    attempts: u32,
    error: String,
}

#[derive(Serialize)]
struct Row {
    saga: &'static str,
    id: Uuid,
    partition: u64,
    version: u64,
    stage: &'static str,
    reason: Option<&'static str>,
    is_over: bool,
    deadline: Option<DateTime<Utc>>,
    timer: Option<&'static str>,
    generation: Option<u32>,
}

/// Makes the tables where there are none yet.
pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists cartulary.sagas (
             saga text not null,
             id uuid not null,
             partition int not null,
             version bigint not null,
             stage text not null,
             reason text,
             is_over bool not null,
             since timestamptz not null default clock_timestamp(),
             deadline timestamptz,
             timer text,
             generation int,
             primary key (saga, id)
         ) with (fillfactor = 70);
         -- Each stage has another `since`: with that in an index, each would go into all of them.
         alter table cartulary.sagas add column if not exists
             over_since timestamptz generated always as (case when is_over then since end) stored;
         drop index if exists cartulary.sagas_over;
         create index if not exists sagas_over_since on cartulary.sagas (over_since)
             where over_since is not null;
         create index if not exists sagas_due on cartulary.sagas (deadline) where deadline is not null;
         create table if not exists cartulary.operator_calls (
             id uuid not null,
             partition int not null,
             call text not null,
             reason text,
             actor text,
             at timestamptz not null default clock_timestamp(),
             primary key (id, call)
         );
         create table if not exists cartulary.saga_troubles (
             saga text not null,
             id uuid not null,
             attempts bigint not null,
             error text not null,
             first_at timestamptz not null default clock_timestamp(),
             last_at timestamptz not null default clock_timestamp(),
             primary key (saga, id)
         );",
    )
    .execute(&mut *connection)
    .await?;
    aside::migrate(connection).await
}

impl Index {
    /// Notes where a saga has come to.
    pub(crate) fn note(&self, kind: Kind, id: OrderId, version: u64, summary: Summary) {
        self.pending().know((kind, id), Known { version, summary });
    }

    /// Notes that a saga can't get something done, so many times.
    pub(crate) fn trouble(&self, kind: Kind, id: OrderId, attempts: u32, error: &str) {
        let error = storable(error).into_owned();
        let mut pending = self.pending();
        pending.out_of_trouble.remove(&(kind, id));
        pending.in_trouble.insert((kind, id));
        pending.troubles.insert((kind, id), Trouble { attempts, error });
    }

    /// Notes that it has got it done.
    pub(crate) fn out_of_trouble(&self, kind: Kind, id: OrderId) {
        let mut pending = self.pending();
        if pending.in_trouble.remove(&(kind, id)) {
            pending.troubles.remove(&(kind, id));
            pending.out_of_trouble.insert((kind, id));
        }
    }

    /// Gets to know who is in trouble, whichever process said so. What others have got done since counts no more,
    /// and what this one gets done instead of others is no trouble any longer.
    pub(crate) async fn load(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let _storing = self.storing.lock().await;
        let known: Vec<(String, Uuid)> =
            sqlx::query_as("select saga, id from cartulary.saga_troubles").fetch_all(connection).await?;
        let known = known.into_iter().filter_map(|(saga, id)| Some((Kind::named(&saga)?, OrderId(id))));
        let mut pending = self.pending();
        // What is not in the table yet is newer than it.
        let in_trouble = known.chain(pending.troubles.keys().copied());
        pending.in_trouble = in_trouble.filter(|key| !pending.out_of_trouble.contains(key)).collect();
        gauge!(IN_TROUBLE).set(pending.in_trouble.len() as f64);
        Ok(())
    }

    /// Brings into the tables what was noted before the call. If it fails or is dropped, all is there for the next one.
    pub(crate) async fn store(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let _storing = self.storing.lock().await;
        self.aside.store(connection).await?;
        let mut taken = self.take();
        let Pending { known, troubles, out_of_trouble, .. } = &taken.pending;
        if !known.is_empty() || !troubles.is_empty() || !out_of_trouble.is_empty() {
            store(&taken.pending, connection).await?;
        }
        taken.pending = Pending::default();
        Ok(())
    }

    fn take(&self) -> Taken<'_> {
        let mut now = self.pending();
        gauge!(IN_TROUBLE).set(now.in_trouble.len() as f64);
        let in_trouble = std::mem::take(&mut now.in_trouble);
        let pending = std::mem::replace(&mut *now, Pending { in_trouble, ..Pending::default() });
        Taken { index: self, pending }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is on its way into the tables, and goes back if it does not arrive.
struct Taken<'a> {
    index: &'a Index,
    pending: Pending,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.index.pending().take_back(std::mem::take(&mut self.pending));
    }
}

impl Pending {
    /// What could not be stored, unless something newer was noted meanwhile.
    fn take_back(&mut self, earlier: Self) {
        for (key, known) in earlier.known {
            self.know(key, known);
        }
        for (key, trouble) in earlier.troubles {
            if self.in_trouble.contains(&key) {
                self.troubles.entry(key).or_insert(trouble);
            }
        }
        self.out_of_trouble.extend(earlier.out_of_trouble.difference(&self.in_trouble));
    }

    fn know(&mut self, key: (Kind, OrderId), new: Known) {
        match self.known.entry(key) {
            Entry::Occupied(known) if known.get().version > new.version => {}
            Entry::Occupied(mut known) => drop(known.insert(new)),
            Entry::Vacant(place) => drop(place.insert(new)),
        }
    }
}

async fn store(pending: &Pending, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    store_known(&pending.known, &mut transaction).await?;
    store_troubles(pending, &mut transaction).await?;
    transaction.commit().await
}

async fn store_troubles(pending: &Pending, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let over = pending.out_of_trouble.iter();
    let (sagas, ids): (Vec<&str>, Vec<Uuid>) = over.map(|(kind, id)| (kind.name(), id.0)).unzip();
    sqlx::query(
        "delete from cartulary.saga_troubles as t using unnest($1::text[], $2::uuid[]) as o (saga, id)
         where t.saga = o.saga and t.id = o.id",
    )
    .bind(sagas)
    .bind(ids)
    .execute(&mut *connection)
    .await?;
    for ((kind, id), Trouble { attempts, error }) in &pending.troubles {
        sqlx::query(
            "insert into cartulary.saga_troubles (saga, id, attempts, error) values ($1, $2, $3, $4)
             on conflict (saga, id) do update set
                 attempts = excluded.attempts, error = excluded.error, last_at = clock_timestamp()",
        )
        .bind(kind.name())
        .bind(id.0)
        .bind(i64::from(*attempts))
        .bind(error)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn store_known(
    known: &HashMap<(Kind, OrderId), Known>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let mut rows: Vec<Row> = known.iter().map(|((kind, id), known)| row(*kind, *id, known)).collect();
    // In one order for all, or two who store might wait for each other.
    rows.sort_unstable_by_key(|row| (row.saga, row.id));
    let rows = serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "insert into cartulary.sagas as old
             (saga, id, partition, version, stage, reason, is_over, deadline, timer, generation)
         select saga, id, partition, version, stage, reason, is_over, deadline, timer, generation
         from jsonb_populate_recordset(null::cartulary.sagas, $1::text::jsonb)
         on conflict (saga, id) do update set
             version = excluded.version, stage = excluded.stage, reason = excluded.reason,
             is_over = excluded.is_over, deadline = excluded.deadline, timer = excluded.timer,
             generation = excluded.generation,
             since = case when old.stage = excluded.stage then old.since else clock_timestamp() end
         where old.version <= excluded.version",
    )
    .bind(rows)
    .execute(connection)
    .await?;
    Ok(())
}

fn row(kind: Kind, id: OrderId, Known { version, summary }: &Known) -> Row {
    let Summary { stage, reason, is_over, due } = summary;
    Row {
        saga: kind.name(),
        id: id.0,
        partition: id.partition(),
        version: *version,
        stage,
        reason: *reason,
        is_over: *is_over,
        deadline: due.as_ref().map(|due| due.at),
        timer: due.as_ref().map(|due| due.timer),
        generation: due.as_ref().map(|due| due.generation),
    }
}

/// A timer whose time has come.
#[derive(Debug, FromRow)]
pub(crate) struct Overdue {
    pub saga: String,
    pub id: Uuid,
    pub timer: String,
    pub generation: i32,
}

/// Timers in these partitions that should have fired before that time, the oldest first.
pub(crate) async fn overdue(
    partitions: &std::ops::RangeInclusive<u64>,
    before: DateTime<Utc>,
    connection: &mut PgConnection,
) -> Result<Vec<Overdue>, sqlx::Error> {
    sqlx::query_as(
        "select saga, id, timer, generation from cartulary.sagas
         where deadline < $1 and not is_over and partition between $2 and $3 order by deadline limit $4",
    )
    .bind(before)
    .bind(partitions.start().cast_signed())
    .bind(partitions.end().cast_signed())
    .bind(DUE_MAX)
    .fetch_all(connection)
    .await
}

/// Forgets those that have been over for long, and troubles of which nothing was heard for long: who tries again
/// and again says so each time. What is left may have been noted late, by a process that was away while another one
/// got it done.
pub(crate) async fn forget(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from cartulary.sagas where over_since < statement_timestamp() - make_interval(secs => $1)",
    )
    .bind(OVER_FOR_S)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "delete from cartulary.saga_troubles where last_at < statement_timestamp() - make_interval(secs => $1)",
    )
    .bind(TROUBLE_FOR_S)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dropped_while_it_stores_loses_nothing() {
        let (index, id) = (Index::default(), OrderId(Uuid::from_u128(1)));
        let stage = |stage| Summary { stage, reason: None, is_over: false, due: None };
        index.note(Kind::Checkout, id, 1, stage("placing"));
        index.note(Kind::Payment, id, 1, stage("authorizing"));
        index.trouble(Kind::Payment, id, 3, "no answer");
        let taken = index.take();
        index.note(Kind::Checkout, id, 2, stage("reserving"));
        drop(taken);
        let pending = index.pending();
        assert_eq!(pending.known[&(Kind::Checkout, id)].summary.stage, "reserving", "what is newer stays");
        assert_eq!(pending.known[&(Kind::Payment, id)].summary.stage, "authorizing");
        assert_eq!(pending.troubles[&(Kind::Payment, id)].attempts, 3);
    }
}
