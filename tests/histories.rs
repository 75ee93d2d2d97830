//! Simulated histories through the real projections and the real Postgres: workers die in the middle of batches,
//! others take over, and who was away wakes up with a batch that is somebody else's by then. In the end, and
//! whenever it is looked at, the rows are what the log makes of them up to the checkpoint.

mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::payment::Operation;
use futures_util::{StreamExt, stream};
use infra::feed::Entry;
use infra::log::{Append, EventLog, Expected, MemoryLog, Message, Stored};
use infra::read_models;
use projections::projection::{Happened, Projection};
use simulation::{checkouts, seeds};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::support::servers::database_url;
use process::{Counts, Fate, Fates, Mutant, Process};

/// Histories at a time: each has some thirty connections.
const AT_A_TIME: usize = 2;

/// So many, if no others are wanted.
const SEEDS: u64 = 16;

/// A mutant is found out by one of four, or of eight on a machine with other things to do.
const MUTANTS_SEEDS: u64 = 64;

/// Who tries many is told how far it is.
const TOLD_EVERY: usize = 50;

/// A worker that is away is missed after seconds, and nothing takes longer than that.
const LIMIT: Duration = Duration::from_secs(60);

/// Mutants do what can't be recovered from, and nobody waits for that.
const MUTANTS_LIMIT: Duration = Duration::from_secs(15);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What went wrong.
type Outcome = Result<(), String>;

/// A database, and a history that is told there.
struct Scene {
    pool: PgPool,
    options: PgConnectOptions,
    log: MemoryLog,
    /// The whole history.
    entries: Vec<Arc<Entry>>,
    processes: Vec<Process>,
    fates: Arc<Fates>,
    counts: Counts,
}

impl Scene {
    fn start_process(&mut self) {
        let log: Arc<dyn EventLog> = Arc::new(self.log.clone());
        self.processes.push(Process::start(self.processes.len(), &log, &self.options, &self.fates));
    }

    /// One process dies and another comes; or it sleeps until all that it had is somebody else's.
    async fn befalls(&mut self, number: usize, fate: Fate) -> Result<(), sqlx::Error> {
        self.start_process();
        match fate {
            Fate::Dies => {
                self.processes[number].kill();
                self.counts.note("resume in mid-batch");
            }
            Fate::Sleeps => {
                let had = leases(&process::name(number), &self.pool).await?;
                forget(&process::name(number), &self.pool).await?;
                while !are_taken_over(&had, &self.pool).await? {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                // Who has them now has written what the sleeper has in hand, or not.
                tokio::time::sleep(Duration::from_millis(number as u64 % 3 * 30)).await;
                self.processes[number].wake();
            }
        }
        Ok(())
    }

    /// I5, at this moment: of those projections all of whose lanes are at one position.
    async fn rows_are_true(&self) -> Result<Outcome, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let mut snapshot = connection.begin_with("begin isolation level repeatable read read only").await?;
        let mut found = Vec::new();
        for projection in projections::all() {
            let reader = read_models::schema(projection.name(), 1);
            let (first, last): (i64, i64) =
                sqlx::query_as("select min(position), max(position) from cartulary.lanes where reader = $1")
                    .bind(&reader)
                    .fetch_one(&mut *snapshot)
                    .await?;
            assert!(
                last.cast_unsigned() <= self.log.end().await.expect("an end"),
                "{reader} is ahead of the log"
            );
            if first == last {
                let rows = rows(projection.as_ref(), &reader, &mut snapshot).await?;
                found.push((projection, first.cast_unsigned(), rows));
            }
        }
        snapshot.rollback().await?;
        for (projection, position, rows) in found {
            let expected = self.fold(projection.as_ref(), position, &mut connection).await?;
            self.counts.note("rows are looked at");
            if rows != expected {
                let lacks: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).take(3).collect();
                let has: Vec<_> = rows.iter().filter(|row| !expected.contains(row)).take(3).collect();
                let name = projection.name();
                return Ok(Err(format!("{name} at {position} lacks {lacks:#?}, and has {has:#?}")));
            }
        }
        Ok(Ok(()))
    }

    /// What the log makes of the rows up to a position, in one go and by itself.
    async fn fold(
        &self,
        projection: &dyn Projection,
        position: u64,
        connection: &mut PgConnection,
    ) -> Result<Vec<String>, sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let tables = format!(
            "create schema apart; set local search_path = apart, public; {}",
            projection.definition()
        );
        sqlx::raw_sql(AssertSqlSafe(tables)).execute(&mut *transaction).await?;
        let entries = self.entries.iter().take_while(|entry| entry.sequence <= position);
        let happened: Vec<Happened<'_>> = entries
            .flat_map(|entry| Happened::all_of(entry))
            .map(|happened| happened.expect("readable"))
            .filter(|happened| projection.key(happened).is_some())
            .collect();
        let mut writer = projection.writer();
        writer.fold(&happened, &mut transaction).await?;
        writer.flush(&mut transaction).await?;
        let rows = rows(projection, "apart", &mut transaction).await?;
        transaction.rollback().await?;
        Ok(rows)
    }
}

