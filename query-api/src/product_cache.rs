//! Answers about products that are known to be true still: the log tells when a product changes.
//!
//! An answer is read from the database once, at some position of the log. As long as the log has nothing
//! new about that product, the answer is true at every later position, and is given with the last one that
//! was looked at. So it is never older than it says, and mostly newer than the database would be; but for
//! what is done to the tables without a word in the log (a dead letter that is applied late, a change by hand),
//! which shows after some seconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{product, stock};
use infra::feed::{Entry, Feed};
use moka::sync::Cache;
use serde_json::value::RawValue;

/// Most bytes of answers that are kept.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// No answer is kept for longer, for what changes in the tables without a word in the log.
const KEPT_FOR: Duration = Duration::from_secs(15);

/// Products whose last change is remembered, twice: those of now, and those before them.
const CHANGES_MAX: usize = 50_000;

const BATCH_MAX: usize = 1_000;
const BACKOFF: Duration = Duration::from_secs(1);

/// An answer, and at which position of the log it was read.
#[derive(Debug)]
pub(crate) struct Known {
    pub json: Box<RawValue>,
    pub etag: String,
    /// Version of the read model that it was read from.
    pub model: i32,
    pub position: u64,
    /// From where on it is not true any more; `u64::MAX` if nowhere, and 0 while that is not
    /// known.
    untrue_from: AtomicU64,
}

impl Known {
    pub fn new(json: Box<RawValue>, etag: String, model: i32, position: u64) -> Self {
        Self { json, etag, model, position, untrue_from: AtomicU64::new(0) }
    }
}

/// Where products were last changed, as far as that is remembered.
#[derive(Debug, Default)]
struct Changes {
    recent: HashMap<String, u64>,
    earlier: HashMap<String, u64>,
    /// All changes after this position are remembered.
    since: u64,
    recent_since: u64,
}

#[derive(Debug)]
pub(crate) struct ProductCache {
    answers: Cache<String, Arc<Known>>,
    changes: Mutex<Changes>,
    /// The log was looked at up to here; 0 before it is.
    looked_at: AtomicU64,
}

impl Default for ProductCache {
    fn default() -> Self {
        let weight = |sku: &String, known: &Arc<Known>| {
            u32::try_from(sku.len() + known.json.get().len() + 200).unwrap_or(u32::MAX)
        };
        let answers = Cache::builder().weigher(weight).max_capacity(BYTES_MAX).time_to_live(KEPT_FOR).build();
        Self { answers, changes: Mutex::default(), looked_at: AtomicU64::new(0) }
    }
}

impl ProductCache {
    /// What is known of the product, and the position at which it is true: at least the one given.
    pub fn get(&self, sku: &str, model: i32, least: u64) -> Option<(Arc<Known>, u64)> {
        // First the position, then whether there was a change: what comes in between is not missed.
        let position = self.looked_at.load(Ordering::Acquire);
        let known = self.answers.get(sku).filter(|known| known.model == model)?;
        let is_true = known.untrue_from.load(Ordering::Acquire) > position;
        let position = position.max(known.position);
        (is_true && position >= least).then_some((known, position))
    }

    /// Keeps what was read, unless it has changed since.
    pub fn put(&self, sku: &str, known: Known) {
        if self.looked_at.load(Ordering::Acquire) == 0 {
            return;
        }
        let known = Arc::new(known);
        // First it is kept, then looked at for a change, and only then trusted: whoever sees a change meanwhile
        // finds it there, and lowers what is said here.
        self.answers.insert(sku.to_owned(), known.clone());
        let changes = self.changes();
        known.untrue_from.store(changes.untrue_from(sku, known.position), Ordering::Release);
    }

    fn changed(&self, sku: &str, position: u64) {
        self.changes().note(sku, position);
        if let Some(known) = self.answers.get(sku)
            && known.position < position
        {
            known.untrue_from.fetch_min(position, Ordering::AcqRel);
        }
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the log, from its end on. Runs until it's dropped.
    pub async fn run(&self, feed: Arc<Feed>) {
        let end = loop {
            match feed.log().end().await {
                Ok(end) => break end,
                Err(error) => tracing::debug!(%error, "no answers about products are kept yet"),
            }
            tokio::time::sleep(BACKOFF).await;
        };
        *self.changes() = Changes { since: end, recent_since: end, ..Changes::default() };
        let mut follower = feed.follow(end);
        // Position 0 stands for not having looked.
        self.looked_at.store(end.max(1), Ordering::Release);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                self.look_at(&entry);
            }
        }
    }

    fn look_at(&self, entry: &Entry) {
        if let Some(stream) = entry.stream()
            && [product::CATEGORY, stock::CATEGORY].contains(&stream.category())
        {
            self.changed(stream.id(), entry.sequence);
        }
        self.looked_at.fetch_max(entry.sequence, Ordering::Release);
    }
}

