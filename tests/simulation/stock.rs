//! Executors of the simplest aggregate, and commands to it.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use domain::commit::{ENVELOPE_VERSION, Hash};
use domain::stock::{self, Stock};
use domain::{CommandId, Commit, RecordedEvent, StreamId};
use infra::clock::Clock;
use infra::execute::{Executor, Request, Settings};
use infra::log::{EventLog, Message};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Priority, Writer};
use uuid::Uuid;

pub fn executor(log: Arc<dyn EventLog>, settings: writer::Settings) -> Arc<Executor<Stock>> {
    executor_with(log, Arc::new(MemorySnapshots::default()), settings)
}

pub fn executor_with(
    log: Arc<dyn EventLog>,
    snapshots: Arc<dyn Snapshots>,
    settings: writer::Settings,
) -> Arc<Executor<Stock>> {
    executor_keeping(100, log, snapshots, settings)
}

/// One that keeps so many aggregates in memory, about.
pub fn executor_keeping(
    cached_aggregates_max: u64,
    log: Arc<dyn EventLog>,
    snapshots: Arc<dyn Snapshots>,
    settings: writer::Settings,
) -> Arc<Executor<Stock>> {
    let remembered = Settings { idempotency_keep: Duration::from_secs(3_600), cached_aggregates_max };
    Arc::new(Executor::new(&Writer::new(log, settings), &snapshots, &Clock::system(), &remembered))
}

/// The same number is the same request.
pub fn request(number: u128) -> Request {
    let command_id = CommandId(Uuid::new_v5(&Uuid::nil(), &number.to_be_bytes()));
    Request {
        command_id,
        hash: Hash::of(&number.to_be_bytes()),
        actor: "test".into(),
        correlation: command_id,
        causation: None,
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
        priority: Priority::Normal,
    }
}

/// A commit of the stream, with one event.
pub fn commit(stream: &StreamId, version: u64, quantity: u32) -> Commit {
    let id = CommandId(Uuid::now_v7());
    let event = stock::Event::Received { quantity };
    Commit {
        envelope: ENVELOPE_VERSION,
        id,
        request: Hash::of(b"request"),
        stream: stream.clone(),
        version,
        previous: None,
        recorded_at: DateTime::UNIX_EPOCH,
        actor: "test".into(),
        correlation: id,
        causation: None,
        trace_parent: None,
        events: vec![RecordedEvent::encode(&event, id, 0, DateTime::UNIX_EPOCH)],
    }
}

pub fn message(commit: &Commit) -> Message {
    Message::from(commit)
}
