//! However the log is cut into batches, wherever a worker dies, and whoever takes over: the same rows as
//! in one go.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use infra::feed::{Entry, Feed};
use infra::log::{Append, EventLog, Expected, MemoryLog};
use infra::read_models;
use projections::projection::{Happened, Projection};
use projections::{Builds, Worker, set_up};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::projecting::{Running, project, reaches, rows};
use crate::support::servers::{database, database_url};
use crate::support::stock::message;
use crate::support::story::story;

/// Cuts, crashes and takeovers that are tried.
const CASES: usize = 12;

/// Shows only what is not the same.
fn assert_same(expected: &[String], found: &[String], what: &str) {
    let missing = expected.iter().filter(|row| !found.contains(row)).collect::<Vec<_>>();
    let surplus = found.iter().filter(|row| !expected.contains(row)).collect::<Vec<_>>();
    assert!(missing.is_empty() && surplus.is_empty(), "{what}: lacks {missing:#?}, and has {surplus:#?}");
    assert_eq!(expected.len(), found.len(), "{what}");
}

async fn entries(log: &Arc<dyn EventLog>) -> Vec<Arc<Entry>> {
    let end = log.end().await.expect("an end");
    let mut follower = Feed::new(log.clone()).follow(0);
    let mut read: Vec<Arc<Entry>> = Vec::new();
    while read.last().is_none_or(|last| last.sequence < end) {
        read.extend(follower.batch(1_000).await);
    }
    read
}

/// What is done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// More is taken in before it's written.
    TakeMore,
    Write,
    /// The transaction does not come to its end, and what was in memory is gone.
    Crash,
}

/// Batches of these lengths, again and again, and what is done with each.
type Plan = Vec<(usize, Then)>;

fn plans() -> impl Strategy<Value = Plan> {
    let then = proptest::prop_oneof![
        proptest::strategy::Just(Then::TakeMore),
        proptest::strategy::Just(Then::Write),
        proptest::strategy::Just(Then::Crash),
    ];
    // A plan without any progress is none.
    proptest::collection::vec((1_usize..40, then), 1..12)
        .prop_filter("it gets on", |plan: &Plan| plan.iter().any(|(_, then)| *then == Then::Write))
}

