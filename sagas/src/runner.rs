//! The sagas' worker: follows the log and the timers, and sees to it that every input is dealt
//! with, in order, however often the world has to be asked.

use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use domain::{Aggregate, Command, CommandId, OrderId};
use futures_util::StreamExt;
use infra::clock::Clock;
use infra::execute::{self, Executed, Executor, Executors, Request};
use infra::feed::{Entry, Feed};
use infra::lanes;
use infra::log::Unavailable;
use infra::payment::PaymentProvider;
use infra::timers::{Fired, JetStreamTimers, Timer, Timers};
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::checkout::{self, Checkout};
use crate::payment;
use crate::queues::Queues;
use crate::saga::{Action, Input};
use crate::settle::settle;

/// Name of the sagas' checkpoint.
pub const READER: &str = "sagas";

/// Categories of the streams that sagas follow.
const FOLLOWED: [&str; 4] =
    [domain::cart::CATEGORY, domain::stock::CATEGORY, domain::order::CATEGORY, domain::payment::CATEGORY];

/// Inputs in memory at a time: with more, reading the log waits.
const WORK_MAX: usize = 4_096;
const BATCH_MAX: usize = 1_000;
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(200);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a buyer has to pay, from the checkout on.
    pub time_to_pay: Duration,
}

/// All that the sagas work with.
pub struct Sagas {
    pub feed: Arc<Feed>,
    pub clock: Clock,
    pub executors: Arc<Executors>,
    pub checkouts: Executor<Checkout>,
    pub provider: Arc<dyn PaymentProvider>,
    pub timers: Arc<dyn Timers>,
    pub settings: Settings,
}

/// How the worker is doing, for readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything up to here is dealt with.
    pub position: u64,
    /// Why it can't go on, if it can't.
    pub stopped: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Checkout,
    Payment,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Checkout => checkout::NAME,
            Self::Payment => payment::NAME,
        }
    }
}

/// An input for one saga.
struct Work {
    kind: Kind,
    order_id: OrderId,
    input: Input,
    /// Id of the event or the firing that it comes from.
    cause: Uuid,
    correlation: CommandId,
    fired: Option<Fired>,
}

/// The world said no, or not now: to be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Again(String);

impl From<Unavailable> for Again {
    fn from(error: Unavailable) -> Self {
        Self(error.to_string())
    }
}

impl<E: std::error::Error> From<execute::Error<E>> for Again {
    fn from(error: execute::Error<E>) -> Self {
        Self(error.to_string())
    }
}

impl Sagas {
    /// Works until it's dropped. Outages of the log, the database or the provider are waited out.
    pub async fn run(self: Arc<Self>, pool: PgPool, timers: JetStreamTimers, status: watch::Sender<Status>) {
        let after = loop {
            match read_checkpoint(&pool).await {
                Ok(position) => break position,
                Err(error) => tracing::warn!(%error, "waiting for the database"),
            }
            tokio::time::sleep(BACKOFF_MAX).await;
        };
        let queues = Arc::new(Queues::new(WORK_MAX, after));
        tokio::join!(
            self.clone().follow_log(after, &queues, &status),
            self.clone().follow_timers(&timers, &queues),
            save_checkpoint(&pool, after, &queues, &status),
        );
    }

    async fn follow_log(
        self: Arc<Self>,
        after: u64,
        queues: &Queues<(Kind, OrderId), Work>,
        status: &watch::Sender<Status>,
    ) {
        let mut follower = self.feed.follow(after);
        loop {
            for entry in follower.batch(BATCH_MAX).await {
                while let Err(reason) = self.clone().hand_in(&entry, queues).await {
                    // Never skipped in silence: a build that knows the event goes on from here.
                    tracing::error!(reason, position = entry.sequence, "the sagas can't go on");
                    status.send_modify(|status| status.stopped = Some(reason.clone()));
                    tokio::time::sleep(BACKOFF_MAX).await;
                }
                status.send_if_modified(|status| status.stopped.take().is_some());
            }
        }
    }

