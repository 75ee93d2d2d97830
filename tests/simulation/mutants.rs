//! Controls: logs that make the platform do what it must not. A simulation that doesn't find that out
//! proves nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use domain::{CommandId, StreamId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use infra::log::{
    Append, AppendError, EventLog, MemoryLog, Message, PageOfStream, ReadError, Stored, Unavailable,
};
use uuid::Uuid;

use crate::faulty_log::FaultyLog;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// Commits are appended wherever their stream has come to.
    Blind,
    /// Clients are told before the log has answered.
    Hasty,
    /// Nobody looks in the log whether a command was done before.
    Forgetful,
    /// Only the log's own window knows commands that come again.
    WindowOnly,
    /// Now and then, what was acknowledged is lost.
    Losing,
}

/// One call of so many, if it is an append.
pub const LOST: u32 = 40;

/// Commands that the window knows.
const WINDOW: usize = 10;

/// The log that all processes share.
#[derive(Clone)]
pub struct Mutated {
    log: MemoryLog,
    mutant: Mutant,
    window: Arc<Mutex<VecDeque<(CommandId, u64)>>>,
}

impl Mutated {
    pub fn new(log: MemoryLog, mutant: Mutant) -> Self {
        Self { log, mutant, window: Arc::default() }
    }

    async fn append_blindly(&self, message: &Message) -> Result<u64, AppendError> {
        let there = self.log.load(&message.stream, 0).await.expect("readable");
        self.log.append(message, there.last().map_or(0, |stored| stored.sequence)).await
    }

    async fn append_through_window(&self, message: &Message, expected: u64) -> Result<u64, AppendError> {
        let id = domain::Commit::from_bytes(&message.body).expect("a commit").id;
        let known = |window: &VecDeque<(CommandId, u64)>| {
            window.iter().find_map(|(known, position)| (*known == id).then_some(*position))
        };
        if let Some(position) = known(&self.window.lock().expect("no panic")) {
            return Ok(position);
        }
        let position = self.log.append(message, expected).await?;
        let mut window = self.window.lock().expect("no panic");
        window.push_back((id, position));
        if window.len() > WINDOW {
            window.pop_front();
        }
        Ok(position)
    }
}

impl EventLog for Mutated {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        match self.mutant {
            Mutant::Blind => self.append_blindly(message).boxed(),
            Mutant::WindowOnly => self.append_through_window(message, expected).boxed(),
            Mutant::None | Mutant::Hasty | Mutant::Forgetful | Mutant::Losing => {
                self.log.append(message, expected)
            }
        }
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        async move {
            match self.mutant {
                Mutant::Blind => {
                    let first = self.log.end().await.expect("an end") + 1;
                    for append in batch {
                        self.append_blindly(&append.message).await?;
                    }
                    Ok(first)
                }
                // One by one, they go through the window.
                Mutant::WindowOnly => Err(AppendError::Conflict),
                Mutant::None | Mutant::Hasty | Mutant::Forgetful | Mutant::Losing => {
                    self.log.append_batch(batch).await
                }
            }
        }
        .boxed()
    }

    fn batch_max(&self) -> usize {
        self.log.batch_max()
    }

    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>> {
        async move {
            let mut page = self.log.load_page(stream, after, most).await?;
            if [Mutant::Forgetful, Mutant::WindowOnly].contains(&self.mutant) {
                for stored in &mut page.commits {
                    stored.commit.id = CommandId(Uuid::from_u128(stored.sequence.into()));
                }
            }
            Ok(page)
        }
        .boxed()
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        self.log.read(sequence)
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        self.log.follow(after)
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        self.log.identity()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.log.end()
    }
}

/// A process's way to the log that does not wait for its answers.
pub struct Hasty(pub FaultyLog);

impl Hasty {
    async fn told(
        &self,
        outcome: impl Future<Output = Result<u64, AppendError>>,
    ) -> Result<u64, AppendError> {
        let guess = self.0.end().await.unwrap_or_default() + 1;
        match outcome.await {
            Err(AppendError::Unknown(_)) => Ok(guess),
            outcome => outcome,
        }
    }
}

impl EventLog for Hasty {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.told(self.0.append(message, expected)).boxed()
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.told(self.0.append_batch(batch)).boxed()
    }

    fn batch_max(&self) -> usize {
        self.0.batch_max()
    }

    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>> {
        self.0.load_page(stream, after, most)
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        self.0.read(sequence)
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        self.0.follow(after)
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        self.0.identity()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.0.end()
    }
}
