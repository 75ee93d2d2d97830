//! Execute's promises: each command once, whoever else writes, and whatever is cached.

use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use domain::stock::{Command, Event, Stock};
use domain::{CommandId, OrderId, StreamId};
use infra::clock::Clock;
use infra::execute::{Error, Executor, Request, Settings};
use infra::log::{EventLog, MemoryLog};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Priority, Writer};
use uuid::Uuid;

use crate::support::faulty_log::{Fault, FaultyLog, first, sizes};
use crate::support::servers::Nats;
use crate::support::stock::executor_keeping;

fn executor(log: Arc<dyn EventLog>) -> Executor<Stock> {
    let idempotency_keep = Duration::from_secs(60);
    let settings = Settings { idempotency_keep, cached_aggregates_max: 100 };
    let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
    let writer = Writer::new(log, writer::Settings::default());
    Executor::new(&writer, &snapshots, &Clock::system(), &settings)
}

fn request(asked: &str) -> Request {
    let command_id = CommandId(Uuid::now_v7());
    Request {
        command_id,
        hash: Hash::of(asked.as_bytes()),
        actor: "test".into(),
        correlation: command_id,
        causation: None,
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
        priority: Priority::Normal,
    }
}

fn receive(quantity: u32) -> Command {
    Command::Receive { quantity }
}

#[tokio::test]
async fn a_repeat_finds_what_was_done() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let (first, other_process) = (executor(log.clone()), executor(log.clone()));
    let request = request("3");
    let done = first.execute("MUG", &request, receive(3)).await.expect("done");
    assert!(!done.repeated);
    for executor in [&first, &other_process, &executor(log.clone())] {
        let again = executor.execute("MUG", &request, receive(3)).await.expect("done");
        assert!(again.repeated);
        assert_eq!(
            (again.events, again.sequence, again.version),
            (done.events.clone(), done.sequence, done.version)
        );
    }
    assert_eq!(log.end().await.expect("an end"), 1);
}

#[tokio::test]
async fn a_repeat_is_found_when_nothing_is_in_memory_any_more() {
    let log = MemoryLog::default();
    let reader: Arc<dyn EventLog> = Arc::new(log.clone());
    let executor =
        executor_keeping(1, reader.clone(), Arc::new(MemorySnapshots::default()), Default::default());
    let mut done = Vec::new();
    for number in 0..50 {
        let request = request("3");
        let sku = format!("MUG-{number}");
        let first = executor.execute(&sku, &request, receive(3)).await.expect("done");
        done.push((sku, request, first));
    }
    for (sku, request, first) in done {
        let again = executor.execute(&sku, &request, receive(3)).await.expect("done");
        assert!(again.repeated, "{sku}");
        assert_eq!((again.sequence, again.version), (first.sequence, first.version), "{sku}");
    }
    assert_eq!(log.end().await.expect("an end"), 50, "nothing was done twice");
}

#[tokio::test]
async fn an_id_belongs_to_one_request() {
    let executor = executor(Arc::new(MemoryLog::default()));
    let asked = request("3");
    executor.execute("MUG", &asked, receive(3)).await.expect("done");
    let other = Request { hash: Hash::of(b"4"), ..asked };
    let outcome = executor.execute("MUG", &other, receive(4)).await;
    assert!(matches!(outcome, Err(Error::OtherRequest)), "{outcome:?}");
}

#[tokio::test]
async fn a_refusal_records_nothing_and_does_not_burn_the_id() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let executor = executor(log.clone());
    let take = || Command::Adjust { delta: -1, reason: "broken".into() };
    let asked = request("-1");
    assert!(matches!(executor.execute("MUG", &asked, take()).await, Err(Error::Refused(_))));
    assert_eq!(log.end().await.expect("an end"), 0);
    executor.execute("MUG", &request("1"), receive(1)).await.expect("done");
    executor.execute("MUG", &asked, take()).await.expect("now it can be done");
}

#[tokio::test]
async fn what_another_process_did_is_seen_before_anything_is_refused() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let (one, other) = (executor(log.clone()), executor(log));
    one.execute("MUG", &request("1"), receive(1)).await.expect("done");
    other.execute("MUG", &request("9"), receive(9)).await.expect("done");
    let order_id = OrderId(Uuid::now_v7());
    let reserve = Command::Reserve { order_id, quantity: 10 };
    let done = one.execute("MUG", &request("reserve"), reserve).await.expect("done");
    // What `one` has in memory is 1; that would be refused, and the expectation catches it.
    assert_eq!(done.events, [Event::Reserved { order_id, quantity: 10 }]);
}

