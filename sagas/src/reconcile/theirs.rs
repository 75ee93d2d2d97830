//! What the provider has in its books.

use domain::OrderId;
use domain::payment::{OpenRequest, Operation, Payment, RefundState, Request, State, Statement};
use domain::{Money, cart::PaymentMethod};
use infra::payment::{Answer, Booked, Wanted};

use super::tables::Kind;
use super::{Comparison, Error};

impl Comparison<'_> {
    /// Compares one of the provider's payments with ours.
    pub(super) async fn theirs(&mut self, booked: &Booked) -> Result<(), Error> {
        let statement = &booked.statement;
        let Some(order_id) = booked.order_id else {
            return self.orphan(None, statement).await;
        };
        let loaded = self.sagas.executors.payments.load(order_id).await.map_err(Error::log)?;
        let payment = &loaded.state;
        if payment.method().is_none_or(|method| method.method != self.provider.name()) {
            return self.orphan(Some(order_id), statement).await;
        }
        if payment.provider_reference().is_none_or(|ours| ours == statement.reference) {
            self.seen.insert(order_id);
        }
        let statement = &self.in_full(order_id, payment, statement).await?;
        let is_stray = payment.provider_reference().is_some_and(|ours| ours != statement.reference);
        let news = self.observe(order_id, &loaded, statement).await?;
        if news.is_empty() {
            return self.given_up(order_id, payment, statement).await;
        }
        let kind = if is_stray { Kind::Stray } else { Kind::Missed };
        let mut difference = self.difference(kind, Some(order_id), statement);
        difference.what = news.join(", ");
        difference.is_repaired = true;
        self.report(difference).await
    }

    /// What was to be undone, and is not asked for any more, is told as long as the provider holds it.
    pub(super) async fn given_up(
        &mut self,
        order_id: OrderId,
        payment: &Payment,
        statement: &Statement,
    ) -> Result<(), Error> {
        let is_given_up = payment.is_given_up(&statement.reference);
        let Some((_, amount)) = undo(statement).filter(|_| is_given_up) else { return Ok(()) };
        let mut difference = self.difference(Kind::GivenUp, Some(order_id), statement);
        difference.amount = amount;
        "the provider holds what a person gave up".clone_into(&mut difference.what);
        self.report(difference).await
    }

    /// The list may leave out what was given back of a payment that, it says, has nothing given back. If we know
    /// that it had, that failed since.
    async fn in_full(
        &self,
        order_id: OrderId,
        payment: &Payment,
        listed: &Statement,
    ) -> Result<Statement, Error> {
        let reference = Some(listed.reference.as_str());
        let done = listed.refunds.iter().filter(|refund| refund.state == RefundState::Done);
        let done = done.fold(0_i64, |sum, refund| sum.saturating_add(refund.amount));
        if payment.provider_reference() != reference || payment.amounts().refunded <= done {
            return Ok(listed.clone());
        }
        let found = self.provider.look_up(Wanted { order_id, reference, since: None }).await?;
        Ok(found.into_iter().next().unwrap_or_else(|| listed.clone()))
    }

    /// A payment for nothing that this shop knows of. Only one that says for which order it was made can have
    /// been made here (and be forgotten, by a log that lost its end, say).
    async fn orphan(&mut self, order_id: Option<OrderId>, statement: &Statement) -> Result<(), Error> {
        let Some(undo) = undo(statement) else { return Ok(()) };
        let mut difference = self.difference(Kind::Orphan, order_id, statement);
        difference.amount = undo.1;
        difference.what = match order_id {
            Some(_) => "there is no such order".to_owned(),
            None => "it names no order".to_owned(),
        };
        if let Some(order_id) = order_id.filter(|_| self.sagas.settings.reconciliation.undo_orphans) {
            let request = self.request_of(order_id, statement, undo);
            match self.provider.ask(&request).await {
                Ok(Answer::Stated(after)) => {
                    difference.is_repaired = self::undo(&after).is_none();
                    difference.what.push_str(match undo.0 {
                        Operation::Void => "; released",
                        _ => "; given back",
                    });
                }
                Ok(Answer::Refused { reason } | Answer::Failed { reason }) => {
                    difference.what.push_str(&format!("; not undone: {reason}"));
                }
                Err(error) => difference.what.push_str(&format!("; not undone: {error}")),
            }
        }
        self.report(difference).await
    }

    fn request_of(
        &self,
        order_id: OrderId,
        statement: &Statement,
        (operation, amount): (Operation, i64),
    ) -> Request {
        Request {
            order_id,
            amount: Money::new(amount, statement.currency),
            payment: PaymentMethod { method: self.provider.name().to_owned(), token: String::new() },
            open: OpenRequest {
                operation,
                amount,
                refund: (operation == Operation::Refund).then(|| format!("stray:{}", statement.reference)),
                stray: Some(statement.reference.clone()),
                attempt: 0,
                round: 0,
                asked_at: None,
                is_under_review: false,
            },
            provider_reference: Some(statement.reference.clone()),
        }
    }
}

/// How the money that it holds would be given back, and how much that is; nothing, if it holds none.
fn undo(statement: &Statement) -> Option<(Operation, i64)> {
    let given_back = statement.refunds.iter().filter(|refund| refund.state != RefundState::Failed);
    let given_back = given_back.fold(statement.taken_back(), |sum, refund| sum.saturating_add(refund.amount));
    let kept = statement.captured.saturating_sub(given_back);
    match statement.state {
        State::Authorized if statement.authorized > 0 => Some((Operation::Void, statement.authorized)),
        State::Captured if kept > 0 => Some((Operation::Refund, kept)),
        _ => None,
    }
}
