//! One input for one saga: react, record, act, as often as it takes.

use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use domain::{Command, CommandId, Event, OrderId, order, payment};
use futures_util::{FutureExt, StreamExt, TryFutureExt, stream};
use infra::clock::Clock;
use infra::execute::{self, Executed, Executor, Executors, Loaded, Request};
use infra::fail_points;
use infra::feed::Feed;
use infra::log::{ReadError, Unavailable};
use infra::payment::{NoAnswer, Providers, Wanted, signal, signal_about};
use infra::timers::{Timer, Timers};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::alarms;
use crate::answers::Reaction;
use crate::aside::Letter;
use crate::checkout::{self, Checkout, Limits, Told};
use crate::index::Index;
use crate::payment as payment_saga;
use crate::reconcile;
use crate::saga::{Action, Input};
use crate::settle::{self, Patience, settle};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// When what a provider told of is looked up again, if it does not answer.
const OBSERVED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Actions for one input at a time.
const ACTIONS_MAX: usize = 64;

/// When a timer of an order that is set aside comes again.
const ASIDE_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// After so many attempts at a step, operators are told.
const TROUBLE: u32 = 3;

#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: Limits,
    pub patience: Patience,
    pub reconciliation: reconcile::Settings,
}

/// All that the sagas work with.
pub struct Sagas {
    pub feed: Arc<Feed>,
    pub clock: Clock,
    pub executors: Arc<Executors>,
    pub checkouts: Executor<Checkout>,
    pub providers: Providers,
    pub timers: Arc<dyn Timers>,
    pub settings: Settings,
    pub index: Index,
}

/// The sagas that there are.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = Saga)]
pub enum Kind {
    #[default]
    Checkout,
    Payment,
}

impl Kind {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Checkout, Self::Payment].into_iter().find(|kind| kind.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Checkout => checkout::NAME,
            Self::Payment => payment_saga::NAME,
        }
    }
}

/// An input for one saga.
#[derive(Clone)]
pub(crate) struct Work {
    pub kind: Kind,
    pub order_id: OrderId,
    pub input: Input,
    /// Id of the event or the firing that it comes from.
    pub cause: Uuid,
    pub correlation: CommandId,
    /// Of the event in the log.
    pub position: Option<u64>,
    /// Nobody can have dealt with it before.
    pub is_first: bool,
    /// Who called for it, if somebody did.
    pub by: Option<String>,
}

/// The world said no, or not now: to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Again {
    #[error("{0}")]
    Unavailable(String),
    /// Only another build helps.
    #[error("{0}")]
    Unreadable(String),
}

impl Again {
    pub(crate) fn because(error: impl std::error::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<Unavailable> for Again {
    fn from(error: Unavailable) -> Self {
        Self::because(error)
    }
}

impl From<ReadError> for Again {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(error) => Self::because(error),
            ReadError::Unreadable { .. } => Self::Unreadable(error.to_string()),
        }
    }
}

impl<E: std::error::Error> From<execute::Error<E>> for Again {
    fn from(error: execute::Error<E>) -> Self {
        match error {
            execute::Error::Unreadable(reason) => Self::Unreadable(reason),
            error => Self::because(error),
        }
    }
}