    /// Hands a commit's events to the sagas that follow them. What is not readable is passed over, if it
    /// is of no stream that a saga follows.
    async fn hand_in(
        self: Arc<Self>,
        entry: &Entry,
        queues: &Queues<(Kind, OrderId), Work>,
    ) -> Result<(), String> {
        let is_followed = entry.stream().is_none_or(|stream| FOLLOWED.contains(&stream.category()));
        let commit = match &entry.commit {
            Err(error) if is_followed => return Err(error.to_string()),
            Err(_) => {
                queues.seen(entry.sequence);
                return Ok(());
            }
            Ok(commit) => commit,
        };
        if let (true, Some(error)) =
            (is_followed, entry.events().iter().find_map(|event| event.as_ref().err()))
        {
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
                let Some(order_id) = order_id else { continue };
                let (stream, event, at) = (stream.clone(), event.clone(), recorded.occurred_at);
                let input = Input::Event { stream, event, at };
                let (cause, correlation) = (recorded.id, commit.correlation);
                let work = Work { kind, order_id, input, cause, correlation, fired: None };
                self.clone().push(queues, work, entry.sequence).await;
            }
        }
        queues.seen(entry.sequence);
        Ok(())
    }

    async fn follow_timers(
        self: Arc<Self>,
        timers: &JetStreamTimers,
        queues: &Queues<(Kind, OrderId), Work>,
    ) {
        loop {
            match timers.fired().await {
                Ok(mut fired) => {
                    while let Some(Ok(fired)) = fired.next().await {
                        self.clone().hand_in_timer(fired, queues).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "waiting for the timers"),
            }
            tokio::time::sleep(BACKOFF_MIN * 10).await;
        }
    }

    async fn hand_in_timer(self: Arc<Self>, fired: Fired, queues: &Queues<(Kind, OrderId), Work>) {
        let Timer { saga, id, name, generation, .. } = fired.timer.clone();
        let kinds = [Kind::Checkout, Kind::Payment];
        let kind = kinds.into_iter().find(|kind| kind.name() == saga);
        let (Some(kind), Ok(order_id)) = (kind, id.parse::<OrderId>()) else {
            tracing::error!(saga, id, name, "a timer of an unknown saga was ignored");
            return;
        };
        // The same firing, delivered again, has the same id.
        let cause = Uuid::new_v5(&order_id.0, format!("timer/{saga}/{name}/{generation}").as_bytes());
        let input = Input::Timer { name, generation };
        let work = Work { kind, order_id, input, cause, correlation: CommandId(cause), fired: Some(fired) };
        // A firing has no position in the log to hold the checkpoint back at.
        self.push(queues, work, u64::MAX).await;
    }

    async fn push(self: Arc<Self>, queues: &Queues<(Kind, OrderId), Work>, work: Work, position: u64) {
        let key = (work.kind, work.order_id);
        queues.push(key, work, position, move |work| self.clone().deal_with(work)).await;
    }

    /// Deals with one input, as often as it takes.
    async fn deal_with(self: Arc<Self>, work: Work) {
        let mut backoff = BACKOFF_MIN;
        while let Err(again) = self.try_to_deal_with(&work).await {
            tracing::warn!(saga = work.kind.name(), order = %work.order_id, %again, "a step will be tried again");
            if let Some(fired) = &work.fired {
                fired.still_at_it().await;
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        if let Some(fired) = work.fired
            && let Err(error) = fired.done().await
        {
            tracing::debug!(%error, "a timer will be delivered again");
        }
    }

    /// React, record, act: in this order, so that a crash in between repeats and loses nothing.
    async fn try_to_deal_with(&self, work: &Work) -> Result<(), Again> {
        let actions = match work.kind {
            Kind::Payment => payment::actions(&work.input),
            Kind::Checkout => {
                let time_to_pay = chrono::Duration::from_std(self.settings.time_to_pay);
                let time_to_pay = time_to_pay.map_err(|error| Again(error.to_string()))?;
                let command = (work.input.clone(), time_to_pay);
                let request = work.request("react", &work.input_name());
                let recorded = self.checkouts.execute(work.order_id, &request, command).await?;
                if recorded.events.is_empty() {
                    return Ok(());
                }
                let state =
                    self.checkouts.load(work.order_id).await.map_err(|error| Again(error.to_string()))?;
                state.state.actions(work.order_id, &work.input, &recorded.events)
            }
        };
        for action in actions {
            self.act(work, action).await?;
        }
        Ok(())
    }

    async fn act(&self, work: &Work, action: Action) -> Result<(), Again> {
        let (saga, id) = (work.kind.name(), work.order_id.to_string());
        match action {
            Action::Execute { step, command } => self.execute(&work.request(&step, &step), command).await,
            Action::SettlePayment { generation } => self.settle_payment(work, generation).await,
            Action::SetTimer { name, generation, at } => {
                let timer = Timer { saga: saga.to_owned(), id, name: name.to_owned(), generation, at };
                Ok(self.timers.set(&timer).await?)
            }
            Action::CancelTimer { name } => Ok(self.timers.cancel(saga, &id, name).await?),
        }
    }

    async fn execute(&self, request: &Request, command: Command) -> Result<(), Again> {
        let executors = &self.executors;
        match command {
            Command::Product(sku, command) => done(executors.products.execute(sku, request, command).await),
            Command::Stock(sku, command) => done(executors.stock.execute(sku, request, command).await),
            Command::Cart(id, command) => done(executors.carts.execute(id, request, command).await),
            Command::Order(id, command) => done(executors.orders.execute(id, request, command).await),
            Command::Payment(id, command) => done(executors.payments.execute(id, request, command).await),
        }
    }

    async fn settle_payment(&self, work: &Work, generation: Option<u32>) -> Result<(), Again> {
        let payment = self.executors.payments.load(work.order_id).await;
        let payment = payment.map_err(|error| Again(error.to_string()))?;
        let Some(request) = payment.state.open_request(work.order_id) else { return Ok(()) };
        if generation.is_some_and(|generation| generation != request.attempt) {
            return Ok(());
        }
        let outcome = settle(self.provider.as_ref(), &request, &self.clock).await;
        let name = format!("record/{}/{}", request.operation.code(), request.attempt);
        let record = Command::Payment(work.order_id, outcome);
        // An outcome is what the provider said this time; a repeat may hear more than the first.
        self.execute(&work.request(&format!("{name}/{}", Uuid::now_v7()), &name), record).await
    }
}

impl Work {
    fn input_name(&self) -> String {
        match &self.input {
            Input::Event { stream, .. } => stream.to_string(),
            Input::Timer { name, generation } => format!("{name}/{generation}"),
        }
    }

    /// A request whose id is the same for every repeat of this step.
    fn request(&self, step: &str, asked: &str) -> Request {
        let saga = self.kind.name();
        Request {
            command_id: CommandId(self.cause).step(&format!("{saga}/{step}")),
            hash: Hash::of(format!("{saga}/{asked}").as_bytes()),
            actor: format!("saga:{saga}"),
            correlation: self.correlation,
            causation: Some(self.cause),
            trace_parent: None,
            expected_version: None,
            occurred_at: None,
        }
    }
}

fn done<A: Aggregate>(outcome: Result<Executed<A>, execute::Error<A::Error>>) -> Result<(), Again> {
    outcome.map(drop).map_err(Again::from)
}

async fn read_checkpoint(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    lanes::add(&mut connection, READER, 1).await?;
    lanes::position(&mut connection, READER).await
}

async fn save_checkpoint(
    pool: &PgPool,
    mut saved: u64,
    queues: &Queues<(Kind, OrderId), Work>,
    status: &watch::Sender<Status>,
) {
    loop {
        tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        let done = queues.done();
        if done > saved {
            match advance(pool, saved, done).await {
                Ok(()) => saved = done,
                Err(error) => tracing::warn!(%error, "the sagas' checkpoint can't be saved"),
            }
        }
        status.send_if_modified(|status| std::mem::replace(&mut status.position, done) != done);
    }
}

async fn advance(pool: &PgPool, from: u64, to: u64) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    // Two workers at a time are safe, since every step is recognised: who is behind moves nothing.
    lanes::advance_unleased(&mut connection, READER, from, to, None).await?;
    Ok(())
}
