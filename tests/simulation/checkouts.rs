//! Buyers, several processes with the sagas, a log, a provider and timers on which everything goes wrong; then
//! the whole log and the provider's ledger are held against each other.

mod accountant;
mod banks;
mod buyers;
mod checks;
mod clerk;
mod client;
mod hearsay;
mod lanes;
mod liar;
mod naps;
mod outages;
mod provider;
mod timers;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::cart::{self, AskQuote, CheckOut, Offer, PaymentMethod};
use domain::commit::Hash;
use domain::order;
use domain::payment::Payment;
use domain::{Aggregate, CartId, Money, OrderId, QuoteId, Sku, stock};
use futures_util::FutureExt;
use infra::clock::Clock;
use infra::execute::{self, Executor, Executors};
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

use crate::answers::Answers;
use crate::faulty_log::{Call, Fault, FaultyLog, Plan};
use crate::mutants::{self, Hasty, Mutated};
use crate::shop::{buyer, terms};
use buyers::buy;
use client::{Client, Desk, request};
use hearsay::Hearsay;
use lanes::{Lane, SAVED_EVERY};
use liar::Liar;
use naps::{Nap, Sleepy};
use outages::Outages;
use provider::Provider;
use timers::SimulatedTimers;
use world::World;

pub use checks::{all_is_well, branches, is_a_log, line};
pub use provider::Booked;

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
    /// More is asked back than was asked for, and the provider has no bounds.
    RefundUncapped,
    /// All refunds of an order have one name and key.
    OneKeyForAll,
    /// A payment is said to be authorised, and the provider was not asked.
    AnswerInvented,
    /// What the provider holds and takes is said to be what was asked for.
    AmountIgnored,
    /// What is looked up is another order's payment.
    AnothersPayment,
    /// Nobody looks up what became of a request.
    NotLookedUp,
    /// Nobody reads what the provider lists.
    BooksUnread,
    /// Some of what happened is never told.
    InputLost,
    /// Nobody hears of what others recorded, and may not have acted on.
    RecordsUnheard,
    /// What happened is told in another order.
    OutOfOrder,
    /// A capture that was refused is told as done.
    RefusalMisheard,
    /// Who cancels one timer of an order cancels all of them.
    AllTimersCancelled,
    /// Who appends is told before the log has answered.
    Hasty,
    /// Now and then, the log loses what it has acknowledged.
    Losing,
}

