//! A task for each lane that is this process's.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{AbortHandle, JoinSet};

use super::Lease;

/// Tasks by lane; dropped, they end.
#[derive(Debug, Default)]
pub struct Tasks {
    running: HashMap<(String, i32), Running>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Running {
    lease: Lease,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tasks {
    /// Ends those whose lane is not among these any more, and forgets those that have ended.
    pub fn keep(&mut self, leases: &[Lease]) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|_, lane| leases.contains(&lane.lease) && !lane.task.is_finished());
    }

    #[must_use]
    pub fn has(&self, reader: &str, lane: i32) -> bool {
        self.running.contains_key(&(reader.to_owned(), lane))
    }

    /// Begins to work on a lane; what was begun on it before is ended.
    pub fn begin(&mut self, lease: Lease, work: impl Future<Output = ()> + Send + 'static) {
        let key = (lease.reader.clone(), lease.lane);
        let task = self.tasks.spawn(work);
        self.running.insert(key, Running { lease, task });
    }

    /// Ends all, and waits for that.
    pub async fn end(&mut self) {
        self.running.clear();
        self.tasks.shutdown().await;
    }
}
