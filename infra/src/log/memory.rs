//! A log in memory, for tests and simulations: the same promises, but for durability.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use domain::{Commit, StreamId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::Notify;

use super::{Append, AppendError, EventLog, Expected, Message, PageOfStream, ReadError, Stored, Unavailable};

/// A log that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    commits: Arc<Mutex<Commits>>,
    /// There are more commits. It wakes in the order in which they wait, so that simulations run the same
    /// again; a watch would wake in any order.
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Commits {
    messages: Vec<Kept>,
    /// Positions of each stream's commits.
    streams: HashMap<StreamId, Vec<u64>>,
}

#[derive(Debug)]
struct Kept {
    stream: StreamId,
    body: Bytes,
    /// Decoded once, however often it's read; nothing, if this build can't.
    commit: Option<Commit>,
}

impl Commits {
    /// Position of the stream's last commit, 0 if it has none.
    fn last(&self, stream: &StreamId) -> u64 {
        self.streams.get(stream).and_then(|positions| positions.last()).copied().unwrap_or(0)
    }

    fn push(&mut self, message: &Message) -> u64 {
        let (stream, body) = (message.stream.clone(), message.body.clone());
        let commit = Commit::from_bytes(&body).ok();
        self.messages.push(Kept { stream, body, commit });
        let sequence = self.messages.len() as u64;
        self.streams.entry(message.stream.clone()).or_default().push(sequence);
        sequence
    }
}

impl MemoryLog {
    fn commits(&self) -> MutexGuard<'_, Commits> {
        // No code below panics while it holds the lock, so a poisoned one is still whole.
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, message: &Message, expected: u64) -> Result<u64, AppendError> {
        let mut commits = self.commits();
        if commits.last(&message.stream) != expected {
            return Err(AppendError::Conflict);
        }
        let sequence = commits.push(message);
        self.news.notify_waiters();
        Ok(sequence)
    }

    fn append_batch_now(&self, batch: &[Append]) -> Result<u64, AppendError> {
        let mut commits = self.commits();
        let expected = |append: &Append| match append.expected {
            Expected::Position(position) => commits.last(&append.message.stream) == position,
            Expected::AfterPrevious => true,
        };
        if !batch.iter().all(expected) {
            return Err(AppendError::Conflict);
        }
        let first = commits.messages.len() as u64 + 1;
        for append in batch {
            commits.push(&append.message);
        }
        self.news.notify_waiters();
        Ok(first)
    }

    fn read_now(&self, sequence: u64) -> Result<Option<Stored>, ReadError> {
        let commits = self.commits();
        let index = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
        let message = index.and_then(|index| commits.messages.get(index));
        let read = |Kept { stream, body, commit }: &Kept| match commit.clone() {
            Some(commit) => Ok(Stored { sequence, commit, body: body.clone() }),
            None => stored(sequence, body, || Some(stream.clone())),
        };
        message.map(read).transpose()
    }

    /// The commit at the position, once it is there.
    async fn next(&self, sequence: u64) -> Result<Stored, ReadError> {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // From here on, nothing is missed.
            news.as_mut().enable();
            if let Some(stored) = self.read_now(sequence)? {
                return Ok(stored);
            }
            news.await;
        }
    }

    fn load_page_now(&self, stream: &StreamId, after: u64, most: usize) -> Result<PageOfStream, ReadError> {
        let positions = self.commits().streams.get(stream).cloned().unwrap_or_default();
        let later = &positions[positions.partition_point(|position| *position <= after)..];
        let read = later.iter().take(most).filter_map(|position| self.read_now(*position).transpose());
        Ok(PageOfStream { commits: read.collect::<Result<_, _>>()?, more: later.len() > most })
    }
}

/// Decodes one message of a log.
pub(super) fn stored(
    sequence: u64,
    body: &Bytes,
    stream: impl FnOnce() -> Option<StreamId>,
) -> Result<Stored, ReadError> {
    match Commit::from_bytes(body) {
        Ok(commit) => Ok(Stored { sequence, commit, body: body.clone() }),
        Err(source) => Err(ReadError::Unreadable { sequence, stream: stream(), body: body.clone(), source }),
    }
}

impl EventLog for MemoryLog {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        async move { self.append_now(message, expected) }.boxed()
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        async move { self.append_batch_now(batch) }.boxed()
    }

    fn batch_max(&self) -> usize {
        1_000
    }

    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>> {
        async move { self.load_page_now(stream, after, most) }.boxed()
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        async move { self.read_now(sequence) }.boxed()
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        unfold((self.clone(), after), |(log, last)| async move {
            let item = log.next(last + 1).await;
            Some((item, (log, last + 1)))
        })
        .boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        async move { Ok(format!("{:p}", Arc::as_ptr(&self.commits))) }.boxed()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async move { Ok(self.commits().messages.len() as u64) }.boxed()
    }
}
