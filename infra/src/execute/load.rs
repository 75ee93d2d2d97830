//! How an aggregate comes into memory, and how the next process is spared most of the way.

use std::sync::Arc;
use std::time::Duration;

use domain::{Aggregate, StreamId};

use super::Executor;
use super::entry::{Entry, Folded, Memory};
use super::snapshot::Snapshot;
use crate::log::{PageOfStream, ReadError, Stored};

/// Commits of a stream that are read before a snapshot is asked for.
const FIRST_PAGE: usize = 16;

/// Events after which the next snapshot is due.
const SNAPSHOT_EVENTS: u64 = 200;

/// How long a due snapshot is put off, because more may come: of a busy aggregate, one is kept in
/// this time at most.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);

impl<A: Aggregate> Executor<A> {
    /// Loads the aggregate if it was not yet, or if something is known to be missing.
    pub(super) async fn make_current(
        &self,
        stream: &StreamId,
        entry: &Entry<A>,
        command: &A::Command,
    ) -> Result<(), ReadError> {
        let is_current = |memory: &Memory<A>| {
            // What begins a stream is sent without a look: the expectation tells if there is one.
            memory.current || (memory.rollbacks == 0 && A::begins(command))
        };
        if is_current(&entry.memory()) {
            return Ok(());
        }
        let _loading = entry.loading.lock().await;
        if is_current(&entry.memory()) {
            return Ok(());
        }
        self.refresh(stream, entry).await.map(drop)
    }

    /// Whether another process has appended something after what is known here. What was on its way may have arrived
    /// long before that is known, where its answer was lost, and others have gone on from there.
    pub(super) async fn is_overtaken(&self, stream: &StreamId, entry: &Entry<A>) -> Result<bool, ReadError> {
        let known = entry.memory().confirmed.sequence;
        let news = self.log.load(stream, known).await?;
        let mut memory = entry.memory();
        // Where one of ours comes next, nobody else's does: it was sent for that place.
        let is_others = |first: &Stored| memory.number_on_its_way(first.commit.id).is_none();
        let is_overtaken = news.first().is_some_and(is_others);
        news.iter().try_for_each(|stored| memory.read(stored))?;
        Ok(is_overtaken)
    }

    /// Folds in what was appended since; true if there was anything.
    pub(super) async fn refresh(&self, stream: &StreamId, entry: &Entry<A>) -> Result<bool, ReadError> {
        let known = entry.memory().confirmed.sequence;
        let news = match known {
            0 => self.load_cold(stream, entry).await?,
            _ => self.log.load(stream, known).await?,
        };
        let mut memory = entry.memory();
        news.iter().try_for_each(|stored| memory.read(stored))?;
        memory.forget_before(self.clock.now() - self.settings.idempotency_keep);
        memory.current = true;
        Ok(memory.confirmed.sequence > known)
    }

    /// Loads an aggregate of which nothing is known: of one with many commits, from its snapshot on.
    async fn load_cold(&self, stream: &StreamId, entry: &Entry<A>) -> Result<Vec<Stored>, ReadError> {
        let PageOfStream { mut commits, more } = self.log.load_page(stream, 0, FIRST_PAGE).await?;
        if !more {
            return Ok(commits);
        }
        if let Some(snapshot) = self.snapshot(stream).await {
            let Folded { sequence, hash, .. } = snapshot.folded;
            // With the snapshot's own commit, to see that it's of this log.
            let tail = self.log.load(stream, sequence.saturating_sub(1)).await?;
            if tail.first().is_some_and(|first| first.sequence == sequence && Some(first.hash()) == hash) {
                entry.memory().restore(snapshot);
                return Ok(tail);
            }
            tracing::warn!(%stream, sequence, "a snapshot is not of this log, and is not read");
        }
        let after = commits.last().map_or(0, |last| last.sequence);
        commits.extend(self.log.load(stream, after).await?);
        Ok(commits)
    }

    /// The stream's snapshot, if there is one that this build can read.
    async fn snapshot(&self, stream: &StreamId) -> Option<Snapshot<A>> {
        match self.snapshots.load(stream).await {
            Ok(bytes) => Snapshot::decode(bytes?),
            Err(error) => {
                tracing::warn!(%stream, %error, "a snapshot can't be read; the log has all of it");
                None
            }
        }
    }

    /// Keeps a snapshot, off the command's way, if enough has happened since the last one.
    pub(super) fn keep_snapshot(&self, stream: &StreamId, entry: &Arc<Entry<A>>) {
        if !entry.memory().snapshot_is_due(SNAPSHOT_EVENTS) {
            return;
        }
        let (snapshots, stream, entry) = (self.snapshots.clone(), stream.clone(), entry.clone());
        tokio::spawn(async move {
            tokio::time::sleep(SNAPSHOT_PAUSE).await;
            let (folded, done) = entry.memory().to_keep();
            let snapshot = Snapshot { folded, done: done.records() };
            if let Err(error) = snapshots.save(&stream, snapshot.encode()).await {
                tracing::warn!(%stream, %error, "a snapshot can't be kept; the log has all of it");
            }
            entry.memory().snapshot_kept(snapshot.folded.version);
        });
    }
}
