//! What a checkout recorded is acted on by whoever recorded it. They may die in between, when others have its lane and
//! are past the input, so that nobody deals with that again: so whoever has the lane acts on what others recorded.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{Event, OrderId, RecordedEvent, StreamId};
use infra::log::Stored;
use uuid::Uuid;

use crate::checkout::{self, Checkout};
use crate::saga::{Action, Due, Input, RETRY};
use crate::work::{Again, Kind, Sagas, Work};

/// More are not remembered: what is acted on twice is recognised.
const REMEMBERED_MAX: usize = 10_000;

/// Positions of what this process has seen to, until it comes by in the log.
#[derive(Debug, Default)]
pub(crate) struct Acted(Mutex<BTreeSet<u64>>);

impl Acted {
    pub fn note(&self, position: u64) {
        let mut positions = self.positions();
        positions.insert(position);
        if positions.len() > REMEMBERED_MAX {
            positions.pop_first();
        }
    }

    /// Whether it was seen to here.
    pub fn take(&self, position: u64) -> bool {
        self.positions().remove(&position)
    }

    fn positions(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sagas {
    /// Acts on what a checkout recorded at a position, unless that is done.
    pub(crate) async fn follow_up(&self, order_id: OrderId, position: u64) -> Result<(), Again> {
        if self.index.acted.take(position) {
            return Ok(());
        }
        let stored = self.feed.log().read(position).await?;
        let stored = stored.ok_or_else(|| Again::Unavailable("the log is behind".to_owned()))?;
        self.act_again(order_id, &stored).await
    }

    /// Asks again for what follows from the last thing that the checkout recorded.
    pub(crate) async fn repeat_last_step(&self, order_id: OrderId) -> Result<(), Again> {
        match self.feed.log().load(&StreamId::of::<Checkout>(order_id), 0).await?.pop() {
            Some(last) => self.act_again(order_id, &last).await,
            None => Ok(()),
        }
    }

    /// What was done is recognised, what was not is done.
    async fn act_again(&self, order_id: OrderId, stored: &Stored) -> Result<(), Again> {
        let commit = &stored.commit;
        let events: Result<Vec<checkout::Event>, _> =
            commit.events.iter().map(RecordedEvent::decode).collect();
        let events = events.map_err(|error| Again::Unreadable(error.to_string()))?;
        let Some(cause) = commit.causation else { return Ok(()) };
        let state = self.noted(order_id, stored.sequence).await?;
        let mut input = Input::Timer { name: RETRY.to_owned(), generation: 0 };
        if let Some(checkout::Event::Started(quote)) = events.first() {
            input = self.checked_out(quote, cause).await?.unwrap_or(input);
        }
        let due = state.summary().and_then(|summary| summary.due);
        let mut actions = state.actions(order_id, &input, &events, self.clock.now());
        actions.retain(|action| still_stands(action, due.as_ref()));
        let (kind, correlation, is_first) = (Kind::Checkout, commit.correlation, false);
        let work = Work { kind, order_id, input, cause, correlation, position: None, is_first, by: None };
        self.act_on_all(&work, actions).await.map(drop)
    }

    /// The event that a checkout began with.
    async fn checked_out(&self, quote: &checkout::Quote, id: Uuid) -> Result<Option<Input>, Again> {
        let stream = StreamId::of::<domain::cart::Cart>(quote.cart_id);
        let commits = self.feed.log().load(&stream, 0).await?;
        let recorded = commits.iter().flat_map(|stored| &stored.commit.events).find(|event| event.id == id);
        let Some(recorded) = recorded else { return Ok(None) };
        let event = Event::decode(recorded).map_err(|error| Again::Unreadable(error.to_string()))?;
        Ok(event.map(|event| Input::Event { stream, event, at: recorded.occurred_at }))
    }
}

/// Another timer may have been set since.
fn still_stands(action: &Action, due: Option<&Due>) -> bool {
    match action {
        Action::SetTimer { name, generation, .. } => {
            due.is_some_and(|due| due.timer == *name && due.generation == *generation)
        }
        Action::CancelTimer { name } => due.is_none_or(|due| due.timer != *name),
        _ => true,
    }
}