/// All rows of a projection's tables, as text, in order.
async fn rows(
    projection: &dyn Projection,
    schema: &str,
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    let mut all = Vec::new();
    for (table, _) in projection.tables() {
        let rows = format!("select '{table} ' || t::text from {schema}.{table} as t order by 1");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&mut *connection).await?;
        all.extend(rows);
    }
    Ok(all)
}

type Held = (String, i32, i64);

/// The lanes of a process, with the epochs at which it has them.
async fn leases(process: &str, pool: &PgPool) -> Result<Vec<Held>, sqlx::Error> {
    sqlx::query_as(
        "select reader, lane, epoch from cartulary.lanes
         join cartulary.workers as w on holder = w.id join pg_stat_activity on pid = w.backend
         where application_name = $1",
    )
    .bind(process)
    .fetch_all(pool)
    .await
}

/// Ends the connections by which a process says that it lives; those of its lanes have other names.
async fn forget(process: &str, pool: &PgPool) -> Result<(), sqlx::Error> {
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where application_name = $1 and datname = current_database()";
    sqlx::query(end).bind(process).execute(pool).await?;
    Ok(())
}

async fn are_taken_over(had: &[Held], pool: &PgPool) -> Result<bool, sqlx::Error> {
    let now: Vec<Held> =
        sqlx::query_as("select reader, lane, epoch from cartulary.lanes").fetch_all(pool).await?;
    Ok(had.iter().all(|lease| !now.contains(lease)))
}

/// Tells the history again, bit by bit.
async fn tell(commits: &[Stored], log: &MemoryLog, mut random: fastrand::Rng) {
    let mut ends = BTreeMap::new();
    let mut left = commits;
    while !left.is_empty() {
        let (next, rest) = left.split_at(random.usize(1..40).min(left.len()));
        for stored in next {
            let stream = &stored.commit.stream;
            let message = Message { stream: stream.clone(), body: stored.body.clone(), hash: stored.hash() };
            let last = ends.insert(stream, stored.sequence).unwrap_or(0);
            let append = Append { message, expected: Expected::Position(last) };
            log.append_batch(&[append]).await.expect("appended");
        }
        left = rest;
        tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
    }
}

