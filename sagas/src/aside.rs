//! What is set aside: something happened that this build can't read. What happens later to the same order waits
//! behind it, in the log's order, and everything else goes on. Another build takes it up by itself, in order; and
//! so does this one, if an operator asks for it.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::ids::partition;
use domain::{OrderId, StreamId};
use infra::storable::storable;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::checkout;

/// Commits that are read from the table at a time.
const PAGE: i64 = 100;

/// What has to wait: an order, or a stream of which nobody can say which orders it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub id: Uuid,
    pub partition: u64,
}

impl From<OrderId> for Key {
    fn from(order: OrderId) -> Self {
        Self { id: order.0, partition: order.partition() }
    }
}

impl Key {
    /// Orders have their id in common with their streams, and are known by it; other streams are known by a name
    /// that is made up for them.
    pub fn of_stream(stream: &StreamId) -> Self {
        let orders = [domain::order::CATEGORY, domain::payment::CATEGORY, checkout::NAME];
        let is_orders = orders.contains(&stream.category());
        match stream.id().parse::<OrderId>() {
            Ok(order) if is_orders => order.into(),
            _ => Self::named(&stream.to_string(), stream.id()),
        }
    }

    /// Of a commit of which not even the stream is known.
    pub fn of_position(position: u64) -> Self {
        let name = format!("position-{position}");
        Self::named(&name, &name)
    }

    fn named(name: &str, id: &str) -> Self {
        Self { id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()), partition: partition(id) }
    }
}

/// A commit that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub key: Key,
    pub position: u64,
    pub stream: String,
    /// Why it can't be read; nothing, if it only waits for another one.
    pub reason: Option<String>,
}

/// Who has to wait, and what is not in the table yet.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    state: Mutex<State>,
    /// Who brings something into the table, or takes note of what is there, holds it.
    storing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: HashSet<Uuid>,
    new: Vec<Letter>,
}

/// This build's code, of the rules and of the sagas: what it can't read, other code may.
fn build() -> String {
    format!("{}/{}", domain::CODE, env!("CODE_HASH"))
}

pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists cartulary.saga_letters (
             id uuid not null,
             partition int not null,
             position bigint not null,
             stream text not null,
             reason text,
             build text not null,
             at timestamptz not null default clock_timestamp(),
             primary key (id, position)
         )",
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Aside {
    /// Whether what happens to it has to wait.
    pub fn holds(&self, id: Uuid) -> bool {
        self.state().held.contains(&id)
    }

    /// Sets a commit aside; true, if nothing of the kind was before.
    pub fn add(&self, letter: Letter) -> bool {
        let mut state = self.state();
        let is_first = state.held.insert(letter.key.id);
        state.new.push(letter);
        is_first
    }

    /// Takes note of what others have set aside, and of what they let go.
    pub async fn load(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let _storing = self.storing.lock().await;
        let known: Vec<Uuid> = sqlx::query_scalar("select distinct id from cartulary.saga_letters")
            .fetch_all(connection)
            .await?;
        let mut state = self.state();
        state.held = known.into_iter().chain(state.new.iter().map(|letter| letter.key.id)).collect();
        Ok(())
    }

    /// Brings into the table what was set aside before the call.
    pub async fn store(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let _storing = self.storing.lock().await;
        self.store_new(connection).await
    }

    /// The first commits that are set aside there, in order. If there are none, nothing has to wait any more.
    pub async fn first(&self, id: Uuid, connection: &mut PgConnection) -> Result<Vec<u64>, sqlx::Error> {
        let _storing = self.storing.lock().await;
        loop {
            self.store_new(connection).await?;
            let positions: Vec<i64> = sqlx::query_scalar(
                "select position from cartulary.saga_letters where id = $1 order by position limit $2",
            )
            .bind(id)
            .bind(PAGE)
            .fetch_all(&mut *connection)
            .await?;
            let mut state = self.state();
            if !positions.is_empty() {
                return Ok(positions.into_iter().map(i64::cast_unsigned).collect());
            }
            if state.new.iter().all(|letter| letter.key.id != id) {
                state.held.remove(&id);
                return Ok(Vec::new());
            }
        }
    }

    async fn store_new(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Not taken out before they are stored: whoever stores may be dropped in the middle of it.
        loop {
            let Some(letter) = self.state().new.first().cloned() else { break };
            store(&letter, connection).await?;
            self.state().new.remove(0);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn store(letter: &Letter, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let Letter { key, position, stream, reason } = letter;
    sqlx::query(
        "insert into cartulary.saga_letters as known (id, partition, position, stream, reason, build)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (id, position) do update set reason = coalesce(excluded.reason, known.reason)",
    )
    .bind(key.id)
    .bind(key.partition.cast_signed())
    .bind(position.cast_signed())
    .bind(stream)
    .bind(reason.as_deref().map(storable))
    .bind(build())
    .execute(connection)
    .await?;
    Ok(())
}

/// What other builds have set aside in these partitions.
pub(crate) async fn of_other_builds(
    partitions: &RangeInclusive<u64>,
    connection: &mut PgConnection,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "select id from cartulary.saga_letters where partition between $1 and $2 and build <> $3
         group by id order by min(position)",
    )
    .bind(partitions.start().cast_signed())
    .bind(partitions.end().cast_signed())
    .bind(build())
    .fetch_all(connection)
    .await
}

/// The commit is dealt with.
pub(crate) async fn done(id: Uuid, position: u64, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("delete from cartulary.saga_letters where id = $1 and position = $2")
        .bind(id)
        .bind(position.cast_signed())
        .execute(connection)
        .await?;
    Ok(())
}

/// This build can't read the commit either, and what waits behind it goes on waiting.
pub(crate) async fn failed(
    id: Uuid,
    position: u64,
    reason: &str,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update cartulary.saga_letters set build = $3,
             reason = case when position = $2 then $4 else reason end
         where id = $1",
    )
    .bind(id)
    .bind(position.cast_signed())
    .bind(build())
    .bind(storable(reason))
    .execute(connection)
    .await?;
    Ok(())
}