#[tokio::test]
async fn the_log_is_asked_for_what_is_newer_than_the_memory_and_for_nothing_else() {
    let log = FaultyLog::new(MemoryLog::default(), first(0, Fault::None));
    let (one, other) = (executor(Arc::new(log.clone())), executor(Arc::new(log.clone())));
    let seen = other.execute("MUG", &request("1"), receive(1)).await.expect("done").sequence;
    assert_eq!(one.load_since("MUG", seen).await.expect("readable").version, 1, "it was not in memory");
    let news = other.execute("MUG", &request("2"), receive(2)).await.expect("done").sequence;
    let asked = log.calls.lock().expect("no panic").len();
    assert_eq!(one.load_since("MUG", seen).await.expect("readable").version, 1, "as new as it has to be");
    assert_eq!(log.calls.lock().expect("no panic").len(), asked, "for that, the log is not asked");
    assert_eq!(one.load_since("MUG", news).await.expect("readable").version, 2);
}

#[tokio::test]
async fn who_came_last_is_in_memory_however_often_others_came() {
    let log = FaultyLog::new(MemoryLog::default(), first(0, Fault::None));
    // It keeps a hundred.
    let executor = executor(Arc::new(log.clone()));
    for number in 0..800 {
        let sku = format!("OFTEN-{}", number % 100);
        executor.execute(&sku, &request("1"), receive(1)).await.expect("done");
    }
    let mut seen = Vec::new();
    for number in 0..90 {
        let sku = format!("NEW-{number}");
        let position = executor.execute(&sku, &request("1"), receive(1)).await.expect("done").sequence;
        seen.push((sku, position));
    }
    let asked = log.calls.lock().expect("no panic").len();
    for (sku, position) in seen {
        assert_eq!(executor.load_since(&sku, position).await.expect("readable").version, 1);
    }
    assert_eq!(log.calls.lock().expect("no panic").len(), asked, "the log is asked for nothing");
}

#[tokio::test]
async fn an_expected_version_is_checked_but_not_against_a_repeat() {
    let executor = executor(Arc::new(MemoryLog::default()));
    let asked = Request { expected_version: Some(0), ..request("1") };
    executor.execute("MUG", &asked, receive(1)).await.expect("done");
    assert!(executor.execute("MUG", &asked, receive(1)).await.expect("done before").repeated);
    let stale = Request { expected_version: Some(0), ..request("2") };
    let outcome = executor.execute("MUG", &stale, receive(1)).await;
    assert!(matches!(outcome, Err(Error::Stale { expected: 0, actual: 1 })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_on_one_aggregate_lose_nothing() {
    let nats = Nats::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let executor = Arc::new(executor(Arc::new(nats.log().await)));
        for _ in 0..25 {
            let executor = executor.clone();
            tasks.spawn(async move {
                let request = request("1");
                // Contention may take more than one call; the id makes that safe.
                while let Err(error) = executor.execute("MUG", &request, receive(1)).await {
                    assert!(matches!(error, Error::Unavailable(_)), "{error}");
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    let log = nats.log().await;
    let commits = log.load(&StreamId::of::<Stock>("MUG"), 0).await.expect("readable");
    assert_eq!(
        commits.iter().map(|stored| stored.commit.version).collect::<Vec<_>>(),
        (1..=100).collect::<Vec<_>>()
    );
    let chained = commits.windows(2).all(|pair| pair[1].commit.previous == Some(pair[0].hash()));
    assert!(chained, "each commit has the hash of the one before");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_read_back() {
    for appended_before in [true, false] {
        let log = MemoryLog::default();
        let fault = if appended_before { Fault::AnswerLost } else { Fault::Lost };
        let executor = executor(Arc::new(FaultyLog::new(log.clone(), first(3, fault))));
        let done = executor.execute("MUG", &request("3"), receive(3)).await.expect("done");
        assert_eq!((done.version, log.end().await.expect("an end")), (1, 1), "{appended_before}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_loses_what_it_acknowledged_is_not_asked_without_end() {
    let log = FaultyLog::new(MemoryLog::default(), first(0, Fault::None));
    let executor = executor(Arc::new(log.clone()));
    executor.execute("MUG", &request("1"), receive(1)).await.expect("done");
    log.plan(first(1, Fault::Forgotten));
    executor.execute("MUG", &request("2"), receive(2)).await.expect("acknowledged");
    log.plan(Box::new(|_| (Fault::None, Duration::from_millis(1))));
    let before = sizes(&log).len();
    let asked = request("3");
    let outcome = executor.execute("MUG", &asked, receive(3)).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    let appends = sizes(&log).len() - before;
    assert!((2..200).contains(&appends), "{appends} appends in ten seconds");
    let done = executor.execute("MUG", &asked, receive(3)).await.expect("what the log has counts");
    assert_eq!(done.version, 2, "the lost one is forgotten");
}
