//! What an earlier import of the same records has done, found in one pass over the log.
//!
//! Execute would find it, too, but stream by stream, and to read thousands of long streams side by side
//! takes the log's server many minutes. This is only a shorter way: whatever is overlooked here, execute finds.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use domain::commit::Hash;
use domain::{CommandId, StreamId};
use futures_util::StreamExt;
use infra::log::EventLog;

use super::commands::ACTOR;
use super::plan::Plan;
use crate::import::progress::Progress;

/// So far before the import's first command others of it may be in the log, because many are under way.
const DISORDER_MAX: u64 = 100_000;

#[derive(Debug, Default)]
pub struct Earlier {
    /// What was asked, by the command.
    commands: HashMap<CommandId, Hash>,
    /// Position of the last one, 0 if there are none.
    pub log_position: u64,
}

impl Earlier {
    /// Looks for the commands of imports, if the plan's first one is in the log.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn find(plan: &Plan, log: &Arc<dyn EventLog>) -> anyhow::Result<Self> {
        let mut earlier = Self::default();
        let Some(first) = plan.steps.first() else { return Ok(earlier) };
        let stream: StreamId = plan.command(first).1.stream();
        let page = log.load_page(&stream, 0, 1).await?;
        let Some(first) = page.commits.first() else { return Ok(earlier) };
        let (after, end) = (first.sequence.saturating_sub(DISORDER_MAX), log.end().await?);
        let progress = Progress::of_count("what is there already", end - after, "commits");
        let mut commits = log.follow(after);
        let mut position = after;
        while position < end {
            let stored = commits.next().await.context("the log stopped answering")??;
            position = stored.sequence;
            if stored.commit.actor == ACTOR {
                earlier.commands.insert(stored.commit.id, stored.commit.request);
                earlier.log_position = position;
            }
            progress.done();
        }
        progress.finish();
        Ok(earlier)
    }

    /// Whether exactly this was done.
    pub fn did(&self, command: CommandId, asked: Hash) -> bool {
        self.commands.get(&command) == Some(&asked)
    }
}
