//! Executors of the simplest aggregate, and commands to it.

use std::sync::Arc;
use std::time::Duration;

use domain::CommandId;
use domain::commit::Hash;
use domain::stock::Stock;
use infra::clock::Clock;
use infra::execute::{Executor, Request, Settings};
use infra::log::EventLog;
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Writer};
use uuid::Uuid;

pub fn executor(log: Arc<dyn EventLog>, settings: writer::Settings) -> Arc<Executor<Stock>> {
    executor_with(log, Arc::new(MemorySnapshots::default()), settings)
}

pub fn executor_with(
    log: Arc<dyn EventLog>,
    snapshots: Arc<dyn Snapshots>,
    settings: writer::Settings,
) -> Arc<Executor<Stock>> {
    let remembered = Settings { idempotency_keep: Duration::from_secs(3_600), cached_aggregates_max: 100 };
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
    }
}
