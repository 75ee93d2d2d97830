//! A process's share of the projections: which lanes it has, and a task for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use infra::lanes::{self, Lease, Status, Tasks};
use infra::read_models::{self, ReadModels};
use tokio::sync::watch;

use crate::builds::Builds;
use crate::lane;
use crate::projection::Projection;

/// How often it says that it lives, and looks what is to be done.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);

/// How soon after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Works on its share of all read models whose code this build has.
pub struct Worker {
    builds: Builds,
    /// Are told how far the lanes have come, so that who waits here need not look.
    read_models: Option<Arc<ReadModels>>,
    statuses: Mutex<Option<BTreeMap<(String, i32), Lane>>>,
}

struct Lane {
    projection: &'static str,
    is_live: bool,
    status: watch::Receiver<Status>,
}

impl Worker {
    #[must_use]
    pub fn new(builds: Builds) -> Self {
        Self { builds, read_models: None, statuses: Mutex::default() }
    }

    /// Tells them how far its lanes have come.
    #[must_use]
    pub fn telling(self, read_models: Arc<ReadModels>) -> Self {
        Self { read_models: Some(read_models), ..self }
    }

    /// How the lanes of live read models are doing that this process works on, with the projection's
    /// name and the lane's; nothing before it knows which these are.
    #[must_use]
    pub fn statuses(&self) -> Option<Vec<(&'static str, String, Status)>> {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let live = statuses.as_ref()?.iter().filter(|(_, lane)| lane.is_live);
        let named = |((reader, number), lane): (&(String, i32), &Lane)| {
            (lane.projection, format!("{reader}/{number}"), lane.status.borrow().clone())
        };
        Some(live.map(named).collect())
    }

    /// Works until it is told to stop; then gives its lanes back, for others to take at once. If it is
    /// dropped instead, they are free when its connections have ended.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.builds.attend() => {}
            () = self.work(&mut stop) => {}
        }
    }

    async fn work(&self, stop: &mut watch::Receiver<bool>) {
        let mut worker = lanes::Worker::of_process(self.builds.pool().clone());
        let mut tasks = Tasks::default();
        loop {
            let pause = match self.share(&mut worker, &mut tasks).await {
                Ok(()) if worker.is_leaving() => RETRY_INTERVAL,
                Ok(()) => SHARE_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "waiting for the database to share the lanes");
                    RETRY_INTERVAL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.builds.news() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        tasks.end().await;
        if let Err(error) = worker.leave().await {
            tracing::warn!(%error, "others find out by themselves that the lanes are free");
        }
    }

    /// Finds out which lanes are its own now, begins what is new, and ends what is not its own any more.
    async fn share(&self, worker: &mut lanes::Worker, tasks: &mut Tasks) -> Result<(), sqlx::Error> {
        let models = read_models::all(self.builds.pool()).await?;
        let ours: HashMap<String, (Arc<dyn Projection>, bool)> = models
            .iter()
            .filter_map(|model| {
                let all = self.builds.projections().iter();
                let mut fitting =
                    all.filter(|one| one.name() == model.projection && one.version() == model.code);
                Some((model.schema(), (fitting.next()?.clone(), model.state == "live")))
            })
            .collect();
        let mut readers: Vec<String> = ours.keys().cloned().collect();
        readers.sort_unstable();
        let leases = worker.share(&readers).await?;
        tasks.keep(&leases);
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses = statuses.get_or_insert_default();
        statuses.retain(|(reader, lane), _| tasks.has(reader, *lane));
        for lease in leases {
            let key = (lease.reader.clone(), lease.lane);
            let Some((projection, is_live)) = ours.get(&lease.reader) else { continue };
            if let Some(lane) = statuses.get_mut(&key) {
                lane.is_live = *is_live;
                continue;
            }
            let (sender, status) = watch::channel(Status::default());
            let (feed, pool) = (self.builds.feed().clone(), self.builds.pool().clone());
            let name = projection.name();
            let run = lane::run(projection.clone(), lease.clone(), feed, pool, sender);
            let tell = tell(self.read_models.clone(), lease.clone(), status.clone());
            tasks.begin(lease, async move { (_, _) = tokio::join!(run, tell) });
            statuses.insert(key, Lane { projection: name, is_live: *is_live, status });
        }
        Ok(())
    }
}

/// Tells how far the lane has come, as long as it is worked on.
async fn tell(read_models: Option<Arc<ReadModels>>, lease: Lease, mut status: watch::Receiver<Status>) {
    let Some(read_models) = read_models else { return };
    while status.changed().await.is_ok() {
        read_models.moved(&lease, status.borrow_and_update().position);
    }
}
