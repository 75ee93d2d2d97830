//! Waiting for orders: one reader of the log for all who wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::order::{CATEGORY, Event, Status};
use domain::{OrderId, RecordedEvent};
use infra::follow::Follower;
use infra::log::EventLog;
use tokio::sync::oneshot;

const BATCH_MAX: usize = 1_000;
const BACKOFF: Duration = Duration::from_secs(1);

/// How far an order is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Placed,
    /// Confirmed or cancelled.
    Settled,
    Cancelled,
}

impl Until {
    pub fn is_reached_by(self, status: Option<Status>) -> bool {
        match (self, status) {
            (_, None) => false,
            (Self::Placed, Some(_)) => true,
            (Self::Settled, Some(status)) => status != Status::Pending,
            (Self::Cancelled, Some(status)) => matches!(status, Status::Cancelled(_)),
        }
    }
}

type Waiters = HashMap<OrderId, Vec<(Until, oneshot::Sender<()>)>>;

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Settled(Mutex<Waiters>);

/// A place among those who wait, until it's dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    all: &'a Settled,
    order_id: OrderId,
    until: Until,
    reached: oneshot::Receiver<()>,
}

impl Settled {
    /// Begins to watch out, so that nothing is missed between a command and the wait for it.
    pub fn expect(&self, order_id: OrderId, until: Until) -> Waiting<'_> {
        let (sender, reached) = oneshot::channel();
        self.waiters().entry(order_id).or_default().push((until, sender));
        Waiting { all: self, order_id, until, reached }
    }

    /// Follows the log. Runs until it's dropped.
    pub async fn run(&self, log: Arc<dyn EventLog>) {
        let end = loop {
            match log.end().await {
                Ok(end) => break end,
                Err(error) => tracing::warn!(%error, "waiting for the log"),
            }
            tokio::time::sleep(BACKOFF).await;
        };
        let mut follower = Follower::new(log, end);
        loop {
            match follower.batch(BATCH_MAX).await {
                Ok(batch) => batch
                    .iter()
                    .filter(|stored| stored.commit.stream.category() == CATEGORY)
                    .for_each(|stored| {
                        if let Ok(order_id) = stored.commit.stream.id().parse() {
                            stored.commit.events.iter().for_each(|event| self.happened(order_id, event));
                        }
                    }),
                // Who waits runs into the limit, and asks the order itself.
                Err(error) => {
                    tracing::error!(%error, "orders can't be waited for");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    fn happened(&self, order_id: OrderId, event: &RecordedEvent) {
        let status = match event.decode() {
            Ok(Event::Placed { .. }) => Status::Pending,
            Ok(Event::Confirmed {}) => Status::Confirmed,
            Ok(Event::Cancelled { reason }) => Status::Cancelled(reason),
            Ok(Event::CancellationRequested {}) | Err(_) => return,
        };
        let mut waiters = self.waiters();
        let Some(waiting) = waiters.get_mut(&order_id) else { return };
        let reached = |(until, _): &mut (Until, _)| until.is_reached_by(Some(status));
        for (_, sender) in waiting.extract_if(.., reached) {
            // Who went away need not know.
            let _ = sender.send(());
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    pub fn until(&self) -> Until {
        self.until
    }

    /// Waits until the order has come so far; false if it has not within the limit.
    pub async fn reached(&mut self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, &mut self.reached).await, Ok(Ok(())))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.reached.close();
        let mut waiters = self.all.waiters();
        if let Some(waiting) = waiters.get_mut(&self.order_id) {
            waiting.retain(|(_, sender)| !sender.is_closed());
            if waiting.is_empty() {
                waiters.remove(&self.order_id);
            }
        }
    }
}
