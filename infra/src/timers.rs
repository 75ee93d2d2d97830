//! Timers: messages that the log's server delivers later, in a stream of their own.
//!
//! A timer's schedule stands at `timer.set.<saga>.<id>.<name>`; setting it again replaces it. When
//! its time has come (or has passed while everything was down) the server moves it to
//! `timer.fired.…`, where it stays until the saga has dealt with it.

mod setting;

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{AckKind, ContextBuilder, Message};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};

use self::setting::Setter;
use crate::log::{ACK_LIMIT, Unavailable};
use crate::nats::Connection;

const STREAM: &str = "TIMERS";
const CONSUMER: &str = "sagas";

/// How long nothing may be heard of a fired timer before it's delivered again: what a killed worker had in hand
/// waits so long. Who is still at it says so.
pub const ACK_WAIT: Duration = Duration::from_secs(10);

/// A call to a saga at a later time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    pub saga: String,
    /// The saga's id: letters, digits and dashes.
    pub id: String,
    pub name: String,
    /// Tells this timer from the earlier ones of its name: an outdated firing is ignored.
    pub generation: u32,
    pub at: DateTime<Utc>,
}

/// Where sagas set their timers.
pub trait Timers: Send + Sync + 'static {
    /// Sets the timer; an earlier one of the same saga, id and name is replaced.
    fn set<'a>(&'a self, timer: &'a Timer) -> BoxFuture<'a, Result<(), Unavailable>>;

    /// Cancels the timer, if it's set.
    fn cancel<'a>(
        &'a self,
        saga: &'a str,
        id: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Unavailable>>;
}

/// Timers in the stream `TIMERS`.
#[derive(Debug, Clone)]
pub struct JetStreamTimers {
    stream: Stream,
    setter: Setter,
}

/// A timer whose time has come. Delivered again if it is dropped without [`Fired::done`].
#[derive(Debug)]
pub struct Fired {
    pub timer: Timer,
    message: Message,
}

impl JetStreamTimers {
    /// Opens the timers, and makes their stream where there is none yet.
    ///
    /// # Errors
    /// JetStream does not answer, or does not accept the stream.
    pub async fn open(connection: Connection, replicas: usize) -> Result<Self, Unavailable> {
        let context = ContextBuilder::new().ack_timeout(ACK_LIMIT).build(connection.client.clone());
        let config = Config {
            name: STREAM.to_owned(),
            description: Some("Calls to sagas at a later time".to_owned()),
            subjects: vec!["timer.>".to_owned()],
            // What is done with is gone; a schedule stays until its time, for nobody consumes it.
            retention: RetentionPolicy::WorkQueue,
            // The server allows no other policy with schedules; without limits, nothing is discarded.
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            num_replicas: replicas,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            allow_direct: true,
            allow_rollup: true,
            allow_message_schedules: true,
            allow_atomic_publish: true,
            ..Default::default()
        };
        let stream = context.get_or_create_stream(config).await.map_err(Unavailable::because)?;
        let config = &stream.cached_info().config;
        if !config.allow_atomic_publish {
            // It was made by an earlier build. Without batches, timers are set one by one.
            let config = Config { allow_atomic_publish: true, ..config.clone() };
            if let Err(error) = context.update_stream(config).await {
                tracing::warn!(%error, "the stream of the timers can't be changed to take batches");
            }
        }
        Ok(Self { stream, setter: Setter::new(connection, context) })
    }

    /// Every timer as it fires, and those that fired and were not done with.
    /// The stream ends with its first error.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn fired(&self) -> Result<BoxStream<'static, Result<Fired, Unavailable>>, Unavailable> {
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            filter_subject: "timer.fired.>".to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: 1_000,
            ..Default::default()
        };
        let consumer: PullConsumer =
            self.stream.get_or_create_consumer(CONSUMER, config).await.map_err(Unavailable::because)?;
        let messages = consumer.messages().await.map_err(Unavailable::because)?;
        let fired = messages.map(|message| {
            let message = message.map_err(Unavailable::because)?;
            let timer = serde_json::from_slice(&message.payload).map_err(Unavailable::because)?;
            Ok(Fired { timer, message })
        });
        Ok(fired.boxed())
    }
}

impl Timers for JetStreamTimers {
    fn set<'a>(&'a self, timer: &'a Timer) -> BoxFuture<'a, Result<(), Unavailable>> {
        self.setter.set(timer.clone()).boxed()
    }

    fn cancel<'a>(
        &'a self,
        saga: &'a str,
        id: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        async move {
            let purged = self.stream.purge().filter(subject("set", saga, id, name)).await;
            purged.map(drop).map_err(Unavailable::because)
        }
        .boxed()
    }
}

impl Fired {
    /// The saga has dealt with it.
    ///
    /// # Errors
    /// JetStream does not answer: the timer will be delivered again, and be ignored as outdated.
    pub async fn done(self) -> Result<(), Unavailable> {
        self.message.double_ack().await.map_err(Unavailable::because)
    }

    /// The saga needs more time: [`ACK_WAIT`] from now on.
    pub async fn still_at_it(&self) {
        // If this gets lost, the timer is delivered a second time: sagas bear repeats.
        let _ = self.message.ack_with(AckKind::Progress).await;
    }
}

impl Timer {
    fn subject(&self, state: &str) -> String {
        subject(state, &self.saga, &self.id, &self.name)
    }
}

fn subject(state: &str, saga: &str, id: &str, name: &str) -> String {
    format!("timer.{state}.{saga}.{id}.{name}")
}
