//! Execute: the only way in. Load the aggregate, decide the command, append the outcome.
//!
//! A command has an id, and the log remembers it: before anything is decided or appended again
//! (a retry by the client, a conflict, an outcome that got lost), the stream is searched for the
//! command's own commit. If it is there, the command was done before, and its outcome stands.

mod entry;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::cart::Cart;
use domain::commit::{ENVELOPE_VERSION, Hash};
use domain::order::Order;
use domain::payment::Payment;
use domain::product::Product;
use domain::stock::Stock;
use domain::{Aggregate, CommandId, Commit, RecordedEvent, StreamId};
use moka::future::Cache;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::clock::Clock;
use crate::log::{AppendError, EventLog, ReadError, Stored};
use entry::Entry;

/// Times that a command is decided again because another process was faster.
const ATTEMPTS_MAX: u32 = 20;

/// For how long a command's outcome may stay unknown before the caller is told so.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(10);

/// Where commits go and what is remembered of them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For how long a command's id is recognised.
    pub idempotency_keep: Duration,
    /// Aggregates of one kind kept in memory.
    pub cached_aggregates_max: u64,
}

/// Executes the commands of one kind of aggregate.
pub struct Executor<A: Aggregate> {
    log: Arc<dyn EventLog>,
    clock: Clock,
    settings: Settings,
    entries: Cache<StreamId, Arc<Mutex<Entry<A>>>>,
}

/// The executors of all the shop's aggregates. One set serves all roles of a process, so that
/// they share what is in memory.
pub struct Executors {
    pub products: Executor<Product>,
    pub stock: Executor<Stock>,
    pub carts: Executor<Cart>,
    pub orders: Executor<Order>,
    pub payments: Executor<Payment>,
}

impl Executors {
    pub fn new(log: &Arc<dyn EventLog>, clock: &Clock, settings: &Settings) -> Self {
        Self {
            products: Executor::new(log.clone(), clock.clone(), settings.clone()),
            stock: Executor::new(log.clone(), clock.clone(), settings.clone()),
            carts: Executor::new(log.clone(), clock.clone(), settings.clone()),
            orders: Executor::new(log.clone(), clock.clone(), settings.clone()),
            payments: Executor::new(log.clone(), clock.clone(), settings.clone()),
        }
    }
}

/// Who asks for what, and how it is recognised when it is asked again.
#[derive(Debug, Clone)]
pub struct Request {
    pub command_id: CommandId,
    /// Hash of what was asked: the id with another request is refused.
    pub hash: Hash,
    /// `anonymous`, `saga:checkout`, …
    pub actor: String,
    /// The command at the beginning of it all.
    pub correlation: CommandId,
    /// The event that led to this command, if one did.
    pub causation: Option<Uuid>,
    /// W3C trace context.
    pub trace_parent: Option<String>,
    /// The version that the caller has seen; at another one the command is not decided.
    pub expected_version: Option<u64>,
}

/// What a command led to, now or when it was first given.
#[derive(Debug, Clone)]
pub struct Executed<A: Aggregate> {
    /// None if all was as asked already.
    pub events: Vec<A::Event>,
    /// Position in the log of the commit, or of the stream's last one if there are no events.
    pub sequence: u64,
    /// Version of the stream after the commit.
    pub version: u64,
    /// The command had been done before.
    pub repeated: bool,
}

/// An aggregate as the log has it at this moment.
#[derive(Debug, Clone)]
pub struct Loaded<A: Aggregate> {
    pub state: A,
    /// 0 if the stream has no events.
    pub version: u64,
    /// Position of the stream's last commit, 0 if it has none.
    pub sequence: u64,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// The business said no; giving the command again can't help.
    #[error(transparent)]
    Refused(E),
    #[error("the command expects version {expected}, the stream is at {actual}")]
    Stale { expected: u64, actual: u64 },
    #[error("the command id was used before, for another request")]
    OtherRequest,
    /// Nothing was recorded; giving the command again may help.
    #[error("{0}")]
    Unavailable(String),
    /// It may have been recorded; giving the command again, with its id, tells.
    #[error("the command's outcome is unknown: {0}")]
    OutcomeUnknown(String),
}

