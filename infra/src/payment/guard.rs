//! What stands between the shop and a provider, so that a dead one slows nothing down.
//!
//! | bound      | what it does                                                                        |
//! |------------|-------------------------------------------------------------------------------------|
//! | bulkhead   | so many calls at a time, so many more that wait for a moment; the rest is told at once |
//! | time-out   | nobody waits longer for an answer                                                   |
//! | breaker    | after some calls in a row without an answer, none is made for a while; then a single one tells whether it's back |
//!
//! Whoever is turned away here hears [`NoAnswer`], as if the provider had been asked in vain: its outcome is
//! unknown, and it is looked up later. A refusal is an answer, and no sign of trouble.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{Request, Statement};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::{counter, gauge, histogram};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};
use tower_resilience_circuitbreaker::{
    CircuitBreaker, CircuitBreakerError, CircuitBreakerLayer, CircuitState, DefaultClassifier,
};

use super::{Answer, NoAnswer, Page, PaymentProvider, Wanted};

/// Calls by provider, operation and outcome, as a metric.
const CALLS: &str = "cartulary_payment_calls_total";
/// How long they took.
const SECONDS: &str = "cartulary_payment_call_seconds";
/// 0: calls are made; 1: one is, to see; 2: none is.
const BREAKER: &str = "cartulary_payment_breaker";

/// How long a call waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a provider may take to answer.
    pub answer: Duration,
    /// Calls at a time.
    pub calls: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// After so many calls in a row without an answer, it counts as dead.
    pub failures: usize,
    /// For so long, it is not called then.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (answer, pause) = (Duration::from_secs(8), Duration::from_secs(5));
        Self { answer, calls: 32, waiting: 1_024, failures: 10, pause }
    }
}

type Calling = BoxFuture<'static, Result<Said, NoAnswer>>;

struct Call(Calling);

/// Makes the calls that the breaker lets through.
#[derive(Clone)]
struct Caller;

impl Service<Call> for Caller {
    type Response = Said;
    type Error = NoAnswer;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Call(calling): Call) -> Calling {
        calling
    }
}

/// What any of the calls may bring.
enum Said {
    Answer(Answer),
    Found(Vec<Statement>),
    Page(Page),
    Challenge(Option<String>),
    Order(Option<OrderId>),
}

/// A provider with all of these around it.
pub struct Guard {
    provider: Arc<dyn PaymentProvider>,
    limits: Limits,
    /// For those who call and those who wait.
    places: Semaphore,
    turns: Semaphore,
    breaker: CircuitBreaker<Caller, DefaultClassifier>,
}

impl Guard {
    #[must_use]
    pub fn new(provider: Arc<dyn PaymentProvider>, limits: Limits) -> Self {
        let name = provider.name();
        let layer = CircuitBreakerLayer::builder()
            .name(name)
            .consecutive_failures(limits.failures.max(1))
            .wait_duration_in_open(limits.pause)
            .permitted_calls_in_half_open(1)
            .on_state_transition(move |_, now| tell(name, now))
            .build();
        let layer = layer.unwrap_or_else(|error| unreachable!("the limits make no sense: {error}"));
        let breaker = layer.layer(Caller);
        gauge!(BREAKER, "provider" => name).set(0.0);
        let places = Semaphore::new(limits.calls.saturating_add(limits.waiting));
        let turns = Semaphore::new(limits.calls);
        Self { provider, limits, places, turns, breaker }
    }

    async fn call(
        &self,
        operation: &'static str,
        call: impl FnOnce(Arc<dyn PaymentProvider>) -> Calling,
    ) -> Result<Said, NoAnswer> {
        let (began, name) = (Instant::now(), self.provider.name());
        let (outcome, said) = self.pass(call(self.provider.clone())).await;
        counter!(CALLS, "provider" => name, "operation" => operation, "outcome" => outcome).increment(1);
        histogram!(SECONDS, "provider" => name, "operation" => operation)
            .record(began.elapsed().as_secs_f64());
        said
    }

