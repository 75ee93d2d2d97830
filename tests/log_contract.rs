//! What every log promises: one suite, kept by each of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::{StreamId, stock};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use infra::follow::Follower;
use infra::log::{Append, AppendError, EventLog, Expected, JetStreamLog, MemoryLog, ReadError, Stored};
use infra::writer;

use crate::support::eventually;
use crate::support::servers::{Cluster, Nats};
use crate::support::stock::{commit, executor, message, request};

fn stream(id: &str) -> StreamId {
    format!("stock/{id}").parse().expect("a stream")
}

/// Everything that the platform relies on.
async fn keeps_the_contract(log: &dyn EventLog) {
    appends_at_the_expected_position_only(log).await;
    loads_one_stream_in_order(log).await;
    follows_everything_from_anywhere(log).await;
    lets_one_of_many_win(log).await;
    similar_names_are_different_streams(log).await;
    appends_all_of_a_batch_or_nothing(log).await;
}

async fn appends_at_the_expected_position_only(log: &dyn EventLog) {
    let a = stream("expected");
    let first = log.append(&message(&commit(&a, 1, 1)), 0).await.expect("appended");
    let repeated = log.append(&message(&commit(&a, 1, 1)), 0).await;
    assert!(matches!(repeated, Err(AppendError::Conflict)), "{repeated:?}");
    let ahead = log.append(&message(&commit(&a, 2, 2)), first + 1).await;
    assert!(matches!(ahead, Err(AppendError::Conflict)), "{ahead:?}");
    let second = commit(&a, 2, 2);
    let appended = log.append(&message(&second), first).await.expect("appended");
    assert!(appended > first);
    let stored = log.read(appended).await.expect("readable").expect("there");
    assert_eq!((stored.hash(), stored.commit), (message(&second).hash, second));
}

async fn loads_one_stream_in_order(log: &dyn EventLog) {
    let (a, b) = (stream("many"), stream("other"));
    assert!(log.load(&a, 0).await.expect("readable").is_empty());
    let mut last = (0, 0);
    for version in 1..=25 {
        last.0 = log.append(&message(&commit(&a, version, 1)), last.0).await.expect("appended");
        last.1 = log.append(&message(&commit(&b, version, 1)), last.1).await.expect("appended");
    }
    let all = log.load(&a, 0).await.expect("readable");
    assert_eq!(
        all.iter().map(|stored| stored.commit.version).collect::<Vec<_>>(),
        (1..=25).collect::<Vec<_>>()
    );
    let rest = log.load(&a, all[9].sequence).await.expect("readable");
    assert_eq!(rest.len(), 15);
    assert!(log.load(&a, last.0).await.expect("readable").is_empty());
    for (after, most, length, more) in
        [(0, 10, 10, true), (all[9].sequence, 15, 15, false), (last.0, 5, 0, false)]
    {
        let page = log.load_page(&a, after, most).await.expect("readable");
        assert_eq!((page.commits.len(), page.more), (length, more), "{most} after {after}");
    }
}

async fn follows_everything_from_anywhere(log: &dyn EventLog) {
    let end = log.end().await.expect("an end");
    let mut all = log.follow(0);
    for expected in 1..=end {
        let stored = next(log, &mut all, expected - 1).await;
        assert_eq!(stored.sequence, expected, "no gaps");
    }
    let mut news = log.follow(end);
    let a = stream("news");
    let appended = log.append(&message(&commit(&a, 1, 1)), 0).await.expect("appended");
    for follower in [&mut all, &mut news] {
        let stored = next(log, follower, end).await;
        assert_eq!((stored.sequence, stored.commit.stream), (appended, a.clone()));
    }
    assert_eq!(log.end().await.expect("an end"), appended);
    assert!(log.read(appended + 1).await.expect("readable").is_none());
}

/// The commit after that position. Who follows begins again after an error: a cluster may be choosing a leader.
async fn next(
    log: &dyn EventLog,
    follower: &mut BoxStream<'static, Result<Stored, ReadError>>,
    after: u64,
) -> Stored {
    for _ in 0..50 {
        match follower.next().await.expect("an error comes before the end") {
            Err(ReadError::Unavailable(_)) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                *follower = log.follow(after);
            }
            stored => return stored.expect("readable"),
        }
    }
    panic!("the log can't be followed from {after}");
}

