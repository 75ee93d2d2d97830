//! Buyers, several processes with the sagas, a log, a provider and timers on which everything goes wrong; then
//! the whole log and the provider's ledger are held against each other.

mod checks;
mod clerk;
mod provider;
mod timers;

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
use infra::payment::{PaymentProvider, Providers};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Writer};
use sagas::checkout::{CaptureAt, Limits};
use sagas::{Checkout, Following, Index, Sagas};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::mutants::{self, Mutated};
use crate::support::faulty_log::{Call, Fault, FaultyLog, Plan};
use crate::support::story::{buyer, terms};
use checks::{all_is_well, branches};
use provider::{Booked, Provider, Trouble};
use timers::SimulatedTimers;

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
    crashes: u64,
}

/// No checkout takes so long, once all is calm.
const LIMIT: Duration = Duration::from_secs(3_600);

const BUYERS: u128 = 10;
const SKUS: [&str; 3] = ["CUP", "MUG", "POT"];
const TOKENS: [&str; 8] = [
    "tok_approve",
    "tok_approve",
    "tok_approve",
    "tok_approve",
    "tok_decline",
    "tok_challenge",
    "tok_capture_declined",
    "tok_refund_refused",
];

struct World {
    seed: u64,
    log: Mutated,
    memory: MemoryLog,
    clock: Clock,
    provider: Provider,
    timers: Arc<SimulatedTimers>,
    calm: Calm,
    mutant: Mutant,
    limits: Limits,
    /// What the operator wants given up.
    given_up: Mutex<BTreeSet<OrderId>>,
    crashes: AtomicU64,
}

impl World {
    fn new(seed: u64, mutant: Mutant, random: &mut fastrand::Rng) -> Self {
        let wrong = match mutant {
            Mutant::Forgetful => mutants::Mutant::Forgetful,
            Mutant::Blind => mutants::Mutant::Blind,
            _ => mutants::Mutant::None,
        };
        let (memory, calm) = (MemoryLog::default(), Calm::default());
        let began = tokio::time::Instant::now();
        let clock = Clock::from_fn(move || DateTime::<Utc>::UNIX_EPOCH + began.elapsed());
        Self {
            seed,
            log: Mutated::new(memory.clone(), wrong),
            memory,
            provider: Provider::new(random.fork(), clock.clone(), calm.clone(), mutant),
            timers: Arc::new(SimulatedTimers::new(random.fork(), calm.clone())),
            clock,
            calm,
            mutant,
            limits: limits(random),
            given_up: Mutex::default(),
            crashes: AtomicU64::default(),
        }
    }

    /// A process's way to the log, on which things go wrong until it's calm.
    fn way_to_the_log(&self, mut random: fastrand::Rng) -> FaultyLog {
        let (wrong, calm) = (random.u32(0..=15), self.calm.clone());
        let plan: Plan = Box::new(move |call| {
            let faults = [Fault::Lost, Fault::AnswerLost, Fault::Late, Fault::Refused];
            let fault = match (!calm.is_calm() && random.u32(0..100) < wrong, call) {
                (false, _) => Fault::None,
                (true, Call::Load) => Fault::Unreadable,
                (true, _) => random.choice(faults).unwrap_or(Fault::Lost),
            };
            (fault, Duration::from_millis(random.u64(0..=10)))
        });
        FaultyLog::new(self.log.clone(), plan)
    }

    fn process(&self, random: fastrand::Rng) -> (Arc<FaultyLog>, Arc<Executors>, Executor<Checkout>) {
        let log = Arc::new(self.way_to_the_log(random));
        let writer = Writer::new(log.clone(), writer::Settings::default());
        let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
        let settings = execute::Settings {
            idempotency_keep: Duration::from_secs(24 * 3_600),
            cached_aggregates_max: 1_000,
        };
        let executors = Executors::new(&writer, &snapshots, &self.clock, &settings);
        (log, Arc::new(executors), Executor::new(&writer, &snapshots, &self.clock, &settings))
    }

    /// A process with the sagas that dies and comes again, until it's calm; then it works on for ever.
    async fn saga_process(self: Arc<Self>, mut random: fastrand::Rng) {
        let mut checkpoint = 0;
        loop {
            let (log, executors, checkouts) = self.process(random.fork());
            let sagas = Arc::new(Sagas {
                feed: Feed::new(log),
                clock: self.clock.clone(),
                executors,
                checkouts,
                providers: Providers::new([Arc::new(self.provider.clone()) as Arc<dyn PaymentProvider>]),
                timers: self.timers.clone(),
                settings: sagas::Settings {
                    limits: self.limits.clone(),
                    patience: sagas::Patience::default(),
                    reconciliation: sagas::reconcile::Settings::default(),
                },
                index: Index::default(),
            });
            let following = Following::new(sagas.clone(), 0..=63, checkpoint);
            let dies = async {
                tokio::time::sleep(Duration::from_millis(random.u64(50..8_000))).await;
                if self.calm.is_calm() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                () = dies => {}
                () = following.run() => {}
                () = self.fire_timers(&sagas) => {}
            }
            self.crashes.fetch_add(1, Ordering::Relaxed);
            checkpoint = match self.mutant {
                Mutant::AcknowledgedEarly => self.memory.end().await.expect("an end"),
                _ => following.done(),
            };
            drop(following);
            tokio::time::sleep(Duration::from_millis(random.u64(1..2_000))).await;
        }
    }

