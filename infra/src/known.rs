//! Answers that are known to be true still: the log tells when what they are about changes.
//!
//! An answer is read once, from the database or from the log itself, at some position of the log. As long as the
//! log has nothing new about its subject, the answer is true at every later position, and is given with the last
//! one that was looked at. So it is never older than it says, and mostly newer than the database would be; but for
//! what is done to the tables without a word in the log (a dead letter that is applied late, a change by hand),
//! which shows after some seconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::feed::{Entry, Feed};

/// Most bytes of answers of one kind that are kept.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// No answer from the tables is kept for longer, for what changes in them without a word in the log.
const KEPT_FOR: Duration = Duration::from_secs(15);

/// Subjects whose last change is remembered, twice: those of now, and those before them.
const CHANGES_MAX: usize = 50_000;

const BATCH_MAX: usize = 1_000;
const BACKOFF: Duration = Duration::from_secs(1);

/// What can be kept.
pub trait Keep: Send + Sync + 'static {
    /// Whether it's read from the log itself: then it changes in no other way, and is kept as long as there is room.
    const IS_FROM_THE_LOG: bool = false;

    /// What a commit changes in answers of this kind.
    fn change(commit: &Entry) -> Change<'_>;

    /// What it takes in memory, about.
    fn bytes(&self) -> usize;
}

/// Of which subjects a commit changes the answers.
#[derive(Debug)]
pub enum Change<'a> {
    Nothing,
    Of(&'a str),
    OfAll,
}

/// An answer, and at which position of the log it was read.
#[derive(Debug)]
pub struct Known<A> {
    pub answer: A,
    /// Version of the read model that it was read from; any number, if from none.
    model: i32,
    position: u64,
    /// From where on it is not true any more; `u64::MAX` if nowhere, and 0 while that is not
    /// known.
    untrue_from: AtomicU64,
}

impl<A> Known<A> {
    /// An answer that has all that was in the log up to the position, or more.
    pub fn new(answer: A, model: i32, position: u64) -> Self {
        Self { answer, model, position, untrue_from: AtomicU64::new(0) }
    }
}

/// Where subjects were last changed, as far as that is remembered.
#[derive(Debug, Default)]
struct Changes {
    recent: HashMap<String, u64>,
    earlier: HashMap<String, u64>,
    /// All changes after this position are remembered.
    since: u64,
    recent_since: u64,
}

/// Answers of one kind, by their subject.
pub struct KnownAnswers<A> {
    answers: Cache<String, Arc<Known<A>>>,
    changes: Mutex<Changes>,
    /// Where all of them were last changed.
    all_changed: AtomicU64,
    /// The log was looked at up to here; 0 before it is.
    looked_at: AtomicU64,
}

impl<A: Keep> Default for KnownAnswers<A> {
    fn default() -> Self {
        let weight = |subject: &String, known: &Arc<Known<A>>| {
            u32::try_from(subject.len() + known.answer.bytes() + 200).unwrap_or(u32::MAX)
        };
        let answers = Cache::builder().weigher(weight).max_capacity(BYTES_MAX);
        let answers = if A::IS_FROM_THE_LOG { answers } else { answers.time_to_live(KEPT_FOR) }.build();
        let (all_changed, looked_at) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { answers, changes: Mutex::default(), all_changed, looked_at }
    }
}

