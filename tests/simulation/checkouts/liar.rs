//! A process's way to the provider: what it says may be made up on the way, and more may be asked than was wanted.

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{Operation, Refund, RefundState, Request, State, Statement};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::payment::{Answer, NoAnswer, Page, PaymentProvider, Wanted};
use uuid::Uuid;

use super::provider::Provider;
use super::{BUYERS, Mutant, Nap};

/// Truthful, unless it's a mutant.
pub struct Liar {
    pub provider: Provider,
    pub mutant: Mutant,
    pub nap: Nap,
}

impl Liar {
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
            self.nap.over().await;
            let answer = self.ask_falsely(request).await;
            self.nap.over().await;
            answer
        }
        .boxed()
    }

    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        match self.mutant {
            Mutant::AnothersPayment => {
                let order_id = another(wanted.order_id);
                self.provider.look_up(Wanted { order_id, reference: None, since: wanted.since })
            }
            _ => self.provider.look_up(wanted),
        }
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
