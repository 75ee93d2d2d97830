//! One reading of the log for all who follow it in this process: what several want at about the same
//! time is fetched and decoded once.
//!
//! Followers at different places have a reading each, of which one is joined to another as soon as they
//! meet. A reading waits for the slowest of its followers, so that nothing is read twice; but one that
//! does not move while others want to is left behind, and reads on its own from there.

mod entry;
mod reading;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use crate::log::EventLog;
pub use entry::Entry;
use reading::Reading;

/// Readings of one log.
pub struct Feed {
    log: Arc<dyn EventLog>,
    readings: Mutex<Vec<Weak<Reading>>>,
}

/// Follows the log from a position on, each commit once, in order.
pub struct Follower {
    feed: Arc<Feed>,
    place: Place,
    /// Position of the last commit that was handed out.
    after: u64,
}

/// A follower's place in a reading; given up when it's dropped.
struct Place {
    reading: Arc<Reading>,
    number: u64,
    news: watch::Receiver<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reading.leave(self.number);
    }
}

impl Feed {
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>) -> Arc<Self> {
        Arc::new(Self { log, readings: Mutex::default() })
    }

    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Begins with the commit after the position `after`. Has to be called in a tokio runtime.
    #[must_use]
    pub fn follow(self: &Arc<Self>, after: u64) -> Follower {
        let mut readings = self.readings();
        let place = join(&readings, after, None);
        let place = place.unwrap_or_else(|| {
            let reading = Reading::start(self.log.clone(), after);
            readings.retain(|reading| reading.strong_count() > 0);
            readings.push(Arc::downgrade(&reading));
            enter(&reading, after).unwrap_or_else(|| unreachable!("a new reading begins there"))
        });
        drop(readings);
        Follower { feed: self.clone(), place, after }
    }

    fn readings(&self) -> MutexGuard<'_, Vec<Weak<Reading>>> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a reading that has the commit after the position, or comes to it next.
fn join(readings: &[Weak<Reading>], after: u64, but_not: Option<&Arc<Reading>>) -> Option<Place> {
    let others = readings.iter().filter_map(Weak::upgrade);
    let mut others = others.filter(|reading| but_not.is_none_or(|mine| !Arc::ptr_eq(mine, reading)));
    others.find_map(|reading| enter(&reading, after))
}

fn enter(reading: &Arc<Reading>, after: u64) -> Option<Place> {
    let (number, news) = reading.enter(after)?;
    Some(Place { reading: reading.clone(), number, news })
}

impl Follower {
    /// Waits for at least one commit, then takes what else is there already, up to `commits_max`.
    /// An outage of the log is waited out. Safe to cancel: what was not returned is read again.
    pub async fn batch(&mut self, commits_max: usize) -> Vec<Arc<Entry>> {
        loop {
            if let Some(batch) = self.ready(commits_max) {
                return batch;
            }
            // A reading lives as long as its places, so this can only end with news.
            let _ = self.place.news.changed().await;
        }
    }

    /// What is there already; nothing, if that is nothing.
    pub fn ready(&mut self, commits_max: usize) -> Option<Vec<Arc<Entry>>> {
        self.place.news.borrow_and_update();
        let Some(batch) = self.place.reading.take(self.place.number, self.after, commits_max) else {
            // It was left behind.
            let followed = self.feed.follow(self.after);
            self.place = followed.place;
            return self.ready(commits_max);
        };
        let Some(last) = batch.last() else {
            self.meet();
            return None;
        };
        self.after = last.sequence;
        Some(batch)
    }

    /// Joins another reading that has come to the same place, if nobody else needs this one.
    fn meet(&mut self) {
        if !self.place.reading.has_one_follower() {
            return;
        }
        // Under the lock of all readings: two that meet must not change places.
        let readings = self.feed.readings();
        if let Some(place) = join(&readings, self.after, Some(&self.place.reading)) {
            self.place = place;
            // What is there already is news to who just came.
            self.place.news.mark_changed();
        }
    }
}

#[cfg(test)]
mod tests;
