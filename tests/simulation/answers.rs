//! What clients were told of their commands, to be held against the whole log.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use domain::{Aggregate, CommandId, RecordedEvent};
use infra::execute::Executed;
use infra::log::Stored;

/// What one client was told.
struct Done {
    id: CommandId,
    sequence: u64,
    version: u64,
    events: Vec<RecordedEvent>,
}

#[derive(Default)]
pub struct Answers {
    done: Vec<Done>,
    refused: BTreeSet<CommandId>,
    /// Those that said that the command had been done before.
    pub repeated: usize,
}

impl Answers {
    pub fn done<A: Aggregate>(&mut self, id: CommandId, told: &Executed<A>) {
        let encode = |(index, event)| RecordedEvent::encode(event, id, index, DateTime::UNIX_EPOCH);
        let events = told.events.iter().enumerate().map(encode).collect();
        self.done.push(Done { id, sequence: told.sequence, version: told.version, events });
        self.repeated += usize::from(told.repeated);
    }

    pub fn refused(&mut self, id: CommandId) {
        self.refused.insert(id);
    }

    /// How many said that the command is refused.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.refused.len()
    }

    /// I1 to I3: what was answered is there, at its position, with the same events, whoever asks again; what was
    /// refused is not; and nothing is there twice.
    pub fn hold(&self, commits: &[Stored]) {
        let by_id: BTreeMap<CommandId, &Stored> =
            commits.iter().map(|stored| (stored.commit.id, stored)).collect();
        assert_eq!(by_id.len(), commits.len(), "a command was recorded twice");
        let events = commits.iter().flat_map(|stored| &stored.commit.events);
        let mut event_ids = BTreeSet::new();
        events.for_each(|event| assert!(event_ids.insert(event.id), "the event {} is there twice", event.id));
        for Done { id, sequence, version, events } in &self.done {
            if events.is_empty() {
                continue;
            }
            let stored = by_id.get(id).unwrap_or_else(|| panic!("{id} was answered, and is lost"));
            assert_eq!((stored.sequence, stored.commit.version_after()), (*sequence, *version), "{id}");
            let told: Vec<_> = events.iter().map(said).collect();
            let there: Vec<_> = stored.commit.events.iter().map(said).collect();
            assert_eq!(there, told, "{id}");
        }
        for id in &self.refused {
            assert!(!by_id.contains_key(id), "{id} was refused, and is there");
        }
    }
}

/// All of an event but its time, of which nobody is told.
fn said(event: &RecordedEvent) -> impl PartialEq + std::fmt::Debug {
    let personal = event.personal.as_ref().map(|personal| personal.get());
    (event.id, event.kind.as_str(), event.schema, event.data.get(), personal)
}
