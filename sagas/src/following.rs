//! What happened, handed to the sagas that follow it: in order for each of them, side by side for all.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::commit::DecodeError;
use domain::{CommandId, Commit, Event, OrderId, RecordedEvent, StreamId};
use infra::feed::Entry;
use infra::timers::Timer;
use serde::Deserialize;
use uuid::Uuid;

use crate::aside::{Key, Letter};
use crate::queues::Queues;
use crate::saga::Input;
use crate::work::{Kind, Sagas, Work};
use crate::{checkout, payment};

/// Categories of the streams that sagas follow.
const FOLLOWED: [&str; 4] =
    [domain::cart::CATEGORY, domain::stock::CATEGORY, domain::order::CATEGORY, domain::payment::CATEGORY];

/// Inputs in memory at a time: with more, reading the log waits.
const WORK_MAX: usize = 1_024;
const BATCH_MAX: usize = 1_000;

/// Follows the log for the sagas of some partitions. What is under way ends when it's dropped.
pub struct Following {
    sagas: Arc<Sagas>,
    partitions: RangeInclusive<u64>,
    queues: Queues<(Kind, OrderId), Work>,
    after: u64,
    /// Up to here, somebody may have dealt with it already. Nobody knows before it is asked for.
    known: AtomicU64,
}

impl Following {
    /// Begins with the commit after the position.
    #[must_use]
    pub fn new(sagas: Arc<Sagas>, partitions: RangeInclusive<u64>, after: u64) -> Self {
        Self {
            sagas,
            partitions,
            queues: Queues::new(WORK_MAX, after),
            after,
            known: AtomicU64::new(u64::MAX),
        }
    }

    /// Everything up to this position is dealt with.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.queues.done()
    }

    /// Hands what happens to the sagas, until it's dropped.
    pub async fn run(&self) {
        if let Ok(end) = self.sagas.feed.log().end().await {
            self.known.store(end, Ordering::Relaxed);
        }
        let mut follower = self.sagas.feed.follow(self.after);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                self.hand_in(&entry).await;
            }
        }
    }

    /// Lets a timer fire that did not by itself, unless the saga has something to do anyway.
    pub(crate) async fn fire(&self, saga: &str, id: &str, timer: &str, generation: u32) {
        if let Some(work) = due(saga, id, timer, generation)
            && !self.queues.is_busy(&(work.kind, work.order_id))
            && !self.sagas.index.aside.holds(work.order_id.0)
        {
            tracing::info!(saga, id, timer, "a timer that did not fire is made up for");
            self.push(work).await;
        }
    }

    /// Hands a commit's events to the sagas that follow them, and sets aside what can't be read.
    async fn hand_in(&self, entry: &Entry) {
        for input in inputs(entry, |partition| self.partitions.contains(&partition)) {
            match input {
                Ok(Work { input: Input::Recorded, .. }) if self.sagas.index.acted.take(entry.sequence) => {}
                Ok(mut work) => {
                    work.is_first = entry.sequence > self.known.load(Ordering::Relaxed);
                    self.push(work).await;
                }
                Err(letter) => self.sagas.set_aside(letter),
            }
        }
        self.queues.seen(entry.sequence);
    }

    async fn push(&self, work: Work) {
        let (key, position) = ((work.kind, work.order_id), work.position.unwrap_or(u64::MAX));
        let sagas = self.sagas.clone();
        let deal = move |work| {
            let sagas = sagas.clone();
            async move { sagas.deal_with(work).await }
        };
        self.queues.push(key, work, position, deal).await;
    }
}

impl Sagas {
    /// Deals with a timer that has fired, as often as it takes; one of an unknown saga is ignored.
    pub async fn fire(&self, timer: &Timer) {
        let Timer { saga, id, name, generation, .. } = timer;
        if let Some(work) = due(saga, id, name, *generation) {
            self.deal_with(work).await;
        }
    }
}

