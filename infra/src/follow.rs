//! Following the log in batches, through outages of any length.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::log::{EventLog, ReadError, Stored};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Reads the log in order, each commit once, from a position on.
pub struct Follower {
    log: Arc<dyn EventLog>,
    commits: Option<BoxStream<'static, Result<Stored, ReadError>>>,
    last: u64,
    backoff: Duration,
    /// When it last waited for the log to answer again.
    waited_at: Instant,
}

impl Follower {
    /// Begins with the commit after the position `after`.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, after: u64) -> Self {
        Self { log, commits: None, last: after, backoff: BACKOFF_MIN, waited_at: Instant::now() }
    }

    /// Waits for at least one commit, then takes what else is there already, up to `commits_max`.
    /// An outage of the log is waited out. Safe to cancel: what was not returned is read again.
    ///
    /// # Errors
    /// Only for a commit that this build can't read; calling again tries the same one again.
    pub async fn batch(&mut self, commits_max: usize) -> Result<Vec<Stored>, ReadError> {
        let mut batch: Vec<Stored> = Vec::new();
        loop {
            let commits = self.commits.get_or_insert_with(|| self.log.follow(self.last));
            let next = match batch.is_empty() {
                true => commits.next().await,
                false => match commits.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                },
            };
            match next {
                Some(Ok(stored)) => batch.push(stored),
                // What came before the trouble is handed out first; then the trouble comes again.
                _ if !batch.is_empty() => {
                    self.commits = None;
                    break;
                }
                Some(Err(error @ ReadError::Unreadable { .. })) => {
                    self.commits = None;
                    return Err(error);
                }
                Some(Err(ReadError::Unavailable(error))) => {
                    tracing::warn!(%error, after = self.last, "waiting for the log");
                    self.wait().await;
                }
                None => self.wait().await,
            }
            if batch.len() >= commits_max {
                break;
            }
        }
        self.backoff = BACKOFF_MIN;
        self.last = batch.last().map_or(self.last, |stored| stored.sequence);
        Ok(batch)
    }

    /// Goes on behind a commit that this build can't read.
    pub fn pass(&mut self, unreadable: u64) {
        self.last = self.last.max(unreadable);
    }

    async fn wait(&mut self) {
        self.commits = None;
        // What went well for a while is no trouble that goes on.
        if self.waited_at.elapsed() > 2 * BACKOFF_MAX {
            self.backoff = BACKOFF_MIN;
        }
        tokio::time::sleep(self.backoff).await;
        self.waited_at = Instant::now();
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }
}
