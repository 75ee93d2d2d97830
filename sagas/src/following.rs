//! What happened, handed to the sagas that follow it: in order for each of them, side by side for all.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{CommandId, OrderId};
use infra::feed::Entry;
use infra::timers::Timer;
use tokio::sync::watch;
use uuid::Uuid;

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
const BACKOFF: Duration = Duration::from_secs(1);

/// Follows the log for the sagas of some partitions. What is under way ends when it's dropped.
pub struct Following {
    sagas: Arc<Sagas>,
    partitions: RangeInclusive<u64>,
    queues: Queues<(Kind, OrderId), Work>,
    /// Why it can't go on, if it can't.
    stopped: watch::Sender<Option<String>>,
    after: u64,
    /// Up to here, somebody may have dealt with it already. Nobody knows before it is asked for.
    known: AtomicU64,
}

impl Following {
    /// Begins with the commit after the position.
    #[must_use]
    pub fn new(sagas: Arc<Sagas>, partitions: RangeInclusive<u64>, after: u64) -> Self {
        let (queues, stopped) = (Queues::new(WORK_MAX, after), watch::Sender::default());
        Self { sagas, partitions, queues, stopped, after, known: AtomicU64::new(u64::MAX) }
    }

    /// Everything up to this position is dealt with.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.queues.done()
    }

    /// Why it can't go on, if it can't.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }

    /// Hands what happens to the sagas, until it's dropped.
    pub async fn run(&self) {
        if let Ok(end) = self.sagas.feed.log().end().await {
            self.known.store(end, Ordering::Relaxed);
        }
        let mut follower = self.sagas.feed.follow(self.after);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                while let Err(reason) = self.hand_in(&entry).await {
                    // Never skipped in silence: a build that knows the event goes on from here.
                    tracing::error!(reason, position = entry.sequence, "the sagas can't go on");
                    self.stopped.send_replace(Some(reason));
                    tokio::time::sleep(BACKOFF).await;
                }
                self.stopped.send_if_modified(|stopped| stopped.take().is_some());
            }
        }
    }

    /// Lets a timer fire that did not by itself, unless the saga has something to do anyway.
    pub(crate) async fn fire(&self, saga: &str, id: &str, timer: &str, generation: u32) {
        if let Some(work) = due(saga, id, timer, generation)
            && !self.queues.is_busy(&(work.kind, work.order_id))
        {
            tracing::info!(saga, id, timer, "a timer that did not fire is made up for");
            self.push(work).await;
        }
    }

    /// Hands a commit's events to the sagas that follow them. What is not readable is passed over, if it
    /// is of no stream that a saga follows.
    async fn hand_in(&self, entry: &Entry) -> Result<(), String> {
        let is_followed = entry.stream().is_none_or(|stream| FOLLOWED.contains(&stream.category()));
        let commit = match &entry.commit {
            Err(error) if is_followed => return Err(error.to_string()),
            Err(_) => {
                self.queues.seen(entry.sequence);
                return Ok(());
            }
            Ok(commit) => commit,
        };
        if !is_followed {
            self.queues.seen(entry.sequence);
            return Ok(());
        }
        if let Some(error) = entry.events().iter().find_map(|event| event.as_ref().err()) {
            return Err(error.to_string());
        }
        for (recorded, event) in commit.events.iter().zip(entry.events()) {
            let Ok(Some(event)) = event else { continue };
            let stream = &commit.stream;
            let followed = [
                (Kind::Checkout, checkout::follows(stream.id(), event)),
                (Kind::Payment, payment::follows(stream.id(), event)),
            ];
            for (kind, order_id) in followed {
                let Some(order_id) = order_id.filter(|id| self.partitions.contains(&id.partition())) else {
                    continue;
                };
                let (stream, event, at) = (stream.clone(), event.clone(), recorded.occurred_at);
                let input = Input::Event { stream, event, at };
                let (cause, correlation) = (recorded.id, commit.correlation);
                let position = Some(entry.sequence);
                let is_first = entry.sequence > self.known.load(Ordering::Relaxed);
                self.push(Work { kind, order_id, input, cause, correlation, position, is_first }).await;
            }
        }
        self.queues.seen(entry.sequence);
        Ok(())
    }

    async fn push(&self, work: Work) {
        let (key, position) = ((work.kind, work.order_id), work.position.unwrap_or(u64::MAX));
        let sagas = self.sagas.clone();
        let deal = move |work| {
            let sagas = sagas.clone();
            async move { sagas.deal_with(work, None).await }
        };
        self.queues.push(key, work, position, deal).await;
    }
}

impl Sagas {
    /// Deals with a timer that has fired, as often as it takes; one of an unknown saga is ignored.
    pub async fn fire(&self, timer: &Timer) {
        let Timer { saga, id, name, generation, .. } = timer;
        if let Some(work) = due(saga, id, name, *generation) {
            self.deal_with(work, None).await;
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
    Some(Work { kind, order_id, input, cause, correlation, position, is_first })
}
