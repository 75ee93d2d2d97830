//! Timers over a real server: once each, at their time, and not at all once they are cancelled.

use std::time::Duration;

use futures_util::StreamExt;
use infra::clock::Clock;
use infra::timers::{JetStreamTimers, Timer, Timers};

use crate::support::servers::Nats;

fn timer(name: &str, generation: u32, in_ms: i64) -> Timer {
    let (saga, id, name) = ("checkout".to_owned(), "an-order".to_owned(), name.to_owned());
    Timer { saga, id, name, generation, at: Clock::system().now() + chrono::Duration::milliseconds(in_ms) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_armed_again_fires_once_and_a_cancelled_one_never() {
    let nats = Nats::start().await;
    let context = nats.log().await.context().clone();
    let timers = JetStreamTimers::open(context.clone(), 1).await.expect("timers");
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
    let mut stream = context.get_stream("TIMERS").await.expect("a stream");
    assert_eq!(stream.info().await.expect("its state").state.messages, 0, "what is done with is gone");
}
