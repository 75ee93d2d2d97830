//! A log of which this build can't read everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::StreamId;
use domain::commit::DecodeError;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use infra::log::{Append, AppendError, EventLog, Message, PageOfStream, ReadError, Stored, Unavailable};

/// A log of which this build can't read some commits, until its code is mended.
pub struct Poisoned {
    pub log: Arc<dyn EventLog>,
    pub is_mended: Arc<AtomicBool>,
    pub is_poison: fn(&Stored) -> bool,
}

impl Poisoned {
    fn look(
        is_mended: &AtomicBool,
        is_poison: fn(&Stored) -> bool,
        stored: Stored,
    ) -> Result<Stored, ReadError> {
        if is_mended.load(Ordering::Relaxed) || !is_poison(&stored) {
            return Ok(stored);
        }
        let (sequence, stream, body) = (stored.sequence, Some(stored.commit.stream), stored.body);
        let source = DecodeError::UnknownType { kind: "payment.teleported".to_owned() };
        Err(ReadError::Unreadable { sequence, stream, body, source })
    }
}

impl EventLog for Poisoned {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.log.append(message, expected)
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.log.append_batch(batch)
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
            let PageOfStream { commits, more } = self.log.load_page(stream, after, most).await?;
            let look = |stored| Self::look(&self.is_mended, self.is_poison, stored);
            Ok(PageOfStream { commits: commits.into_iter().map(look).collect::<Result<_, _>>()?, more })
        }
        .boxed()
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        async move {
            let stored = self.log.read(sequence).await?;
            stored.map(|stored| Self::look(&self.is_mended, self.is_poison, stored)).transpose()
        }
        .boxed()
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        let (is_mended, is_poison) = (self.is_mended.clone(), self.is_poison);
        let look = move |stored: Result<Stored, _>| Self::look(&is_mended, is_poison, stored?);
        self.log.follow(after).map(look).boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        self.log.identity()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.log.end()
    }
}
