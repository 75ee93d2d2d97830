//! Several processes execute commands on a log that loses, delays and refuses; then the whole log is
//! held against what the clients were told.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::stock::{Command, Stock};
use domain::{Aggregate, OrderId, StreamId};
use infra::execute::{Error, Executor};
use infra::log::{EventLog, MemoryLog, Stored};
use infra::snapshots::MemorySnapshots;
use infra::writer;
use simulation::answers::Answers;
use simulation::checkouts::is_a_log;
use simulation::faulty_log::{Call, Fault, FaultyLog, Plan, sizes};
use simulation::mutants::{Hasty, LOST, Mutant, Mutated};
use simulation::seeds;
use simulation::stock::{executor_keeping, request};
use tokio::task::JoinSet;
use uuid::Uuid;

/// So many, without `SEEDS`.
const SEEDS: u64 = 2_000;
/// From so many on, each thing that can go wrong has done so that often.
const SEEDS_MIN: usize = 300;
/// No history takes so long, by its own clock.
const LIMIT: Duration = Duration::from_secs(3_600);

/// What happened in one run.
struct History {
    commits: Vec<Stored>,
    answers: Answers,
    faults: Vec<Fault>,
    /// Commits in each append.
    sizes: Vec<usize>,
}

/// One history: clients with commands to few aggregates, through executors that share the log, and
/// a log that goes wrong as the seed says.
async fn history(seed: u64, mutant: Mutant) -> History {
    let memory = MemoryLog::default();
    let shared = Mutated::new(memory.clone(), mutant);
    let mut random = fastrand::Rng::with_seed(seed);
    let processes = random.usize(1..=3);
    let (logs, executors): (Vec<_>, Vec<_>) =
        std::iter::repeat_with(|| process(&shared, random.fork(), mutant)).take(processes).unzip();
    let answers: Arc<Mutex<Answers>> = Arc::default();
    let clients = (0..60).map(|number| client(number, executors.clone(), answers.clone(), random.fork()));
    let mut clients: JoinSet<()> = clients.collect();
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("seed {seed}: a client waits for ever"));
    // What comes late has come by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut commits = Vec::new();
    for position in 1..=memory.end().await.expect("an end") {
        commits.push(memory.read(position).await.expect("readable").expect("there"));
    }
    let answers = std::mem::take(&mut *answers.lock().expect("no panic"));
    let faults = logs.iter().flat_map(|log| log.calls.lock().expect("no panic").clone());
    let faults = faults.map(|(_, fault)| fault).collect();
    History { commits, answers, faults, sizes: logs.iter().flat_map(sizes).collect() }
}

/// A process with its own way to the log, on which things go wrong.
fn process(log: &Mutated, mut random: fastrand::Rng, mutant: Mutant) -> (FaultyLog, Arc<Executor<Stock>>) {
    let (wrong, slowest_ms) = (random.u32(0..=25), random.u64(1..=30));
    let batch_max = random.choice([0, 3, 1_000]).unwrap_or(0);
    let settings = writer::Settings {
        batch_min: random.usize(2..6),
        singles_max: random.usize(1..4),
        queue_max: random.usize(5..100),
        ..Default::default()
    };
    // Fewer than there are, or more than enough.
    let cached_aggregates_max = random.choice([1, 100]).unwrap_or(1);
    let loses = mutant == Mutant::Losing;
    let plan: Plan = Box::new(move |call| {
        let append_faults = [Fault::Lost, Fault::AnswerLost, Fault::Late, Fault::Refused];
        let fault = match (random.u32(0..100) < wrong, call) {
            _ if loses && call.appends() && random.u32(0..LOST) == 0 => Fault::Forgotten,
            (false, _) => Fault::None,
            (true, Call::Load | Call::Follow) => Fault::Unreadable,
            (true, _) => random.choice(append_faults).unwrap_or(Fault::Lost),
        };
        (fault, Duration::from_millis(random.u64(0..=slowest_ms)))
    });
    let log = FaultyLog::new(log.clone(), plan).with_batch_max(batch_max);
    let shown: Arc<dyn EventLog> = match mutant {
        Mutant::Hasty => Arc::new(Hasty(log.clone())),
        _ => Arc::new(log.clone()),
    };
    let snapshots = Arc::new(MemorySnapshots::default());
    let executor = executor_keeping(cached_aggregates_max, shown, snapshots, settings);
    (log, executor)
}