async fn lets_one_of_many_win(log: &dyn EventLog) {
    let a = stream("race");
    let commits: Vec<_> = (0..20).map(|quantity| commit(&a, 1, quantity)).collect();
    let messages: Vec<_> = commits.iter().map(message).collect();
    let outcomes =
        futures_util::future::join_all(messages.iter().map(|message| log.append(message, 0))).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let lost = outcomes.iter().filter(|outcome| matches!(outcome, Err(AppendError::Conflict))).count();
    assert_eq!((won, lost), (1, 19), "{outcomes:?}");
    assert_eq!(log.load(&a, 0).await.expect("readable").len(), 1);
}

async fn similar_names_are_different_streams(log: &dyn EventLog) {
    for id in ["a.b", "a-b", "a_b", "A.b", "ab"] {
        log.append(&message(&commit(&stream(id), 1, 1)), 0).await.expect("its first commit");
    }
    assert_eq!(log.load(&stream("a.b"), 0).await.expect("readable").len(), 1);
}

async fn appends_all_of_a_batch_or_nothing(log: &dyn EventLog) {
    let (a, b) = (stream("batch-a"), stream("batch-b"));
    let append = |stream: &StreamId, version, expected| Append {
        message: message(&commit(stream, version, 1)),
        expected,
    };
    let batch = [
        append(&a, 1, Expected::Position(0)),
        append(&b, 1, Expected::Position(0)),
        append(&a, 2, Expected::AfterPrevious),
        append(&a, 3, Expected::AfterPrevious),
    ];
    let end = log.end().await.expect("an end");
    let first = log.append_batch(&batch).await.expect("appended");
    assert_eq!((first, log.end().await.expect("an end")), (end + 1, end + 4), "one after the other");
    for (append, position) in batch.iter().zip(first..) {
        let stored = log.read(position).await.expect("readable").expect("there");
        assert_eq!((stored.hash(), &stored.commit.stream), (append.message.hash, &append.message.stream));
    }
    // One of them comes too late: nothing is appended.
    let (c, last_of_b) = (stream("batch-c"), first + 1);
    let late = append(&b, 2, Expected::Position(last_of_b - 1));
    let refused = log.append_batch(&[append(&c, 1, Expected::Position(0)), late]).await;
    assert!(matches!(refused, Err(AppendError::Conflict)), "{refused:?}");
    assert!(log.load(&c, 0).await.expect("readable").is_empty());
    assert_eq!(log.end().await.expect("an end"), end + 4);
    let many: Vec<_> = (0..log.batch_max())
        .map(|index| append(&stream(&format!("many-{index}")), 1, Expected::Position(0)))
        .collect();
    log.append_batch(&many).await.expect("as large as it may be");
    let single = append(&b, 2, Expected::Position(last_of_b));
    assert_eq!(log.append_batch(&[single]).await.expect("appended"), log.end().await.expect("an end"));
}

