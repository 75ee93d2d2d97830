//! One aggregate in memory: what the log has of it, and what is on its way there.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use domain::commit::Hash;
use domain::{Aggregate, CommandId, Commit};
use tokio::sync::{Notify, oneshot};

use super::done::DoneBefore;
use super::snapshot::Snapshot;
use super::{Loaded, decode};
use crate::log::{ReadError, Stored};
use crate::writer;

/// What became of a commit that was given to the writer.
pub(super) type Outcome<E> = Result<Confirmed<E>, writer::Error>;

/// An aggregate that all commands of this process share.
#[derive(Debug)]
pub(super) struct Entry<A: Aggregate> {
    memory: Mutex<Memory<A>>,
    /// Something that was on its way has come to its end.
    settled: Notify,
    /// Held by whoever loads it, so that the others wait instead of loading it, too.
    pub loading: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Memory<A: Aggregate> {
    /// As the log has it.
    pub confirmed: Folded<A>,
    /// Whether it was loaded, and nothing is known to be missing.
    pub current: bool,
    /// With all that is on its way, if that was needed.
    ahead: Option<Folded<A>>,
    on_its_way: VecDeque<Pending<A::Event>>,
    /// Number of the last commit that was given to the writer.
    given: u64,
    /// Nothing can come after what is on its way: when this entry had been evicted, another one of the
    /// same stream gave its own commit.
    cut_off: bool,
    /// How often what was on its way did not arrive.
    pub rollbacks: u64,
    done: DoneBefore,
    /// Version of the last snapshot that was kept or read.
    snapshot_version: u64,
    keeping_snapshot: bool,
}

/// A state, and where its stream is.
#[derive(Debug, Clone, Default)]
pub(super) struct Folded<A> {
    pub state: A,
    /// Number of events folded in.
    pub version: u64,
    /// Hash of the last commit folded in.
    pub hash: Option<Hash>,
    /// Position of that commit, 0 before the first; for what is on its way, that of the last confirmed.
    pub sequence: u64,
}

/// A commit that has its place in the log.
#[derive(Debug)]
pub(super) struct Confirmed<E> {
    pub events: Vec<E>,
    pub sequence: u64,
    pub version: u64,
}

/// A commit on its way.
#[derive(Debug)]
struct Pending<E> {
    number: u64,
    id: CommandId,
    hash: Hash,
    version: u64,
    recorded_at: DateTime<Utc>,
    events: Vec<E>,
    answer: oneshot::Sender<Outcome<E>>,
}

impl<A: Aggregate> Default for Entry<A> {
    fn default() -> Self {
        let memory = Memory {
            confirmed: Folded::default(),
            current: false,
            ahead: None,
            on_its_way: VecDeque::new(),
            given: 0,
            cut_off: false,
            rollbacks: 0,
            done: DoneBefore::default(),
            snapshot_version: 0,
            keeping_snapshot: false,
        };
        Self { memory: Mutex::new(memory), settled: Notify::new(), loading: tokio::sync::Mutex::default() }
    }
}

impl<A: Aggregate> Entry<A> {
    pub fn memory(&self) -> MutexGuard<'_, Memory<A>> {
        // A rule that panics while it decides or folds has changed at most a state that is thrown
        // away with the process; its task's caller is told.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the commit with that number has its outcome.
    pub async fn ended(&self, number: u64) {
        loop {
            let settled = self.settled.notified();
            if !self.memory().is_on_its_way(number) {
                return;
            }
            settled.await;
        }
    }

    /// Waits until something can come after what is on its way.
    pub async fn open_end(&self) {
        let blocking = |memory: &Memory<A>| memory.last_on_its_way().filter(|_| memory.cut_off);
        let last = blocking(&self.memory());
        if let Some(last) = last {
            self.ended(last).await;
        }
    }

    /// The writer's word on a commit.
    pub fn settle(&self, number: u64, outcome: Result<u64, writer::Error>) {
        self.memory().settle(number, outcome);
        self.settled.notify_waiters();
    }
}

impl<A: Aggregate> Memory<A> {
    /// The state to decide on: all that is on its way is taken as done.
    pub fn latest(&mut self) -> &Folded<A> {
        if self.on_its_way.is_empty() {
            return &self.confirmed;
        }
        let Self { confirmed, ahead, on_its_way, .. } = self;
        ahead.get_or_insert_with(|| {
            let mut ahead = confirmed.clone();
            // One may have been read from the log before the writer could say that it's there.
            for pending in on_its_way.iter().filter(|pending| pending.version > confirmed.version) {
                ahead.fold(&pending.events, pending.version, pending.hash);
            }
            ahead
        })
    }

    /// As the log has it.
    pub fn loaded(&self) -> Loaded<A> {
        let Folded { state, version, sequence, .. } = &self.confirmed;
        Loaded { state: state.clone(), version: *version, sequence: *sequence }
    }

    /// Number of the last commit that is on its way.
    pub fn last_on_its_way(&self) -> Option<u64> {
        self.on_its_way.back().map(|pending| pending.number)
    }

