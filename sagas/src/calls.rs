//! What operators call for: a step now instead of later, another try at what was set aside, or an end.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use domain::{Command, CommandId, OrderId, payment};
use infra::feed::Entry;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::aside;
use crate::checkout;
use crate::following::inputs;
use crate::saga::{Action, Input, RETRY};
use crate::work::{Again, Kind, Sagas, Work};

/// What an operator wants done with a saga.
#[derive(Debug, FromRow)]
pub(crate) struct Called {
    pub id: Uuid,
    pub call: String,
    pub reason: Option<String>,
    pub actor: Option<String>,
    pub at: DateTime<Utc>,
}

/// Calls, as the table has them.
pub(crate) const ABANDON: &str = "abandon";
pub(crate) const ABANDON_PAYMENT: &str = "abandon_payment";
pub(crate) const RETRY_NOW: &str = "retry";

/// Who calls, if it is not said by whose hand.
pub(crate) const OPERATOR: &str = "operator";

impl Sagas {
    /// Does what was called for.
    pub(crate) async fn take_up(&self, called: &Called, connection: &mut PgConnection) -> Result<(), Again> {
        let order_id = OrderId(called.id);
        let actor = called.actor.clone().unwrap_or_else(|| OPERATOR.to_owned());
        let reason = called.reason.clone().unwrap_or_default();
        match called.call.as_str() {
            ABANDON => self.abandon_as(actor, order_id, reason, called.at).await,
            ABANDON_PAYMENT => self.abandon_payment(actor, order_id, reason, called.at).await,
            _ => {
                self.try_aside(called.id, connection).await?;
                if self.index.aside.holds(called.id) {
                    return Ok(());
                }
                self.repeat_last_step(order_id).await?;
                self.capture_again(order_id, called.at).await?;
                self.settle_now(order_id).await
            }
        }
    }

    /// Takes back whatever the checkout has done, or gives up what can't be, and records who is to blame.
    ///
    /// # Errors
    /// The log does not answer; it can be called for again, with the same time.
    pub async fn abandon(&self, order_id: OrderId, reason: String, at: DateTime<Utc>) -> Result<(), Again> {
        self.abandon_as(OPERATOR.to_owned(), order_id, reason, at).await
    }

    async fn abandon_as(
        &self,
        actor: String,
        order_id: OrderId,
        reason: String,
        at: DateTime<Utc>,
    ) -> Result<(), Again> {
        let cause = cause(order_id, ABANDON, at);
        let work = called_for(Kind::Checkout, order_id, Input::Abandoned { reason }, cause);
        self.try_to_deal_with(&Work { by: Some(actor), ..work }).await
    }

    /// Gives up what is asked of the provider, and nothing else: what became of it, nobody knows.
    async fn abandon_payment(
        &self,
        actor: String,
        order_id: OrderId,
        reason: String,
        at: DateTime<Utc>,
    ) -> Result<(), Again> {
        let command = payment::Command::Abandon { reason: reason.clone(), at: self.clock.now() };
        let input = Input::Abandoned { reason };
        let work = called_for(Kind::Payment, order_id, input, cause(order_id, ABANDON_PAYMENT, at));
        let work = Work { by: Some(actor), ..work };
        self.act(&work, Action::execute(ABANDON, Command::Payment(order_id, command))).await.map(drop)
    }

    /// Tries what is set aside there, in the log's order, as far as it can be read.
    pub(crate) async fn try_aside(&self, id: Uuid, connection: &mut PgConnection) -> Result<(), Again> {
        loop {
            let positions = self.index.aside.first(id, connection).await.map_err(Again::because)?;
            if positions.is_empty() {
                return Ok(());
            }
            for position in positions {
                match self.deal_with_commit(id, position).await {
                    Ok(()) => aside::done(id, position, connection).await.map_err(Again::because)?,
                    Err(Again::Unreadable(reason)) => {
                        let failed = aside::failed(id, position, &reason, connection).await;
                        return failed.map_err(Again::because);
                    }
                    Err(again) => return Err(again),
                }
            }
        }
    }

    /// Deals with what happened at a position to an order, or in a stream that can be read now.
    async fn deal_with_commit(&self, id: Uuid, position: u64) -> Result<(), Again> {
        let entry = match self.feed.log().read(position).await {
            Ok(Some(stored)) => Entry::new(stored),
            Ok(None) => return Err(Again::Unavailable("the log is behind".to_owned())),
            Err(error) => Entry::unreadable(error)?,
        };
        for input in inputs(&entry, |_| true) {
            match input {
                Err(letter) if letter.key.id == id => {
                    return Err(Again::Unreadable(letter.reason.unwrap_or_default()));
                }
                // It turned out whose it is.
                Err(letter) => self.set_aside(letter),
                Ok(work) if work.order_id.0 == id => self.try_to_deal_with(&work).await?,
                Ok(work) => self.deal_or_wait(&work).await?,
            }
        }
        Ok(())
    }

    /// Asks once more for a capture that is stuck, however often that was called for before.
    async fn capture_again(&self, order_id: OrderId, at: DateTime<Utc>) -> Result<(), Again> {
        let summary = self.checkouts.load(order_id).await?.state.summary();
        if summary.is_none_or(|summary| summary.stage != checkout::CAPTURE_STUCK) {
            return Ok(());
        }
        let input = Input::Timer { name: RETRY.to_owned(), generation: 0 };
        let work = called_for(Kind::Checkout, order_id, input, cause(order_id, RETRY_NOW, at));
        let command = payment::Command::Capture { at: self.clock.now() };
        self.act(&work, Action::execute("capture", Command::Payment(order_id, command))).await.map(drop)
    }

    /// Asks the provider now for the outcome that is owed, if one is.
    async fn settle_now(&self, order_id: OrderId) -> Result<(), Again> {
        let payment = self.executors.payments.load(order_id).await?;
        let Some(request) = payment.state.open_request(order_id) else { return Ok(()) };
        let cause = Uuid::now_v7();
        let input = Input::Timer { name: RETRY.to_owned(), generation: request.open.attempt };
        self.try_to_deal_with(&called_for(Kind::Payment, order_id, input, cause)).await
    }
}

/// An input that comes from nowhere else.
fn called_for(kind: Kind, order_id: OrderId, input: Input, cause: Uuid) -> Work {
    let correlation = CommandId(cause);
    Work { kind, order_id, input, cause, correlation, position: None, is_first: false, by: None }
}

/// The same call, taken up twice, has the same id.
fn cause(order_id: OrderId, call: &str, at: DateTime<Utc>) -> Uuid {
    Uuid::new_v5(&order_id.0, format!("{call}/{}", at.timestamp_micros()).as_bytes())
}

/// What operators want done in these partitions, in the order in which they asked.
pub(crate) async fn open(
    partitions: &RangeInclusive<u64>,
    connection: &mut PgConnection,
) -> Result<Vec<Called>, sqlx::Error> {
    sqlx::query_as(
        "select id, call, reason, actor, at from cartulary.operator_calls where partition between $1 and $2 order by at",
    )
    .bind(partitions.start().cast_signed())
    .bind(partitions.end().cast_signed())
    .fetch_all(connection)
    .await
}

/// The call was taken up; one that came since stays.
pub(crate) async fn taken_up(called: &Called, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("delete from cartulary.operator_calls where id = $1 and call = $2 and at = $3")
        .bind(called.id)
        .bind(&called.call)
        .bind(called.at)
        .execute(connection)
        .await?;
    Ok(())
}
