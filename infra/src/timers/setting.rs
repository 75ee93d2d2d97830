//! Timers are set in batches while many are: with every message synced, one by one they would cost as much again as
//! the commits that they go with.

use std::collections::HashMap;

use async_nats::HeaderMap;
use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream::Context;
use chrono::SecondsFormat;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::Timer;
use crate::log::Unavailable;
use crate::nats::Connection;
use crate::nats::batch::{Batch, Error, Message};

/// Timers of one batch. The later ones wait for as long as it takes.
const TOGETHER_MAX: usize = 256;

/// Fewer are set side by side: a batch costs more than that.
const TOGETHER_MIN: usize = 4;

/// A timer that is to be set, and who waits for that.
struct Wanted {
    timer: Timer,
    told: oneshot::Sender<Result<(), Unavailable>>,
}

/// Sets timers: what has come in while the last ones were set is next.
#[derive(Debug, Clone)]
pub(super) struct Setter(mpsc::Sender<Wanted>);

impl Setter {
    pub fn new(connection: Connection, context: Context) -> Self {
        let (sender, mut wanted) = mpsc::channel(TOGETHER_MAX);
        tokio::spawn(async move {
            let mut together = Vec::new();
            while wanted.recv_many(&mut together, TOGETHER_MAX).await > 0 {
                set(together.drain(..), &connection, &context).await;
            }
        });
        Self(sender)
    }

    pub async fn set(&self, timer: Timer) -> Result<(), Unavailable> {
        let ended = || Unavailable::because("timers are set no more");
        let (told, outcome) = oneshot::channel();
        self.0.send(Wanted { timer, told }).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

/// Sets them, and tells everybody.
async fn set(wanted: impl Iterator<Item = Wanted>, connection: &Connection, context: &Context) {
    let mut by_subject: HashMap<String, Vec<Wanted>> = HashMap::new();
    for wanted in wanted {
        by_subject.entry(wanted.timer.subject("set")).or_default().push(wanted);
    }
    // Of all at once; nothing, if it is to be one by one.
    let outcome = if by_subject.len() < TOGETHER_MIN {
        None
    } else {
        let newest = by_subject.values().filter_map(|wanted| Some(&wanted.last()?.timer));
        match together(newest, connection).await {
            Err(Error::NotAllowed | Error::Refused(_)) => None,
            outcome => Some(outcome.map_err(Unavailable::from)),
        }
    };
    let all = by_subject.into_values().map(async |same| {
        let outcome = match (&outcome, same.last()) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(last)) => alone(&last.timer, context).await,
            (None, None) => return,
        };
        for Wanted { told, .. } in same {
            // Nobody may wait for it any more.
            let _ = told.send(outcome.clone());
        }
    });
    join_all(all).await;
}

/// Sets all or none. Each is of another subject, or the server would refuse them.
async fn together(timers: impl Iterator<Item = &Timer>, connection: &Connection) -> Result<(), Error> {
    let messages: Result<Vec<Message>, serde_json::Error> = timers.map(message).collect();
    let mut messages = messages.map_err(|error| Error::Refused(error.to_string()))?;
    let Some(last) = messages.pop() else { return Ok(()) };
    let mut batch = Batch::new(connection);
    for message in messages {
        batch.send(message).await?;
    }
    batch.commit(last).await.map(drop)
}

async fn alone(timer: &Timer, context: &Context) -> Result<(), Unavailable> {
    let Message { subject, headers, body } = message(timer).map_err(Unavailable::because)?;
    let sent = context.publish_with_headers(subject, headers, body).await;
    sent.map_err(Unavailable::because)?.await.map_err(Unavailable::because)?;
    Ok(())
}

fn message(timer: &Timer) -> Result<Message, serde_json::Error> {
    let mut headers = HeaderMap::new();
    let at = timer.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    headers.insert(NATS_SCHEDULE, format!("@at {at}"));
    headers.insert(NATS_SCHEDULE_TARGET, timer.subject("fired"));
    Ok(Message { subject: timer.subject("set"), headers, body: serde_json::to_vec(timer)?.into() })
}
