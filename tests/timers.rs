//! Timers over a real server: once each, at their time, and not at all once they are cancelled.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use futures_util::future::join_all;
use infra::clock::Clock;
use infra::log::JetStreamLog;
use infra::timers::{JetStreamTimers, Timer, Timers};

use crate::support::servers::Nats;

fn timer(name: &str, generation: u32, in_ms: i64) -> Timer {
    let (saga, id, name) = ("checkout".to_owned(), "an-order".to_owned(), name.to_owned());
    Timer { saga, id, name, generation, at: Clock::system().now() + chrono::Duration::milliseconds(in_ms) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_armed_again_fires_once_and_a_cancelled_one_never() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    let timers = JetStreamTimers::open(log.connection().clone(), 1).await.expect("timers");
    // The first one's time comes while the others are set; a later one takes its place.
    timers.set(&timer("armed_again", 0, 1_500)).await.expect("set");
    timers.set(&timer("cancelled", 0, 2_000)).await.expect("set");
    let again = timer("armed_again", 1, 2_500);
    timers.set(&again).await.expect("set");
    timers.cancel("checkout", "an-order", "cancelled").await.expect("cancelled");
    timers.cancel("checkout", "an-order", "never_set").await.expect("nothing to cancel is fine");
    timers.set(&timer("long_ago", 0, -3_600_000)).await.expect("set");
    let last = timer("last", 0, 4_000);
    timers.set(&last).await.expect("set");

    let mut fired = timers.fired().await.expect("readable");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(name, _): &(String, u32)| name != "last") {
        let one = tokio::time::timeout(Duration::from_secs(30), fired.next()).await.expect("it fires");
        let one = one.expect("no end").expect("readable");
        assert!(Clock::system().now() >= one.timer.at, "{:?} came too early", one.timer);
        seen.push((one.timer.name.clone(), one.timer.generation));
        one.done().await.expect("done");
    }
    let wanted = [("long_ago", 0), ("armed_again", 1), ("last", 0)];
    assert_eq!(seen, wanted.map(|(name, generation)| (name.to_owned(), generation)));
    let mut stream = log.context().get_stream("TIMERS").await.expect("a stream");
    assert_eq!(stream.info().await.expect("its state").state.messages, 0, "what is done with is gone");
}

/// How many of these timers were set in a batch with others.
async fn set_in_batches(ids: impl Iterator<Item = String>, log: &JetStreamLog) -> usize {
    let stream = log.context().get_stream("TIMERS").await.expect("a stream");
    let set = join_all(ids.map(async |id| {
        let subject = format!("timer.set.checkout.{id}.deadline");
        stream.direct_get_last_for_subject(subject).await.expect("it is set")
    }))
    .await;
    set.iter().filter(|message| message.headers.get("Nats-Batch-Id").is_some()).count()
}

fn deadline(id: String, generation: u32) -> Timer {
    Timer { id, ..timer("deadline", generation, 3_600_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_a_time_are_set_in_batches_and_each_is_told_its_own() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    // As an earlier build made it.
    let earlier = Config {
        name: "TIMERS".to_owned(),
        subjects: vec!["timer.>".to_owned()],
        allow_direct: true,
        allow_rollup: true,
        allow_message_schedules: true,
        ..Config::default()
    };
    log.context().create_stream(earlier).await.expect("a stream");
    let timers = JetStreamTimers::open(log.connection().clone(), 1).await.expect("timers");
    let id = |number: usize| format!("order-{number}");

    // Some of them twice in a row, which no batch may hold.
    let twice = (0..400).flat_map(|number| {
        let generations = if number % 4 == 3 { 0..=1 } else { 0..=0 };
        generations.map(move |generation| deadline(id(number), generation))
    });
    let outcomes = join_all(twice.map(async |timer| timers.set(&timer).await)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let in_batches = set_in_batches((0..400).map(id), &log).await;
    assert!(in_batches > 300, "{in_batches} of 400 were set in batches");

    // One among them that can't be set is the only one that is not.
    let all = (400..500).map(|number| match number {
        450 => deadline("no subject".to_owned(), 0),
        number => deadline(id(number), 0),
    });
    let outcomes = join_all(all.map(async |timer| timers.set(&timer).await)).await;
    let failed: Vec<usize> = (0..100).filter(|place| outcomes[*place].is_err()).collect();
    assert_eq!(failed, [50], "{outcomes:?}");
    set_in_batches((400..500).filter(|number| *number != 450).map(id), &log).await;

    let mut stream = log.context().get_stream("TIMERS").await.expect("a stream");
    assert_eq!(stream.info().await.expect("its state").state.messages, 499, "one for each order");
    let last = stream.direct_get_last_for_subject("timer.set.checkout.order-99.deadline").await;
    let last: Timer = serde_json::from_slice(&last.expect("it is set").payload).expect("a timer");
    assert_eq!(last.generation, 1, "the later one counts");
}
