//! A commit as those see it who follow the log.

use std::sync::OnceLock;

use bytes::Bytes;
use domain::commit::{DecodeError, Hash};
use domain::{Commit, Event, StreamId};

use crate::log::{ReadError, Stored};

/// A commit, readable or not, whose events are decoded when somebody wants them, once for all.
#[derive(Debug)]
pub struct Entry {
    /// Position in the log.
    pub sequence: u64,
    /// Of a commit that is not readable, if its subject tells.
    subject: Option<StreamId>,
    pub commit: Result<Commit, DecodeError>,
    body: Bytes,
    events: OnceLock<Vec<Result<Option<Event>, DecodeError>>>,
}

impl Entry {
    #[must_use]
    pub fn new(stored: Stored) -> Self {
        let Stored { sequence, commit, body } = stored;
        Self { sequence, subject: None, commit: Ok(commit), body, events: OnceLock::new() }
    }

    /// One whose commit this build can't read.
    ///
    /// # Errors
    /// The error given, if it is not about a commit.
    pub fn unreadable(error: ReadError) -> Result<Self, ReadError> {
        match error {
            ReadError::Unreadable { sequence, stream: subject, body, source } => {
                Ok(Self { sequence, subject, commit: Err(source), body, events: OnceLock::new() })
            }
            error @ ReadError::Unavailable(_) => Err(error),
        }
    }

    /// Nothing, if neither the commit nor its subject tells.
    pub fn stream(&self) -> Option<&StreamId> {
        self.commit.as_ref().map_or(self.subject.as_ref(), |commit| Some(&commit.stream))
    }

    /// The commit's events in their present form, in order; none for those that the rules don't know.
    pub fn events(&self) -> &[Result<Option<Event>, DecodeError>] {
        self.events.get_or_init(|| match &self.commit {
            Ok(commit) => commit.events.iter().map(Event::decode).collect(),
            Err(_) => Vec::new(),
        })
    }

    /// Of the commit's bytes as stored.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.body)
    }

    /// Of the commit as stored.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}
