//! A log around which things go wrong: as planned, or by a seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::StreamId;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{FutureExt, StreamExt};
use infra::log::{Append, AppendError, EventLog, Message, PageOfStream, ReadError, Stored, Unavailable};

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    None,
    /// It never gets there.
    Lost,
    /// It's carried out, and the answer never comes back.
    AnswerLost,
    /// Whoever waits for the answer gives up before it gets there.
    Late,
    /// The log is full, or starting.
    Refused,
    /// It can't be read either.
    Unreadable,
    /// It's acknowledged, and lost.
    Forgotten,
}

/// What is asked of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Append,
    Batch(usize),
    Load,
    /// Of what happens, one commit.
    Follow,
}

impl Call {
    #[must_use]
    pub fn appends(self) -> bool {
        matches!(self, Self::Append | Self::Batch(_))
    }
}

/// Says what happens to a call, and how long it takes.
pub type Plan = Box<dyn FnMut(Call) -> (Fault, Duration) + Send>;

/// The first calls that append go wrong like that, and no others.
pub fn first(mut count: u32, fault: Fault) -> Plan {
    Box::new(move |call| {
        let goes_wrong = call.appends() && count > 0;
        count -= u32::from(goes_wrong);
        (if goes_wrong { fault } else { Fault::None }, Duration::ZERO)
    })
}

#[derive(Clone)]
pub struct FaultyLog {
    log: Arc<dyn EventLog>,
    plan: Arc<Mutex<Plan>>,
    pub calls: Arc<Mutex<Vec<(Call, Fault)>>>,
    batch_max: usize,
}

impl FaultyLog {
    pub fn new(log: impl EventLog, plan: Plan) -> Self {
        Self { log: Arc::new(log), plan: Arc::new(Mutex::new(plan)), calls: Arc::default(), batch_max: 1_000 }
    }

    /// Takes batches up to that size only.
    pub fn with_batch_max(self, batch_max: usize) -> Self {
        Self { batch_max, ..self }
    }

    /// From now on, this happens.
    pub fn plan(&self, plan: Plan) {
        *self.plan.lock().expect("no panic") = plan;
    }

    async fn happens(&self, call: Call) -> Fault {
        let (fault, after) = (self.plan.lock().expect("no panic"))(call);
        self.calls.lock().expect("no panic").push((call, fault));
        tokio::time::sleep(after).await;
        fault
    }

    async fn faulty(
        &self,
        call: Call,
        append: impl Fn(Arc<dyn EventLog>) -> BoxFuture<'static, Result<u64, AppendError>>,
    ) -> Result<u64, AppendError> {
        let lost = || AppendError::Unknown(Unavailable::because("the answer is lost"));
        match self.happens(call).await {
            Fault::None | Fault::Unreadable => append(self.log.clone()).await,
            Fault::Lost => Err(lost()),
            Fault::AnswerLost => {
                append(self.log.clone()).await?;
                Err(lost())
            }
            Fault::Late => {
                let late = append(self.log.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    let _ = late.await;
                });
                Err(lost())
            }
            Fault::Forgotten => Ok(self.log.end().await.map_err(AppendError::NotAppended)? + 1),
            Fault::Refused => Err(AppendError::NotAppended(Unavailable::because("the log is full"))),
        }
    }
}

/// How many commits each append had.
pub fn sizes(log: &FaultyLog) -> Vec<usize> {
    let calls = log.calls.lock().expect("no panic");
    let size = |(call, _): &(Call, Fault)| match call {
        Call::Append => Some(1),
        Call::Batch(size) => Some(*size),
        Call::Load | Call::Follow => None,
    };
    calls.iter().filter_map(size).collect()
}

impl EventLog for FaultyLog {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        let append = move |log: Arc<dyn EventLog>| {
            let message = message.clone();
            async move { log.append(&message, expected).await }.boxed()
        };
        self.faulty(Call::Append, append).boxed()
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        let append = |log: Arc<dyn EventLog>| {
            let batch = batch.to_vec();
            async move { log.append_batch(&batch).await }.boxed()
        };
        self.faulty(Call::Batch(batch.len()), append).boxed()
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }

    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>> {
        async move {
            match self.happens(Call::Load).await {
                Fault::Unreadable => Err(Unavailable::because("no answer").into()),
                _ => self.log.load_page(stream, after, most).await,
            }
        }
        .boxed()
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        async move {
            match self.happens(Call::Load).await {
                Fault::Unreadable => Err(Unavailable::because("no answer").into()),
                _ => self.log.read(sequence).await,
            }
        }
        .boxed()
    }

    /// When something goes wrong, that is the end of it.
    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        let log = self.clone();
        let next = move |all: Option<BoxStream<'static, Result<Stored, ReadError>>>| {
            let log = log.clone();
            async move {
                let mut all = all?;
                let next = all.next().await?;
                match log.happens(Call::Follow).await {
                    Fault::Unreadable => {
                        Some((Err(Unavailable::because("the connection is lost").into()), None))
                    }
                    _ => Some((next, Some(all))),
                }
            }
        };
        unfold(Some(self.log.follow(after)), next).boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        self.log.identity()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async move {
            match self.happens(Call::Load).await {
                Fault::Unreadable => Err(Unavailable::because("no answer")),
                _ => self.log.end().await,
            }
        }
        .boxed()
    }
}
