//! What operators call for: a step now instead of later, or the end of a checkout.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use domain::{CommandId, Event, OrderId, StreamId};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::checkout::{self, Checkout};
use crate::saga::{Action, Input, RETRY};
use crate::work::{Again, Kind, Sagas, Work};

/// What an operator wants done with a saga.
#[derive(Debug, FromRow)]
pub(crate) struct Called {
    pub id: Uuid,
    pub call: String,
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
}

impl Sagas {
    /// Does what was called for.
    pub(crate) async fn take_up(&self, called: &Called) -> Result<(), Again> {
        let order_id = OrderId(called.id);
        match called.call.as_str() {
            "abandon" => self.abandon(order_id, called.reason.clone().unwrap_or_default(), called.at).await,
            _ => {
                self.repeat_last_step(order_id).await?;
                self.settle_now(order_id).await
            }
        }
    }

    /// Takes back whatever the checkout has done, or gives up what can't be, and records who is to blame.
    ///
    /// # Errors
    /// The log does not answer; it can be called for again, with the same time.
    pub async fn abandon(&self, order_id: OrderId, reason: String, at: DateTime<Utc>) -> Result<(), Again> {
        // The same call, taken up twice, has the same id.
        let cause = Uuid::new_v5(&order_id.0, format!("abandon/{}", at.timestamp_micros()).as_bytes());
        let input = Input::Abandoned { reason };
        self.try_to_deal_with(&called_for(Kind::Checkout, order_id, input, cause)).await
    }

    /// Asks the provider now for the outcome that is owed, if one is.
    async fn settle_now(&self, order_id: OrderId) -> Result<(), Again> {
        let payment = self.executors.payments.load(order_id).await.map_err(Again::because)?;
        let Some(request) = payment.state.open_request(order_id) else { return Ok(()) };
        let cause = Uuid::now_v7();
        let input = Input::Timer { name: RETRY.to_owned(), generation: request.open.attempt };
        self.try_to_deal_with(&called_for(Kind::Payment, order_id, input, cause)).await
    }

    /// Asks again for what follows from the last thing that the checkout recorded: what was done is
    /// recognised, what was not is done.
    async fn repeat_last_step(&self, order_id: OrderId) -> Result<(), Again> {
        let log = self.feed.log();
        let stream = StreamId::of::<Checkout>(order_id);
        let Some(last) = log.load(&stream, 0).await.map_err(Again::because)?.pop() else { return Ok(()) };
        let events: Result<Vec<checkout::Event>, _> =
            last.commit.events.iter().map(domain::RecordedEvent::decode).collect();
        let events = events.map_err(Again::because)?;
        let Some(cause) = last.commit.causation else { return Ok(()) };
        let state = self.checkouts.load(order_id).await.map_err(Again::because)?.state;
        let mut input = Input::Timer { name: RETRY.to_owned(), generation: 0 };
        if let Some(checkout::Event::Started(quote)) = events.first() {
            input = self.checked_out(quote, cause).await?.unwrap_or(input);
        }
        let actions = state.actions(order_id, &input, &events, self.clock.now());
        let correlation = last.commit.correlation;
        let (kind, position, is_first) = (Kind::Checkout, None, false);
        let work = Work { kind, order_id, input, cause, correlation, position, is_first };
        for action in actions {
            // The deadline stands as it was set.
            if !matches!(action, Action::SetTimer { .. }) {
                self.act(&work, action).await?;
            }
        }
        Ok(())
    }

    /// The event that a checkout began with.
    async fn checked_out(&self, quote: &checkout::Quote, id: Uuid) -> Result<Option<Input>, Again> {
        let stream = StreamId::of::<domain::cart::Cart>(quote.cart_id);
        let commits = self.feed.log().load(&stream, 0).await.map_err(Again::because)?;
        let recorded = commits.iter().flat_map(|stored| &stored.commit.events).find(|event| event.id == id);
        let Some(recorded) = recorded else { return Ok(None) };
        let event = Event::decode(recorded).map_err(Again::because)?;
        Ok(event.map(|event| Input::Event { stream, event, at: recorded.occurred_at }))
    }
}

/// An input that comes from nowhere else.
fn called_for(kind: Kind, order_id: OrderId, input: Input, cause: Uuid) -> Work {
    let correlation = CommandId(cause);
    Work { kind, order_id, input, cause, correlation, position: None, is_first: false }
}

/// What operators want done in these partitions, in the order in which they asked.
pub(crate) async fn open(
    partitions: &RangeInclusive<u64>,
    connection: &mut PgConnection,
) -> Result<Vec<Called>, sqlx::Error> {
    sqlx::query_as(
        "select id, call, reason, at from cartulary.saga_calls where partition between $1 and $2 order by at",
    )
    .bind(partitions.start().cast_signed())
    .bind(partitions.end().cast_signed())
    .fetch_all(connection)
    .await
}

/// The call was taken up; one that came since stays.
pub(crate) async fn taken_up(called: &Called, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("delete from cartulary.saga_calls where id = $1 and at = $2")
        .bind(called.id)
        .bind(called.at)
        .execute(connection)
        .await?;
    Ok(())
}