/// Carries a plan out, without lanes: the projection's own writer, over a connection.
async fn carry_out(
    plan: &Plan,
    projection: &dyn Projection,
    entries: &[Arc<Entry>],
    connection: &mut PgConnection,
) {
    let (mut writer, mut written, mut taken) = (projection.writer(), 0, 0);
    for (length, then) in plan.iter().cycle() {
        let batch = &entries[taken..(taken + length).min(entries.len())];
        let happened: Vec<Happened<'_>> = batch
            .iter()
            .flat_map(|entry| Happened::all_of(entry))
            .map(|happened| happened.expect("readable"))
            .filter(|happened| projection.key(happened).is_some())
            .collect();
        writer.fold(&happened, &mut *connection).await.expect("folded");
        taken += batch.len();
        let is_last = taken == entries.len();
        match then {
            Then::TakeMore if !is_last => {}
            Then::TakeMore | Then::Write => {
                let mut transaction = connection.begin().await.expect("begun");
                writer.flush(&mut transaction).await.expect("written");
                transaction.commit().await.expect("committed");
                written = taken;
                if is_last {
                    return;
                }
            }
            Then::Crash => {
                let mut transaction = connection.begin().await.expect("begun");
                writer.flush(&mut transaction).await.expect("written");
                transaction.rollback().await.expect("undone");
                (writer, taken) = (projection.writer(), written);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_batches_and_any_crashes_give_the_same_rows() {
    let log = story().await;
    let entries = entries(&log).await;
    let whole = database().await;
    let mut runner = TestRunner::deterministic();
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    set_up(&projections::all(), &pool).await.expect("tables");
    for projection in projections::all() {
        project(&projection, &log, &whole, entries.len() as u64).await;
        let in_one = rows(projection.as_ref(), &whole).await;
        assert!(!in_one.is_empty(), "{} has no rows", projection.name());
        let schema = read_models::schema(projection.name(), 1);
        let mut connection = pool.acquire().await.expect("a connection");
        let path = format!("set search_path = {schema}, public");
        sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut *connection).await.expect("a path");
        for _ in 0..CASES {
            let plan = plans().new_tree(&mut runner).expect("a plan").current();
            let tables = projection.tables().iter().map(|(table, _)| *table).collect::<Vec<_>>().join(", ");
            let empty = format!("truncate {tables}");
            sqlx::raw_sql(AssertSqlSafe(empty)).execute(&mut *connection).await.expect("empty");
            carry_out(&plan, projection.as_ref(), &entries, &mut connection).await;
            let in_parts = rows(projection.as_ref(), &pool).await;
            assert_same(&in_one, &in_parts, &format!("{} by {plan:?}", projection.name()));
        }
        connection.detach().close().await.expect("closed");
    }
}

/// A worker that can be made to disappear in the middle of whatever it is at.
struct Mortal(JoinHandle<()>);

impl Mortal {
    fn start(all: &[Arc<dyn Projection>], log: &Arc<dyn EventLog>, pool: &PgPool) -> Self {
        let builds = Builds::new(all.to_vec(), Feed::new(log.clone()), pool.clone());
        let (sender, stopped) = watch::channel(false);
        Self(tokio::spawn(async move {
            Worker::new(builds).run(stopped).await;
            drop(sender);
        }))
    }
}

/// Appends the story again, bit by bit.
async fn tell(story: &Arc<dyn EventLog>, log: &MemoryLog, pause: Duration) {
    let end = story.end().await.expect("an end");
    let mut ends = std::collections::HashMap::new();
    let mut commits = story.follow(0).take(usize::try_from(end).expect("a count"));
    while let Some(stored) = commits.next().await {
        let stored = stored.expect("readable");
        let expected = ends.get(&stored.commit.stream).copied().unwrap_or(0);
        let append = Append { message: message(&stored.commit), expected: Expected::Position(expected) };
        let position = log.append_batch(&[append]).await.expect("appended");
        ends.insert(stored.commit.stream.clone(), position);
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_and_whenever_the_rows_are_the_same() {
    let story = story().await;
    let end = story.end().await.expect("an end");
    let (whole, all) = (database().await, projections::all());
    for projection in &all {
        project(projection, &story, &whole, end).await;
    }
    for seed in 0..2_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let log = MemoryLog::default();
        let shared: Arc<dyn EventLog> = Arc::new(log.clone());
        let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
        set_up(&all, &pool).await.expect("tables");
        let mut workers: Vec<Mortal> = (0..3).map(|_| Mortal::start(&all, &shared, &pool)).collect();
        let telling = tell(&story, &log, Duration::from_millis(40));
        let dying = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(random.u64(200..1_200))).await;
                let dead = workers.swap_remove(random.usize(..workers.len()));
                dead.0.abort();
                workers.push(Mortal::start(&all, &shared, &pool));
            }
        };
        tokio::join!(telling, dying);
        for projection in &all {
            reaches(projection.name(), &pool, end).await;
            let (in_one, taken_over) =
                (rows(projection.as_ref(), &whole).await, rows(projection.as_ref(), &pool).await);
            assert_same(&in_one, &taken_over, &format!("{} with seed {seed}", projection.name()));
        }
        workers.into_iter().for_each(|worker| worker.0.abort());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_write_no_row_twice() {
    let log = story().await;
    let end = log.end().await.expect("an end");
    let pool = database().await;
    let alone = database().await;
    for projection in projections::all() {
        project(&projection, &log, &alone, end).await;
        let workers: Vec<_> = (0..3).map(|_| Running::start(&projection, &log, &pool)).collect();
        reaches(projection.name(), &pool, end).await;
        for worker in workers {
            worker.stop().await;
        }
        let (alone, shared) =
            (rows(projection.as_ref(), &alone).await, rows(projection.as_ref(), &pool).await);
        assert_same(&alone, &shared, projection.name());
    }
}
