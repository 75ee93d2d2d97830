//! A process's way to the log: what it hears of what happened may not be what happened.

use std::sync::Arc;
use std::time::Duration;

use domain::product::Product;
use domain::{Aggregate, CommandId, Money, RecordedEvent, StreamId};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, iter, unfold};
use futures_util::{FutureExt, StreamExt};
use infra::log::{
    Append, AppendError, EventLog, MemoryLog, Message, PageOfStream, ReadError, Stored, Unavailable,
};

use super::{Checkout, Counts, Mutant, Nap};

/// One commit of so many is not heard of.
const LOST: u64 = 9;
/// So many at most change places, if they happen within such a time.
const SWAPPED: usize = 16;
const GATHERED: Duration = Duration::from_millis(100);

type Told = BoxStream<'static, Result<Stored, ReadError>>;

/// Truthful, unless it's a mutant.
pub struct Hearsay {
    pub log: Arc<dyn EventLog>,
    /// What is there, without any trouble.
    pub memory: MemoryLog,
    pub mutant: Mutant,
    pub nap: Nap,
    pub counts: Counts,
}

impl Hearsay {
    /// Counts the steps that somebody else did before, so that the log did not take them again.
    async fn append_and_count(&self, message: &Message, expected: u64) -> Result<u64, AppendError> {
        let outcome = self.log.append(message, expected).await;
        if matches!(outcome, Err(AppendError::Conflict)) {
            self.counts.note("a conflict");
            if self.nap.has_slept() {
                self.counts.note("a stale worker is fenced");
            }
            let id = domain::Commit::from_bytes(&message.body).expect("a commit").id;
            let there = self.memory.load(&message.stream, 0).await.expect("readable");
            if there.iter().any(|stored| stored.commit.id == id) {
                self.counts.note("a stale step is recognised");
            }
        }
        outcome
    }
}

/// Takes a refusal for money that is taken.
fn misheard(event: &mut RecordedEvent) {
    if event.kind == "payment.capture_failed" {
        let amount = Money { amount: 1, currency: "GBP".parse().expect("a currency") };
        let taken = domain::payment::Event::Captured { amount };
        let told = RecordedEvent::encode(&taken, CommandId(event.id), 0, event.occurred_at);
        *event = RecordedEvent { id: event.id, ..told };
    }
}

/// All that happens in a while.
async fn gathered(mut all: Told) -> Option<(Vec<Result<Stored, ReadError>>, Told)> {
    let first = all.next().await?;
    tokio::time::sleep(GATHERED).await;
    let rest = std::iter::from_fn(|| all.next().now_or_never().flatten()).take(SWAPPED - 1);
    let ready = std::iter::once(first).chain(rest).collect();
    Some((ready, all))
}

/// The same commits, of which those that are there at once are in reverse order.
fn swapped(ready: Vec<Result<Stored, ReadError>>) -> Vec<Result<Stored, ReadError>> {
    let sequences: Vec<u64> = ready.iter().flatten().map(|stored| stored.sequence).collect();
    let stored = ready.into_iter().flatten().rev();
    stored.zip(sequences).map(|(stored, sequence)| Ok(Stored { sequence, ..stored })).collect()
}

impl EventLog for Hearsay {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.append_and_count(message, expected).boxed()
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.counts.note("commits go together");
        self.log.append_batch(batch)
    }

    fn batch_max(&self) -> usize {
        self.log.batch_max()
    }

    fn load_page<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        most: usize,
    ) -> BoxFuture<'a, Result<PageOfStream, ReadError>> {
        self.log.load_page(stream, after, most)
    }

    fn read(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        self.log.read(sequence)
    }

    fn follow(&self, after: u64) -> Told {
        let all = self.log.follow(after);
        match self.mutant {
            Mutant::RefusalMisheard => all
                .map(|read| {
                    read.map(|mut stored| {
                        stored.commit.events.iter_mut().for_each(misheard);
                        stored
                    })
                })
                .boxed(),
            Mutant::InputLost => all
                .map(|read| {
                    read.map(|mut stored| {
                        if stored.sequence.is_multiple_of(LOST) {
                            stored.commit.events.clear();
                        }
                        stored
                    })
                })
                .boxed(),
            Mutant::RecordsUnheard => all
                .map(|read| {
                    read.map(|mut stored| {
                        if stored.commit.stream.category() == Checkout::CATEGORY {
                            stored.commit.stream = StreamId::of::<Product>("nobody_follows_it");
                        }
                        stored
                    })
                })
                .boxed(),
            Mutant::OutOfOrder => unfold(all, gathered).map(|ready| iter(swapped(ready))).flatten().boxed(),
            _ => all,
        }
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        self.log.identity()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.log.end()
    }
}
