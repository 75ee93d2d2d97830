//! What became of a commit: one by one, and when the answer is lost, by reading back.

use std::time::Duration;

use tokio::time::Instant;

use super::lanes::Group;
use super::{Error, Inner, measure};
use crate::log::{Append, AppendError, Expected, Message, Unavailable};

/// For how long a commit's outcome may stay unknown before its caller is told so.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(10);

/// Pause before the log is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What the log says of a commit whose answer was lost.
enum Found {
    /// It's there, at this position.
    Ours(u64),
    /// Another one is in its place: it is not there and never will be.
    Another,
    /// Its place is still empty, so that it may yet come.
    Nothing,
}

impl Inner {
    /// Sends all in one batch. Gives them back as an error if their outcomes have to be found out one
    /// by one.
    pub(super) async fn whole_batch(&self, mut groups: Vec<Group>) -> Result<Vec<Group>, Vec<Group>> {
        let batch: Vec<Append> = groups.iter().flat_map(appends).collect();
        match self.log.append_batch(&batch).await {
            Ok(first) => {
                self.end_trouble();
                let mut position = first;
                for group in &mut groups {
                    let positions = position..position + group.items.len() as u64;
                    position = positions.end;
                    group.outcomes = positions.map(Ok).collect();
                }
                Ok(groups)
            }
            Err(error @ (AppendError::NotAppended(_) | AppendError::Full | AppendError::Denied { .. })) => {
                self.note_trouble(&error);
                groups.iter_mut().for_each(|group| group.fail(&error));
                Ok(groups)
            }
            Err(AppendError::Conflict) => {
                measure::batch_refused();
                Err(groups)
            }
            Err(AppendError::Unknown(reason)) => {
                self.note_trouble(&AppendError::Unknown(reason.clone()));
                tracing::warn!(%reason, commits = batch.len(), "the outcome of a batch is unknown, reading back");
                measure::unknown();
                groups.iter_mut().for_each(|group| group.unknown = true);
                Err(groups)
            }
        }
    }

    /// Sends each commit of the group by itself. After the first that fails, none is sent.
    pub(super) async fn one_by_one(&self, mut group: Group) -> Group {
        let mut expected = group.expected;
        for item in &group.items {
            match self.append_surely(&item.message, expected, group.unknown).await {
                Ok(position) => {
                    expected = position;
                    group.outcomes.push(Ok(position));
                }
                Err(error) => {
                    group.fail(&error);
                    break;
                }
            }
        }
        group
    }

    /// Appends the commit until its outcome is known. It may be sent more than once: its
    /// expectation lets the log take it once.
    async fn append_surely(
        &self,
        message: &Message,
        expected: u64,
        mut unknown: bool,
    ) -> Result<u64, AppendError> {
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            // A lost answer is looked for before anything is sent again.
            if unknown {
                match self.read_back(message, expected).await {
                    Ok(Found::Ours(position)) => return Ok(position),
                    Ok(Found::Another) => return Err(AppendError::Conflict),
                    Ok(Found::Nothing) | Err(_) => {}
                }
            }
            let outcome = self.log.append(message, expected).await;
            match &outcome {
                Ok(_) => self.end_trouble(),
                Err(AppendError::Conflict) => {}
                Err(error) => self.note_trouble(error),
            }
            let reason = match outcome {
                Ok(position) => return Ok(position),
                Err(AppendError::Unknown(reason)) => {
                    if !unknown {
                        tracing::warn!(stream = %message.stream, %reason, "the outcome of an append is unknown, reading back");
                        measure::unknown();
                    }
                    unknown = true;
                    reason
                }
                Err(AppendError::Conflict) if unknown => {
                    Unavailable::because("the log does not show what it has")
                }
                Err(AppendError::NotAppended(reason)) if unknown => reason,
                Err(error @ (AppendError::Full | AppendError::Denied { .. })) if unknown => {
                    Unavailable::because(error)
                }
                Err(AppendError::Conflict) => {
                    measure::conflict();
                    return Err(AppendError::Conflict);
                }
                Err(certain) => return Err(certain),
            };
            if began.elapsed() > UNKNOWN_LIMIT {
                return Err(AppendError::Unknown(reason));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Compares what the log has after the expected position with the commit: contents, not ids.
    async fn read_back(&self, message: &Message, expected: u64) -> Result<Found, crate::log::ReadError> {
        let after = self.log.load(&message.stream, expected).await?;
        Ok(match after.first() {
            Some(stored) if stored.hash() == message.hash => Found::Ours(stored.sequence),
            Some(_) => Found::Another,
            None => Found::Nothing,
        })
    }
}

impl Group {
    /// The next one fails with the error, and all behind it with that one.
    fn fail(&mut self, error: &AppendError) {
        self.outcomes.push(Err(error.clone().into()));
        self.outcomes.resize_with(self.items.len(), || Err(Error::RolledBack));
    }
}

fn appends(group: &Group) -> impl Iterator<Item = Append> {
    let first = std::iter::once(Expected::Position(group.expected));
    let expected = first.chain(std::iter::repeat(Expected::AfterPrevious));
    let messages = group.items.iter().map(|item| item.message.clone());
    messages.zip(expected).map(|(message, expected)| Append { message, expected })
}
