//! A log in memory, for tests and simulations: the same promises, but for durability.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::commit::Hash;
use domain::{Commit, StreamId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::watch;

use super::{AppendError, Appended, EventLog, ReadError, Stored, Unavailable};

/// A log that lives as long as its last clone.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    commits: Arc<Mutex<Commits>>,
    end: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Commits {
    bodies: Vec<Vec<u8>>,
    /// Positions of each stream's commits.
    streams: HashMap<StreamId, Vec<u64>>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self { commits: Arc::default(), end: Arc::new(watch::Sender::new(0)) }
    }
}

impl MemoryLog {
    fn commits(&self) -> MutexGuard<'_, Commits> {
        // No code below panics while it holds the lock, so a poisoned one is still whole.
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, commit: &Commit, expected: u64) -> Result<Appended, AppendError> {
        let mut commits = self.commits();
        let last = commits.streams.get(&commit.stream).and_then(|positions| positions.last());
        if last.copied().unwrap_or(0) != expected {
            return Err(AppendError::Conflict);
        }
        let body = commit.to_bytes();
        let hash = Hash::of(&body);
        commits.bodies.push(body);
        let sequence = commits.bodies.len() as u64;
        commits.streams.entry(commit.stream.clone()).or_default().push(sequence);
        self.end.send_replace(sequence);
        Ok(Appended { sequence, hash })
    }

    fn read_now(&self, sequence: u64) -> Result<Option<Stored>, ReadError> {
        let commits = self.commits();
        let index = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
        let body = index.and_then(|index| commits.bodies.get(index));
        body.map(|body| stored(sequence, body)).transpose()
    }

    fn load_now(&self, stream: &StreamId, after: u64) -> Result<Vec<Stored>, ReadError> {
        let positions = self.commits().streams.get(stream).cloned().unwrap_or_default();
        let later = positions.into_iter().filter(|position| *position > after);
        later.filter_map(|position| self.read_now(position).transpose()).collect()
    }
}

/// Decodes one message of a log.
pub(super) fn stored(sequence: u64, body: &[u8]) -> Result<Stored, ReadError> {
    let commit = Commit::from_bytes(body).map_err(|source| ReadError::Unreadable { sequence, source })?;
    Ok(Stored { sequence, commit, hash: Hash::of(body) })
}

impl EventLog for MemoryLog {
    fn append<'a>(
        &'a self,
        commit: &'a Commit,
        expected: u64,
    ) -> BoxFuture<'a, Result<Appended, AppendError>> {
        async move { self.append_now(commit, expected) }.boxed()
    }

    fn load<'a>(&'a self, stream: &'a StreamId, after: u64) -> BoxFuture<'a, Result<Vec<Stored>, ReadError>> {
        async move { self.load_now(stream, after) }.boxed()
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        async move { self.read_now(sequence) }.boxed()
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        let state = (self.clone(), self.end.subscribe(), after);
        unfold(state, |(log, mut end, last)| async move {
            let next = last + 1;
            // The sender lives in `log`, so waiting can only end with a new commit.
            end.wait_for(|end| *end >= next).await.ok()?;
            let item = log.read_now(next).transpose()?;
            Some((item, (log, end, next)))
        })
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async move { Ok(*self.end.borrow()) }.boxed()
    }
}
