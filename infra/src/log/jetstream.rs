//! The log in a NATS JetStream stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{
    Config, DirectGetErrorKind, DiscardPolicy, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, ErrorCode};
use domain::StreamId;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use super::memory::stored;
use super::subjects::{ALL, STREAM, stream_of, subject};
use super::{
    Append, AppendError, EventLog, Message, PageOfStream, ReadError, Stored, Unavailable, batch, direct_get,
    drift,
};
use crate::fail_points;
use crate::nats::{self, Connection, Unanswered};

/// How long an append waits for its acknowledgement before its outcome counts as unknown.
pub(crate) const ACK_LIMIT: Duration = Duration::from_secs(5);

/// How often a reader that waits looks whether its connection is still the same.
const CONNECTION_CHECK: Duration = Duration::from_millis(500);

/// Messages on their way to a reader at a time, and their bytes: with few, it waits for more than it reads.
const AHEAD_MAX: usize = 4_000;
const AHEAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long the server collects messages for one request of a reader; it asks again behind that.
const PULL_LIMIT: Duration = Duration::from_secs(10);

/// How often the server gives a sign of life to a reader that waits: without it, nobody would notice that the
/// one server which has the reader is gone.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// When the server forgets a reader that has gone without a word; much later than it is asked again.
const READER_KEEP: Duration = Duration::from_secs(300);

/// The window of the server's own deduplication: a second belt, bound to the content. Twice as long as the writer
/// tries to find out what became of an append; the server keeps every message's id in memory for as long, and two
/// minutes of them were a third of what its garbage collector had to look through.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(20);

/// How the log's stream is to be.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Copies of each message: 1 on a single server, 3 in a cluster.
    pub replicas: usize,
    /// Size at which appends are refused, below the disk's, so that a full disk is a clean error.
    pub bytes_max: i64,
}

/// The log in the stream `EVENTS` of a NATS server or cluster.
#[derive(Debug, Clone)]
pub struct JetStreamLog {
    connection: Connection,
    context: jetstream::Context,
    allows_batches: Arc<AtomicBool>,
}

impl JetStreamLog {
    /// Opens the log, and makes the stream where there is none yet.
    ///
    /// # Errors
    /// JetStream does not answer, or does not accept the stream.
    pub async fn open(connection: Connection, settings: &LogSettings) -> Result<Self, Unavailable> {
        let context =
            jetstream::ContextBuilder::new().ack_timeout(ACK_LIMIT).build(connection.client.clone());
        let stream = context.get_or_create_stream(config(settings)).await.map_err(Unavailable::because)?;
        let actual = &stream.cached_info().config;
        let allows_batches = actual.allow_atomic_publish;
        if actual.duplicate_window != DUPLICATE_WINDOW {
            // It was made by an earlier build.
            let config = Config { duplicate_window: DUPLICATE_WINDOW, ..actual.clone() };
            if let Err(error) = context.update_stream(config).await {
                tracing::warn!(%error, "the log's window for duplicates can't be changed; the server takes more memory");
            }
        }
        Ok(Self { connection, context, allows_batches: Arc::new(allows_batches.into()) })
    }

    /// Opens a log that is there already, to read it.
    ///
    /// # Errors
    /// JetStream does not answer, or has no such stream.
    pub async fn existing(connection: Connection) -> Result<Self, Unavailable> {
        let context =
            jetstream::ContextBuilder::new().ack_timeout(ACK_LIMIT).build(connection.client.clone());
        let stream = context.get_stream(STREAM).await.map_err(Unavailable::because)?;
        let allows_batches = stream.cached_info().config.allow_atomic_publish;
        Ok(Self { connection, context, allows_batches: Arc::new(allows_batches.into()) })
    }

    /// How the stream's config differs from what makes the log safe.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn drift(&self, settings: &LogSettings) -> Result<Vec<String>, Unavailable> {
        let stream = self.stream().await?;
        Ok(drift::found(&stream.cached_info().config, &config(settings)))
    }

    /// What the log is reached through.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The log's JetStream, for streams beside it.
    #[must_use]
    pub fn context(&self) -> &jetstream::Context {
        &self.context
    }

    async fn publish(&self, message: &Message, expected: u64) -> Result<u64, AppendError> {
        let mut headers = headers(message);
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let (subject, since) = (subject(&message.stream), self.connection.now());
        let sent = self.context.publish_with_headers(subject.clone(), headers, message.body.clone()).await;
        let sent = sent.map_err(append_error)?;
        fail_points::may_die(fail_points::APPEND_SENT);
        let acknowledged = tokio::select! {
            biased;
            acknowledged = sent.into_future() => acknowledged.map_err(append_error)?,
            why = self.connection.unanswered(since, &subject) => return Err(unanswered(why, subject)),
        };
        fail_points::may_die(fail_points::APPEND_ACKNOWLEDGED);
        Ok(acknowledged.sequence)
    }

    async fn stream(&self) -> Result<Stream, Unavailable> {
        self.context.get_stream(STREAM).await.map_err(Unavailable::because)
    }

    /// A consumer without a filter and without acknowledgements, like the client library's ordered one,
    /// which however has only 500 messages on their way; that none is missing is seen by their sequences.
    async fn consume(&self, after: u64) -> Result<pull::Stream, Unavailable> {
        let from = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: READER_KEEP,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = self.stream().await?.create_consumer(from).await.map_err(Unavailable::because)?;
        // A server may allow less, for all its consumers.
        let allowed = |wanted: usize, most: i64| match usize::try_from(most) {
            Ok(most @ 1..) => wanted.min(most),
            _ => wanted,
        };
        let config = &consumer.cached_info().config;
        let messages_max = allowed(AHEAD_MAX, config.max_batch);
        let bytes_max = allowed(AHEAD_BYTES_MAX, config.max_bytes);
        let reading = consumer.stream().max_messages_per_batch(messages_max).max_bytes_per_batch(bytes_max);
        let reading = reading.expires(PULL_LIMIT).heartbeat(HEARTBEAT);
        reading.messages().await.map_err(Unavailable::because)
    }

    /// How often the connection was made: another number is another connection.
    fn connects(&self) -> u64 {
        self.connection.client.statistics().connects.load(Ordering::Relaxed)
    }
}

