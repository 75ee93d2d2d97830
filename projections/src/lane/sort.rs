//! What becomes of a commit's events in a lane: taken in, set aside, or none of its business.

use std::sync::Arc;

use domain::ids::partition;
use domain::{Commit, RecordedEvent};
use infra::feed::Entry;
use sqlx::PgConnection;

use super::error::chain;
use super::work::Work;
use super::{Error, Lane};
use crate::letters::{Letter, Letters, WHOLE};
use crate::projection::Happened;

impl Lane {
    /// Takes commits in: what can't be read, what waits behind it, and the culprit of the last attempt
    /// are set aside.
    pub(super) async fn take(
        &self,
        entries: &[Arc<Entry>],
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        let mut ours = Vec::new();
        for entry in entries {
            if self.concerns(entry) {
                self.sort(entry, letters, &mut ours);
            }
        }
        work.fold(entries, &ours, connection).await
    }

    fn concerns(&self, entry: &Entry) -> bool {
        let category = entry.stream().map(domain::StreamId::category);
        // A commit of which not even the stream is known may be anybody's.
        category.is_none_or(|category| self.projection.categories().contains(&category))
    }

    fn sort<'e>(&self, entry: &'e Entry, letters: &mut Letters, ours: &mut Vec<Happened<'e>>) {
        let culprit = self.culprit.as_ref().filter(|_| self.is_culprit(entry.sequence));
        match &entry.commit {
            Err(error) => self.set_aside(entry, WHOLE, "(unreadable commit)", chain(error), letters),
            Ok(commit) => {
                for happened in Happened::all_of(entry) {
                    match happened {
                        Ok(happened) => {
                            let reason = culprit.map(|(_, reason)| reason.as_str());
                            if self.is_for_now(&happened, recorded(commit, happened.index), reason, letters) {
                                ours.push(happened);
                            }
                        }
                        Err((index, error)) => {
                            let kind = recorded(commit, index).map_or("", |recorded| recorded.kind.as_str());
                            self.set_aside(entry, index, kind, chain(error), letters);
                        }
                    }
                }
            }
        }
    }

    /// Whether the event is to be applied now; if it is the lane's and has to wait, it's set aside.
    fn is_for_now(
        &self,
        happened: &Happened<'_>,
        recorded: Option<&RecordedEvent>,
        culprit: Option<&str>,
        letters: &mut Letters,
    ) -> bool {
        let Some(key) = self.projection.key(happened) else { return false };
        let Happened { position, index, .. } = *happened;
        if !self.lease.partitions.contains(&key.partition()) || letters.is_skipped(position, index) {
            return false;
        }
        if let Some(recorded) = recorded.filter(|recorded| recorded.is_newer()) {
            letters.note_newer(&recorded.kind, recorded.schema, position);
        }
        if letters.is_empty() && culprit.is_none() {
            return true;
        }
        let (key, id) = (key.to_string(), happened.stream.id());
        let (key, reason) = match culprit {
            _ if letters.holds(&key) => (key, None),
            _ if letters.holds(id) => (id.to_owned(), None),
            Some(reason) => (key, Some(reason.to_owned())),
            None => return true,
        };
        let (stream, kind) = (happened.stream.to_string(), happened.kind.to_owned());
        letters.add(Letter { key, position, index, stream, kind, reason });
        false
    }

    /// Sets an event aside that is not readable: whose rows it touches is not known, so its stream waits.
    fn set_aside(&self, entry: &Entry, index: u32, kind: &str, reason: String, letters: &mut Letters) {
        let position = entry.sequence;
        let key = match entry.stream() {
            Some(stream) => stream.id().to_owned(),
            None => format!("position-{position}"),
        };
        if !self.lease.partitions.contains(&partition(&key)) || letters.is_skipped(position, index) {
            return;
        }
        let reason = Some(reason).filter(|_| !letters.holds(&key));
        let stream = entry.stream().map(ToString::to_string).unwrap_or_default();
        letters.add(Letter { key, position, index, stream, kind: kind.to_owned(), reason });
    }
}

fn recorded(commit: &Commit, index: u32) -> Option<&RecordedEvent> {
    commit.events.get(usize::try_from(index).ok()?)
}