impl<E: std::error::Error> From<ReadError> for Error<E> {
    fn from(error: ReadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl<A: Aggregate> Executor<A> {
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, clock: Clock, settings: Settings) -> Self {
        let entries = Cache::new(settings.cached_aggregates_max);
        Self { log, clock, settings, entries }
    }

    /// The aggregate as it is now: what another process appended is seen too.
    ///
    /// # Errors
    /// The log does not answer, or holds what this build can't read.
    pub async fn load(&self, id: impl std::fmt::Display) -> Result<Loaded<A>, ReadError> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream).await;
        let mut entry = entry.lock().await;
        self.refresh(&stream, &mut entry).await?;
        Ok(Loaded { state: entry.state.clone(), version: entry.version, sequence: entry.sequence })
    }

    /// The stream's version as it is now, 0 if it has no events.
    ///
    /// # Errors
    /// The log does not answer, or holds what this build can't read.
    pub async fn version(&self, id: impl std::fmt::Display) -> Result<u64, ReadError> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream).await;
        let mut entry = entry.lock().await;
        self.refresh(&stream, &mut entry).await?;
        Ok(entry.version)
    }

    /// Decides the command and appends its outcome, once, however often it is given.
    ///
    /// # Errors
    /// See [`Error`]; nothing is recorded, except where the outcome is unknown.
    pub async fn execute(
        &self,
        id: impl std::fmt::Display,
        request: &Request,
        command: A::Command,
    ) -> Result<Executed<A>, Error<A::Error>> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream).await;
        // Commands to one aggregate queue up here; another process is caught by the expectation.
        let mut entry = entry.lock().await;
        if entry.sequence == 0 {
            self.refresh(&stream, &mut entry).await?;
        }
        let mut unknown_since = None;
        for attempt in 0..ATTEMPTS_MAX {
            if let Some(done) = self.done_before(&entry, request).await? {
                return Ok(done);
            }
            let events = match self.decide(&stream, &mut entry, request, &command).await? {
                Decided::Events(events) => events,
                Decided::Nothing => return Ok(nothing(&entry)),
                Decided::Outdated => continue,
            };
            let commit = self.commit(&stream, &entry, request, &events);
            match self.log.append(&commit, entry.sequence).await {
                Ok(appended) => {
                    entry.record(&commit, appended, &events);
                    let (sequence, version) = (entry.sequence, entry.version);
                    return Ok(Executed { events, sequence, version, repeated: false });
                }
                Err(AppendError::NotAppended(error)) => return Err(Error::Unavailable(error.to_string())),
                Err(AppendError::Conflict) => {}
                Err(AppendError::Unknown(error)) => {
                    tracing::warn!(%stream, %error, "the outcome of an append is unknown, reading back");
                    unknown_since.get_or_insert_with(tokio::time::Instant::now);
                }
            }
            self.read_back(&stream, &mut entry, unknown_since, attempt).await?;
        }
        match unknown_since {
            Some(_) => Err(Error::OutcomeUnknown("the log did not answer in time".to_owned())),
            None => Err(Error::Unavailable(format!("{stream} is being written to by others"))),
        }
    }

    async fn entry(&self, stream: &StreamId) -> Arc<Mutex<Entry<A>>> {
        self.entries.get_with_by_ref(stream, async { Arc::default() }).await
    }

    /// Folds in what was appended since; true if there was anything.
    async fn refresh(&self, stream: &StreamId, entry: &mut Entry<A>) -> Result<bool, ReadError> {
        let news = self.log.load(stream, entry.sequence).await?;
        news.iter().try_for_each(|stored| entry.fold(stored))?;
        entry.forget_before(self.clock.now() - self.settings.idempotency_keep);
        Ok(!news.is_empty())
    }

    /// After a conflict or a lost answer: what does the log say?
    async fn read_back(
        &self,
        stream: &StreamId,
        entry: &mut Entry<A>,
        unknown_since: Option<tokio::time::Instant>,
        attempt: u32,
    ) -> Result<(), Error<A::Error>> {
        // Jitter from the id, so that processes in contention don't meet again and again.
        let jitter = u64::from(Uuid::now_v7().as_bytes()[15]) % 8;
        loop {
            let wait_ms = (1 << attempt.min(7)) + jitter;
            match (self.refresh(stream, entry).await, unknown_since) {
                (Ok(true), _) => return Ok(()),
                (Ok(false), _) => {
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                    return Ok(());
                }
                (Err(error), None) => return Err(error.into()),
                (Err(error), Some(since)) if since.elapsed() > UNKNOWN_LIMIT => {
                    return Err(Error::OutcomeUnknown(error.to_string()));
                }
                (Err(_), Some(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn done_before(
        &self,
        entry: &Entry<A>,
        request: &Request,
    ) -> Result<Option<Executed<A>>, Error<A::Error>> {
        let Some(done) = entry.done(request.command_id) else { return Ok(None) };
        if done.request != request.hash {
            return Err(Error::OtherRequest);
        }
        let stored = self.log.read(done.sequence).await?;
        let stored = stored.ok_or_else(|| Error::Unavailable("the log is behind".to_owned()))?;
        let events = decode::<A>(&stored)?;
        let (sequence, version) = (stored.sequence, stored.commit.version_after());
        Ok(Some(Executed { events, sequence, version, repeated: true }))
    }

    /// Decides on the cached state; what that refuses or finds done is decided again on the
    /// log's own, because another process may have changed it.
    async fn decide(
        &self,
        stream: &StreamId,
        entry: &mut Entry<A>,
        request: &Request,
        command: &A::Command,
    ) -> Result<Decided<A>, Error<A::Error>> {
        let stale = request.expected_version.filter(|expected| *expected != entry.version);
        let outcome = match stale {
            Some(expected) => Err(Error::Stale { expected, actual: entry.version }),
            None => entry.state.decide(command.clone()).map_err(Error::Refused),
        };
        match outcome {
            Ok(events) if !events.is_empty() => Ok(Decided::Events(events)),
            outcome => {
                if self.refresh(stream, entry).await? {
                    return Ok(Decided::Outdated);
                }
                outcome.map(|_| Decided::Nothing)
            }
        }
    }

    fn commit(&self, stream: &StreamId, entry: &Entry<A>, request: &Request, events: &[A::Event]) -> Commit {
        let now: DateTime<Utc> = self.clock.now();
        let id = request.command_id;
        let encode = |(index, event)| RecordedEvent::encode(event, id, index, now);
        Commit {
            envelope: ENVELOPE_VERSION,
            id,
            request: request.hash,
            stream: stream.clone(),
            version: entry.version + 1,
            previous: entry.hash,
            recorded_at: now,
            actor: request.actor.clone(),
            correlation: request.correlation,
            causation: request.causation,
            trace_parent: request.trace_parent.clone(),
            events: events.iter().enumerate().map(encode).collect(),
        }
    }
}

enum Decided<A: Aggregate> {
    Events(Vec<A::Event>),
    Nothing,
    Outdated,
}

fn nothing<A: Aggregate>(entry: &Entry<A>) -> Executed<A> {
    Executed { events: Vec::new(), sequence: entry.sequence, version: entry.version, repeated: false }
}

fn decode<A: Aggregate>(stored: &Stored) -> Result<Vec<A::Event>, ReadError> {
    let unreadable = |source| ReadError::Unreadable { sequence: stored.sequence, source };
    stored.commit.events.iter().map(|event| event.decode().map_err(unreadable)).collect()
}