/// Waits until all projections have come to the log's end.
async fn all_are_at(end: u64, pool: &PgPool) -> Result<(), sqlx::Error> {
    let position = "select coalesce(min(position), 0) from cartulary.lanes";
    while sqlx::query_scalar::<_, i64>(position).fetch_one(pool).await? < end.cast_signed() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// The rows agree with the provider's ledger about money, too.
async fn books_agree(history: &checkouts::History, pool: &PgPool) -> Result<Outcome, sqlx::Error> {
    let sum = "select coalesce(sum((payment->>'captured')::bigint), 0)::bigint,
                      coalesce(sum((payment->>'refunded')::bigint), 0)::bigint,
                      (select coalesce(sum(amount), 0)::bigint from orders_v1.refunds)
               from orders_v1.orders";
    let told: (i64, i64, i64) = sqlx::query_as(sum).fetch_one(pool).await?;
    let booked = |operation: Operation| {
        let ours =
            history.ledger.iter().filter(move |line| line.operation == operation && !line.is_declined());
        ours.map(|line| line.amount.amount).sum::<i64>()
    };
    let (captured, refunded) = (booked(Operation::Capture), booked(Operation::Refund));
    Ok(match told == (captured, refunded, refunded) {
        true => Ok(()),
        false => Err(format!("the rows say {told:?}, and the provider {captured} and {refunded}")),
    })
}

/// One history, told to processes that die, sleep and take over from each other.
async fn told(seed: u64, mutant: Mutant, counts: Counts) -> Result<Outcome, sqlx::Error> {
    let run = tokio::task::spawn_blocking(move || checkouts::run(seed, checkouts::Mutant::None));
    let history = run.await.expect("a history");
    let url = database_url().await;
    let pool = PgPool::connect(&url).await?;
    projections::set_up(&projections::all(), &pool).await?;
    let mut random = fastrand::Rng::with_seed(seed);
    let (fates, mut befallen) = Fates::new(random.fork(), mutant, counts.clone());
    let entries = history.commits.iter().cloned().map(Entry::new).map(Arc::new).collect();
    let (options, log) = (url.parse()?, MemoryLog::default());
    let mut scene = Scene { pool, options, log, entries, processes: Vec::new(), fates, counts };
    (0..random.usize(1..=3)).for_each(|_| scene.start_process());
    let (commits, log, pool) = (history.commits.clone(), scene.log.clone(), scene.pool.clone());
    let mut telling = tokio::spawn(async move {
        tell(&commits, &log, random).await;
        all_are_at(commits.len() as u64, &pool).await
    });
    let mut outcome = loop {
        tokio::select! {
            biased;
            Some((number, fate)) = befallen.recv() => {
                scene.befalls(number, fate).await?;
                let outcome = scene.rows_are_true().await?;
                if outcome.is_err() {
                    break outcome;
                }
            }
            all = &mut telling => break all.expect("no panic").map(Ok)?,
        }
    };
    if outcome.is_ok() {
        outcome = scene.rows_are_true().await?;
    }
    if outcome.is_ok() {
        outcome = books_agree(&history, &scene.pool).await?;
    }
    scene.processes.iter().for_each(Process::kill);
    scene.pool.close().await;
    Ok(outcome)
}

async fn held_against_the_log(seed: u64, mutant: Mutant, limit: Duration, counts: Counts) -> Outcome {
    match tokio::time::timeout(limit, told(seed, mutant, counts)).await {
        Ok(Ok(outcome)) => outcome.map_err(|reason| format!("seed {seed}: {reason}")),
        Ok(Err(error)) => Err(format!("seed {seed}: {error}")),
        Err(_) => Err(format!("seed {seed}: the rows do not come to the log's end")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_what_the_log_makes_of_them_whoever_dies_or_sleeps() {
    let (counts, seeds) = (Counts::default(), seeds::wanted().unwrap_or(0..SEEDS));
    let outcomes = stream::iter(seeds.clone())
        .map(|seed| tokio::spawn(held_against_the_log(seed, Mutant::None, LIMIT, counts.clone())));
    let mut outcomes = std::pin::pin!(outcomes.buffer_unordered(AT_A_TIME).enumerate());
    while let Some((number, outcome)) = outcomes.next().await {
        outcome.expect("no panic").unwrap_or_else(|reason| panic!("{reason}"));
        if number > 0 && number % TOLD_EVERY == 0 {
            eprintln!("{number} of {} seeds", seeds.end - seeds.start);
        }
    }
    let seen = counts.all();
    println!("seeds {seeds:?}: {seen:?}");
    if seeds.end - seeds.start < SEEDS {
        return;
    }
    // A campaign that missed one of them proves nothing.
    for what in ["resume in mid-batch", "a stale worker is fenced", "rows are looked at"] {
        assert!(seen.get(what).is_some_and(|times| *times >= 5), "{what}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn projections_that_do_it_wrong_are_found_out() {
    for mutant in [Mutant::NotFenced, Mutant::RowsByThemselves] {
        let tried = stream::iter(0..MUTANTS_SEEDS).map(|seed| async move {
            let outcome = tokio::spawn(held_against_the_log(seed, mutant, MUTANTS_LIMIT, Counts::default()));
            outcome.await.expect("no panic").err()
        });
        let mut found = std::pin::pin!(tried.buffered(AT_A_TIME).filter_map(std::future::ready));
        let reason = found.next().await.unwrap_or_else(|| panic!("{mutant:?} passes"));
        println!("{mutant:?} is found out: {reason}");
    }
}
