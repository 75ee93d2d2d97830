//! The writer: what it promises to those who append through it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::StreamId;
use domain::commit::Hash;
use domain::stock::{Command, Stock};
use futures_util::future::join_all;
use infra::execute::{Error, Executed, Executor, Request};
use infra::log::{AppendError, EventLog, MemoryLog, Message};
use infra::writer::{self, After, Priority, Writer};

use crate::support::faulty_log::{Call, Fault, FaultyLog, Plan, sizes};
use crate::support::stock::{executor, request};

/// Every append takes that long, and goes well.
fn slow(append: Duration) -> Plan {
    Box::new(move |call| (Fault::None, if call == Call::Load { Duration::ZERO } else { append }))
}

const FSYNC: Duration = Duration::from_millis(10);

async fn receive(
    executor: &Executor<Stock>,
    sku: &str,
    number: u128,
) -> Result<Executed<Stock>, Error<domain::stock::Error>> {
    executor.execute(sku, &request(number), Command::Receive { quantity: 1 }).await
}

#[tokio::test(start_paused = true)]
async fn alone_a_commit_goes_out_at_once() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    let began = tokio::time::Instant::now();
    for number in 0..5 {
        receive(&executor, "MUG", number).await.expect("done");
    }
    assert_eq!((sizes(&log), began.elapsed()), (vec![1; 5], 5 * FSYNC), "nothing is added");
}

#[tokio::test(start_paused = true)]
async fn what_queued_up_shares_an_append() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    let skus: Vec<_> = (0..200).map(|sku| format!("SKU-{sku}")).collect();
    let began = tokio::time::Instant::now();
    let all = join_all(skus.iter().zip(0..).map(|(sku, number)| receive(&executor, sku, number))).await;
    let positions: BTreeSet<_> = all.into_iter().map(|done| done.expect("done").sequence).collect();
    assert_eq!(positions, (1..=200).collect());
    assert!(began.elapsed() <= 3 * FSYNC, "{:?}", began.elapsed());
    assert!(sizes(&log).iter().any(|size| *size > 100), "{:?}", sizes(&log));
}

/// One after the other, and as soon as each is done the next: somebody always wants to append.
async fn busy(executor: &Executor<Stock>, sku: &str, commits: u128) {
    for number in 1..=commits {
        receive(executor, sku, number).await.expect("done");
    }
}

