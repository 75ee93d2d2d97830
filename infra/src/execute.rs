//! Execute: the only way in. Load the aggregate, decide the command, append the outcome.
//!
//! A command has an id, and the log remembers it: before anything is decided or appended again
//! (a retry by the client, a conflict, an outcome that got lost), the stream is searched for the
//! command's own commit. If it is there, the command was done before, and its outcome stands.
//!
//! Commands to one aggregate don't wait for each other's fsync: each is decided on the state that the
//! ones before it lead to, and their commits go to the writer one after the other. Nothing is said
//! before it is true: an answer that rests on what is still on its way waits until that has arrived,
//! and when it doesn't arrive, all that rests on it is decided again.

mod done;
mod entry;
mod load;
mod snapshot;

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
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::Clock;
use crate::fail_points;
use crate::log::{AppendError, EventLog, Message, ReadError, Stored};
use crate::snapshots::Snapshots;
use crate::writer::{self, After, Priority, Writer};
use entry::{Confirmed, Entry, Folded, Outcome};

/// For how long a command is decided again because another process was faster.
const CONTENTION_LIMIT: Duration = Duration::from_secs(10);

/// Longest pause before that.
const PAUSE_MS_MAX: u64 = 250;

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
    writer: Writer,
    snapshots: Arc<dyn Snapshots>,
    clock: Clock,
    settings: Settings,
    entries: Cache<StreamId, Arc<Entry<A>>>,
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
    #[must_use]
    pub fn new(writer: &Writer, snapshots: &Arc<dyn Snapshots>, clock: &Clock, settings: &Settings) -> Self {
        Self {
            products: Executor::new(writer, snapshots, clock, settings),
            stock: Executor::new(writer, snapshots, clock, settings),
            carts: Executor::new(writer, snapshots, clock, settings),
            orders: Executor::new(writer, snapshots, clock, settings),
            payments: Executor::new(writer, snapshots, clock, settings),
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
    /// When it happened, if that is not now: in a record that is brought in, say.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Whether anybody waits for what comes of it.
    pub priority: Priority,
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
    /// Nothing was recorded, because the stream holds what this build can't read; another build may.
    #[error("{0}")]
    Unreadable(String),
    /// Nothing was recorded, because more is asked for than the log can take.
    #[error(transparent)]
    Overloaded(#[from] writer::Full),
    /// Nothing was recorded, and nothing will be before there is more space.
    #[error("the log is full")]
    LogFull,
    /// It may have been recorded; giving the command again, with its id, tells.
    #[error("the command's outcome is unknown: {0}")]
    OutcomeUnknown(String),
}

impl<E: std::error::Error> From<ReadError> for Error<E> {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(error) => Self::Unavailable(error.to_string()),
            ReadError::Unreadable { .. } => Self::Unreadable(error.to_string()),
        }
    }
}

/// What a command has come to.
enum Step<A: Aggregate> {
    /// Its commit is at this position.
    DoneBefore(u64),
    /// Its commit is on its way already, given by somebody else.
    OnItsWay(u64),
    /// Its commit was given to the writer.
    Given(oneshot::Receiver<Outcome<A::Event>>),
    /// There is nothing to record.
    Answer(Answer<A::Error>),
}

/// An answer without events.
struct Answer<E: std::error::Error + 'static> {
    /// Refused, or all is as asked already.
    refused: Option<Error<E>>,
    /// Number of the last commit on its way that it rests on.
    rests_on: Option<u64>,
    /// Rollbacks until then.
    rollbacks: u64,
}

impl<A: Aggregate> Executor<A> {
    #[must_use]
    pub fn new(writer: &Writer, snapshots: &Arc<dyn Snapshots>, clock: &Clock, settings: &Settings) -> Self {
        // Who came last is who comes next: an order has all its commands within moments. By how often they came,
        // which is what the cache would go by, a new one would find no room among those that are over.
        // Not the asynchronous one: where it tidies up, by the wall clock, it wakes the task it does so in, and no
        // simulation runs the same twice.
        let entries = Cache::builder().max_capacity(settings.cached_aggregates_max);
        Self {
            log: writer.log().clone(),
            writer: writer.clone(),
            snapshots: snapshots.clone(),
            clock: clock.clone(),
            entries: entries.eviction_policy(EvictionPolicy::lru()).build(),
            settings: settings.clone(),
        }
    }

