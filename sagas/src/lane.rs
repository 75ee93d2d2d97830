//! One lane of the sagas: hands what happened in its partitions to the sagas, and remembers how far it is.

use std::sync::Arc;
use std::time::Duration;

use domain::OrderId;
use infra::feed::Entry;
use infra::lanes::{Advance, Lease};
use sqlx::{ConnectOptions, PgConnection, PgPool};
use tokio::sync::watch;

use crate::index::{self, Overdue};
use crate::queues::Queues;
use crate::saga::Input;
use crate::work::{Kind, Sagas, Work};
use crate::worker::due;
use crate::{checkout, payment};

/// Categories of the streams that sagas follow.
const FOLLOWED: [&str; 4] =
    [domain::cart::CATEGORY, domain::stock::CATEGORY, domain::order::CATEGORY, domain::payment::CATEGORY];

/// Inputs in memory at a time: with more, reading the log waits.
const WORK_MAX: usize = 1_024;
const BATCH_MAX: usize = 1_000;
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(200);
const BACKOFF: Duration = Duration::from_secs(1);

/// How late a timer may be before somebody else makes its call.
const OVERDUE: Duration = Duration::from_secs(5);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How a lane is doing, for readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything up to here is dealt with.
    pub position: u64,
    /// Why it can't go on, if it can't.
    pub stopped: Option<String>,
}

type Inputs = Queues<(Kind, OrderId), Work>;

pub(crate) struct Lane {
    pub sagas: Arc<Sagas>,
    pub lease: Lease,
    pub pool: PgPool,
    pub status: watch::Sender<Status>,
}

impl Lane {
    /// Works until it's dropped, or until somebody else has the lane. Outages of the log, the database or the
    /// provider are waited out.
    pub async fn run(self) {
        let mut connection = self.connection().await;
        let position = loop {
            match self.lease.begin(&mut connection).await {
                Ok(Some(position)) => break position,
                Ok(None) => return,
                Err(error) => self.wait(&error, &mut connection).await,
            }
        };
        self.status.send_modify(|status| status.position = position);
        let queues = Queues::new(WORK_MAX, position);
        tokio::select! {
            () = self.follow(position, &queues) => {}
            () = self.sweep(&queues) => {}
            () = self.save(position, &queues, connection) => {}
        }
        tracing::info!(lane = self.lease.lane, "somebody else has this lane of the sagas now");
    }

    async fn connection(&self) -> PgConnection {
        let options = self.pool.connect_options().as_ref().clone();
        // What follows from a checkpoint that is lost is recognised when it is done again.
        let options = options
            .application_name(&format!("cartulary {}/{}", self.lease.reader, self.lease.lane))
            .options([("synchronous_commit", "off")]);
        loop {
            match options.connect().await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::warn!(%error, "the sagas wait for the database");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// A connection with trouble is not used any more.
    async fn wait(&self, error: &sqlx::Error, connection: &mut PgConnection) {
        tracing::warn!(%error, "the sagas wait for the database");
        tokio::time::sleep(BACKOFF).await;
        *connection = self.connection().await;
    }

    async fn follow(&self, after: u64, queues: &Inputs) {
        let mut follower = self.sagas.feed.follow(after);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                while let Err(reason) = self.hand_in(&entry, queues).await {
                    // Never skipped in silence: a build that knows the event goes on from here.
                    tracing::error!(reason, position = entry.sequence, "the sagas can't go on");
                    self.status.send_modify(|status| status.stopped = Some(reason.clone()));
                    tokio::time::sleep(BACKOFF).await;
                }
                self.status.send_if_modified(|status| status.stopped.take().is_some());
            }
        }
    }