impl Mutant {
    pub const ALL: [Self; 22] = [
        Self::NewKeyOnRetry,
        Self::UndoSkipped,
        Self::AcknowledgedEarly,
        Self::TimerLost,
        Self::Forgetful,
        Self::Blind,
        Self::RefundNotAsked,
        Self::RefundTwice,
        Self::RefundUncapped,
        Self::OneKeyForAll,
        Self::AnswerInvented,
        Self::AmountIgnored,
        Self::AnothersPayment,
        Self::NotLookedUp,
        Self::BooksUnread,
        Self::InputLost,
        Self::RecordsUnheard,
        Self::OutOfOrder,
        Self::RefusalMisheard,
        Self::AllTimersCancelled,
        Self::Hasty,
        Self::Losing,
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
    /// The whole log.
    pub commits: Vec<Stored>,
    /// What the provider did, in its own words.
    pub ledger: Vec<Booked>,
    /// The provider does twice what it is asked twice.
    pub forgets_keys: bool,
    /// Where both books differ in the end, as the reconciliation has it, and once more when it has repaired that.
    pub differences: [Vec<String>; 2],
    /// What clients were told.
    pub answers: Answers,
    /// How often what does not show in them has happened.
    pub counts: BTreeMap<&'static str, usize>,
}

impl History {
    /// The same, if all happened in the same way.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let commits: Vec<Hash> = self.commits.iter().map(Stored::hash).collect();
        Hash::of(format!("{commits:?} {:?} {:?} {:?}", self.ledger, self.differences, self.counts).as_bytes())
    }
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

/// The checkouts and payments as the log has them.
#[derive(Default)]
struct Ends {
    checkouts: BTreeMap<String, Checkout>,
    payments: BTreeMap<String, Payment>,
    read: u64,
}

impl Ends {
    /// Everything that every checkout recorded says that it's over, and no payment waits for the provider: a
    /// checkout does not wait for what the provider does not answer.
    async fn all_are_over(&mut self, memory: &MemoryLog) -> bool {
        while let Some(stored) = memory.read(self.read + 1).await.expect("readable") {
            self.read += 1;
            if stored.commit.stream.category() == Checkout::CATEGORY {
                let checkout = self.checkouts.entry(stored.commit.stream.id().to_owned()).or_default();
                let events = stored.commit.events.iter();
                events.for_each(|event| checkout.evolve(&event.decode().expect("readable")));
            }
            if stored.commit.stream.category() == Payment::CATEGORY {
                let payment = self.payments.entry(stored.commit.stream.id().to_owned()).or_default();
                let events = stored.commit.events.iter();
                events.for_each(|event| payment.evolve(&event.decode().expect("readable")));
            }
        }
        self.checkouts.len() as u128 == BUYERS
            && self
                .checkouts
                .values()
                .all(|checkout| checkout.summary().is_some_and(|summary| summary.is_over))
            && self.payments.values().all(|payment| payment.open_request(OrderId(Uuid::nil())).is_none())
    }
}

async fn history(seed: u64, mutant: Mutant) -> History {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = Arc::new(World::new(seed, mutant, &mut random));
    let shops = [(); 2].map(|()| world.process(random.fork(), &Nap::default()).shop);
    let desk = Desk::new(shops, random.fork(), world.counts.clone());
    for (sku, number) in SKUS.into_iter().zip(0..) {
        let quantity = random.u32(2..12);
        let receive = stock::Command::Receive { quantity };
        assert!(desk.client(number).insist(|shop| &shop.stock, sku, "receive", receive).await);
    }
    let restock = clerk::restocks(desk.clone(), random.fork());
    let mut processes = JoinSet::new();
    for _ in 0..random.usize(1..=3) {
        processes.spawn(world.clone().saga_process(random.fork()));
    }
    let mut buyers: JoinSet<()> =
        (100..100 + BUYERS).map(|number| buy(number, desk.client(number), random.fork())).collect();
    buyers.spawn(restock);
    processes.spawn(world.clone().signals(random.fork()));
    processes.spawn(world.clone().jumps(random.fork()));
    processes.spawn(world.clone().rash_operator(random.fork()));
    processes.spawn(world.clone().banks(random.fork()));
    processes.spawn(clerk::ships_in_the_last_moment(world.memory.clone(), desk.clone(), random.fork()));
    // What it repairs is not seen to be right without it.
    if random.bool() {
        processes.spawn(world.clone().reconciliation(random.fork()));
    }
    while let Some(bought) = buyers.join_next().await {
        bought.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    tokio::time::sleep(Duration::from_secs(random.u64(0..120))).await;
    world.calm.0.store(true, Ordering::Relaxed);
    let orders = (0..BUYERS).map(|client| OrderId(Uuid::from_u128(2_100 + client)));
    processes.spawn(clerk::ships_all(orders.collect(), desk.clone()));
    processes.spawn(world.clone().operator(random.fork()));
    let (began, mut ends) = (tokio::time::Instant::now(), Ends::default());
    while !ends.all_are_over(&world.memory).await && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    // What follows from the end is done by then: the payment's capture, the goods' sale.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let first = world.compare(random.fork(), Duration::ZERO).await.expect("it is calm");
    // What follows from that, too.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let differences = [first, world.compare(random.fork(), Duration::ZERO).await.expect("it is calm")];
    while let Some(ended) = processes.join_next().now_or_never().flatten() {
        ended.unwrap_or_else(|error| panic!("seed {}: a process died: {error}", world.seed));
    }
    processes.shutdown().await;
    let answers = desk.closed().await;
    let mut commits = Vec::new();
    for position in 1..=world.memory.end().await.expect("an end") {
        commits.push(world.memory.read(position).await.expect("readable").expect("there"));
    }
    let ledger = world.provider.ledger.lock().expect("no panic").values().cloned().collect();
    let counts = world.counts.0.lock().expect("no panic").clone();
    History { commits, ledger, forgets_keys: world.provider.forgets_keys, differences, answers, counts }
}

/// The seed's history, always the same.
///
/// # Panics
/// A process has died that should not.
#[must_use]
pub fn run(seed: u64, mutant: Mutant) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(history(seed, mutant))
}
