//! What a lane has taken in and not yet written.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use futures_util::FutureExt;
use infra::feed::Entry;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::error::{Error, panicked};
use crate::projection::{Happened, Writer};

/// Most commits in one transaction.
pub(super) const COMMITS_MAX: usize = 100_000;

/// So many bytes of rows are written at once: while they are, the log is read on ahead.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// How long what was taken in may wait for more.
const TIME_MAX: Duration = Duration::from_secs(1);

pub(super) struct Work {
    writer: Box<dyn Writer>,
    /// Where the checkpoint is.
    pub from: u64,
    /// Where it will be.
    pub position: u64,
    last: Option<Arc<Entry>>,
    pub commits: usize,
    pub events: usize,
    begun_at: Instant,
}

impl Work {
    pub fn new(writer: Box<dyn Writer>, from: u64) -> Self {
        let begun_at = Instant::now();
        Self { writer, from, position: from, last: None, commits: 0, events: 0, begun_at }
    }

    /// Whether it should be written now, whatever else is there.
    pub fn is_due(&self) -> bool {
        self.commits >= COMMITS_MAX
            || self.writer.pending_bytes() >= BYTES_MAX
            || self.begun_at.elapsed() >= TIME_MAX
    }

    /// Of the last commit that was taken in.
    pub fn hash(&self) -> Option<Hash> {
        self.last.as_ref().map(|entry| entry.hash())
    }

    /// Lets the projection take in what of these commits is the lane's.
    pub async fn fold(
        &mut self,
        entries: &[Arc<Entry>],
        happened: &[Happened<'_>],
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        if self.commits == 0 {
            self.begun_at = Instant::now();
        }
        let last = entries.last().map_or(self.position, |entry| entry.sequence);
        if !happened.is_empty() {
            self.fold_only(happened, connection)
                .await
                .map_err(|error| Error::applying(error, self.from, last))?;
        }
        for entry in entries {
            self.commits += 1;
            self.events += entry.commit.as_ref().map_or(0, |commit| commit.events.len());
        }
        self.position = last;
        self.last = entries.last().cloned().or(self.last.take());
        Ok(())
    }

    /// Lets the projection take in events from elsewhere than the lane's position.
    pub async fn fold_only(
        &mut self,
        happened: &[Happened<'_>],
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let folding = AssertUnwindSafe(self.writer.fold(happened, connection));
        // Whatever a panic leaves of the writer is dropped.
        folding.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    }

    pub async fn flush(&mut self, transaction: &mut PgConnection) -> Result<(), Error> {
        let (first, last) = (self.from, self.position);
        self.flush_only(transaction).await.map_err(|error| Error::applying(error, first, last))
    }

    pub async fn flush_only(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let flushing = AssertUnwindSafe(self.writer.flush(transaction));
        flushing.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    }

    /// All of it is in the tables.
    pub fn written(&mut self) {
        self.from = self.position;
        (self.commits, self.events) = (0, 0);
    }

    /// Forgets what the projection has in memory; nothing may have been taken in.
    pub fn renew(&mut self, writer: Box<dyn Writer>) {
        self.writer = writer;
    }
}
