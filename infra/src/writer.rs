//! The writer: adaptive group commit between execute and the log.
//!
//! An append costs an fsync, and so does a batch of a thousand. While little waits, each commit goes
//! out by itself at once. When commits have queued up behind those that are under way, they go out
//! as one atomic batch.
//!
//! | promise                                 | how                                                   |
//! |-----------------------------------------|-------------------------------------------------------|
//! | commits of one stream keep their order  | one lane for each stream, one group of it under way    |
//! | nothing follows what was not appended   | those behind a failed commit fail with it              |
//! | a conflict costs its neighbours nothing | a refused batch goes out again one by one              |
//! | what nobody waits for holds nobody up   | it goes out when the log is idle, or after 100 ms      |
//! | the outcome is the true one             | a lost answer is resolved by reading back              |
//! | memory is bounded                       | a full queue refuses, and what waits too long is told  |
//! | the log is not asked more than it can   | in flight × time of an append ≤ half of the time-out   |

mod lanes;
mod measure;
mod pace;
mod resolve;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::commit::Hash;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::log::{AppendError, EventLog, Message, Unavailable};
use lanes::{Group, Item, Lanes};
use pace::Pace;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Commits that may wait.
    pub queue_max: usize,
    /// Bytes of commits that may wait.
    pub queue_bytes_max: usize,
    /// Most commits in one batch.
    pub batch_max: usize,
    /// Commits that have to wait before a batch is worth its price.
    pub batch_min: usize,
    /// Most commits under way that are in no batch.
    pub singles_max: usize,
    /// Most batches under way.
    pub batches_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_max: 10_000,
            queue_bytes_max: 64 << 20,
            batch_max: 1_000,
            batch_min: 16,
            singles_max: 16,
            batches_max: 2,
        }
    }
}

/// Commits that have to wait before another batch goes out beside one that is under way: then what
/// it costs the log is less than what waiting costs. The log stores one after the other, and has files to
/// make for each, whatever is in it.
const SECOND_BATCH_MIN: usize = 512;

/// Bytes in one batch, beyond which it gets no more commits.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long the next append waits for those who were just answered, as a part of what the last batch
/// took. Who gave a commit and has its answer will often give another; if they all come back before
/// anything goes out, they share one fsync again, and not two.
const HOLD_PART: f64 = 0.2;

/// The same after a batch of so many commits: where that much is going on, it is the log's processor that is short
/// of time, of which a batch takes some 3 ms, whatever is in it (files are made for it).
const MANY: usize = 64;
const HOLD_PART_OF_MANY: f64 = 0.7;

const HOLD_MAX: Duration = Duration::from_millis(20);

/// Most of this part of them come back soon; nobody waits for the last ones.
const HOLD_ENOUGH: f64 = 0.9;

/// How long a commit may wait for its turn.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// How long appends have to fail before it is more than a hiccup, and how long that is remembered.
const TROUBLE_MIN: Duration = Duration::from_secs(5);
const TROUBLE_KEPT: Duration = Duration::from_secs(30);

/// What a commit comes after in its stream; if that's not the stream's last one, it's a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The commit at that position in the log, 0 for none.
    Position(u64),
    /// The commit with that hash, which was given to the writer before and has no position yet.
    Commit(Hash),
}

/// Whether anybody waits for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Somebody may.
    Normal,
    /// Nobody does: it lets others go first, as long as that is not for long.
    Background,
}

/// There is no place in the queue: the log can't keep up. Nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many commits wait for the log")]
pub struct Full;

/// Why a commit was not appended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The commit that it was to come after was not appended.
    #[error("a commit before it was not appended")]
    RolledBack,
}

/// Told the position of the commit, or why it has none.
pub type Done = Box<dyn FnOnce(Result<u64, Error>) + Send + Sync>;

/// Appends commits for all executors of a process.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

struct Inner {
    log: Arc<dyn EventLog>,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: Lanes,
    singles: Pace,
    batches: Pace,
    hold: Option<Hold>,
    trouble: Option<Trouble>,
}

/// Nothing goes out until so many commits wait, or until that moment.
struct Hold {
    commits: usize,
    until: Instant,
}

