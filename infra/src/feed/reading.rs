//! One place in the log, and those who are about there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::Entry;
use crate::follow;
use crate::log::{EventLog, ReadError};

/// Most bytes of commits that wait for a follower, so that memory is bounded however long the log is.
const BYTES_MAX: usize = 6 * 1024 * 1024;
const ENTRIES_MAX: usize = 30_000;

/// Commits that all followers have passed and that are kept, for those who come a little later.
const HISTORY: usize = 256;

/// Bytes of such commits while there are many to read: those who begin a build begin nearly at a time.
const HISTORY_BYTES: usize = 1024 * 1024;

/// Commits that are handed over at a time.
const CHUNK: usize = 256;

/// How long others wait for a follower that does not move.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Reading {
    window: Mutex<Window>,
    /// Position of the last commit that was read.
    news: watch::Sender<u64>,
    room: Notify,
    driver: Mutex<Option<AbortHandle>>,
}

struct Window {
    /// Without gaps.
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Position of the last commit that was read.
    last: u64,
    /// Up to where each follower has come.
    followers: BTreeMap<u64, u64>,
    next_number: u64,
    /// There are few to read at a time.
    is_at_the_end: bool,
    is_over: bool,
}

impl Reading {
    pub fn start(log: Arc<dyn EventLog>, after: u64) -> Arc<Self> {
        let window = Window {
            entries: VecDeque::new(),
            bytes: 0,
            last: after,
            followers: BTreeMap::new(),
            next_number: 0,
            is_at_the_end: false,
            is_over: false,
        };
        let reading = Arc::new(Self {
            window: Mutex::new(window),
            news: watch::Sender::new(after),
            room: Notify::new(),
            driver: Mutex::default(),
        });
        let task = tokio::spawn(drive(Arc::downgrade(&reading), follow::Follower::new(log, after)));
        *reading.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        reading
    }

    /// Takes a place behind the position, if the reading is about there.
    pub fn enter(&self, after: u64) -> Option<(u64, watch::Receiver<u64>)> {
        let mut window = self.window();
        let first = window.entries.front().map_or(window.last + 1, |entry| entry.sequence);
        if window.is_over || !(first..=window.last + 1).contains(&(after + 1)) {
            return None;
        }
        let number = window.next_number;
        window.next_number += 1;
        window.followers.insert(number, after);
        Some((number, self.news.subscribe()))
    }

    pub fn leave(&self, number: u64) {
        let mut window = self.window();
        window.followers.remove(&number);
        if window.followers.is_empty() {
            window.is_over = true;
            let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
            driver.inspect(AbortHandle::abort);
        }
        self.room.notify_one();
    }

    pub fn has_one_follower(&self) -> bool {
        self.window().followers.len() == 1
    }

    /// Commits behind the position, at most so many; nothing if the follower was left behind.
    pub fn take(&self, number: u64, after: u64, most: usize) -> Option<Vec<Arc<Entry>>> {
        let mut window = self.window();
        window.followers.get(&number)?;
        let first = window.entries.front().map_or(window.last + 1, |entry| entry.sequence);
        let begin = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let batch: Vec<_> = window.entries.iter().skip(begin).take(most).cloned().collect();
        if let Some(last) = batch.last() {
            window.followers.insert(number, last.sequence);
            window.trim();
            self.room.notify_one();
        }
        Some(batch)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, batch: Vec<Arc<Entry>>) {
        let mut window = self.window();
        window.is_at_the_end = batch.len() < CHUNK;
        for entry in batch {
            window.bytes += entry.bytes();
            window.last = entry.sequence;
            window.entries.push_back(entry);
        }
        window.trim();
        self.news.send_replace(window.last);
    }

    async fn room(&self) {
        loop {
            if self.window().has_room() {
                return;
            }
            let before = self.window().followers.clone();
            let room = async {
                while !self.window().has_room() {
                    self.room.notified().await;
                }
            };
            if tokio::time::timeout(PATIENCE, room).await.is_err() {
                self.window().leave_behind(&before);
            }
        }
    }
}

impl Window {
    fn has_room(&self) -> bool {
        self.bytes < BYTES_MAX && self.entries.len() < ENTRIES_MAX
    }

    /// Lets go of what all followers have passed; history is kept only while there is room for it.
    fn trim(&mut self) {
        let passed = self.followers.values().min().copied().unwrap_or(self.last);
        while (self.bytes > HISTORY_BYTES || self.is_at_the_end && self.entries.len() > HISTORY)
            && self.entries.front().is_some_and(|entry| entry.sequence <= passed)
        {
            let gone = self.entries.pop_front();
            self.bytes -= gone.map_or(0, |entry| entry.bytes());
        }
    }

    /// Goes on without those who have not moved since then, if others have all there is and want more.
    fn leave_behind(&mut self, before: &BTreeMap<u64, u64>) {
        let last = self.last;
        if self.followers.values().any(|after| *after == last) {
            self.followers.retain(|number, after| *after == last || before.get(number) != Some(after));
        }
        self.trim();
    }
}

/// Reads on as long as anybody follows.
async fn drive(reading: Weak<Reading>, mut log: follow::Follower) {
    loop {
        let Some(reading) = reading.upgrade() else { return };
        reading.room().await;
        let batch = match log.batch(CHUNK).await {
            Ok(batch) => batch.into_iter().map(Entry::new).map(Arc::new).collect(),
            Err(error) => vec![Arc::new(passed(error, &mut log))],
        };
        reading.push(batch);
    }
}

/// The commit that can't be read, behind which the reading goes on.
fn passed(error: ReadError, log: &mut follow::Follower) -> Entry {
    let entry = Entry::unreadable(error);
    let entry = entry.unwrap_or_else(|error| unreachable!("outages are waited out: {error}"));
    log.pass(entry.sequence);
    entry
}