impl<A: Keep> KnownAnswers<A> {
    /// How far the log was looked at.
    pub fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::Acquire)
    }

    /// Where the subject was last changed, as far as that was seen and is remembered; else 0.
    pub fn changed_at(&self, subject: &str) -> u64 {
        self.changes().last(subject).unwrap_or(0)
    }

    /// What is known about the subject, and the position at which it is true: at least the one given.
    pub fn get(&self, subject: &str, model: i32, least: u64) -> Option<(Arc<Known<A>>, u64)> {
        // First the position, then whether there was a change: what comes in between is not missed.
        let position = self.looked_at();
        let known = self.answers.get(subject).filter(|known| known.model == model)?;
        let is_true = known.untrue_from.load(Ordering::Acquire) > position
            && known.position >= self.all_changed.load(Ordering::Acquire);
        let position = position.max(known.position);
        (is_true && position >= least).then_some((known, position))
    }

    /// Keeps what was read, unless it has changed since.
    pub fn put(&self, subject: &str, known: impl Into<Arc<Known<A>>>) {
        if self.looked_at() == 0 {
            return;
        }
        let known = known.into();
        // First it is kept, then looked at for a change, and only then trusted: whoever sees a change meanwhile
        // finds it there, and lowers what is said here.
        self.answers.insert(subject.to_owned(), known.clone());
        let changes = self.changes();
        known.untrue_from.store(changes.untrue_from(subject, known.position), Ordering::Release);
    }

    fn changed(&self, change: &Change<'_>, position: u64) {
        match *change {
            Change::Nothing => {}
            Change::Of(subject) => {
                self.changes().note(subject, position);
                if let Some(known) = self.answers.get(subject)
                    && known.position < position
                {
                    known.untrue_from.fetch_min(position, Ordering::AcqRel);
                }
            }
            Change::OfAll => drop(self.all_changed.fetch_max(position, Ordering::AcqRel)),
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
                Err(error) => tracing::debug!(%error, "no answers are kept yet"),
            }
            tokio::time::sleep(BACKOFF).await;
        };
        *self.changes() = Changes { since: end, recent_since: end, ..Changes::default() };
        let mut follower = feed.follow(end);
        // Position 0 stands for not having looked.
        self.looked_at.store(end.max(1), Ordering::Release);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                self.changed(&A::change(&entry), entry.sequence);
                self.looked_at.fetch_max(entry.sequence, Ordering::Release);
            }
        }
    }
}

impl Changes {
    fn note(&mut self, subject: &str, position: u64) {
        if self.recent.len() >= CHANGES_MAX && !self.recent.contains_key(subject) {
            self.earlier = std::mem::take(&mut self.recent);
            self.since = self.recent_since;
            self.recent_since = position - 1;
        }
        match self.recent.get_mut(subject) {
            Some(last) => *last = position,
            None => drop(self.recent.insert(subject.to_owned(), position)),
        }
    }

    /// From where on what was read at the position is not true any more: right behind it if its subject was
    /// changed since, because only its last change is remembered; `u64::MAX` if it was not, and 0 if that is
    /// not remembered.
    fn untrue_from(&self, subject: &str, position: u64) -> u64 {
        if position < self.since {
            return 0;
        }
        if self.last(subject).is_some_and(|last| last > position) { position + 1 } else { u64::MAX }
    }

    fn last(&self, subject: &str) -> Option<u64> {
        self.recent.get(subject).or_else(|| self.earlier.get(subject)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Keep for Nothing {
        fn change(_: &Entry) -> Change<'_> {
            Change::Nothing
        }

        fn bytes(&self) -> usize {
            0
        }
    }

    struct OfTheLog;

    impl Keep for OfTheLog {
        const IS_FROM_THE_LOG: bool = true;

        fn change(_: &Entry) -> Change<'_> {
            Change::Nothing
        }

        fn bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn only_answers_from_the_tables_grow_old_by_themselves() {
        let kept_for = KnownAnswers::<Nothing>::default().answers.policy().time_to_live();
        assert_eq!(kept_for, Some(KEPT_FOR));
        let kept_for = KnownAnswers::<OfTheLog>::default().answers.policy().time_to_live();
        assert_eq!(kept_for, None);
    }

    fn known(position: u64) -> Known<Nothing> {
        Known::new(Nothing, 1, position)
    }

    fn looking(position: u64) -> KnownAnswers<Nothing> {
        let cache = KnownAnswers::default();
        cache.looked_at.store(position, Ordering::Release);
        cache
    }

    fn see(cache: &KnownAnswers<Nothing>, sku: &str, position: u64) {
        look_at(cache, &Change::Of(sku), position);
    }

    fn look_at(cache: &KnownAnswers<Nothing>, change: &Change<'_>, position: u64) {
        cache.changed(change, position);
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
    fn a_change_of_all_leaves_nothing_that_was_read_before() {
        let cache = looking(10);
        cache.put("MUG", known(10));
        look_at(&cache, &Change::OfAll, 11);
        assert!(cache.get("MUG", 1, 0).is_none());
        cache.put("MUG", known(10));
        assert!(cache.get("MUG", 1, 0).is_none(), "the projection is behind the log");
        cache.put("MUG", known(11));
        look_at(&cache, &Change::Nothing, 12);
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
        let change =
            |position: u64| if position.is_multiple_of(2) { Change::Of("MUG") } else { Change::OfAll };
        std::thread::scope(|scope| {
            scope.spawn(|| (2..=LAST).for_each(|position| look_at(&cache, &change(position), position)));
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
        let cache = KnownAnswers::default();
        cache.put("MUG", known(5));
        assert!(cache.get("MUG", 1, 0).is_none());
    }
}
