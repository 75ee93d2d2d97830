//! A process's way to the provider: what it says may be made up on the way, and more may be asked than was wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{Operation, Refund, RefundState, Request, State, Statement};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::payment::{Answer, NoAnswer, Page, PaymentProvider, Wanted};
use tokio::time::Instant;
use uuid::Uuid;

use super::provider::Provider;
use super::world::World;
use super::{BUYERS, Counts, Mutant, Nap};

/// Asked again, and nobody has looked first whether it was done.
pub const ASKED_BLINDLY: &str = "it is asked again, and not looked up";

/// Truthful, unless it's a mutant.
pub struct Liar {
    provider: Provider,
    mutant: Mutant,
    nap: Nap,
    counts: Counts,
    /// When each key was used first, by any process.
    used: Arc<Mutex<BTreeMap<String, Instant>>>,
    began: Instant,
    /// What this process has asked for.
    own: Mutex<BTreeSet<String>>,
    /// When this process last looked up an order.
    looked_up: Mutex<BTreeMap<OrderId, Instant>>,
}

impl Liar {
    pub fn new(world: &World, nap: &Nap) -> Self {
        Self {
            provider: world.provider.clone(),
            mutant: world.mutant,
            nap: nap.clone(),
            counts: world.counts.clone(),
            used: world.used_keys.clone(),
            began: Instant::now(),
            own: Mutex::default(),
            looked_up: Mutex::default(),
        }
    }

    /// Each request that may have been made before is looked up first, at the same moment, by the process that makes
    /// it: before it was there, or by itself. That a stray payment is voided for a second time, because it was found
    /// once more, harms nobody.
    fn is_blind(&self, request: &Request) -> bool {
        let (key, now) = (request.idempotency_key(), Instant::now());
        let first = *self.used.lock().expect("no panic").entry(key.clone()).or_insert(now);
        let is_own = !self.own.lock().expect("no panic").insert(key);
        let is_again =
            request.open.attempt > 0 || request.open.operation.creates() && (first < self.began || is_own);
        is_again && self.looked_up.lock().expect("no panic").get(&request.order_id) != Some(&now)
    }

    async fn ask_falsely(&self, request: &Request) -> Result<Answer, NoAnswer> {
        match (self.mutant, request.open.operation) {
            (Mutant::RefundNotAsked, Operation::Refund) => Ok(self.refunded(request)),
            (Mutant::RefundTwice, Operation::Refund) => {
                let answer = self.provider.ask(request).await;
                let refund = request.open.refund.as_ref().map(|name| format!("{name}/again"));
                let mut again = request.clone();
                again.open.refund = refund;
                let _ = self.provider.ask(&again).await;
                answer
            }
            (Mutant::RefundUncapped, Operation::Refund) => {
                let mut more = request.clone();
                more.amount.amount *= 2;
                self.provider.ask(&more).await
            }
            (Mutant::OneKeyForAll, Operation::Refund) => {
                let mut one = request.clone();
                one.open.refund = Some("refund".to_owned());
                self.provider.ask(&one).await
            }
            (Mutant::AnswerInvented, Operation::Authorize) => Ok(Answer::Stated(authorized(request))),
            (Mutant::AmountIgnored, operation) => {
                let mut answer = self.provider.ask(request).await;
                if let Ok(Answer::Stated(statement)) = &mut answer {
                    let amount = match operation {
                        Operation::Authorize => &mut statement.authorized,
                        _ => &mut statement.captured,
                    };
                    *amount = if *amount > 0 { request.amount.amount } else { 0 };
                }
                answer
            }
            _ => self.provider.ask(request).await,
        }
    }

    /// Says that it has given the money back, and has not.
    fn refunded(&self, request: &Request) -> Answer {
        let reference = request.provider_reference.as_deref();
        let mut stated = self.provider.statements(request.order_id).into_iter();
        let found = stated.find(|statement| Some(statement.reference.as_str()) == reference);
        let mut statement = found.expect("what is paid back was captured");
        let (name, reference) = (request.open.refund.clone(), "made up".to_owned());
        let amount = request.amount.amount;
        statement.refunds.push(Refund { name, reference, amount, state: RefundState::Done });
        Answer::Stated(statement)
    }
}

fn authorized(request: &Request) -> Statement {
    Statement {
        reference: request.idempotency_key(),
        state: State::Authorized,
        currency: request.amount.currency,
        authorized: request.amount.amount,
        captured: 0,
        charged_back: 0,
        reinstated: 0,
        refunds: Vec::new(),
    }
}

/// Somebody else's order.
fn another(order_id: OrderId) -> OrderId {
    let first = 2_100;
    OrderId(Uuid::from_u128(first + (order_id.0.as_u128() - first + 1) % BUYERS))
}

impl PaymentProvider for Liar {
    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        async {
            if self.is_blind(request) {
                self.counts.note(ASKED_BLINDLY);
            }
            self.nap.over().await;
            let answer = self.ask_falsely(request).await;
            self.nap.over().await;
            answer
        }
        .boxed()
    }

    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        async move {
            let order_id = wanted.order_id;
            let found = match self.mutant {
                Mutant::NotLookedUp => return Ok(Vec::new()),
                Mutant::AnothersPayment => {
                    let order_id = another(order_id);
                    self.provider.look_up(Wanted { order_id, reference: None, since: wanted.since }).await?
                }
                _ => self.provider.look_up(wanted).await?,
            };
            self.looked_up.lock().expect("no panic").insert(order_id, Instant::now());
            Ok(found)
        }
        .boxed()
    }

    fn name(&self) -> &'static str {
        self.provider.name()
    }

    fn list<'a>(
        &'a self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, NoAnswer>> {
        match self.mutant {
            Mutant::BooksUnread => async { Ok(Page::default()) }.boxed(),
            _ => self.provider.list(since, until, cursor),
        }
    }

    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        self.provider.order_of(reference)
    }

    fn challenge<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
        self.provider.challenge(reference)
    }
}
