//! Seeds by the thousand, on all processors: each runs twice, and what they meet is counted.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use simulation::checkouts::{Mutant, all_is_well, branches, line, run};
use simulation::seeds;

/// So many seeds at least, without `SEEDS`: every branch is met.
const SEEDS_MIN: u64 = 150;
const SEEDS_MAX: u64 = 2_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Who runs seeds for long is told how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// After so many that fail, others tell nothing new.
const FAILED_MAX: usize = 10;

/// What each campaign has to meet, and how often; one that missed it proves nothing.
const MET_MIN: [(&str, usize); 59] = [
    ("a process dies", 100),
    ("a process sleeps", 100),
    ("a lane is lost", 20),
    ("what is recorded is not acted on", 3),
    ("a stale worker is fenced", 20),
    ("an outcome is unknown", 3),
    ("money is given back", 3),
    ("sold out", 3),
    ("answers are heard together", 20),
    ("completed", 3),
    ("taken back", 3),
    ("declined", 3),
    ("a late success is voided by itself", 3),
    ("the deadline passes", 3),
    ("sold goods come back", 3),
    ("the buyer is asked", 3),
    ("a capture fails", 3),
    ("an undo is refused", 3),
    ("a refund waits", 3),
    ("a refund fails", 3),
    ("goods are sent back", 3),
    ("money is not waited for", 3),
    ("a deadline is moved", 3),
    ("a shipment is overdue", 3),
    ("paid at shipment", 3),
    ("a capture is stuck", 3),
    ("lines are not held in time", 3),
    ("it is not shipped in time", 3),
    ("another amount is held than asked for", 3),
    ("a stale step is recognised", 3),
    ("an operator gives up", 3),
    ("an authorisation expires", 3),
    ("money is taken back by the buyer's bank", 3),
    ("it is shipped before it is taken back", 3),
    ("it is to be taken back before it is shipped", 3),
    ("a conflict", 20),
    ("a command is refused", 20),
    ("a command is given again", 100),
    ("a command's outcome is unknown", 3),
    ("commits go together", 20),
    ("the log is out of reach", 100),
    ("charged, but timed out", 3),
    ("it is done twice", 3),
    ("a second payment is undone", 3),
    ("a refund is made twice", 1),
    ("the books are compared", 20),
    ("the books are not compared to the end", 3),
    ("who compares the books dies", 3),
    ("a difference is repaired", 3),
    ("news before the answer", 3),
    ("a signal about nothing", 3),
    ("a timer fires twice", 3),
    ("a clock is wrong", 3),
    ("the clocks jump ahead", 3),
    ("a request is lost", 20),
    ("an answer is lost", 20),
    ("an answer is too slow", 20),
    ("a request is carried out later", 20),
    ("a request arrives late", 20),
];

/// What one seed met, or the seed that failed.
type Outcome = Result<BTreeMap<&'static str, usize>, u64>;

/// Seeds that are still to run.
struct Seeds {
    first: u64,
    next: AtomicU64,
    end: AtomicU64,
    /// No other one begins after that, if they are not all wanted.
    until: Option<Instant>,
    began: Instant,
}

impl Seeds {
    /// A minute's worth, if no others are wanted.
    fn wanted() -> Self {
        let began = Instant::now();
        let (seeds, until) = match seeds::wanted() {
            Some(seeds) => (seeds, None),
            None => (0..SEEDS_MAX, Some(began + MINUTE)),
        };
        Self { first: seeds.start, next: seeds.start.into(), end: seeds.end.into(), until, began }
    }

    fn next(&self) -> Option<u64> {
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        let is_late = self.until.is_some_and(|until| Instant::now() > until);
        let is_wanted = seed < self.end.load(Ordering::Relaxed);
        (is_wanted && (seed < self.first + SEEDS_MIN || !is_late)).then_some(seed)
    }

    fn no_more(&self) {
        self.end.store(0, Ordering::Relaxed);
    }

    /// How far it is, and how long it will take.
    fn progress(&self, run: u64) -> String {
        let all = self.end.load(Ordering::Relaxed) - self.first;
        let per_second = run as f64 / self.began.elapsed().as_secs_f64();
        let left_s = (all - run) as f64 / per_second;
        format!("{run} of {all} seeds, {per_second:.1}/s, {:.0} min left", left_s / 60.0)
    }
}

/// One seed, twice, and all that has to hold.
fn try_out(seed: u64) -> Outcome {
    let checked = catch_unwind(|| {
        let history = run(seed, Mutant::None);
        let well = catch_unwind(AssertUnwindSafe(|| all_is_well(&history)));
        if well.is_err() && std::env::var_os("SHOW").is_some() {
            history.commits.iter().for_each(|stored| println!("{}", line(stored)));
        }
        assert!(well.is_ok(), "seed {seed}");
        let again = run(seed, Mutant::None);
        let differ = history.commits.iter().zip(&again.commits).find(|(one, other)| one.body != other.body);
        assert!(differ.is_none(), "seed {seed} does not run the same again: {differ:#?}");
        assert_eq!(history.hash(), again.hash(), "seed {seed} does not run the same again");
        let mut met = branches(&history);
        history.counts.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times);
        met
    });
    checked.map_err(|_| {
        eprintln!("again with: make sim SEEDS={seed}..{}", seed + 1);
        seed
    })
}

/// Adds up what all seeds met: how many have run, and which ones failed.
fn add_up(outcomes: Receiver<Outcome>, seeds: &Seeds) -> (u64, BTreeMap<&'static str, usize>, Vec<u64>) {
    let (mut run, mut all_met, mut failed) = (0, BTreeMap::new(), Vec::new());
    let mut told_at = Instant::now();
    for outcome in outcomes {
        run += 1;
        match outcome {
            Ok(met) => met.into_iter().for_each(|(what, times)| *all_met.entry(what).or_default() += times),
            Err(seed) => failed.push(seed),
        }
        if failed.len() >= FAILED_MAX {
            seeds.no_more();
        } else if seeds.until.is_none() && told_at.elapsed() > TOLD_EVERY {
            told_at = Instant::now();
            eprintln!("{}", seeds.progress(run));
        }
    }
    (run, all_met, failed)
}

#[test]
fn f05_every_checkout_ends_and_both_books_agree() {
    let seeds = Seeds::wanted();
    let (run, met, failed) = thread::scope(|scope| {
        let (tell, outcomes) = mpsc::channel();
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            let (seeds, tell) = (&seeds, tell.clone());
            scope.spawn(move || {
                while let Some(seed) = seeds.next() {
                    tell.send(try_out(seed)).expect("somebody adds up");
                }
            });
        }
        drop(tell);
        add_up(outcomes, &seeds)
    });
    met.iter().for_each(|(what, times)| println!("{times:>10} × {what}"));
    println!("{run} seeds in {:.0?}", seeds.began.elapsed());
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
    let is_missed = |(what, least): &&(&str, usize)| met.get(what).is_none_or(|times| times < least);
    let missed: Vec<_> = MET_MIN.iter().filter(is_missed).collect();
    assert!(run < SEEDS_MIN || missed.is_empty(), "not met often enough: {missed:?}");
}

#[test]
fn sagas_that_do_it_wrong_are_found_out() {
    let mut pass = Vec::new();
    for mutant in Mutant::ALL {
        let finds = |seed: &u64| std::panic::catch_unwind(|| all_is_well(&run(*seed, mutant))).is_err();
        let found = (0..200).find(finds);
        println!("{mutant:?} is found out by seed {found:?}");
        if found.is_none() {
            pass.push(mutant);
        }
    }
    assert!(pass.is_empty(), "not found out: {pass:?}");
}