    async fn pass(&self, calling: Calling) -> (&'static str, Result<Said, NoAnswer>) {
        let no_answer = |what: &str| Err(NoAnswer(what.to_owned()));
        let Ok(_place) = self.places.try_acquire() else {
            return ("too_many", no_answer("too many calls are under way"));
        };
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN_LIMIT, self.turns.acquire()).await else {
            return ("too_many", no_answer("too many calls are under way"));
        };
        let limit = self.limits.answer;
        let timed = async move {
            let answered = tokio::time::timeout(limit, calling).await;
            answered.unwrap_or_else(|_| Err(NoAnswer("it took too long".to_owned())))
        };
        match self.breaker.clone().oneshot(Call(timed.boxed())).await {
            Ok(said @ Said::Answer(Answer::Refused { .. })) => ("refused", Ok(said)),
            Ok(said) => ("answered", Ok(said)),
            Err(CircuitBreakerError::OpenCircuit) => {
                ("not_called", no_answer("it has not answered for a while, and is not called now"))
            }
            Err(CircuitBreakerError::Inner(error)) => ("no_answer", Err(error)),
        }
    }
}

fn tell(provider: &'static str, state: CircuitState) {
    let value = match state {
        CircuitState::Closed => {
            tracing::info!(provider, "the payment provider answers again");
            0.0
        }
        CircuitState::HalfOpen => 1.0,
        CircuitState::Open => {
            tracing::error!(provider, "the payment provider does not answer, and is not called for a while");
            2.0
        }
    };
    gauge!(BREAKER, "provider" => provider).set(value);
}

fn other_answer() -> NoAnswer {
    NoAnswer("it answered another question".to_owned())
}