impl Changes {
    fn note(&mut self, sku: &str, position: u64) {
        if self.recent.len() >= CHANGES_MAX && !self.recent.contains_key(sku) {
            self.earlier = std::mem::take(&mut self.recent);
            self.since = self.recent_since;
            self.recent_since = position - 1;
        }
        match self.recent.get_mut(sku) {
            Some(last) => *last = position,
            None => drop(self.recent.insert(sku.to_owned(), position)),
        }
    }

    /// From where on what was read at the position is not true any more: right behind it if the product was
    /// changed since, because only its last change is remembered; `u64::MAX` if it was not, and 0 if that is
    /// not remembered.
    fn untrue_from(&self, sku: &str, position: u64) -> u64 {
        if position < self.since {
            return 0;
        }
        let last = self.recent.get(sku).or_else(|| self.earlier.get(sku));
        if last.is_some_and(|last| *last > position) { position + 1 } else { u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(position: u64) -> Known {
        Known::new(RawValue::from_string("{}".to_owned()).unwrap(), "1-1".to_owned(), 1, position)
    }

    fn looking(position: u64) -> ProductCache {
        let cache = ProductCache::default();
        cache.looked_at.store(position, Ordering::Release);
        cache
    }

    fn see(cache: &ProductCache, sku: &str, position: u64) {
        cache.changed(sku, position);
        cache.looked_at.store(position, Ordering::Release);
    }

    #[test]
    fn an_answer_is_true_until_the_log_says_otherwise() {
        let cache = looking(10);
        cache.put("MUG", known(9));
        assert_eq!(cache.get("MUG", 1, 0).map(|(_, position)| position), Some(10));
        see(&cache, "CUP", 11);
        assert_eq!(cache.get("MUG", 1, 11).map(|(_, position)| position), Some(11));
        assert!(cache.get("MUG", 1, 12).is_none(), "nobody knows yet what comes at 12");
        assert!(cache.get("MUG", 2, 0).is_none(), "another read model has other rows");
        see(&cache, "MUG", 12);
        assert!(cache.get("MUG", 1, 0).is_none());
        // The projection is behind the log: what it says is old already.
        cache.put("MUG", known(11));
        assert!(cache.get("MUG", 1, 0).is_none());
        cache.put("MUG", known(12));
        assert_eq!(cache.get("MUG", 1, 12).map(|(_, position)| position), Some(12));
    }

    #[test]
    fn what_was_read_beyond_what_was_looked_at_is_as_new_as_it_says() {
        let cache = looking(10);
        cache.put("MUG", known(15));
        assert_eq!(cache.get("MUG", 1, 15).map(|(_, position)| position), Some(15));
        see(&cache, "MUG", 14);
        assert_eq!(cache.get("MUG", 1, 0).map(|(_, position)| position), Some(15), "it has that change");
    }

    #[test]
    fn what_is_not_remembered_is_not_trusted() {
        let cache = looking(1);
        for number in 0..=2 * CHANGES_MAX as u64 {
            see(&cache, &format!("SKU-{number}"), number + 2);
        }
        cache.put("MUG", known(5));
        assert!(cache.get("MUG", 1, 0).is_none(), "it may have changed at 6");
        cache.put("MUG", known(2 * CHANGES_MAX as u64));
        assert!(cache.get("MUG", 1, 0).is_some());
    }

    /// Every position changes the product, so what was read at one is true there alone.
    #[test]
    fn no_answer_is_older_than_it_says_whoever_comes_first() {
        const LAST: u64 = 200_000;
        let cache = looking(1);
        std::thread::scope(|scope| {
            scope.spawn(|| (2..=LAST).for_each(|position| see(&cache, "MUG", position)));
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let position = cache.looked_at.load(Ordering::Acquire);
                        cache.put("MUG", known(position));
                        if let Some((known, claimed)) = cache.get("MUG", 1, 0) {
                            assert_eq!(known.position, claimed);
                        }
                        if position == LAST {
                            return;
                        }
                    }
                });
            }
        });
        assert_eq!(cache.get("MUG", 1, 0).map(|(_, claimed)| claimed), Some(LAST));
    }

    #[test]
    fn nothing_is_kept_before_the_log_is_looked_at() {
        let cache = ProductCache::default();
        cache.put("MUG", known(5));
        assert!(cache.get("MUG", 1, 0).is_none());
    }
}