/// Why appends fail, since when, and when the last one did.
struct Trouble {
    reason: String,
    /// It's no hiccup: the log has said so itself.
    certain: bool,
    since: Instant,
    last: Instant,
}

/// What goes to the log in one piece.
enum Work {
    Single { group: Group, under_way: usize },
    Batch { groups: Vec<Group>, under_way: usize },
}

impl Writer {
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, settings: Settings) -> Self {
        measure::describe();
        let state = State::default();
        Self { inner: Arc::new(Inner { log, settings, state: Mutex::new(state) }) }
    }

    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.inner.log
    }

    /// Why the log takes no appends, if it has said so or has not taken any for a while. A full or broken
    /// disk looks like an answer that never comes; that it lasts tells it from one.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let state = self.inner.state();
        let trouble = state.trouble.as_ref()?;
        let lasts = trouble.last - trouble.since >= TROUBLE_MIN || trouble.certain;
        // Where nobody gives commands any more, nothing would ever show that it's over.
        let is_news = trouble.last.elapsed() < TROUBLE_KEPT;
        let seconds = trouble.since.elapsed().as_secs();
        (lasts && is_news).then(|| {
            format!(
                "the log has taken no commit for {seconds} s: {} (a full or broken disk, or no leader? \
                 nats-server's own log tells)",
                trouble.reason
            )
        })
    }

    /// Appends the commit when its turn comes, and calls `done` from a task of the writer, which
    /// must not be blocked. When what it comes after is not appended, this one isn't either.
    ///
    /// # Errors
    /// The queue is full; `done` will not be called.
    pub fn append(&self, message: Message, after: After, priority: Priority, done: Done) -> Result<(), Full> {
        let given_back = {
            let Settings { queue_max, queue_bytes_max, .. } = self.inner.settings;
            let mut state = self.inner.state();
            if state.lanes.waiting() >= queue_max || state.lanes.waiting_bytes() >= queue_bytes_max {
                measure::refused();
                return Err(Full);
            }
            state.lanes.push(Item { message, after, priority, done, since: Instant::now() })
        };
        match given_back {
            Ok(()) => Inner::go_on(&self.inner),
            // Not from here, because the caller may hold what `done` needs.
            Err(Item { done, .. }) => drop(tokio::spawn(async move { done(Err(Error::RolledBack)) })),
        }
        Ok(())
    }
}