impl Sagas {
    /// Deals with one input, as often as it takes, or sets it aside.
    pub(crate) async fn deal_with(&self, mut work: Work) {
        let (mut backoff, mut attempts) = (BACKOFF_MIN, 0);
        while let Err(again) = self.deal_or_wait(&work).await {
            if let (Again::Unreadable(reason), Some(position)) = (&again, work.position) {
                self.set_aside(work.letter(position, Some(reason.clone())));
                break;
            }
            work.is_first = false;
            tracing::warn!(saga = work.kind.name(), order = %work.order_id, %again, "a step will be tried again");
            attempts += 1;
            if attempts >= TROUBLE {
                self.index.trouble(work.kind, work.order_id, attempts, &again.to_string());
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.index.out_of_trouble(work.kind, work.order_id);
    }

    /// Deals with the input, unless it has to wait for a build that can read what happened before it.
    pub(crate) async fn deal_or_wait(&self, work: &Work) -> Result<(), Again> {
        if !self.index.aside.holds(work.order_id.0) {
            return self.try_to_deal_with(work).await;
        }
        match (&work.input, work.position) {
            (_, Some(position)) => self.set_aside(work.letter(position, None)),
            (Input::Timer { name, generation }, None) => {
                let (saga, id) = (work.kind.name().to_owned(), work.order_id.to_string());
                let at = self.clock.now() + ASIDE_AGAIN_AFTER;
                self.timers.set(&Timer { saga, id, name: name.clone(), generation: *generation, at }).await?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn set_aside(&self, letter: Letter) {
        let (id, position, reason) = (letter.key.id, letter.position, letter.reason.clone());
        if let (true, Some(reason)) = (self.index.aside.add(letter), reason) {
            alarms::set_aside(id, position, &reason);
        }
    }

    /// React, record, act: in this order, so that a crash in between repeats and loses nothing.
    pub(crate) async fn try_to_deal_with(&self, work: &Work) -> Result<(), Again> {
        match (work.kind, &work.input, work.position) {
            (Kind::Checkout, Input::Recorded, Some(position)) => {
                self.follow_up(work.order_id, position).await
            }
            (Kind::Checkout, ..) => self.deal_with_checkout(work).await,
            (Kind::Payment, ..) => self.deal_with_payment(work).await,
        }
    }

    /// React, record, act.
    pub(crate) async fn react(&self, work: &Work) -> Result<Reaction, Again> {
        let limits = self.settings.limits.clone();
        let command = Told { input: work.input.clone(), limits, now: self.clock.now() };
        let request = work.request("react", &work.input.name());
        let Executed { events, sequence, repeated, .. } =
            self.checkouts.execute(work.order_id, &request, command).await?;
        if events.is_empty() {
            return Ok(Reaction::default());
        }
        let state = self.noted(work.order_id, sequence).await?;
        alarms::of_checkout(work.order_id, &events);
        fail_points::may_die(fail_points::SAGA_RECORDED);
        let actions = state.actions(work.order_id, &work.input, &events, self.clock.now());
        let answers = self.act_on_all(work, actions).await?;
        self.index.acted.note(sequence);
        Ok(Reaction { is_news: !repeated, answers })
    }

    /// The checkout as it was at the position, or later; the table will have it.
    pub(crate) async fn noted(&self, order_id: OrderId, position: u64) -> Result<Checkout, ReadError> {
        let Loaded { state, version, .. } = self.checkouts.load_since(order_id, position).await?;
        if let Some(summary) = state.summary() {
            self.index.note(Kind::Checkout, order_id, version, summary);
        }
        Ok(state)
    }

    async fn deal_with_payment(&self, work: &Work) -> Result<(), Again> {
        if let Input::Event { event: Event::Payment(event), .. } = &work.input {
            alarms::of_payment(work.order_id, event);
            let position = work.position.unwrap_or(0);
            let payment = self.executors.payments.load_since(work.order_id, position).await?.state;
            if let payment::Event::Captured { .. } = event {
                alarms::of_status(work.order_id, payment.status());
            }
            let is_open = payment.open_request(work.order_id).is_some();
            if let Some(summary) = payment_saga::summary(event, is_open) {
                self.index.note(work.kind, work.order_id, position, summary);
            }
        }
        fail_points::may_die(fail_points::SAGA_RECORDED);
        self.act_on_all(work, payment_saga::actions(&work.input)).await.map(drop)
    }

    /// Side by side, but for what has to wait for those before it. If one can't be done now, the others are
    /// done all the same.
    pub(crate) async fn act_on_all(&self, work: &Work, actions: Vec<Action>) -> Result<Vec<Work>, Again> {
        let mut answers = Vec::new();
        for together in actions.chunk_by(|_, next| !next.waits_for_those_before()) {
            let mut acting = Vec::new();
            for action in together {
                let act = self.act(work, action.clone());
                acting.push(act.inspect_ok(|_| fail_points::may_die(fail_points::SAGA_ACTED)).boxed());
            }
            let outcomes: Vec<_> = stream::iter(acting).buffered(ACTIONS_MAX).collect().await;
            for answer in outcomes {
                answers.extend(answer?);
            }
        }
        Ok(answers)
    }

    /// Does it; what answers that at once comes back.
    pub(crate) async fn act(&self, work: &Work, action: Action) -> Result<Option<Work>, Again> {
        let (saga, id) = (work.kind.name(), work.order_id.to_string());
        match action {
            Action::Execute { step, command } => return self.execute(work, &step, command).await,
            Action::SettlePayment { generation } => self.settle_payment(work, generation).await?,
            Action::ObservePayment { reference } => self.observe_payment(work, reference.as_deref()).await?,
            Action::SetTimer { name, generation, at } => {
                let timer = Timer { saga: saga.to_owned(), id, name: name.to_owned(), generation, at };
                self.timers.set(&timer).await?;
            }
            Action::CancelTimer { name } => self.timers.cancel(saga, &id, name).await?,
        }
        Ok(None)
    }

    /// Gives a command; what answers it at once comes back.
    async fn execute(&self, work: &Work, step: &str, command: Command) -> Result<Option<Work>, Again> {
        let (executors, request) = (&self.executors, &work.request(step, step));
        match command {
            Command::Product(sku, command) => drop(executors.products.execute(sku, request, command).await?),
            Command::Stock(sku, command) => {
                let moved = executors.stock.execute(&sku, request, command).await?;
                return Ok(self.answer(work, request, sku, moved, Event::Stock));
            }
            Command::Cart(id, command) => drop(executors.carts.execute(id, request, command).await?),
            Command::Order(id, command @ order::Command::Place { .. }) => {
                let placed = executors.orders.execute(id, request, command).await?;
                return Ok(self.answer(work, request, id, placed, Event::Order));
            }
            Command::Order(id, command) => drop(executors.orders.execute(id, request, command).await?),
            Command::Payment(id, command) => drop(executors.payments.execute(id, request, command).await?),
        }
        Ok(None)
    }

    async fn settle_payment(&self, work: &Work, generation: Option<u32>) -> Result<(), Again> {
        let payments = &self.executors.payments;
        let payment = match work.position.filter(|_| work.is_first) {
            Some(position) => payments.load_since(work.order_id, position).await?,
            // Another process may have its answer, and must not be asked for a second time.
            None => payments.load(work.order_id).await?,
        };
        let Some(request) = payment.state.open_request(work.order_id) else { return Ok(()) };
        if generation.is_some_and(|generation| generation != request.open.attempt) {
            return Ok(());
        }
        let provider = self.providers.named(&request.payment.method).map_err(Again::because)?;
        let patience = &self.settings.patience;
        let heard = settle(provider.as_ref(), &request, work.is_first, &self.clock, patience).await;
        fail_points::may_die(fail_points::PROVIDER_ANSWERED);
        let name = format!("record/{}/{}", request.open.operation.code(), request.open.attempt);
        self.record(work, &name, heard).await
    }

    /// A provider that does not answer now is asked later: nothing else waits for that.
    async fn observe_payment(&self, work: &Work, meant: Option<&str>) -> Result<(), Again> {
        let payment = self.executors.payments.load(work.order_id).await?.state;
        let Some(method) = payment.method() else { return Ok(()) };
        let reference = meant.or(payment.provider_reference());
        let wanted = Wanted { order_id: work.order_id, reference, since: settle::since(payment.asked_at()) };
        let look_up = async {
            let provider = self.providers.named(&method.method)?;
            let answer = tokio::time::timeout(settle::ANSWER_LIMIT, provider.look_up(wanted)).await;
            answer.unwrap_or_else(|_| Err(NoAnswer("it took too long".to_owned())))
        };
        let at = self.clock.now();
        match look_up.await {
            Ok(found) => {
                let found = found.into_iter().map(|statement| payment::Command::Observe { statement, at });
                self.record(work, "observe", found.collect()).await
            }
            Err(error) => {
                tracing::warn!(order = %work.order_id, %error, "what the payment provider tells of is looked up later");
                let again = at + OBSERVED_AGAIN_AFTER;
                let signal = match meant {
                    Some(reference) => signal_about(work.order_id, reference, again),
                    None => signal(work.order_id, again),
                };
                Ok(self.timers.set(&signal).await?)
            }
        }
    }

    /// A repeat may hear something else than the first, which then is to be recorded as well.
    async fn record(&self, work: &Work, name: &str, heard: Vec<payment::Command>) -> Result<(), Again> {
        for command in heard {
            let content = Hash::of(contents(&command).as_bytes());
            let request = work.request(&format!("{name}/{content}"), name);
            self.executors.payments.execute(work.order_id, &request, command).await?;
        }
        Ok(())
    }
}

/// What was heard, whenever that was.
fn contents(command: &payment::Command) -> String {
    match command {
        payment::Command::Record { outcome, .. } => format!("{outcome:?}"),
        payment::Command::Observe { statement, .. } => format!("{statement:?}"),
        other => format!("{other:?}"),
    }
}

impl Work {
    fn letter(&self, position: u64, reason: Option<String>) -> Letter {
        Letter { key: self.order_id.into(), position, stream: self.input.name(), reason }
    }

    /// A request whose id is the same for every repeat of this step.
    fn request(&self, step: &str, asked: &str) -> Request {
        let saga = self.kind.name();
        Request {
            command_id: CommandId(self.cause).step(&format!("{saga}/{step}")),
            hash: Hash::of(format!("{saga}/{asked}").as_bytes()),
            actor: self.by.clone().unwrap_or_else(|| format!("saga:{saga}")),
            correlation: self.correlation,
            causation: Some(self.cause),
            trace_parent: None,
            expected_version: None,
            occurred_at: None,
            priority: self.input.priority(),
        }
    }
}