    fn is_on_its_way(&self, number: u64) -> bool {
        self.on_its_way.binary_search_by_key(&number, |pending| pending.number).is_ok()
    }

    /// Number of the command's commit that is on its way.
    pub fn number_on_its_way(&self, command: CommandId) -> Option<u64> {
        self.on_its_way.iter().find(|pending| pending.id == command).map(|pending| pending.number)
    }

    /// Position of the command's commit.
    pub fn done_before(&self, command: CommandId) -> Option<u64> {
        self.done.position(command)
    }

    /// Number that the next commit will have.
    pub fn next_number(&self) -> u64 {
        self.given + 1
    }

    /// Notes that the commit is on its way, as the next number.
    pub fn give(
        &mut self,
        commit: &Commit,
        hash: Hash,
        events: Vec<A::Event>,
    ) -> oneshot::Receiver<Outcome<A::Event>> {
        let (answer, outcome) = oneshot::channel();
        let version = commit.version_after();
        if let Some(ahead) = &mut self.ahead {
            ahead.fold(&events, version, hash);
        }
        self.given += 1;
        let (number, id, recorded_at) = (self.given, commit.id, commit.recorded_at);
        self.on_its_way.push_back(Pending { number, id, hash, version, recorded_at, events, answer });
        outcome
    }

    fn settle(&mut self, number: u64, outcome: Result<u64, writer::Error>) {
        // What was rolled back with one before it was told so already.
        let Ok(place) = self.on_its_way.binary_search_by_key(&number, |pending| pending.number) else {
            return;
        };
        match outcome {
            Ok(sequence) => {
                debug_assert_eq!(place, 0, "the log takes them in their order");
                let Some(pending) = self.on_its_way.pop_front() else { return };
                self.confirm(&pending, sequence);
                // It came right after what is known, so nothing is missing.
                self.current = true;
                let Pending { events, version, answer, .. } = pending;
                // Who asked may have gone; the commit stands.
                let _ = answer.send(Ok(Confirmed { events, sequence, version }));
            }
            Err(error) => {
                let mut error = Some(error);
                // Those before it may yet arrive.
                for Pending { answer, .. } in self.on_its_way.split_off(place) {
                    let _ = answer.send(Err(error.take().unwrap_or(writer::Error::RolledBack)));
                }
                self.cut_off = true;
                self.ahead = None;
                self.rollbacks += 1;
                self.current = false;
            }
        }
        if self.on_its_way.is_empty() {
            self.ahead = None;
            self.cut_off = false;
        }
    }

    fn confirm(&mut self, pending: &Pending<A::Event>, sequence: u64) {
        // It may have been read from the log before the writer could say so.
        if sequence <= self.confirmed.sequence {
            return;
        }
        self.done.note(pending.id, sequence, pending.recorded_at);
        if self.on_its_way.is_empty()
            && let Some(ahead) = self.ahead.take()
        {
            self.confirmed = Folded { sequence, ..ahead };
        } else {
            self.confirmed.fold(&pending.events, pending.version, pending.hash);
            self.confirmed.sequence = sequence;
        }
    }

    /// Folds in a commit as the log has it, unless that was done before.
    pub fn read(&mut self, stored: &Stored) -> Result<(), ReadError> {
        if stored.sequence <= self.confirmed.sequence {
            return Ok(());
        }
        let (commit, events) = (&stored.commit, decode::<A>(stored)?);
        self.confirmed.fold(&events, commit.version_after(), stored.hash());
        self.confirmed.sequence = stored.sequence;
        self.done.note(commit.id, stored.sequence, commit.recorded_at);
        Ok(())
    }

    /// Takes over what a snapshot says, unless more is known.
    pub fn restore(&mut self, Snapshot { folded, done }: Snapshot<A>) {
        self.snapshot_version = self.snapshot_version.max(folded.version);
        if folded.sequence > self.confirmed.sequence {
            self.confirmed = folded;
            self.done = done.into();
        }
    }

    /// Whether a snapshot is due; if so, the caller is the one to keep it.
    pub fn snapshot_is_due(&mut self, events: u64) -> bool {
        let due = !self.keeping_snapshot && self.confirmed.version >= self.snapshot_version + events;
        self.keeping_snapshot |= due;
        due
    }

    /// What a snapshot is made of: the state, and the commands that led to it.
    pub fn to_keep(&self) -> (Folded<A>, DoneBefore) {
        (self.confirmed.clone(), self.done.clone())
    }

    pub fn snapshot_kept(&mut self, version: u64) {
        self.snapshot_version = version;
        self.keeping_snapshot = false;
    }

    /// Drops the ids of commands recorded before that time.
    pub fn forget_before(&mut self, time: DateTime<Utc>) {
        self.done.forget_before(time);
    }
}

impl<A: Aggregate> Folded<A> {
    fn fold(&mut self, events: &[A::Event], version: u64, hash: Hash) {
        events.iter().for_each(|event| self.state.evolve(event));
        self.version = version;
        self.hash = Some(hash);
    }
}
