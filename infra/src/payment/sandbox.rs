//! A payment provider for development, deterministic by token, with a durable ledger of its own.
//!
//! | token                | what it does                                                             |
//! |----------------------|--------------------------------------------------------------------------|
//! | tok_approve          | approved                                                                 |
//! | tok_decline          | declined                                                                 |
//! | tok_slow             | under way, approved after 5 s                                            |
//! | tok_lost             | approved, and the answer is lost on its way                              |
//! | tok_late             | the answer is lost, and it's approved a minute later                     |
//! | tok_twice            | approved, and told of twice before the answer                            |
//! | tok_challenge        | the buyer has to approve it, at the address that the challenge names     |
//! | tok_less             | half of the amount is authorised                                         |
//! | tok_capture_less     | half of the amount is captured                                           |
//! | tok_capture_declined | approved, and the capture is declined                                    |
//! | tok_refund_slow      | refunds are under way for 5 s                                            |
//! | tok_refund_refused   | the first refund is refused, a later one done                            |
//! | tok_charge_back      | 5 s after the capture, the buyer's bank takes the money back             |
//! | any other            | declined as unknown                                                      |
//!
//! Its ledger, the table `sandbox.operations`, plays the provider's own books: only this room reads and
//! writes it, and it survives the platform's crashes as a provider's books would.

mod desk;
mod ledger;

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use domain::OrderId;
use domain::payment::{Operation, Request, Statement};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::PgPool;

use super::{Answer, NoAnswer, Page, PaymentProvider, Wanted, signal};
use crate::clock::Clock;
use crate::timers::Timers;
use desk::{Desk, Entered};
use ledger::Line;

pub const NAME: &str = "sandbox";

const PAGE_MAX: i64 = 100;

/// The sandbox and its ledger.
#[derive(Clone)]
pub struct Sandbox {
    ledger: PgPool,
    desk: Desk,
    clock: Clock,
    /// Where it tells of what happens later, as a provider's webhook would.
    timers: Arc<dyn Timers>,
}

/// The payment is not one that waits for its buyer.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    #[error("this payment does not wait for its buyer")]
    NotAsked,
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

impl Sandbox {
    /// Opens the sandbox, and makes its ledger where there is none yet.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn open(ledger: PgPool, clock: Clock, timers: Arc<dyn Timers>) -> Result<Self, sqlx::Error> {
        ledger::migrate(&ledger).await?;
        let desk = Desk::open(ledger.clone(), clock.clone());
        Ok(Self { ledger, desk, clock, timers })
    }

    /// The buyer approves of the payment, or does not.
    ///
    /// # Errors
    /// It does not wait for them, or Postgres does not answer.
    pub async fn answer_challenge(&self, reference: &str, approves: bool) -> Result<(), ChallengeError> {
        let state = if approves { ledger::PASSED } else { ledger::FAILED };
        let order_id = ledger::answer_challenge(reference, state, &self.ledger).await.map_err(no_answer)?;
        self.tell(order_id.ok_or(ChallengeError::NotAsked)?, self.clock.now()).await?;
        Ok(())
    }

    async fn carry_out(&self, request: &Request) -> Result<Answer, NoAnswer> {
        let Entered { line, statement, is_first } = self.desk.enter(request).await?;
        if is_first {
            self.tell_later(request, &line).await?;
        }
        let is_lost = ["tok_lost", "tok_late"].contains(&request.payment.token.as_str());
        if is_first && is_lost && request.open.operation == Operation::Authorize {
            return Err(NoAnswer("the connection was cut".to_owned()));
        }
        Ok(match (line.declined, statement) {
            (Some(reason), _) => Answer::Refused { reason },
            (None, Some(statement)) => Answer::Stated(statement),
            (None, None) => return Err(NoAnswer("the ledger lost a line".to_owned())),
        })
    }

    /// What happens to the payment later is told when it happens.
    async fn tell_later(&self, request: &Request, line: &Line) -> Result<(), NoAnswer> {
        if request.payment.token == "tok_twice" {
            self.tell(request.order_id, line.asked_at).await?;
            self.tell(request.order_id, line.asked_at + Duration::seconds(1)).await?;
        }
        let is_charged_back = desk::charges_back(request);
        let at = if is_charged_back { line.settles_at + desk::SLOW } else { line.settles_at };
        // What is late is told of by nobody: it's to be looked up.
        if at > line.asked_at && request.payment.token != "tok_late" {
            self.tell(request.order_id, at).await?;
        }
        Ok(())
    }

    async fn tell(&self, order_id: OrderId, at: DateTime<Utc>) -> Result<(), NoAnswer> {
        self.timers.set(&signal(order_id, at)).await.map_err(|error| NoAnswer(error.to_string()))
    }
}

fn no_answer(error: sqlx::Error) -> NoAnswer {
    NoAnswer(error.to_string())
}

impl PaymentProvider for Sandbox {
    fn name(&self) -> &'static str {
        NAME
    }

    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        self.carry_out(request).boxed()
    }

    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        async move {
            let mut connection = self.ledger.acquire().await.map_err(no_answer)?;
            let lines = ledger::lines(&[wanted.order_id.0], &mut connection).await.map_err(no_answer)?;
            let all = ledger::statements(&lines, self.clock.now()).into_iter().map(|booked| booked.statement);
            let is_wanted = |one: &Statement| wanted.reference.is_none_or(|wanted| one.reference == wanted);
            Ok(all.filter(is_wanted).collect())
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
            let mut connection = self.ledger.acquire().await.map_err(no_answer)?;
            let cursor = cursor.map(ledger::Cursor::parse).transpose()?;
            let orders = ledger::made(since, until, cursor, PAGE_MAX, &mut connection).await;
            let orders = orders.map_err(no_answer)?;
            let ids: Vec<_> = orders.iter().map(|made| made.order_id).collect();
            let lines = ledger::lines(&ids, &mut connection).await.map_err(no_answer)?;
            let is_full = orders.len() == usize::try_from(PAGE_MAX).unwrap_or(usize::MAX);
            let next = orders.last().filter(|_| is_full).map(ledger::Cursor::to_string);
            Ok(Page { payments: ledger::statements(&lines, self.clock.now()), next })
        }
        .boxed()
    }

    fn challenge<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
        async move {
            let is_asked = ledger::is_asked(reference, &self.ledger).await.map_err(no_answer)?;
            Ok(is_asked.then(|| format!("/v1/sandbox/challenges/{reference}")))
        }
        .boxed()
    }

    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        async move {
            let order_id = ledger::order_of(reference, &self.ledger).await.map_err(no_answer)?;
            Ok(order_id.map(OrderId))
        }
        .boxed()
    }
}