/// A client with a command, which it sends until it knows what became of it, and now and then again.
async fn client(
    number: u128,
    executors: Vec<Arc<Executor<Stock>>>,
    answers: Arc<Mutex<Answers>>,
    mut random: fastrand::Rng,
) {
    let sku = format!("SKU-{}", random.choice([0, 0, 0, 1, 1, 2, 3, 4, 5]).unwrap_or(0));
    let order_id = OrderId(Uuid::from_u128(random.u128(0..8)));
    let command = match random.u32(0..4) {
        0 => Command::Receive { quantity: random.u32(1..5) },
        1 => Command::Adjust { delta: -random.i64(1..4), reason: "broken".into() },
        2 => Command::Reserve { order_id, quantity: random.u32(1..4) },
        _ => Command::Release { order_id },
    };
    tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
    // The same command again: after a failure, and now and then although it went well.
    let mut again = random.u32(0..2);
    loop {
        let executor = random.choice(&executors).expect("one");
        let (first, double) = (request(number), request(number));
        let outcome = match random.u32(0..4) {
            // Twice at a time.
            0 => {
                let doubled = random.choice(&executors).expect("one");
                let first = executor.execute(&sku, &first, command.clone());
                match tokio::join!(first, doubled.execute(&sku, &double, command.clone())) {
                    (Err(_), Ok(done)) => Ok(done),
                    // What is refused at one moment may be done at the next.
                    (Err(Error::Refused(_)), Err(error)) => Err(error),
                    (outcome, _) => outcome,
                }
            }
            _ => executor.execute(&sku, &first, command.clone()).await,
        };
        match outcome {
            Ok(done) => answers.lock().expect("no panic").done(first.command_id, &done),
            Err(Error::Refused(_)) => return answers.lock().expect("no panic").refused(first.command_id),
            Err(Error::Unavailable(_) | Error::Overloaded(_) | Error::OutcomeUnknown(_)) => {
                // Nobody comes again without a pause.
                tokio::time::sleep(Duration::from_millis(random.u64(1..50))).await;
                continue;
            }
            Err(error) => panic!("{number}: {error}"),
        }
        match again.checked_sub(1) {
            Some(left) => again = left,
            None => return,
        }
    }
}

/// I1 to I4 and I6, over the whole log.
fn holds(commits: &[Stored], answers: &Answers) {
    is_a_log(commits);
    answers.hold(commits);
    let mut shelves: BTreeMap<&StreamId, Stock> = BTreeMap::new();
    for stored in commits {
        let shelf = shelves.entry(&stored.commit.stream).or_default();
        stored.commit.events.iter().for_each(|event| shelf.evolve(&event.decode().expect("readable")));
        assert!(shelf.held() <= shelf.on_hand(), "oversold at {}", stored.sequence);
    }
}

fn run(seed: u64, mutant: Mutant) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(history(seed, mutant))
}

#[test]
fn a_platform_that_does_it_wrong_is_found_out() {
    for mutant in [Mutant::Blind, Mutant::Hasty, Mutant::Forgetful, Mutant::WindowOnly, Mutant::Losing] {
        let found_out = |seed: &u64| {
            let checked = catch_unwind(|| {
                let History { commits, answers, .. } = run(*seed, mutant);
                holds(&commits, &answers);
            });
            checked.is_err()
        };
        let seeds = (0..30).filter(found_out).count();
        assert!(seeds > 0, "{mutant:?} passes");
        println!("{mutant:?} is found out by {seeds} seeds of 30");
    }
}

#[test]
fn whatever_goes_wrong_each_command_is_recorded_once_or_not_at_all() {
    let run = |seed| run(seed, Mutant::None);
    let mut seen: BTreeMap<Fault, usize> = BTreeMap::new();
    let (mut together, mut refused, mut repeated) = (0, 0, 0);
    let seeds = seeds::wanted().unwrap_or(0..SEEDS);
    for seed in seeds.clone() {
        let History { commits, answers, faults, sizes } = run(seed);
        let checked = catch_unwind(|| holds(&commits, &answers));
        assert!(checked.is_ok(), "again with: make sim SEEDS={seed}..{}", seed + 1);
        faults.into_iter().for_each(|fault| *seen.entry(fault).or_default() += 1);
        together += sizes.iter().filter(|size| **size > 1).count();
        refused += answers.refusals();
        repeated += answers.repeated;
        if seed % 10 == 0 {
            let ids = |commits: &[Stored]| commits.iter().map(|stored| stored.commit.id).collect::<Vec<_>>();
            assert_eq!(ids(&commits), ids(&run(seed).commits), "seed {seed} runs the same again");
        }
    }
    println!(
        "{} histories of commands: {seen:?}; {together} appends of several commits, {refused} refusals, {repeated} repeats",
        seeds.clone().count()
    );
    // A campaign in which nothing went wrong proves nothing.
    if seeds.count() >= SEEDS_MIN {
        for fault in [Fault::Lost, Fault::AnswerLost, Fault::Late, Fault::Refused, Fault::Unreadable] {
            assert!(seen[&fault] > SEEDS_MIN, "{seen:?}");
        }
        assert!(
            [together, refused, repeated].into_iter().all(|times| times > SEEDS_MIN),
            "{together} {refused} {repeated}"
        );
    }
}