/// With a command that nobody waits for, and how long that took.
async fn in_the_background(executor: &Executor<Stock>, sku: &str, number: u128) -> Duration {
    let began = tokio::time::Instant::now();
    let request = Request { priority: Priority::Background, ..request(number) };
    executor.execute(sku, &request, Command::Receive { quantity: 1 }).await.expect("done");
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_lets_others_go_first_but_not_for_ever() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let settings = writer::Settings { singles_max: 1, ..Default::default() };
    let executor = executor(Arc::new(log.clone()), settings);
    assert_eq!(
        in_the_background(&executor, "IDLE", 100).await,
        FSYNC,
        "at once, if nothing else is going on"
    );
    tokio::join!(busy(&executor, "A", 50), busy(&executor, "B", 50), async {
        tokio::time::sleep(FSYNC / 2).await;
        let took = in_the_background(&executor, "LATER", 101).await;
        assert!(took >= 10 * FSYNC, "others went first: {took:?}");
        assert!(took <= 15 * FSYNC, "{took:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn much_that_nobody_waits_for_shares_an_append() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    let skus: Vec<_> = (0..50).map(|sku| format!("SKU-{sku}")).collect();
    tokio::join!(busy(&executor, "A", 50), busy(&executor, "B", 50), async {
        tokio::time::sleep(FSYNC / 2).await;
        join_all(skus.iter().zip(200..).map(|(sku, number)| in_the_background(&executor, sku, number))).await;
    });
    // Some of it found the log idle.
    let together: Vec<_> = sizes(&log).into_iter().filter(|size| *size > 1).collect();
    assert!(matches!(together[..], [only] if only >= 30), "{:?}", sizes(&log));
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_what_nobody_waits_for_does_not_wait_with_it() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let settings = writer::Settings { singles_max: 1, ..Default::default() };
    let executor = executor(Arc::new(log.clone()), settings);
    tokio::join!(busy(&executor, "A", 50), busy(&executor, "B", 50), async {
        tokio::time::sleep(FSYNC / 2).await;
        let began = tokio::time::Instant::now();
        let after = async {
            tokio::task::yield_now().await;
            receive(&executor, "MUG", 101).await.expect("done");
            assert!(began.elapsed() <= 6 * FSYNC, "{:?}", began.elapsed());
        };
        tokio::join!(in_the_background(&executor, "MUG", 100), after);
    });
}

#[tokio::test(start_paused = true)]
async fn commands_to_one_aggregate_share_an_append() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    receive(&executor, "MUG", 0).await.expect("done");
    let began = tokio::time::Instant::now();
    let all = join_all((1..=200).map(|number| receive(&executor, "MUG", number))).await;
    let versions: BTreeSet<_> = all.into_iter().map(|done| done.expect("done").version).collect();
    assert_eq!(versions, (2..=201).collect());
    assert!(began.elapsed() <= 3 * FSYNC, "{:?} for 200 commits", began.elapsed());
    assert_eq!(executor.load("MUG").await.expect("readable").version, 201);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_what_it_rests_on() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    receive(&executor, "MUG", 0).await.expect("one on the shelf");
    let took = |number| {
        let take = Command::Adjust { delta: -1, reason: "broken".into() };
        let executor = executor.clone();
        async move { executor.execute("MUG", &request(number), take).await.map(|done| done.version) }
    };
    // The second one is refused because of the first, which then turns out not to be appended: so
    // it isn't refused at all.
    let plan: Plan = {
        let mut appends = 0;
        Box::new(move |call| {
            appends += u32::from(call.appends());
            (if appends == 1 { Fault::Refused } else { Fault::None }, FSYNC)
        })
    };
    log.plan(plan);
    let (first, second) = tokio::join!(took(1), took(2));
    assert!(matches!(first, Err(Error::Unavailable(_))), "{first:?}");
    assert_eq!(second.expect("there is one"), 2);
    let third = took(3).await;
    assert!(matches!(third, Err(Error::Refused(_))), "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_costs_its_neighbours_nothing() {
    let memory = MemoryLog::default();
    let log = FaultyLog::new(memory.clone(), slow(FSYNC));
    let executor = executor(
        Arc::new(log.clone()),
        writer::Settings { batch_min: 2, singles_max: 1, ..Default::default() },
    );
    receive(&executor, "HOT", 0).await.expect("done");
    let elsewhere = crate::support::stock::executor(Arc::new(memory.clone()), writer::Settings::default());
    receive(&elsewhere, "HOT", 1).await.expect("another process was faster");
    let skus: Vec<_> = (0..50).map(|sku| format!("SKU-{sku}")).chain(["HOT".into(), "HOT".into()]).collect();
    let all = join_all(skus.iter().zip(2..).map(|(sku, number)| receive(&executor, sku, number))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(memory.load(&StreamId::of::<Stock>("HOT"), 0).await.expect("readable").len(), 4);
    assert_eq!(memory.end().await.expect("an end"), 54, "each of them once");
}

#[tokio::test(start_paused = true)]
async fn a_large_group_of_a_refused_batch_is_a_batch_again() {
    let memory = MemoryLog::default();
    let log = FaultyLog::new(memory.clone(), slow(FSYNC));
    let settings = writer::Settings { batch_min: 4, singles_max: 1, batches_max: 1, ..Default::default() };
    let executor = executor(Arc::new(log.clone()), settings);
    for (number, sku) in [(0, "HOT"), (1, "OTHER")] {
        receive(&executor, sku, number).await.expect("done");
    }
    let elsewhere = crate::support::stock::executor(Arc::new(memory.clone()), writer::Settings::default());
    receive(&elsewhere, "OTHER", 2).await.expect("another process was faster");
    // One that goes out alone and four in a batch make the others queue up.
    let skus = ["B0", "B1", "B2", "B3", "B4", "OTHER", "HOT", "HOT", "HOT", "HOT", "HOT", "HOT"];
    let all = join_all(skus.iter().zip(3..).map(|(sku, number)| receive(&executor, sku, number))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(memory.end().await.expect("an end"), 3 + 12, "each of them once");
    assert!(sizes(&log)[2..].starts_with(&[1, 4, 7]), "{:?}", sizes(&log));
    assert!(sizes(&log)[5..].contains(&6), "{:?}", sizes(&log));
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_what_was_not_appended() {
    let memory = MemoryLog::default();
    let log = FaultyLog::new(memory.clone(), slow(FSYNC));
    let settings = writer::Settings { batch_min: 4, singles_max: 1, ..Default::default() };
    let executor = executor(Arc::new(log.clone()), settings);
    for (number, sku) in [(0, "HOT"), (1, "OTHER"), (2, "BUSY")] {
        receive(&executor, sku, number).await.expect("done");
    }
    let elsewhere = crate::support::stock::executor(Arc::new(memory.clone()), writer::Settings::default());
    receive(&elsewhere, "OTHER", 3).await.expect("another process was faster");
    // BUSY makes the others queue up; OTHER makes the log refuse their batch; and of its members,
    // one by one, the first is not taken.
    let mut singles = 0;
    log.plan(Box::new(move |call| {
        singles += u32::from(call == Call::Append);
        (if call == Call::Append && singles == 2 { Fault::Refused } else { Fault::None }, FSYNC)
    }));
    let skus = ["BUSY", "HOT", "HOT", "HOT", "OTHER"];
    let all = join_all(skus.iter().zip(4..).map(|(sku, number)| receive(&executor, sku, number))).await;
    let failed: Vec<_> = all.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, true, false, false, false], "{all:?}");
    assert!(matches!(sizes(&log)[3..], [1, 4, 1, ..]), "{:?}", sizes(&log));
    let hot = memory.load(&StreamId::of::<Stock>("HOT"), 0).await.expect("readable");
    let versions: Vec<_> = hot.iter().map(|stored| stored.commit.version).collect();
    assert_eq!(versions, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_no_batches_gets_none() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC)).with_batch_max(0);
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    let all = join_all((0..100).map(|number| receive(&executor, "MUG", number))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(sizes(&log), vec![1; 100]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let settings = writer::Settings { queue_max: 10, singles_max: 1, batch_min: 100, ..Default::default() };
    let executor = executor(Arc::new(log.clone()), settings);
    let skus: Vec<_> = (0..50).map(|sku| format!("SKU-{sku}")).collect();
    let all = join_all(skus.iter().zip(0..).map(|(sku, number)| receive(&executor, sku, number))).await;
    let refused = all.iter().filter(|outcome| matches!(outcome, Err(Error::Overloaded(_)))).count();
    assert_eq!(refused, 39, "one is under way, ten wait");
    assert_eq!(log.end().await.expect("an end"), 11);
    // Who comes again gets through.
    receive(&executor, "SKU-49", 49).await.expect("done");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_nothing_is_in_trouble_until_it_does() {
    let log = FaultyLog::new(MemoryLog::default(), slow(FSYNC));
    let writer = Writer::new(Arc::new(log.clone()), writer::Settings::default());
    let append = async |body: &'static str| {
        let stream = format!("stock/{body}").parse().expect("a stream");
        let message = Message { stream, hash: Hash::of(body.as_bytes()), body: body.into() };
        let (sender, done) = tokio::sync::oneshot::channel();
        let told = Box::new(move |outcome| drop(sender.send(outcome)));
        writer.append(message, After::Position(0), Priority::Normal, told).expect("a place");
        done.await.expect("told")
    };
    append("well").await.expect("appended");
    log.plan(Box::new(|_| (Fault::Lost, Duration::from_secs(1))));
    let (first, ()) = tokio::join!(append("lost"), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(writer.trouble(), None, "a hiccup");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(writer.trouble().expect("more than that").contains("the answer is lost"));
    });
    assert!(matches!(first, Err(writer::Error::Append(AppendError::Unknown(_)))), "{first:?}");
    log.plan(slow(FSYNC));
    append("again").await.expect("appended");
    assert_eq!(writer.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_behind_a_log_that_is_gone() {
    let gone: Plan = Box::new(|call| match call {
        Call::Load | Call::Follow => (Fault::Unreadable, Duration::from_secs(5)),
        _ => (Fault::Lost, Duration::from_secs(5)),
    });
    let log = FaultyLog::new(MemoryLog::default(), slow(Duration::ZERO));
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    let skus: Vec<_> = (0..500).map(|sku| format!("SKU-{sku}")).collect();
    join_all(skus.iter().zip(0..).map(|(sku, number)| receive(&executor, sku, number))).await;
    log.plan(gone);
    let began = tokio::time::Instant::now();
    let all = join_all(skus.iter().zip(1_000..).map(|(sku, number)| receive(&executor, sku, number))).await;
    assert!(
        all.iter().all(|outcome| matches!(outcome, Err(Error::Unavailable(_) | Error::OutcomeUnknown(_))))
    );
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
}

/// Should it wait for itself, no clock of the runtime gets it out of that.
#[test]
fn who_comes_when_another_command_to_the_same_aggregate_has_waited_for_too_long_goes_on() {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let log = FaultyLog::new(MemoryLog::default(), slow(Duration::from_secs(3_600)));
            let settings = writer::Settings { singles_max: 1, ..Default::default() };
            let executor = executor(Arc::new(log), settings);
            let hangs = |sku, number| {
                let executor = executor.clone();
                tokio::spawn(async move { receive(&executor, sku, number).await })
            };
            let _in_the_log = hangs("OTHER", 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = hangs("SKU", 2);
            tokio::time::sleep(Duration::from_secs(60)).await;
            let _second = hangs("SKU", 3);
            tell.send(first.await.expect("no panic")).expect("somebody listens");
        });
    });
    let first = told.recv_timeout(Duration::from_secs(20)).expect("nobody waits for itself");
    assert!(matches!(first, Err(Error::Unavailable(_))), "{first:?}");
}
