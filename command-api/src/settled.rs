//! Waiting for orders: one reader of the log for all who wait, and none while nobody does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::OrderId;
use domain::order::{CATEGORY, Event, Status};
use infra::feed::{Entry, Feed};
use infra::log::Unavailable;
use tokio::sync::{Notify, oneshot, watch};

const BATCH_MAX: usize = 1_000;
const BACKOFF: Duration = Duration::from_secs(1);

/// How often a quiet log is looked up from, to see whether anybody still waits.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// How long it may take to begin to follow.
const START_LIMIT: Duration = Duration::from_secs(1);

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

/// Told the position at which the order has come so far.
type Waiters = HashMap<OrderId, Vec<(Until, oneshot::Sender<u64>)>>;

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    waiters: Mutex<Waiters>,
    wanted: Notify,
    /// Whether the log is being followed.
    following: watch::Sender<bool>,
}

/// A place among those who wait, until it's dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    all: &'a Settled,
    order_id: OrderId,
    until: Until,
    /// Whether the log was followed from before this wait began.
    is_followed: bool,
    reached: oneshot::Receiver<u64>,
}

impl Settled {
    /// Begins to watch out, so that nothing is missed between a command and the wait for it.
    pub async fn expect(&self, order_id: OrderId, until: Until) -> Waiting<'_> {
        let (sender, reached) = oneshot::channel();
        self.waiters().entry(order_id).or_default().push((until, sender));
        let mut waiting = Waiting { all: self, order_id, until, is_followed: false, reached };
        self.wanted.notify_one();
        let mut following = self.following.subscribe();
        // Who waits runs into the limit otherwise, and asks the order itself.
        let begun = tokio::time::timeout(START_LIMIT, following.wait_for(|following| *following)).await;
        waiting.is_followed = matches!(begun, Ok(Ok(_)));
        waiting
    }

    /// Follows the log while somebody waits. Runs until it's dropped.
    pub async fn run(&self, feed: Arc<Feed>) {
        loop {
            self.wanted.notified().await;
            if let Err(error) = self.follow(&feed).await {
                tracing::warn!(%error, "orders can't be waited for");
                self.following.send_replace(false);
                tokio::time::sleep(BACKOFF).await;
                self.wanted.notify_one();
            }
        }
    }

    async fn follow(&self, feed: &Arc<Feed>) -> Result<(), Unavailable> {
        if self.stops() {
            return Ok(());
        }
        let mut follower = feed.follow(feed.log().end().await?);
        self.following.send_replace(true);
        loop {
            if let Ok(batch) = tokio::time::timeout(IDLE_LIMIT, follower.batch(BATCH_MAX)).await {
                self.happened_in(&batch);
            }
            if self.stops() {
                return Ok(());
            }
        }
    }

    /// Whether nobody waits any more. Whoever comes now finds that nobody follows.
    fn stops(&self) -> bool {
        let waiters = self.waiters();
        if waiters.is_empty() {
            self.following.send_replace(false);
        }
        waiters.is_empty()
    }

    fn happened_in(&self, batch: &[Arc<Entry>]) {
        for entry in batch {
            let stream = entry.stream().filter(|stream| stream.category() == CATEGORY);
            let Some(Ok(order_id)) = stream.map(|stream| stream.id().parse()) else { continue };
            for event in entry.events() {
                if let Ok(Some(domain::Event::Order(event))) = event {
                    self.happened(order_id, event, entry.sequence);
                }
            }
        }
    }

    fn happened(&self, order_id: OrderId, event: &Event, position: u64) {
        let status = match event {
            Event::Placed { .. } => Status::Pending,
            Event::Confirmed {} => Status::Confirmed,
            Event::Cancelled { reason } => Status::Cancelled(*reason),
            Event::CancellationRequested {}
            | Event::CancellationBegun { .. }
            | Event::Shipped { .. }
            | Event::GoodsReturned { .. }
            | Event::RefundRequested { .. }
            | Event::RefundFailed { .. }
            | Event::Imported { .. }
            | Event::Returned(_)
            | Event::Refunded(_) => return,
        };
        let mut waiters = self.waiters();
        let Some(waiting) = waiters.get_mut(&order_id) else { return };
        let reached = |(until, _): &mut (Until, _)| until.is_reached_by(Some(status));
        for (_, sender) in waiting.extract_if(.., reached) {
            // Who went away need not know.
            let _ = sender.send(position);
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    pub fn until(&self) -> Until {
        self.until
    }

    pub fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// Waits until the order has come so far; the position at which it has, if it has within the limit.
    pub async fn reached(&mut self, limit: Duration) -> Option<u64> {
        tokio::time::timeout(limit, &mut self.reached).await.ok()?.ok()
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
