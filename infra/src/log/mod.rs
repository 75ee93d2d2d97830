//! The log: the one place where the shop's truth is appended and followed.
//!
//! [`EventLog`] is the contract; [`JetStreamLog`] keeps it in production, [`MemoryLog`] in tests
//! and simulations. Both pass the same suite, `tests/log_contract.rs`.

mod batch;
mod direct_get;
mod drift;
mod jetstream;
mod memory;
mod moment;
mod subjects;

use bytes::Bytes;
use domain::commit::{DecodeError, Hash};
use domain::{Commit, StreamId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub(crate) use jetstream::ACK_LIMIT;
pub use jetstream::{JetStreamLog, LogSettings};
pub use memory::MemoryLog;
pub use moment::first_at;
pub use subjects::subject;

/// A commit in the form in which it is stored.
#[derive(Debug, Clone)]
pub struct Message {
    pub stream: StreamId,
    pub body: Bytes,
    /// Of the body.
    pub hash: Hash,
}

impl From<&Commit> for Message {
    fn from(commit: &Commit) -> Self {
        let body = commit.to_bytes();
        Self { stream: commit.stream.clone(), hash: Hash::of(&body), body: body.into() }
    }
}

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct Append {
    pub message: Message,
    /// Position of the stream's last commit (0: none), or the message before it in this batch that
    /// is of the same stream.
    pub expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Position(u64),
    AfterPrevious,
}

/// A commit as the log has it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Position in the log: 1, 2, 3, … without gaps.
    pub sequence: u64,
    pub commit: Commit,
    /// The commit's bytes as stored.
    pub body: Bytes,
}

impl Stored {
    /// Of the commit's bytes as stored.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.body)
    }
}

/// Some commits of one stream, in order.
#[derive(Debug, Clone, Default)]
pub struct PageOfStream {
    pub commits: Vec<Stored>,
    /// Whether there are others after these. Never true of an empty page.
    pub more: bool,
}

/// Commits read at a time.
const PAGE_MAX: usize = 1_000;

/// The log can't do it now; it may be able to later.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log is unavailable: {reason}")]
pub struct Unavailable {
    pub reason: String,
}

impl Unavailable {
    pub fn because(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The stream's last commit is not the expected one; or this is so for one of a batch, which is
    /// not named. Nothing was appended.
    #[error("another commit was appended to the stream first")]
    Conflict,
    /// Nothing was appended, and the world is to blame.
    #[error("nothing was appended")]
    NotAppended(#[source] Unavailable),
    /// Nothing was appended, because the log has reached its largest size.
    #[error("the log is full")]
    Full,
    /// Nothing was appended, because nats-server does not let this user append there.
    #[error("the user of nats-server may not append to {subject}")]
    Denied { subject: String },
    /// It may or may not have been appended: read back to know.
    #[error("whether it was appended is unknown")]
    Unknown(#[source] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The message at this position is not a commit that this build can read.
    #[error("the commit at position {sequence} is not readable")]
    Unreadable {
        sequence: u64,
        /// As its subject has it.
        stream: Option<StreamId>,
        body: Bytes,
        #[source]
        source: DecodeError,
    },
}

/// An append-only log of commits, in which every stream has its own gapless versions.
pub trait EventLog: Send + Sync + 'static {
    /// Appends the commit if the last commit of its stream has the position `expected` (0: none),
    /// and returns its own position. When it returns, the commit is on disk and findable.
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>>;

    /// Appends all of them or none, one after the other, and returns the first one's position.
    /// Much cheaper than one by one, because they share what it costs to be on disk.
    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>>;

    /// Most messages that a batch can have; 0 if the log takes no batches.
    fn batch_max(&self) -> usize;

    /// The first commits of one stream after the position `after`, in order, at most `most` of them.
    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>>;

    /// All commits of one stream after the position `after`, in order.
    fn load<'a>(
        &'a self,
        stream: &'a StreamId,
        mut after: u64,
    ) -> BoxFuture<'a, Result<Vec<Stored>, ReadError>> {
        async move {
            let mut all = Vec::new();
            loop {
                let PageOfStream { commits, more } = self.load_page(stream, after, PAGE_MAX).await?;
                after = commits.last().map_or(after, |last| last.sequence);
                all.extend(commits);
                if !more {
                    return Ok(all);
                }
            }
        }
        .boxed()
    }

    /// The commit at a position, if the log reaches that far.
    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>>;

    /// Every commit after the position `after`, in order, then each new one as it comes.
    /// The stream ends with its first error; follow again from the last position seen.
    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>>;

    /// What tells this log from another one, such as one that was made in its place.
    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>>;

    /// Position of the last commit, 0 when the log is empty.
    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>>;
}
