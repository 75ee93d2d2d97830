//! Buyers, several processes with the sagas, a log, a provider and timers on which everything goes wrong; then
//! the whole log and the provider's ledger are held against each other.

mod buyers;
mod checks;
mod clerk;
mod hearsay;
mod liar;
mod provider;
mod timers;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::cart::{self, AskQuote, CheckOut, Offer, PaymentMethod};
use domain::commit::Hash;
use domain::order;
use domain::{Aggregate, CartId, CommandId, Money, OrderId, QuoteId, Sku, stock};
use futures_util::FutureExt;
use infra::clock::Clock;
use infra::execute::{self, Error, Executor, Executors, Request};
use infra::feed::Feed;
use infra::log::{EventLog, MemoryLog, Stored};
use infra::payment::{PaymentProvider, Providers, signal, signal_about};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::timers::Timers;
use infra::writer::{self, Writer};
use sagas::checkout::{CaptureAt, Limits};
use sagas::{Checkout, Following, Index, Sagas};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::mutants::{self, Mutated};
use crate::support::faulty_log::{Call, Fault, FaultyLog, Plan};
use crate::support::story::{buyer, terms};
use buyers::buy;
use checks::{all_is_well, branches};
use hearsay::Hearsay;
use liar::Liar;
use provider::{Booked, Provider, Trouble};
use timers::SimulatedTimers;
use world::World;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// Each attempt at a payment has a key of its own.
    NewKeyOnRetry,
    /// The provider is said to have released money that it has not been asked to release.
    UndoSkipped,
    /// Inputs count as done when they are taken.
    AcknowledgedEarly,
    /// Timers are lost with whoever they fired for.
    TimerLost,
    /// Nobody looks in the log whether a command was done before.
    Forgetful,
    /// Commits are appended wherever their stream has come to.
    Blind,
    /// Money is said to be given back, and the provider was not asked.
    RefundNotAsked,
    /// Each refund is asked for under two names.
    RefundTwice,
    /// All refunds of an order have one name and key.
    OneKeyForAll,
    /// A payment is said to be authorised, and the provider was not asked.
    AnswerInvented,
    /// What the provider holds and takes is said to be what was asked for.
    AmountIgnored,
    /// What is looked up is another order's payment.
    AnothersPayment,
    /// Some of what happened is never told.
    InputLost,
    /// What happened is told in another order.
    OutOfOrder,
    /// A line that was refused is told as held.
    RefusalMisheard,
    /// Who cancels one timer of an order cancels all of them.
    AllTimersCancelled,
}

impl Mutant {
    const ALL: [Self; 16] = [
        Self::NewKeyOnRetry,
        Self::UndoSkipped,
        Self::AcknowledgedEarly,
        Self::TimerLost,
        Self::Forgetful,
        Self::Blind,
        Self::RefundNotAsked,
        Self::RefundTwice,
        Self::OneKeyForAll,
        Self::AnswerInvented,
        Self::AmountIgnored,
        Self::AnothersPayment,
        Self::InputLost,
        Self::OutOfOrder,
        Self::RefusalMisheard,
        Self::AllTimersCancelled,
    ];
}

/// How often what does not show in the log has happened.
#[derive(Clone, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Counts {
    pub fn note(&self, what: &'static str) {
        *self.0.lock().expect("no panic").entry(what).or_default() += 1;
    }
}

/// When it's over with the troubles, so that all can come to its end.
#[derive(Clone, Default)]
pub struct Calm(Arc<AtomicBool>);

