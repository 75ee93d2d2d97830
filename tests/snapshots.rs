//! Snapshots: a shorter way to the same state, and never to another one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::StreamId;
use domain::stock::{Command, Stock};
use infra::log::{EventLog, MemoryLog};
use infra::snapshots::{JetStreamSnapshots, MemorySnapshots, Snapshots};
use infra::writer;

use crate::support::eventually;
use crate::support::faulty_log::{Call, Fault, FaultyLog, Plan};
use crate::support::servers::Nats;
use crate::support::stock::{executor_with, request};

fn stream() -> StreamId {
    StreamId::of::<Stock>("MUG")
}

fn well() -> Plan {
    Box::new(|_| (Fault::None, Duration::ZERO))
}

/// A stock with so many events, and its snapshot.
async fn busy(log: &MemoryLog, snapshots: &Arc<dyn Snapshots>, events: u128) {
    let executor = executor_with(Arc::new(log.clone()), snapshots.clone(), writer::Settings::default());
    for number in 0..events {
        executor.execute("MUG", &request(number), Command::Receive { quantity: 1 }).await.expect("done");
    }
    let kept = async || snapshots.load(&stream()).await.expect("readable");
    eventually("a snapshot is kept", async || kept().await.map(drop)).await;
}

/// How often a new process reads the log for its first command, and what it sees.
async fn cold(log: &MemoryLog, snapshots: &Arc<dyn Snapshots>, number: u128) -> (usize, u64, bool) {
    let watched = FaultyLog::new(log.clone(), well());
    let executor = executor_with(Arc::new(watched.clone()), snapshots.clone(), writer::Settings::default());
    let done =
        executor.execute("MUG", &request(number), Command::Receive { quantity: 1 }).await.expect("done");
    let on_hand = executor.load("MUG").await.expect("readable").state.on_hand();
    let reads =
        watched.calls.lock().expect("no panic").iter().filter(|(call, _)| *call == Call::Load).count();
    (reads, on_hand, done.repeated)
}

#[tokio::test(start_paused = true)]
async fn a_cold_aggregate_is_loaded_from_its_snapshot() {
    let (log, snapshots): (_, Arc<dyn Snapshots>) =
        (MemoryLog::default(), Arc::new(MemorySnapshots::default()));
    busy(&log, &snapshots, 5_000).await;
    let without: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
    let (reads, on_hand, _) = cold(&log, &snapshots, 10_000).await;
    let (more_reads, same, _) = cold(&log, &without, 10_001).await;
    assert_eq!((on_hand, same), (5_001, 5_002), "the same state");
    assert!(reads < more_reads, "{reads} reads with, {more_reads} without");
    let (_, on_hand, repeated) = cold(&log, &snapshots, 17).await;
    assert_eq!((on_hand, repeated), (5_002, true), "commands done before are remembered");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_log_is_not_read() {
    let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
    busy(&MemoryLog::default(), &snapshots, 500).await;
    let of_another = snapshots.load(&stream()).await.expect("readable").expect("there");
    let restored = MemoryLog::default();
    busy(&restored, &(Arc::new(MemorySnapshots::default()) as Arc<dyn Snapshots>), 300).await;
    let shorter = MemoryLog::default();
    busy(&shorter, &(Arc::new(MemorySnapshots::default()) as Arc<dyn Snapshots>), 201).await;
    for (log, expected) in [(&restored, 301), (&shorter, 202)] {
        for snapshot in [of_another.clone(), Bytes::from_static(b"damaged"), Bytes::new()] {
            snapshots.save(&stream(), snapshot).await.expect("kept");
            let (_, on_hand, _) = cold(log, &snapshots, 1_000).await;
            assert_eq!(on_hand, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_store_keeps_the_last_one() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    let open = async || JetStreamSnapshots::open(log.context(), 1).await.expect("a bucket");
    let stores: [Arc<dyn Snapshots>; 2] = [Arc::new(MemorySnapshots::default()), Arc::new(open().await)];
    for store in &stores {
        let (a, b): (StreamId, StreamId) =
            ("stock/A.b-c_D..".parse().unwrap(), "stock/A=b".parse().unwrap_or(stream()));
        assert!(store.load(&a).await.expect("readable").is_none());
        for size in [10, 0, 3_000_000, 524_288, 1] {
            let snapshot: Bytes = (0..size).map(|index| u8::try_from(index % 251).expect("small")).collect();
            store.save(&a, snapshot.clone()).await.expect("kept");
            assert_eq!(store.load(&a).await.expect("readable"), Some(snapshot), "{size} bytes");
        }
        assert!(store.load(&b).await.expect("readable").is_none(), "of its stream only");
    }
    let again = open().await;
    assert_eq!(
        again.load(&"stock/A.b-c_D..".parse().unwrap()).await.expect("readable").map(|kept| kept.len()),
        Some(1)
    );
    assert_eq!(log.end().await.expect("an end"), 0, "not in the log");
}