    /// Hands a commit's events to the sagas that follow them. What is not readable is passed over, if it
    /// is of no stream that a saga follows.
    async fn hand_in(&self, entry: &Entry, queues: &Inputs) -> Result<(), String> {
        let is_followed = entry.stream().is_none_or(|stream| FOLLOWED.contains(&stream.category()));
        let commit = match &entry.commit {
            Err(error) if is_followed => return Err(error.to_string()),
            Err(_) => {
                queues.seen(entry.sequence);
                return Ok(());
            }
            Ok(commit) => commit,
        };
        if !is_followed {
            queues.seen(entry.sequence);
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
                let Some(order_id) = order_id.filter(|id| self.lease.partitions.contains(&id.partition()))
                else {
                    continue;
                };
                let (stream, event, at) = (stream.clone(), event.clone(), recorded.occurred_at);
                let input = Input::Event { stream, event, at };
                let (cause, correlation) = (recorded.id, commit.correlation);
                let position = Some(entry.sequence);
                self.push(queues, Work { kind, order_id, input, cause, correlation, position }).await;
            }
        }
        queues.seen(entry.sequence);
        Ok(())
    }

    async fn push(&self, queues: &Inputs, work: Work) {
        let (key, position) = ((work.kind, work.order_id), work.position.unwrap_or(u64::MAX));
        let sagas = self.sagas.clone();
        let deal = move |work| {
            let sagas = sagas.clone();
            async move { sagas.deal_with(&work, None).await }
        };
        queues.push(key, work, position, deal).await;
    }

    /// Looks for timers that should have fired by now, whatever became of them: their calls are made here.
    async fn sweep(&self, queues: &Inputs) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            if let Err(error) = self.take_up_calls().await {
                tracing::warn!(%error, "what was called for is done later");
            }
            let before = self.sagas.clock.now() - OVERDUE;
            let overdue = async {
                let mut connection = self.pool.acquire().await?;
                if self.lease.lane == 0 {
                    index::forget(&mut connection).await?;
                }
                index::overdue(&self.lease.partitions, before, &mut connection).await
            };
            let overdue = match overdue.await {
                Ok(overdue) => overdue,
                Err(error) => {
                    tracing::warn!(%error, "timers that did not fire are looked for later");
                    continue;
                }
            };
            for Overdue { saga, id, timer, generation } in overdue {
                let Some(work) = due(&saga, &id.to_string(), &timer, generation.cast_unsigned()) else {
                    continue;
                };
                if !queues.is_busy(&(work.kind, work.order_id)) {
                    tracing::info!(saga, %id, timer, "a timer that did not fire is made up for");
                    self.push(queues, work).await;
                }
            }
        }
    }

    async fn take_up_calls(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        for called in index::calls(&self.lease.partitions, &mut connection).await? {
            match self.sagas.take_up(&called).await {
                Ok(()) => {
                    tracing::info!(order = %called.id, call = called.call, "an operator's call was taken up");
                    index::taken_up(&called, &mut connection).await?;
                }
                Err(again) => {
                    tracing::warn!(order = %called.id, call = called.call, %again, "a call is taken up later");
                }
            }
        }
        Ok(())
    }

    /// Saves how far all is dealt with; ends when the lane is somebody else's.
    async fn save(&self, mut saved: u64, queues: &Inputs, mut connection: PgConnection) {
        loop {
            tokio::time::sleep(CHECKPOINT_INTERVAL).await;
            let done = queues.done();
            self.status.send_if_modified(|status| std::mem::replace(&mut status.position, done) != done);
            // Never behind the checkpoint: what it passes is not told again.
            if let Err(error) = self.sagas.index.store(&mut connection).await {
                self.wait(&error, &mut connection).await;
                continue;
            }
            if done <= saved {
                continue;
            }
            match self.lease.advance(&mut connection, saved, done, None, 0).await {
                Ok(Advance::Done) => saved = done,
                Ok(Advance::Held(_)) => {}
                Ok(Advance::Lost) => match self.lease.begin(&mut connection).await {
                    // An answer was lost on its way, but not the update.
                    Ok(Some(position)) if position > saved => saved = position,
                    Ok(_) => return,
                    Err(error) => self.wait(&error, &mut connection).await,
                },
                Err(error) => self.wait(&error, &mut connection).await,
            }
        }
    }
}