/// What a timer that is due means to its saga.
pub(crate) fn due(saga: &str, id: &str, name: &str, generation: u32) -> Option<Work> {
    let (kind, order_id): (Kind, OrderId) = (Kind::named(saga)?, id.parse().ok()?);
    // The same firing, delivered again, has the same id.
    let cause = Uuid::new_v5(&order_id.0, format!("timer/{saga}/{name}/{generation}").as_bytes());
    let input = Input::Timer { name: name.to_owned(), generation };
    let (correlation, position, is_first) = (CommandId(cause), None, false);
    Some(Work { kind, order_id, input, cause, correlation, position, is_first, by: None })
}

/// What a commit means to the sagas of some partitions: an input for each that follows one of its events; or a
/// letter, if it can't be read, and is of a stream that they follow.
pub(crate) fn inputs(entry: &Entry, is_ours: impl Fn(u64) -> bool) -> Vec<Result<Work, Letter>> {
    match entry.stream().map(StreamId::category) {
        Some(checkout::NAME) => {
            return recorded(entry)
                .filter(|work| is_ours(work.order_id.partition()))
                .map(Ok)
                .into_iter()
                .collect();
        }
        Some(category) if !FOLLOWED.contains(&category) => return Vec::new(),
        _ => {}
    }
    let letter = |key: Key, error: &DecodeError| {
        let stream = entry.stream().map(ToString::to_string).unwrap_or_default();
        let letter = Letter { key, position: entry.sequence, stream, reason: Some(error.to_string()) };
        is_ours(key.partition).then_some(Err(letter))
    };
    let commit = match &entry.commit {
        Ok(commit) => commit,
        Err(error) => {
            let key = entry.stream().map_or_else(|| Key::of_position(entry.sequence), Key::of_stream);
            return letter(key, error).into_iter().collect();
        }
    };
    let mut inputs = Vec::new();
    for (recorded, event) in commit.events.iter().zip(entry.events()) {
        match event {
            Ok(Some(event)) => {
                inputs.extend(works(entry.sequence, commit, recorded, event, &is_ours).map(Ok));
            }
            Ok(None) => {}
            Err(error) => inputs.extend(letter(key_of(commit, recorded), error)),
        }
    }
    inputs
}

/// What a checkout recorded itself, wherever that was; it is read when it is acted on.
fn recorded(entry: &Entry) -> Option<Work> {
    let order_id: OrderId = entry.stream()?.id().parse().ok()?;
    let (kind, input, cause, position) = (Kind::Checkout, Input::Recorded, order_id.0, Some(entry.sequence));
    Some(Work {
        kind,
        order_id,
        input,
        cause,
        correlation: CommandId(cause),
        position,
        is_first: false,
        by: None,
    })
}

fn works<'e>(
    position: u64,
    commit: &'e Commit,
    recorded: &'e RecordedEvent,
    event: &'e Event,
    is_ours: impl Fn(u64) -> bool,
) -> impl Iterator<Item = Work> {
    let id = commit.stream.id();
    let followed =
        [(Kind::Checkout, checkout::follows(id, event)), (Kind::Payment, payment::follows(id, event))];
    let ours = followed.into_iter().filter_map(move |(kind, order_id)| {
        Some((kind, order_id.filter(|order_id| is_ours(order_id.partition()))?))
    });
    ours.map(move |(kind, order_id)| {
        let (stream, event, at) = (commit.stream.clone(), event.clone(), recorded.occurred_at);
        let (input, correlation) = (Input::Event { stream, event, at }, commit.correlation);
        let (cause, position) = (recorded.id, Some(position));
        Work { kind, order_id, input, cause, correlation, position, is_first: false, by: None }
    })
}

/// Whose an event is that can't be read: the order's that it names, wherever it happened; else its stream's.
fn key_of(commit: &Commit, recorded: &RecordedEvent) -> Key {
    #[derive(Deserialize)]
    struct Named {
        order_id: OrderId,
    }
    let named = serde_json::from_str::<Named>(recorded.data.get());
    named.map_or_else(|_| Key::of_stream(&commit.stream), |named| named.order_id.into())
}