/// Tells who waits for a commit that it waited for too long.
fn expire(Item { done, .. }: Item) {
    measure::expired();
    let reason = format!("a commit waited longer than {} s", WAIT_LIMIT.as_secs());
    done(Err(AppendError::NotAppended(Unavailable::because(reason)).into()));
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Callbacks run without the lock, and nothing else panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_trouble(&self, error: &AppendError) {
        let reason = match error {
            AppendError::NotAppended(reason) | AppendError::Unknown(reason) => reason.to_string(),
            AppendError::Full | AppendError::Denied { .. } | AppendError::Conflict => error.to_string(),
        };
        let certain = matches!(error, AppendError::Full | AppendError::Denied { .. });
        let now = Instant::now();
        let mut state = self.state();
        let since = state.trouble.as_ref().map_or(now, |trouble| trouble.since);
        state.trouble = Some(Trouble { reason, certain, since, last: now });
    }

    fn end_trouble(&self) {
        self.state().trouble = None;
    }

    /// Sends whatever may go out now.
    fn go_on(self: &Arc<Self>) {
        loop {
            let (late, work) = {
                let mut state = self.state();
                (state.lanes.expire(WAIT_LIMIT), self.next(&mut state))
            };
            let expired = !late.is_empty();
            if expired {
                // Not from here, because whoever gives a commit may hold what `done` needs.
                tokio::spawn(async move { late.into_iter().for_each(expire) });
            }
            match work {
                Some(work) => drop(tokio::spawn(self.clone().perform(work))),
                None if expired => {}
                None => return,
            }
        }
    }

    fn next(&self, state: &mut State) -> Option<Work> {
        let Settings { batch_min, batch_max, singles_max, batches_max, .. } = self.settings;
        let State { lanes, singles, batches, hold, .. } = state;
        let held = |hold: &Hold| lanes.waiting() < hold.commits && Instant::now() < hold.until;
        if hold.as_ref().is_some_and(held) {
            return None;
        }
        let is_busy = hold.take().is_some() || batches.in_flight() > 0 || !singles.has_place(singles_max);
        let batch_max = batch_max.min(self.log.batch_max());
        measure::waiting(lanes.waiting());
        // Where much is going on, what nobody waits for goes along with the others.
        let ready = if is_busy { lanes.ready() } else { lanes.due() };
        if batch_max > 1 && ready >= batch_min.max(2) {
            // The log stores one after the other: until a second batch is worth it, more will share it.
            let enough = batches.in_flight() == 0 || ready >= SECOND_BATCH_MIN.min(batch_max);
            if enough && batches.has_place(batches_max) {
                let groups = lanes.take(batch_max, BATCH_BYTES_MAX);
                return Some(Work::Batch { groups, under_way: batches.begin() });
            }
            return None;
        }
        if batches.in_flight() == 0 && singles.has_place(singles_max) {
            let group = lanes.take_one(singles.in_flight() == 0)?;
            return Some(Work::Single { group, under_way: singles.begin() });
        }
        None
    }

    async fn perform(self: Arc<Self>, work: Work) {
        let began = Instant::now();
        match work {
            Work::Single { group, under_way } => {
                let group = self.one_by_one(group).await;
                self.state().singles.end(under_way, began.elapsed());
                measure::appended("single", began, 1);
                self.settle(group);
            }
            Work::Batch { groups, under_way } => {
                let items = || groups.iter().flat_map(|group| &group.items);
                let size = items().count();
                let waited_for = items().filter(|item| item.priority == Priority::Normal).count();
                let sent = self.whole_batch(groups).await;
                self.state().batches.end(under_way, began.elapsed());
                measure::appended("batch", began, size);
                // A batch of what nobody waits for holds nobody up.
                if waited_for >= self.settings.batch_min {
                    self.hold(size, began.elapsed());
                }
                match sent {
                    Ok(groups) => groups.into_iter().for_each(|group| self.settle(group)),
                    Err(groups) => self.member_by_member(groups).await,
                }
            }
        }
        Self::go_on(&self);
    }

    /// Waits for those who are about to be answered.
    fn hold(self: &Arc<Self>, answered: usize, took: Duration) {
        let part = if answered < MANY { HOLD_PART } else { HOLD_PART_OF_MANY };
        let until = Instant::now() + took.min(HOLD_MAX).mul_f64(part);
        let mut state = self.state();
        let commits = ((answered + state.lanes.waiting()) as f64 * HOLD_ENOUGH) as usize;
        state.hold = Some(Hold { commits, until });
        let inner = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            Self::go_on(&inner);
        });
    }

    /// A group that is large is a batch again, of one stream: one by one, it would pay for many.
    async fn by_itself(&self, group: Group) -> Group {
        let batch_min = self.settings.batch_min;
        if group.unknown || group.items.len() < batch_min || self.log.batch_max() < group.items.len() {
            return self.one_by_one(group).await;
        }
        match self.whole_batch(vec![group]).await {
            Ok(mut groups) | Err(mut groups) => match groups.pop() {
                Some(group) if group.outcomes.is_empty() => self.one_by_one(group).await,
                Some(group) => group,
                None => unreachable!("a group stays one"),
            },
        }
    }

    /// One by one, each is told what it is that made the log refuse the batch.
    async fn member_by_member(&self, groups: Vec<Group>) {
        let mut left = groups.into_iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < self.settings.singles_max
                && let Some(group) = left.next()
            {
                under_way.push(self.by_itself(group));
            }
            let Some(group) = under_way.next().await else { return };
            self.settle(group);
        }
    }

    /// Tells whoever waits, and lets the lane go on.
    fn settle(&self, Group { stream, items, outcomes, .. }: Group) {
        let last = outcomes.last().and_then(|outcome| outcome.as_ref().ok()).copied();
        for (item, outcome) in items.into_iter().zip(outcomes) {
            (item.done)(outcome);
        }
        let behind = self.state().lanes.release(&stream, last);
        for item in behind {
            (item.done)(Err(Error::RolledBack));
        }
    }
}