impl PaymentProvider for Guard {
    fn name(&self) -> &'static str {
        self.provider.name()
    }

    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        async move {
            let owned = request.clone();
            let call = move |provider: Arc<dyn PaymentProvider>| {
                async move { provider.ask(&owned).await.map(Said::Answer) }.boxed()
            };
            match self.call(request.open.operation.code(), call).await? {
                Said::Answer(answer) => Ok(answer),
                _ => Err(other_answer()),
            }
        }
        .boxed()
    }

    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        async move {
            let Wanted { order_id, reference, since } = wanted;
            let reference = reference.map(str::to_owned);
            let call = move |provider: Arc<dyn PaymentProvider>| {
                async move {
                    let wanted = Wanted { order_id, reference: reference.as_deref(), since };
                    provider.look_up(wanted).await.map(Said::Found)
                }
                .boxed()
            };
            match self.call("look_up", call).await? {
                Said::Found(found) => Ok(found),
                _ => Err(other_answer()),
            }
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, NoAnswer>> {
        async move {
            let cursor = cursor.map(str::to_owned);
            let call = move |provider: Arc<dyn PaymentProvider>| {
                async move { provider.list(since, until, cursor.as_deref()).await.map(Said::Page) }.boxed()
            };
            match self.call("list", call).await? {
                Said::Page(page) => Ok(page),
                _ => Err(other_answer()),
            }
        }
        .boxed()
    }

    fn challenge<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
        async move {
            let reference = reference.to_owned();
            let call = move |provider: Arc<dyn PaymentProvider>| {
                async move { provider.challenge(&reference).await.map(Said::Challenge) }.boxed()
            };
            match self.call("challenge", call).await? {
                Said::Challenge(challenge) => Ok(challenge),
                _ => Err(other_answer()),
            }
        }
        .boxed()
    }

    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        async move {
            let reference = reference.to_owned();
            let call = move |provider: Arc<dyn PaymentProvider>| {
                async move { provider.order_of(&reference).await.map(Said::Order) }.boxed()
            };
            match self.call("order_of", call).await? {
                Said::Order(order_id) => Ok(order_id),
                _ => Err(other_answer()),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// A provider that answers, refuses, fails or hangs, as it is told to.
    #[derive(Default)]
    struct Moody {
        calls: AtomicUsize,
        fails: AtomicBool,
        hangs: AtomicBool,
    }

    impl Moody {
        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    impl PaymentProvider for Moody {
        fn name(&self) -> &'static str {
            "moody"
        }

        fn ask<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
            async { Ok(Answer::Refused { reason: "no".to_owned() }) }.boxed()
        }

        fn look_up<'a>(&'a self, _: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
            async { Ok(Vec::new()) }.boxed()
        }

        fn list<'a>(
            &'a self,
            _: DateTime<Utc>,
            _: DateTime<Utc>,
            _: Option<&'a str>,
        ) -> BoxFuture<'a, Result<Page, NoAnswer>> {
            async { Ok(Page::default()) }.boxed()
        }

        fn challenge<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
            async {
                self.calls.fetch_add(1, Ordering::SeqCst);
                if self.hangs.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                match self.fails.load(Ordering::SeqCst) {
                    true => Err(NoAnswer("dead".to_owned())),
                    false => Ok(None),
                }
            }
            .boxed()
        }

        fn order_of<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
            async { Ok(None) }.boxed()
        }
    }

    fn limits() -> Limits {
        let (answer, pause) = (Duration::from_millis(50), Duration::from_millis(100));
        Limits { answer, calls: 2, waiting: 2, failures: 3, pause }
    }

    #[tokio::test]
    async fn a_dead_provider_is_left_alone_until_a_single_call_finds_it_back() {
        let moody = Arc::new(Moody::default());
        let guard = Guard::new(moody.clone(), limits());
        moody.fails.store(true, Ordering::SeqCst);
        for _ in 0..10 {
            assert!(guard.challenge("x").await.is_err());
        }
        assert_eq!(moody.calls(), 3, "it was called no more once it counted as dead");
        // After the pause one call is made, which fails, and then none again.
        while moody.calls() == 3 {
            assert!(guard.challenge("x").await.is_err());
            tokio::task::yield_now().await;
        }
        assert!(guard.challenge("x").await.is_err());
        assert_eq!(moody.calls(), 4);
        moody.fails.store(false, Ordering::SeqCst);
        while guard.challenge("x").await.is_err() {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            assert!(guard.challenge("x").await.is_ok(), "it is back");
        }
    }

    #[tokio::test]
    async fn a_provider_that_hangs_holds_up_a_few_and_not_for_long() {
        let moody = Arc::new(Moody::default());
        let guard = Guard::new(moody.clone(), Limits { failures: 100, ..limits() });
        moody.hangs.store(true, Ordering::SeqCst);
        let crowd = futures_util::future::join_all((0..20).map(|_| guard.challenge("x"))).await;
        assert!(crowd.iter().all(Result::is_err));
        assert_eq!(moody.calls(), 4, "two at a time, and two that waited for them");
        let turned_away = crowd.iter().filter(|error| format!("{error:?}").contains("too many")).count();
        assert_eq!(turned_away, 16);
    }

    #[tokio::test]
    async fn refusals_are_answers() {
        let guard = Guard::new(Arc::new(Moody::default()), limits());
        let json = serde_json::json!({
            "operation": "authorize", "amount": 1, "refund": null, "stray": null, "attempt": 0, "round": 0,
            "asked_at": null, "is_under_review": false});
        let request = Request {
            order_id: OrderId(uuid::Uuid::nil()),
            amount: domain::Money::new(1, "GBP".parse().unwrap()),
            payment: domain::cart::PaymentMethod { method: "moody".to_owned(), token: "x".to_owned() },
            open: serde_json::from_value(json).unwrap(),
            provider_reference: None,
        };
        for _ in 0..10 {
            assert!(matches!(guard.ask(&request).await, Ok(Answer::Refused { .. })));
        }
    }
}
