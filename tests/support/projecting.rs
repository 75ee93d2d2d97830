//! Projections at work without the processes around them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{Event, stock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::feed::Feed;
use infra::log::EventLog;
use infra::read_models::{self, ReadModel, ReadModels};
use projections::projection::{Happened, Key, Projection, Writer};
use projections::{Builds, Worker};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::eventually;

/// All rows of a projection's tables, as text, in order.
pub async fn rows(projection: &dyn Projection, pool: &PgPool) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, _) in projection.tables() {
        let query = format!("select t::text from {}.{table} t order by 1", projection.name());
        let found: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(pool).await.expect("rows");
        rows.extend(found.into_iter().map(|row| format!("{table} {row}")));
    }
    rows
}

/// A process's share of one projection, without the process.
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(projection: &Arc<dyn Projection>, log: &Arc<dyn EventLog>, pool: &PgPool) -> Self {
        Self::worker(Worker::new(builds(projection, log, pool)))
    }

    /// Tells these how far it has come.
    pub fn telling(
        read_models: &Arc<ReadModels>,
        projection: &Arc<dyn Projection>,
        log: &Arc<dyn EventLog>,
        pool: &PgPool,
    ) -> Self {
        Self::worker(Worker::new(builds(projection, log, pool)).telling(read_models.clone()))
    }

    fn worker(worker: Worker) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { worker.run(stopped).await });
        Self { stop, task }
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("it ends cleanly");
    }
}

fn builds(projection: &Arc<dyn Projection>, log: &Arc<dyn EventLog>, pool: &PgPool) -> Builds {
    Builds::new(vec![projection.clone()], Feed::new(log.clone()), pool.clone())
}

/// The projection's live read model.
pub async fn live(name: &str, pool: &PgPool) -> ReadModel {
    let all = read_models::all(pool).await.expect("read models");
    all.into_iter().find(|model| model.projection == name && model.state == "live").expect("a live one")
}

pub async fn reaches(name: &str, pool: &PgPool, to: u64) {
    eventually("the projection is there", async || (live(name, pool).await.position.0 >= to).then_some(()))
        .await;
}

/// Runs the projection until it has come to the position.
pub async fn project(projection: &Arc<dyn Projection>, log: &Arc<dyn EventLog>, pool: &PgPool, to: u64) {
    let running = Running::start(projection, log, pool);
    reaches(projection.name(), pool, to).await;
    running.stop().await;
}

/// A quantity that the projection below can't stand.
pub const CURSED: u32 = 666;

/// A quantity that its table can't stand.
pub const HEXED: u32 = 667;

/// A projection as small as they come, in versions of its code: the second counts double.
pub struct Units {
    pub times: i32,
    /// Its code was mended, and stands what is cursed.
    pub is_mended: bool,
}

impl Units {
    pub fn times(times: i32) -> Arc<dyn Projection> {
        Arc::new(Self { times, is_mended: false })
    }
}

impl Projection for Units {
    fn name(&self) -> &'static str {
        "units"
    }

    fn version(&self) -> i32 {
        self.times
    }

    fn categories(&self) -> &'static [&'static str] {
        &[stock::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[("units", "sku")]
    }

    fn definition(&self) -> &'static str {
        "create table units (sku text primary key, units bigint not null constraint hexed check (units % 1000 <> 667))"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &["create index on units (units)"]
    }

    fn lanes(&self) -> u64 {
        4
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        Some(Key::Id(happened.stream.id()))
    }

    fn writer(&self) -> Box<dyn Writer> {
        let (times, is_mended) = (i64::from(self.times), self.is_mended);
        Box::new(UnitsWriter { times, is_mended, units: BTreeMap::new() })
    }
}

pub struct UnitsWriter {
    times: i64,
    is_mended: bool,
    units: BTreeMap<String, i64>,
}

impl Writer for UnitsWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        _: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            for happened in batch {
                if let Event::Stock(stock::Event::Received { quantity }) = happened.event {
                    assert!(self.is_mended || *quantity != CURSED, "a cursed quantity");
                    let units = self.units.entry(happened.stream.id().to_owned()).or_default();
                    *units += i64::from(*quantity) * self.times;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.units.len() * 100
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let (skus, units): (Vec<String>, Vec<i64>) = std::mem::take(&mut self.units).into_iter().unzip();
            let add = "insert into units select * from unnest($1::text[], $2::bigint[])
                       on conflict (sku) do update set units = units.units + excluded.units";
            sqlx::query(add).bind(skus).bind(units).execute(transaction).await?;
            Ok(())
        }
        .boxed()
    }
}
