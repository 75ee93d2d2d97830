//! One aggregate in memory: its folded state, and the commands that led to it.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};
use domain::commit::Hash;
use domain::{Aggregate, CommandId, Commit};

use super::decode;
use crate::log::{Appended, ReadError, Stored};

#[derive(Debug)]
pub(super) struct Entry<A> {
    pub state: A,
    /// Number of events folded in.
    pub version: u64,
    /// Position of the last commit folded in, 0 before the first.
    pub sequence: u64,
    /// Hash of that commit.
    pub hash: Option<Hash>,
    done: HashMap<CommandId, Done>,
    done_in_order: VecDeque<(DateTime<Utc>, CommandId)>,
}

/// A command that has its commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub sequence: u64,
    pub request: Hash,
}

impl<A: Default> Default for Entry<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            version: 0,
            sequence: 0,
            hash: None,
            done: HashMap::new(),
            done_in_order: VecDeque::new(),
        }
    }
}

impl<A: Aggregate> Entry<A> {
    pub fn done(&self, command: CommandId) -> Option<Done> {
        self.done.get(&command).copied()
    }

    /// Folds in a commit as the log has it.
    pub fn fold(&mut self, stored: &Stored) -> Result<(), ReadError> {
        let events = decode::<A>(stored)?;
        self.record(&stored.commit, Appended { sequence: stored.sequence, hash: stored.hash }, &events);
        Ok(())
    }

    /// Folds in a commit whose events are known already.
    pub fn record(&mut self, commit: &Commit, at: Appended, events: &[A::Event]) {
        events.iter().for_each(|event| self.state.evolve(event));
        self.version = commit.version_after();
        self.sequence = at.sequence;
        self.hash = Some(at.hash);
        self.done.insert(commit.id, Done { sequence: at.sequence, request: commit.request });
        self.done_in_order.push_back((commit.recorded_at, commit.id));
    }

    /// Drops the ids of commands recorded before that time.
    pub fn forget_before(&mut self, time: DateTime<Utc>) {
        while let Some((_, id)) = self.done_in_order.front().filter(|(recorded_at, _)| *recorded_at < time) {
            self.done.remove(id);
            self.done_in_order.pop_front();
        }
    }
}
