//! The lanes of one reader that are this process's: shared out, begun, ended, and how each of them is doing.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Lease, Tasks, Worker};

/// How often it says that it lives.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);

/// How soon after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// How a lane is doing, for readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything up to here is dealt with.
    pub position: u64,
    /// Why it can't go on, if it can't.
    pub stopped: Option<String>,
}

/// A process's share of one reader's lanes.
#[derive(Debug)]
pub struct Working {
    reader: &'static str,
    statuses: Mutex<Option<BTreeMap<i32, watch::Receiver<Status>>>>,
}

impl Working {
    #[must_use]
    pub fn new(reader: &'static str) -> Self {
        Self { reader, statuses: Mutex::default() }
    }

    /// How the lanes are doing, by number; nothing before it is known which they are.
    #[must_use]
    pub fn statuses(&self) -> Option<Vec<(i32, Status)>> {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses = statuses.as_ref()?.iter();
        Some(statuses.map(|(lane, status)| (*lane, status.borrow().clone())).collect())
    }

    /// Works on what falls to this process, each lane as `begin` has it, until it's dropped.
    pub async fn run<W>(
        &self,
        worker: &mut Worker,
        tasks: &mut Tasks,
        begin: impl Fn(Lease, watch::Sender<Status>) -> W,
    ) where
        W: Future<Output = ()> + Send + 'static,
    {
        loop {
            let pause = match self.share(worker, tasks, &begin).await {
                Ok(()) if worker.is_leaving() => RETRY_INTERVAL,
                Ok(()) => SHARE_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, reader = self.reader, "waiting for the database to share the lanes");
                    RETRY_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Finds out which lanes are its own now, begins what is new, and ends what is not its own any more.
    async fn share<W>(
        &self,
        worker: &mut Worker,
        tasks: &mut Tasks,
        begin: &impl Fn(Lease, watch::Sender<Status>) -> W,
    ) -> Result<(), sqlx::Error>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let leases = worker.share(&[self.reader.to_owned()]).await?;
        tasks.keep(&leases);
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses = statuses.get_or_insert_default();
        statuses.retain(|lane, _| tasks.has(self.reader, *lane));
        for lease in leases {
            let number = lease.lane;
            if !tasks.has(self.reader, number) {
                let (sender, status) = watch::channel(Status::default());
                tasks.begin(lease.clone(), begin(lease, sender));
                statuses.insert(number, status);
            }
        }
        Ok(())
    }
}