    /// Gives up what is shipped and can't be paid, as somebody has to in the end.
    async fn operator(self: Arc<Self>, random: fastrand::Rng) {
        let (_, _, checkouts) = self.process(random);
        loop {
            tokio::time::sleep(Duration::from_secs(20)).await;
            for client in 0..BUYERS {
                let order_id = OrderId(Uuid::from_u128(2_100 + client));
                let Ok(checkout) = checkouts.load(order_id).await else { continue };
                let summary = checkout.state.summary();
                if summary.is_some_and(|summary| summary.stage == "capture_stuck") {
                    self.given_up.lock().expect("no panic").insert(order_id);
                }
            }
        }
    }

    /// Timers fire for every process that is there, so often for several at a time.
    async fn fire_timers(&self, sagas: &Arc<Sagas>) {
        let mut firing = JoinSet::new();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            while firing.try_join_next().is_some() {}
            for order_id in std::mem::take(&mut *self.given_up.lock().expect("no panic")) {
                let sagas = sagas.clone();
                firing.spawn(async move {
                    // The operator calls again, if it is still stuck.
                    let _ = sagas.abandon(order_id, "written off".into(), DateTime::UNIX_EPOCH).await;
                });
            }
            for timer in self.timers.due(self.clock.now()) {
                if self.mutant == Mutant::TimerLost {
                    self.timers.done(&timer);
                }
                let (sagas, timers) = (sagas.clone(), self.timers.clone());
                firing.spawn(async move {
                    sagas.fire(&timer).await;
                    timers.done(&timer);
                });
            }
        }
    }
}

/// Short and long ones, so that each of them passes now and then.
fn limits(random: &mut fastrand::Rng) -> Limits {
    let hold = chrono::Duration::milliseconds(random.choice([60, 20_000, 60_000]).unwrap_or(60));
    let mut seconds = |choice: [i64; 3]| chrono::Duration::seconds(random.choice(choice).unwrap_or(30));
    Limits {
        hold,
        authorization: seconds([10, 30, 300]),
        challenge: seconds([10, 60, 300]),
        capture: seconds([20, 600, 3_600]),
        shipment: Some(seconds([60, 600, 600])),
        capture_at: random
            .choice([CaptureAt::Confirmation, CaptureAt::Shipment])
            .unwrap_or(CaptureAt::Confirmation),
    }
}

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

/// Buys something, one way or another, and now and then thinks better of it.
async fn buy(client: u128, shop: Arc<Executors>, mut random: fastrand::Rng) {
    tokio::time::sleep(Duration::from_millis(random.u64(0..20_000))).await;
    let cart_id = CartId(Uuid::from_u128(1_000 + client));
    let order_id = OrderId(Uuid::from_u128(2_000 + client));
    assert!(insist(&shop.carts, cart_id, &request(client, "create"), cart::Command::Create).await);
    let offer = Offer { title: "A thing".into(), price: gbp(random.i64(1..5_000)) };
    let mut offers = BTreeMap::new();
    for sku in SKUS.iter().take(random.usize(1..=SKUS.len())) {
        let (step, sku): (String, Sku) = (format!("line {sku}"), sku.parse().expect("a SKU"));
        offers.insert(sku.clone(), offer.clone());
        let set = cart::Command::SetLine { sku, quantity: random.u32(1..3), offer: Some(offer.clone()) };
        assert!(insist(&shop.carts, cart_id, &request(client, &step), set).await);
    }
    let token = random.choice(TOKENS).expect("one");
    let quote_id = QuoteId(Uuid::from_u128(3_000 + client));
    let terms = Arc::new(terms());
    let asked = AskQuote {
        quote_id,
        country: "GB".into(),
        region: None,
        shipping_method: Some("post".into()),
        offers: offers.clone(),
        terms: terms.clone(),
        now: DateTime::UNIX_EPOCH,
    };
    let is_quoted = client.is_multiple_of(2);
    if is_quoted {
        let quote = cart::Command::Quote(Box::new(asked));
        assert!(insist(&shop.carts, cart_id, &request(client, "quote"), quote).await);
    }
    let check_out = cart::Command::CheckOut(Box::new(CheckOut {
        order_id,
        quote_id: is_quoted.then_some(quote_id),
        shipping_method: None,
        offers,
        expected_total: None,
        payment: PaymentMethod { method: "sandbox".into(), token: token.into() },
        buyer: buyer(),
        terms,
        now: DateTime::UNIX_EPOCH,
    }));
    assert!(insist(&shop.carts, cart_id, &request(client, "check out"), check_out).await);
    if random.u32(0..3) == 0 {
        tokio::time::sleep(Duration::from_millis(random.u64(0..60_000))).await;
        // Refused, if it is not placed yet, or cancelled or shipped by then.
        insist(&shop.orders, order_id, &request(client, "cancel"), order::Command::RequestCancellation).await;
    }
    tokio::time::sleep(Duration::from_millis(random.u64(0..60_000))).await;
    clerk::after_sales(client, order_id, &shop, &mut random).await;
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
    let (_, shop, _) = world.process(random.fork());
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
    History { commits, ledger, troubles, crashes: world.crashes.load(Ordering::Relaxed) }
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
fn every_checkout_ends_and_both_books_agree() {
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
        branches(&history).into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
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
    for mutant in [
        Mutant::NewKeyOnRetry,
        Mutant::UndoSkipped,
        Mutant::AcknowledgedEarly,
        Mutant::TimerLost,
        Mutant::Forgetful,
        Mutant::Blind,
    ] {
        let finds = |seed: &u64| std::panic::catch_unwind(|| all_is_well(&run(*seed, mutant))).is_err();
        let found = (0..60).find(finds);
        println!("{mutant:?} is found out by seed {found:?}");
        assert!(found.is_some(), "{mutant:?} passes");
    }
}