    /// The aggregate as it is now: what another process appended is seen too.
    ///
    /// # Errors
    /// The log does not answer, or holds what this build can't read.
    pub async fn load(&self, id: impl std::fmt::Display) -> Result<Loaded<A>, ReadError> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream);
        self.refresh(&stream, &entry).await?;
        Ok(entry.memory().loaded())
    }

    /// The aggregate as it was after this position of the log, or later: what is in memory will do, if it is
    /// as new.
    ///
    /// # Errors
    /// The log does not answer, or holds what this build can't read.
    pub async fn load_since(
        &self,
        id: impl std::fmt::Display,
        position: u64,
    ) -> Result<Loaded<A>, ReadError> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream);
        if entry.memory().confirmed.sequence < position {
            self.refresh(&stream, &entry).await?;
        }
        Ok(entry.memory().loaded())
    }

    /// The stream's version as it is now, 0 if it has no events.
    ///
    /// # Errors
    /// The log does not answer, or holds what this build can't read.
    pub async fn version(&self, id: impl std::fmt::Display) -> Result<u64, ReadError> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream);
        self.refresh(&stream, &entry).await?;
        Ok(entry.memory().confirmed.version)
    }

    /// Whether the aggregate has any events. One that has keeps them, so what is in memory is enough.
    ///
    /// # Errors
    /// The log does not answer, or holds what this build can't read.
    pub async fn exists(&self, id: impl std::fmt::Display) -> Result<bool, ReadError> {
        let stream = StreamId::of::<A>(id);
        let entry = self.entry(&stream);
        if entry.memory().confirmed.version == 0 {
            self.refresh(&stream, &entry).await?;
        }
        Ok(entry.memory().confirmed.version > 0)
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
        let entry = self.entry(&stream);
        let began = Instant::now();
        let mut conflicts = 0;
        loop {
            self.make_current(&stream, &entry, &command).await?;
            let step = self.step(&stream, &entry, request, &command)?;
            match step {
                Step::DoneBefore(position) => return self.done_before(position, request).await,
                Step::OnItsWay(number) => entry.ended(number).await,
                Step::Answer(answer) => {
                    if let Some(answer) = self.stands(&stream, &entry, answer).await? {
                        return answer;
                    }
                }
                Step::Given(outcome) => match outcome.await.unwrap_or(Err(writer::Error::RolledBack)) {
                    Ok(Confirmed { events, sequence, version }) => {
                        fail_points::may_die(fail_points::COMMAND_DONE);
                        self.keep_snapshot(&stream, &entry);
                        return Ok(Executed { events, sequence, version, repeated: false });
                    }
                    Err(writer::Error::RolledBack) => entry.open_end().await,
                    Err(writer::Error::Append(AppendError::Conflict)) => conflicts += 1,
                    Err(writer::Error::Append(AppendError::Full)) => return Err(Error::LogFull),
                    Err(writer::Error::Append(AppendError::NotAppended(reason))) => {
                        return Err(Error::Unavailable(reason.to_string()));
                    }
                    Err(writer::Error::Append(denied @ AppendError::Denied { .. })) => {
                        return Err(Error::Unavailable(denied.to_string()));
                    }
                    Err(writer::Error::Append(AppendError::Unknown(reason))) => {
                        return Err(Error::OutcomeUnknown(reason.to_string()));
                    }
                },
            }
            if began.elapsed() > CONTENTION_LIMIT {
                // If it is not, the log has lost what it acknowledged: what it has counts, not what is in memory.
                self.entries.invalidate(&stream);
                return Err(Error::Unavailable(format!("{stream} is being written to by others")));
            }
            pause(conflicts, request.command_id).await;
        }
    }

    fn entry(&self, stream: &StreamId) -> Arc<Entry<A>> {
        self.entries.get_with_by_ref(stream, Arc::default)
    }

    /// Decides the command on the latest state, and gives its commit to the writer.
    fn step(
        &self,
        stream: &StreamId,
        entry: &Arc<Entry<A>>,
        request: &Request,
        command: &A::Command,
    ) -> Result<Step<A>, Error<A::Error>> {
        let mut memory = entry.memory();
        if let Some(position) = memory.done_before(request.command_id) {
            return Ok(Step::DoneBefore(position));
        }
        if let Some(number) = memory.number_on_its_way(request.command_id) {
            return Ok(Step::OnItsWay(number));
        }
        let (rests_on, rollbacks) = (memory.last_on_its_way(), memory.rollbacks);
        let latest = memory.latest();
        let stale = request.expected_version.filter(|expected| *expected != latest.version);
        let decided = match stale {
            Some(expected) => Err(Error::Stale { expected, actual: latest.version }),
            None => latest.state.decide(command.clone()).map_err(Error::Refused),
        };
        let events = match decided {
            Ok(events) if !events.is_empty() => events,
            answer => return Ok(Step::Answer(Answer { refused: answer.err(), rests_on, rollbacks })),
        };
        let commit = self.commit(stream, latest, request, &events);
        let message = Message::from(&commit);
        let after = match (rests_on, latest.hash) {
            (Some(_), Some(hash)) => After::Commit(hash),
            _ => After::Position(latest.sequence),
        };
        let (hash, number, told) = (message.hash, memory.next_number(), entry.clone());
        let done = Box::new(move |outcome| told.settle(number, outcome));
        self.writer.append(message, after, request.priority, done)?;
        Ok(Step::Given(memory.give(&commit, hash, events)))
    }

    /// The answer, once what it rests on has arrived; none if that did not arrive, or if another
    /// process has changed the aggregate, so that the command has to be decided again.
    async fn stands(
        &self,
        stream: &StreamId,
        entry: &Entry<A>,
        Answer { refused, rests_on, rollbacks }: Answer<A::Error>,
    ) -> Result<Option<Result<Executed<A>, Error<A::Error>>>, ReadError> {
        match rests_on {
            Some(number) => {
                entry.ended(number).await;
                if entry.memory().rollbacks != rollbacks || self.is_overtaken(stream, entry).await? {
                    return Ok(None);
                }
            }
            None => {
                if self.refresh(stream, entry).await? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(match refused {
            Some(error) => Err(error),
            None => {
                let Folded { sequence, version, .. } = entry.memory().confirmed;
                Ok(Executed { events: Vec::new(), sequence, version, repeated: false })
            }
        }))
    }

    async fn done_before(&self, position: u64, request: &Request) -> Result<Executed<A>, Error<A::Error>> {
        let stored = self.log.read(position).await?;
        let stored = stored.ok_or_else(|| Error::Unavailable("the log is behind".to_owned()))?;
        if stored.commit.request != request.hash {
            return Err(Error::OtherRequest);
        }
        let events = decode::<A>(&stored)?;
        let (sequence, version) = (stored.sequence, stored.commit.version_after());
        Ok(Executed { events, sequence, version, repeated: true })
    }

    fn commit(
        &self,
        stream: &StreamId,
        latest: &Folded<A>,
        request: &Request,
        events: &[A::Event],
    ) -> Commit {
        let now: DateTime<Utc> = self.clock.now();
        let id = request.command_id;
        let occurred_at = request.occurred_at.unwrap_or(now);
        let encode = |(index, event)| RecordedEvent::encode(event, id, index, occurred_at);
        Commit {
            envelope: ENVELOPE_VERSION,
            id,
            request: request.hash,
            stream: stream.clone(),
            version: latest.version + 1,
            previous: latest.hash,
            recorded_at: now,
            actor: request.actor.clone(),
            correlation: request.correlation,
            causation: request.causation,
            trace_parent: request.trace_parent.clone(),
            events: events.iter().enumerate().map(encode).collect(),
        }
    }
}

/// Jitter from the command's id, so that processes in contention don't meet again and again; longer
/// with every conflict.
async fn pause(conflicts: u32, CommandId(id): CommandId) {
    let Some(before) = conflicts.checked_sub(1) else { return };
    let most_ms = (2_u64 << before.min(10)).min(PAUSE_MS_MAX);
    let random = id.as_u64_pair().1.rotate_right(7 * before % 64);
    tokio::time::sleep(Duration::from_millis(random % most_ms)).await;
}

fn decode<A: Aggregate>(stored: &Stored) -> Result<Vec<A::Event>, ReadError> {
    let unreadable = |source| {
        let (sequence, stream) = (stored.sequence, Some(stored.commit.stream.clone()));
        ReadError::Unreadable { sequence, stream, body: stored.body.clone(), source }
    };
    stored.commit.events.iter().map(|event| event.decode().map_err(unreadable)).collect()
}