#[tokio::test]
async fn memory() {
    keeps_the_contract(&MemoryLog::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream() {
    keeps_the_contract(&Nats::start().await.log().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster() {
    let mut cluster = Cluster::start().await;
    let log = cluster.log().await;
    keeps_the_contract(&log).await;
    loses_nothing_with_its_leader(&mut cluster, log).await;
}

/// Commands go on when the server is killed that leads the log's stream, each recorded once.
async fn loses_nothing_with_its_leader(cluster: &mut Cluster, log: JetStreamLog) {
    let executor = executor(Arc::new(log.clone()), writer::Settings::default());
    let leader = cluster.leader(&log).await;
    let commands = (0..40_u32).map(async |number| {
        tokio::time::sleep(Duration::from_millis(u64::from(number) * 20)).await;
        let receive = || stock::Command::Receive { quantity: 1 };
        let (sku, request) = (format!("LED-{}", number % 4), request(number.into()));
        // What is unknown or unavailable is asked again, with its id.
        eventually("the command is done", async || executor.execute(&sku, &request, receive()).await.ok())
            .await
    });
    let kill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.kill(leader).await;
    };
    let (done, ()) = tokio::join!(futures_util::future::join_all(commands), kill);
    let positions: BTreeSet<_> = done.iter().map(|done| done.sequence).collect();
    assert_eq!(positions.len(), 40, "each has a commit of its own");
    for sku in ["LED-0", "LED-1", "LED-2", "LED-3"] {
        let commits = log.load(&stream(sku), 0).await.expect("readable");
        let versions: Vec<_> = commits.iter().map(|stored| stored.commit.version).collect();
        assert_eq!(versions, (1..=10).collect::<Vec<_>>(), "{sku}");
    }
    cluster.restart_killed().await;
    assert_ne!(cluster.leader(&log).await, leader, "another one leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_keeps_what_it_acknowledged_when_it_is_killed() {
    let mut nats = Nats::start().await;
    let log = nats.log().await;
    let a = stream("durable");
    let mut last = 0;
    for version in 1..=50 {
        last = log.append(&message(&commit(&a, version, 1)), last).await.expect("appended");
    }
    nats.kill().await;
    let failed = log.append(&message(&commit(&a, 51, 1)), last).await;
    assert!(!matches!(failed, Ok(_) | Err(AppendError::Conflict)), "{failed:?}");
    nats.restart().await;
    let log = nats.log().await;
    let commits = log.load(&a, 0).await.expect("readable");
    // What is unknown may yet have come there.
    let acknowledged = commits.iter().take(50).map(|stored| stored.sequence);
    assert!(acknowledged.eq(1..=50) && commits.len() <= 51, "{}", commits.len());
}

/// Requests of a reader that waits expire and are made anew; that must neither end nor slow it.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_for_long_hears_of_news_at_once() {
    let nats = Nats::start().await;
    let log: Arc<dyn EventLog> = Arc::new(nats.log().await);
    let stream = stream("quiet");
    let first = log.append(&message(&commit(&stream, 1, 1)), 0).await.expect("appended");
    let mut commits = log.follow(0);
    assert_eq!(commits.next().await.expect("it goes on").expect("readable").sequence, first);
    // Longer than one request lasts, several times.
    let quiet = tokio::time::timeout(Duration::from_secs(35), commits.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    log.append(&message(&commit(&stream, 2, 2)), first).await.expect("appended");
    let news = tokio::time::timeout(Duration::from_secs(1), commits.next()).await.expect("at once");
    assert_eq!(news.expect("it goes on").expect("readable").sequence, first + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_refuses_to_forget() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    log.append(&message(&commit(&stream("kept"), 1, 1)), 0).await.expect("appended");
    let stream = log.context().get_stream("EVENTS").await.expect("a stream");
    assert!(stream.purge().await.is_err(), "a purge is denied");
    assert!(stream.delete_message(1).await.is_err(), "a deletion is denied");
    let config = &stream.cached_info().config;
    assert!(
        config.deny_purge && config.deny_delete && config.allow_direct && !config.allow_message_schedules
    );
    assert_eq!(config.discard, async_nats::jetstream::stream::DiscardPolicy::New);
    assert_eq!(config.max_age, std::time::Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_and_an_executor_outlive_the_server() {
    let mut nats = Nats::start().await;
    let log = nats.log().await;
    let a = stream("outlives");
    let first = log.append(&message(&commit(&a, 1, 1)), 0).await.expect("appended");
    let mut follower = Follower::new(Arc::new(log.clone()), 0);
    assert_eq!(follower.batch(10).await.expect("readable").len(), 1);
    for round in 2..=3 {
        nats.kill().await;
        nats.restart().await;
        // The same connection, once it's back; until then the outcome is unknown or refused.
        let appended = eventually("the log takes commits again", async || {
            let last = log.load(&a, 0).await.ok()?.last()?.sequence;
            log.append(&message(&commit(&a, round, 1)), last).await.ok()
        })
        .await;
        assert!(appended > first);
        let seen = tokio::time::timeout(Duration::from_secs(30), follower.batch(10)).await;
        let seen = seen.expect("the follower comes back, too").expect("readable");
        assert_eq!(seen.iter().map(|stored| stored.commit.version).collect::<Vec<_>>(), [round]);
    }
}
