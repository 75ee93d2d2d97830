//! Followers of one feed, fast, slow and stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::commit::{ENVELOPE_VERSION, Hash};
use domain::{CommandId, Commit, RecordedEvent, StreamId, stock};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use uuid::Uuid;

use super::*;
use crate::log::{
    Append, AppendError, Expected, MemoryLog, Message, PageOfStream, ReadError, Stored, Unavailable,
};

/// Counts what is read of a log.
struct Counting {
    log: MemoryLog,
    read: Arc<AtomicU64>,
}

impl EventLog for Counting {
    fn append<'a>(&'a self, message: &'a Message, expected: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.log.append(message, expected)
    }

    fn append_batch<'a>(&'a self, batch: &'a [Append]) -> BoxFuture<'a, Result<u64, AppendError>> {
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

    fn follow(&self, after: u64) -> BoxStream<'static, Result<Stored, ReadError>> {
        let read = self.read.clone();
        let counted = move |_: &Result<Stored, ReadError>| {
            read.fetch_add(1, Ordering::Relaxed);
        };
        self.log.follow(after).inspect(counted).boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Unavailable>> {
        self.log.identity()
    }

    fn end(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.log.end()
    }
}

fn message(number: u64) -> Message {
    let (id, at) = (CommandId(Uuid::from_u128(number.into())), chrono::DateTime::UNIX_EPOCH);
    let event = stock::Event::Received { quantity: 1 };
    let commit = Commit {
        envelope: ENVELOPE_VERSION,
        id,
        request: Hash::of(b""),
        stream: format!("stock/SKU-{number}").parse().expect("a stream"),
        version: 1,
        previous: None,
        recorded_at: at,
        actor: "test".into(),
        correlation: id,
        causation: None,
        trace_parent: None,
        events: vec![RecordedEvent::encode(&event, id, 0, at)],
    };
    (&commit).into()
}

async fn feed_of(commits: u64) -> (Arc<Feed>, MemoryLog, Arc<AtomicU64>) {
    let (log, read) = (MemoryLog::default(), Arc::new(AtomicU64::new(0)));
    append(&log, 1..=commits).await;
    (Feed::new(Arc::new(Counting { log: log.clone(), read: read.clone() })), log, read)
}

async fn append(log: &MemoryLog, numbers: impl Iterator<Item = u64>) {
    let appends: Vec<_> =
        numbers.map(|number| Append { message: message(number), expected: Expected::Position(0) }).collect();
    log.append_batch(&appends).await.expect("appended");
}

async fn read_to(follower: &mut Follower, end: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| *last < end) {
        seen.extend(follower.batch(100).await.iter().map(|entry| entry.sequence));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn what_several_want_is_read_once() {
    let (feed, log, read) = feed_of(50_000).await;
    let mut followers: Vec<_> = (0..4).map(|_| feed.follow(0)).collect();
    let everything = futures_util::future::join_all(followers.iter_mut().map(|one| read_to(one, 50_000)));
    for seen in everything.await {
        assert!(seen.iter().copied().eq(1..=50_000));
    }
    assert_eq!(read.load(Ordering::Relaxed), 50_000);
    append(&log, 50_001..=50_010).await;
    for follower in &mut followers {
        assert_eq!(read_to(follower, 50_010).await.len(), 10);
    }
    assert_eq!(read.load(Ordering::Relaxed), 50_010);
}

#[tokio::test(start_paused = true)]
async fn readings_that_meet_become_one() {
    let (feed, log, read) = feed_of(3_000).await;
    let (mut early, mut late) = (feed.follow(0), feed.follow(2_999));
    assert_eq!(read_to(&mut late, 3_000).await, [3_000]);
    assert_eq!(read_to(&mut early, 3_000).await.len(), 3_000);
    assert!(early.ready(1).is_none());
    let before = read.load(Ordering::Relaxed);
    append(&log, 3_001..=3_005).await;
    assert_eq!(read_to(&mut early, 3_005).await.len(), 5);
    assert_eq!(read_to(&mut late, 3_005).await.len(), 5);
    assert_eq!(read.load(Ordering::Relaxed), before + 5, "both in one reading");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_move_holds_nobody_up_and_misses_nothing() {
    let (feed, _, _) = feed_of(60_000).await;
    let (mut stuck, mut moving) = (feed.follow(0), feed.follow(0));
    assert_eq!(stuck.batch(10).await.len(), 10);
    assert!(read_to(&mut moving, 60_000).await.iter().copied().eq(1..=60_000));
    assert!(read_to(&mut stuck, 60_000).await.iter().copied().eq(11..=60_000));
}

#[tokio::test(start_paused = true)]
async fn large_commits_do_not_fill_it_up_for_ever() {
    let (feed, log, _) = feed_of(0).await;
    let large = |number: u64| {
        let stream: StreamId = format!("stock/SKU-{number}").parse().expect("a stream");
        let body = bytes::Bytes::from(vec![b' '; 200_000]);
        Append { message: Message { hash: Hash::of(&body), stream, body }, expected: Expected::Position(0) }
    };
    let mut follower = feed.follow(0);
    for first in [1, 201] {
        log.append_batch(&(first..first + 200).map(large).collect::<Vec<_>>()).await.expect("appended");
        let all = tokio::time::timeout(Duration::from_secs(60), read_to(&mut follower, first + 199)).await;
        assert!(all.expect("it gets there").into_iter().eq(first..first + 200));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_readable_is_handed_out_with_the_rest() {
    let (feed, log, _) = feed_of(1).await;
    let stream: StreamId = "stock/JUNK".parse().expect("a stream");
    let body = bytes::Bytes::from_static(b"no commit");
    let junk = Message { hash: Hash::of(&body), stream: stream.clone(), body };
    log.append(&junk, 0).await.expect("appended");
    append(&log, [2].into_iter()).await;
    let mut follower = feed.follow(0);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(follower.batch(10).await);
    }
    let readable: Vec<bool> = seen.iter().map(|entry| entry.commit.is_ok()).collect();
    assert_eq!(readable, [true, false, true]);
    assert_eq!(seen[1].stream(), Some(&stream));
    assert!(matches!(seen[2].events()[..], [Ok(Some(_))]));
}