/// A reader of the log, and where it is.
struct Following {
    log: JetStreamLog,
    messages: Option<pull::Stream>,
    connects: u64,
    last: u64,
}

impl Following {
    async fn next(&mut self) -> Result<Stored, ReadError> {
        let messages = match &mut self.messages {
            Some(messages) => messages,
            None => self.messages.insert(self.log.consume(self.last).await?),
        };
        let message = loop {
            // A timer for each of many messages that are there already would cost as much as they do.
            if let Some(Some(message)) = messages.next().now_or_never() {
                break message.map_err(Unavailable::because)?;
            }
            match tokio::time::timeout(CONNECTION_CHECK, messages.next()).await {
                Ok(Some(message)) => break message.map_err(Unavailable::because)?,
                Ok(None) => return Err(Unavailable::because("the consumer ended").into()),
                // A server that was restarted has forgotten its consumers; by itself, the client
                // notices only when heartbeats are missing for long.
                Err(_) if self.log.connects() != self.connects => {
                    return Err(Unavailable::because("the connection was made anew").into());
                }
                Err(_) => {}
            }
        };
        let sequence = message.info().map_err(Unavailable::because)?.stream_sequence;
        if sequence != self.last + 1 {
            // Nothing is ever deleted from the log, so a gap is the reader's fault and must not pass.
            let reason = format!("position {sequence} came after {}", self.last);
            return Err(Unavailable::because(reason).into());
        }
        let stored = stored(sequence, &message.payload, || stream_of(&message.subject))?;
        self.last = sequence;
        Ok(stored)
    }
}

fn config(settings: &LogSettings) -> Config {
    Config {
        name: STREAM.to_owned(),
        description: Some("Every commit of the shop, in order, for ever".to_owned()),
        subjects: vec![ALL.to_owned()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_bytes: settings.bytes_max,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..Default::default()
    }
}

/// What every message carries, but for what it expects.
pub(super) fn headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, STREAM);
    // The id is that of the content: the server ignores a repeated id whatever comes with it.
    headers.insert(NATS_MESSAGE_ID, message.hash.to_string());
    headers
}

/// The connection's word on an append that will have no answer.
fn unanswered(why: Unanswered, subject: String) -> AppendError {
    match why {
        Unanswered::Denied => AppendError::Denied { subject },
        Unanswered::Lost => AppendError::Unknown(Unavailable::because("the connection was lost")),
    }
}

/// Tells what certainly was not appended from what may have been.
fn append_error(error: PublishError) -> AppendError {
    let code = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    let conflict = [ErrorCode::STREAM_WRONG_LAST_SEQUENCE, ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT];
    match (error.kind(), code) {
        (PublishErrorKind::WrongLastSequence, _) => AppendError::Conflict,
        (_, Some(code)) if conflict.contains(&code) => AppendError::Conflict,
        (_, Some(ErrorCode::STREAM_STORE_FAILED)) if error.to_string().contains("maximum bytes") => {
            AppendError::Full
        }
        // The server answered with an error, so it did not store the message.
        (_, Some(_)) => AppendError::NotAppended(Unavailable::because(error)),
        (PublishErrorKind::StreamNotFound | PublishErrorKind::MaxPayloadExceeded, None) => {
            AppendError::NotAppended(Unavailable::because(error))
        }
        (_, None) => AppendError::Unknown(Unavailable::because(error)),
    }
}

impl EventLog for JetStreamLog {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.publish(message, expected).boxed()
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        async move {
            let appended = batch::publish(&self.connection, batch).await;
            if let Err(nats::batch::Error::NotAllowed) = appended {
                self.allows_batches.store(false, Ordering::Relaxed);
            }
            appended.map_err(AppendError::from)
        }
        .boxed()
    }

    fn batch_max(&self) -> usize {
        if self.allows_batches.load(Ordering::Relaxed) { nats::batch::MESSAGES_MAX } else { 0 }
    }

    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>> {
        async move { direct_get::page(&self.connection, &subject(stream), after, most).await }.boxed()
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        async move {
            let handle = self.context.get_stream_no_info(STREAM).await.map_err(Unavailable::because)?;
            match handle.direct_get(sequence).await {
                Ok(message) => stored(sequence, &message.payload, || stream_of(&message.subject)).map(Some),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(Unavailable::because(error).into()),
            }
        }
        .boxed()
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        let following =
            Following { log: self.clone(), messages: None, connects: self.connects(), last: after };
        let items = stream::unfold(Some(following), |following| async {
            let mut following = following?;
            let item = following.next().await;
            let goes_on = item.is_ok().then_some(following);
            Some((item, goes_on))
        });
        items.fuse().boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        async move { Ok(self.stream().await?.cached_info().created.to_string()) }.boxed()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async move { Ok(self.stream().await?.cached_info().state.last_sequence) }.boxed()
    }
}