impl Calm {
    pub fn is_calm(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened in one run.
pub struct History {
    commits: Vec<Stored>,
    ledger: Vec<Booked>,
    troubles: BTreeMap<Trouble, usize>,
    counts: BTreeMap<&'static str, usize>,
    crashes: u64,
}

/// No checkout takes so long, once all is calm.
const LIMIT: Duration = Duration::from_secs(3_600);

const BUYERS: u128 = 10;
const SKUS: [&str; 3] = ["CUP", "MUG", "POT"];
const TOKENS: [&str; 9] = [
    "tok_approve",
    "tok_approve",
    "tok_approve",
    "tok_approve",
    "tok_decline",
    "tok_partial",
    "tok_challenge",
    "tok_capture_declined",
    "tok_refund_refused",
];

fn gbp(amount: i64) -> Money {
    Money::new(amount, "GBP".parse().expect("a currency"))
}

/// The same step of the same client is the same command.
fn request(client: u128, step: &str) -> Request {
    let command_id = CommandId(Uuid::new_v5(&Uuid::from_u128(client), step.as_bytes()));
    Request {
        command_id,
        hash: Hash::of(step.as_bytes()),
        actor: "buyer".into(),
        correlation: command_id,
        causation: None,
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
    }
}

/// Gives a command until it is known what became of it; false, if it was refused.
async fn insist<A: Aggregate>(
    executor: &Executor<A>,
    id: impl std::fmt::Display + Copy,
    request: &Request,
    command: A::Command,
) -> bool
where
    A::Command: Clone,
{
    loop {
        match executor.execute(id, request, command.clone()).await {
            Ok(_) => return true,
            Err(Error::Refused(_)) => return false,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Everything that every checkout recorded says that it's over.
async fn all_is_over(memory: &MemoryLog) -> bool {
    let mut checkouts: BTreeMap<String, Checkout> = BTreeMap::new();
    for position in 1..=memory.end().await.expect("an end") {
        let stored = memory.read(position).await.expect("readable").expect("there");
        if stored.commit.stream.category() == Checkout::CATEGORY {
            let checkout = checkouts.entry(stored.commit.stream.id().to_owned()).or_default();
            let events = stored.commit.events.iter();
            events.for_each(|event| checkout.evolve(&event.decode().expect("readable")));
        }
    }
    checkouts.len() as u128 == BUYERS
        && checkouts.values().all(|checkout| checkout.summary().is_some_and(|summary| summary.is_over))
}

async fn history(seed: u64, mutant: Mutant) -> History {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = Arc::new(World::new(seed, mutant, &mut random));
    let shop = world.process(random.fork()).shop;
    for (sku, number) in SKUS.into_iter().zip(0..) {
        let quantity = random.u32(2..12);
        let receive = stock::Command::Receive { quantity };
        assert!(insist(&shop.stock, sku, &request(number, "receive"), receive).await);
    }
    let restock = clerk::restocks(shop.clone(), random.fork());
    let mut processes = JoinSet::new();
    for _ in 0..random.usize(1..=3) {
        processes.spawn(world.clone().saga_process(random.fork()));
    }
    let mut buyers: JoinSet<()> =
        (0..BUYERS).map(|client| buy(100 + client, shop.clone(), random.fork())).collect();
    buyers.spawn(restock);
    processes.spawn(world.clone().signals(random.fork()));
    processes.spawn(world.clone().jumps(random.fork()));
    while let Some(bought) = buyers.join_next().await {
        bought.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    tokio::time::sleep(Duration::from_secs(random.u64(0..120))).await;
    world.calm.0.store(true, Ordering::Relaxed);
    let (orders, shipping) =
        ((0..BUYERS).map(|client| OrderId(Uuid::from_u128(2_100 + client))), shop.clone());
    processes.spawn(clerk::ships_all(orders.collect(), shipping));
    processes.spawn(world.clone().operator(random.fork()));
    let began = tokio::time::Instant::now();
    while !all_is_over(&world.memory).await && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    // What follows from the end is done by then: the payment's capture, the goods' sale.
    tokio::time::sleep(Duration::from_secs(120)).await;
    while let Some(ended) = processes.join_next().now_or_never().flatten() {
        ended.unwrap_or_else(|error| panic!("seed {}: a process died: {error}", world.seed));
    }
    processes.shutdown().await;
    let mut commits = Vec::new();
    for position in 1..=world.memory.end().await.expect("an end") {
        commits.push(world.memory.read(position).await.expect("readable").expect("there"));
    }
    let ledger = world.provider.ledger.lock().expect("no panic").values().cloned().collect();
    let troubles = world.provider.seen.lock().expect("no panic").clone();
    let counts = world.counts.0.lock().expect("no panic").clone();
    History { commits, ledger, troubles, counts, crashes: world.crashes.load(Ordering::Relaxed) }
}

fn run(seed: u64, mutant: Mutant) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(history(seed, mutant))
}

/// So many seeds at least, without `SEEDS`: every branch is met.
const SEEDS_MIN: u64 = 150;
const SEEDS_MAX: u64 = 2_000;
const MINUTE: Duration = Duration::from_secs(60);

/// `SEEDS=20000` or `SEEDS=900000..920000`; a minute's worth without it.
fn seeds() -> impl Iterator<Item = u64> {
    let wanted = std::env::var("SEEDS").unwrap_or_default();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (range, limit) = match wanted.split_once("..") {
        Some((first, last)) => {
            (number(first).expect("SEEDS is a..b")..number(last).expect("SEEDS is a..b"), None)
        }
        None => number(&wanted).map_or((0..SEEDS_MAX, Some(MINUTE)), |seeds| (0..seeds, None)),
    };
    let began = std::time::Instant::now();
    range.take_while(move |seed| *seed < SEEDS_MIN || limit.is_none_or(|limit| began.elapsed() < limit))
}

#[test]
fn f05_every_checkout_ends_and_both_books_agree() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut troubles: BTreeMap<Trouble, usize> = BTreeMap::new();
    let (mut crashes, mut run_so_far) = (0, 0);
    for seed in seeds() {
        run_so_far += 1;
        let history = run(seed, Mutant::None);
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| all_is_well(&history)));
        if checked.is_err() && std::env::var_os("SHOW").is_some() {
            history.commits.iter().for_each(|stored| println!("{}", checks::line(stored)));
        }
        assert!(checked.is_ok(), "again with: make sim SEEDS={seed}..{}", seed + 1);
        let counted = branches(&history).into_iter().chain(history.counts.clone());
        counted.for_each(|(what, times)| *seen.entry(what).or_default() += times);
        history.troubles.iter().for_each(|(trouble, times)| *troubles.entry(*trouble).or_default() += times);
        crashes += history.crashes;
        if seed % 10 == 0 {
            let again = run(seed, Mutant::None).commits;
            let differ = history.commits.iter().zip(&again).find(|(one, other)| one.body != other.body);
            assert!(differ.is_none(), "seed {seed} does not run the same again: {differ:#?}");
            assert_eq!(history.commits.len(), again.len(), "seed {seed} does not run the same again");
        }
    }
    println!("{run_so_far} seeds, {crashes} crashes: {seen:?} {troubles:?}");
    if run_so_far < SEEDS_MIN {
        return;
    }
    // A campaign that missed one of them proves nothing.
    for what in [
        "an outcome is unknown",
        "money is given back",
        "sold out",
        "completed",
        "taken back",
        "declined",
        "a late success is voided by itself",
        "the deadline passes",
        "sold goods come back",
        "the buyer is asked",
        "a capture fails",
        "an undo is refused",
        "a refund waits",
        "a refund fails",
        "goods are sent back",
        "money is not waited for",
        "a deadline is moved",
        "a shipment is overdue",
        "paid at shipment",
        "a capture is stuck",
        "lines are not held in time",
        "it is not shipped in time",
        "another amount is held than asked for",
        "a stale step is recognised",
        "news before the answer",
        "a signal about nothing",
        "a timer fires twice",
        "a clock is wrong",
        "the clocks jump ahead",
    ] {
        assert!(seen.get(what).is_some_and(|times| *times >= 3), "{what}: {seen:?}");
    }
    for trouble in
        [Trouble::Lost, Trouble::AnswerLost, Trouble::TooSlow, Trouble::Later, Trouble::ArrivesLate]
    {
        assert!(troubles.get(&trouble).is_some_and(|times| *times >= 20), "{trouble:?}: {troubles:?}");
    }
    assert!(crashes > 100, "{crashes} crashes");
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
