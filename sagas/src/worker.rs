//! A process's share of the sagas: which lanes it has, a task for each, and the timers that fire.

use std::sync::Arc;
use std::time::Duration;

use domain::OrderId;
use futures_util::StreamExt;
use infra::lanes::{self, Status, Tasks, Working};
use infra::timers::{self, Fired, JetStreamTimers, Timer};
use sqlx::{Connection, PgPool};
use tokio::sync::watch;

use crate::following::due;
use crate::index;
use crate::lane::Lane;
use crate::queues::Queues;
use crate::reconcile;
use crate::work::{Kind, Sagas, Work};

/// Name under which the sagas read the log.
pub const READER: &str = "sagas";

/// So many processes can share the sagas, at most.
const LANES: u64 = 8;

/// Timers in hand at a time.
const FIRED_MAX: usize = 1_024;

const BACKOFF: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
const TROUBLES_INTERVAL: Duration = Duration::from_secs(1);

/// Works on its share of the sagas.
pub struct Worker {
    sagas: Arc<Sagas>,
    pool: PgPool,
    timers: JetStreamTimers,
    lanes: Working,
}

impl Worker {
    #[must_use]
    pub fn new(sagas: Sagas, pool: PgPool, timers: JetStreamTimers) -> Self {
        Self { sagas: Arc::new(sagas), pool, timers, lanes: Working::new(READER) }
    }

    /// How the lanes are doing that this process works on, by number; nothing before it knows which these are.
    #[must_use]
    pub fn statuses(&self) -> Option<Vec<(i32, Status)>> {
        self.lanes.statuses()
    }

    /// Works until it is told to stop; then gives its lanes back, for others to take at once. If it is
    /// dropped instead, they are free when its connections have ended.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut worker = lanes::Worker::of_process(self.pool.clone());
        let mut tasks = Tasks::default();
        tokio::select! {
            () = self.follow_timers() => {}
            () = self.reconcile() => {}
            () = self.watch_troubles() => {}
            () = self.work(&mut worker, &mut tasks) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tasks.end().await;
        if let Err(error) = worker.leave().await {
            tracing::warn!(%error, "others find out by themselves that the sagas' lanes are free");
        }
    }

    async fn work(&self, worker: &mut lanes::Worker, tasks: &mut Tasks) {
        while let Err(error) = self.set_up().await {
            tracing::warn!(%error, "the sagas wait for the database");
            tokio::time::sleep(BACKOFF).await;
        }
        let begin = |lease, status| {
            let (sagas, pool) = (self.sagas.clone(), self.pool.clone());
            Lane { sagas, lease, pool, status }.run()
        };
        self.lanes.run(worker, tasks, begin).await;
    }

    /// There is something to share, and so there are the tables.
    async fn tables(&self) {
        while self.statuses().is_none() {
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn reconcile(&self) {
        self.tables().await;
        reconcile::run(&self.sagas, &self.pool).await;
    }

    /// So that no process tells of what another one has got done.
    async fn watch_troubles(&self) {
        self.tables().await;
        loop {
            tokio::time::sleep(TROUBLES_INTERVAL).await;
            let load = async { self.sagas.index.load(&mut *self.pool.acquire().await?).await };
            if let Err(error) = load.await {
                tracing::warn!(%error, "which sagas are in trouble elsewhere is looked at later");
            }
        }
    }

    async fn set_up(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('cartulary.migrate'))")
            .execute(&mut *transaction)
            .await?;
        index::migrate(&mut transaction).await?;
        reconcile::tables::migrate(&mut transaction).await?;
        transaction.commit().await?;
        lanes::resize(&mut connection, READER, LANES).await
    }

    /// Timers go to whatever process asks first, whoever has the saga's lane: each input is decided on the
    /// saga's last state, and each step is recognised.
    async fn follow_timers(&self) {
        let queues = Queues::new(FIRED_MAX, 0);
        loop {
            match self.timers.fired().await {
                Ok(mut fired) => {
                    while let Some(Ok(fired)) = fired.next().await {
                        self.hand_in(fired, &queues).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "waiting for the timers"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn hand_in(&self, fired: Fired, queues: &Queues<(Kind, OrderId), (Work, Fired)>) {
        let Timer { saga, id, name, generation, .. } = &fired.timer;
        let Some(work) = due(saga, id, name, *generation) else {
            tracing::error!(saga, id, name, "a timer of an unknown saga was ignored");
            return;
        };
        let (sagas, key) = (self.sagas.clone(), (work.kind, work.order_id));
        let deal = move |(work, fired): (Work, Fired)| {
            let sagas = sagas.clone();
            async move {
                // Or another process would ask the provider beside this one.
                let still_at_it = async {
                    loop {
                        tokio::time::sleep(timers::ACK_WAIT / 2).await;
                        fired.still_at_it().await;
                    }
                };
                tokio::select! {
                    () = sagas.deal_with(work) => {}
                    () = still_at_it => {}
                }
                if let Err(error) = fired.done().await {
                    tracing::debug!(%error, "a timer will be delivered again");
                }
            }
        };
        // A firing has no position in the log to hold a checkpoint back at.
        queues.push(key, (work, fired), u64::MAX, deal).await;
    }
}
