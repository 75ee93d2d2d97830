//! Up to where there is something to read about the orders that somebody watches: one follower for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{OrderId, order, payment};
use infra::feed::{Entry, Feed};
use tokio::sync::watch;

const BATCH_MAX: usize = 1_000;
const BACKOFF: Duration = Duration::from_secs(1);

/// How long it may take to begin to follow.
const START_LIMIT: Duration = Duration::from_secs(2);

/// Position of the last commit in each of an order's streams; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    pub order: u64,
    pub payment: u64,
}

impl Reach {
    pub fn last(self) -> u64 {
        self.order.max(self.payment)
    }
}

impl From<projections::orders::Extent> for Reach {
    fn from(extent: projections::orders::Extent) -> Self {
        Self { order: extent.order.cast_unsigned(), payment: extent.payment.cast_unsigned() }
    }
}

/// Orders that are watched. An idle one costs an entry here, and nothing else happens for it.
#[derive(Debug, Default)]
pub(crate) struct Live {
    watched: Mutex<HashMap<OrderId, watch::Sender<Reach>>>,
    following: watch::Sender<bool>,
}

/// A watch over one order, until it's dropped.
#[derive(Debug)]
pub(super) struct Watching {
    live: Arc<Live>,
    id: OrderId,
    news: watch::Receiver<Reach>,
}

impl Live {
    /// Begins to watch an order: whatever is appended from now on shows. Nothing if the log is not followed.
    pub(super) async fn watch(self: &Arc<Self>, id: OrderId) -> Option<Watching> {
        let mut following = self.following.subscribe();
        let followed = following.wait_for(|following| *following);
        tokio::time::timeout(START_LIMIT, followed).await.ok()?.ok()?;
        let news = self.watched().entry(id).or_default().subscribe();
        Some(Watching { live: self.clone(), id, news })
    }

    /// Follows the log from its end on. Runs until it's dropped.
    pub async fn run(&self, feed: Arc<Feed>) {
        let end = loop {
            match feed.log().end().await {
                Ok(end) => break end,
                Err(error) => tracing::warn!(%error, "orders can't be watched yet"),
            }
            tokio::time::sleep(BACKOFF).await;
        };
        let mut follower = feed.follow(end);
        self.following.send_replace(true);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                self.look_at(&entry);
            }
        }
    }

    fn look_at(&self, entry: &Entry) {
        let Some(stream) = entry.stream() else { return };
        let is_payment = stream.category() == payment::CATEGORY;
        if !is_payment && stream.category() != order::CATEGORY {
            return;
        }
        let Ok(id) = stream.id().parse() else { return };
        if let Some(watched) = self.watched().get(&id) {
            watched.send_modify(|reach| match is_payment {
                true => reach.payment = entry.sequence,
                false => reach.order = entry.sequence,
            });
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<OrderId, watch::Sender<Reach>>> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching {
    /// Waits until there is something to read behind the position.
    pub async fn beyond(&mut self, position: u64) -> Reach {
        let news = self.news.wait_for(|reach| reach.last() > position).await.map(|reach| *reach);
        match news {
            Ok(reach) => reach,
            // The sender lives as long as anybody watches.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watched = self.live.watched();
        if watched.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.id);
        }
    }
}
