//! The world that all processes are in: the log, the provider, the timers, and what goes wrong in it.

use std::sync::atomic::AtomicU64;

use domain::StreamId;
use infra::timers::Timer;
use sagas::checkout::Told;
use sagas::payment;
use sagas::saga::{Due, Input};

use super::*;

pub struct World {
    pub seed: u64,
    pub log: Mutated,
    pub memory: MemoryLog,
    pub clock: Clock,
    pub provider: Provider,
    pub timers: Arc<SimulatedTimers>,
    pub calm: Calm,
    pub mutant: Mutant,
    pub limits: Limits,
    /// That of all processes, if they share one.
    shared_lane: Option<Arc<Lane>>,
    /// When each key was used first at the provider.
    pub used_keys: Arc<Mutex<BTreeMap<String, tokio::time::Instant>>>,
    /// What operators want given up, and when they called.
    given_up: Mutex<BTreeMap<OrderId, DateTime<Utc>>>,
    pub counts: Counts,
    /// How far all clocks have jumped ahead, in seconds.
    jumped: Arc<AtomicU64>,
}

/// What one process has of its own.
pub struct Process {
    pub log: Arc<Hearsay>,
    pub shop: Arc<Executors>,
    pub checkouts: Executor<Checkout>,
    pub clock: Clock,
}

/// No process's clock differs by more from the timers'.
const CLOCKS_DIFFER_MAX_MS: i64 = 4_000;

/// What is later than that does not come by itself.
const SWEPT_AFTER: chrono::Duration = chrono::Duration::minutes(1);

impl World {
    pub fn new(seed: u64, mutant: Mutant, random: &mut fastrand::Rng) -> Self {
        let wrong = match mutant {
            Mutant::Forgetful => mutants::Mutant::Forgetful,
            Mutant::Blind => mutants::Mutant::Blind,
            _ => mutants::Mutant::None,
        };
        let (memory, calm) = (MemoryLog::default(), Calm::default());
        let began = tokio::time::Instant::now();
        let (counts, jumped) = (Counts::default(), Arc::new(AtomicU64::default()));
        let ahead = jumped.clone();
        let clock = Clock::from_fn(move || {
            let ahead = Duration::from_secs(60 + ahead.load(Ordering::Relaxed));
            DateTime::<Utc>::UNIX_EPOCH + began.elapsed() + ahead
        });
        Self {
            seed,
            log: Mutated::new(memory.clone(), wrong),
            memory,
            provider: Provider::new(random.fork(), clock.clone(), calm.clone(), counts.clone(), mutant),
            timers: Arc::new(SimulatedTimers::new(random.fork(), calm.clone(), mutant)),
            clock,
            calm,
            mutant,
            limits: limits(random),
            shared_lane: random.bool().then(Arc::default),
            used_keys: Arc::default(),
            given_up: Mutex::default(),
            counts,
            jumped,
        }
    }

    /// A process's way to the log, on which things go wrong until it's calm.
    pub fn way_to_the_log(&self, mut random: fastrand::Rng, nap: &Nap) -> FaultyLog {
        let (wrong, calm, nap) = (random.u32(0..=15), self.calm.clone(), nap.clone());
        let loses = self.mutant == Mutant::Losing;
        let mut outages = Outages::new(random.fork(), self.counts.clone());
        let plan: Plan = Box::new(move |call| {
            let faults = [Fault::Lost, Fault::AnswerLost, Fault::Late, Fault::Refused];
            let is_out = !calm.is_calm() && outages.is_one_now();
            let goes_wrong = !calm.is_calm() && random.u32(0..100) < wrong;
            let fault = match (is_out || goes_wrong, call) {
                _ if loses && call.appends() && random.u32(0..mutants::LOST) == 0 => Fault::Forgotten,
                (false, _) => Fault::None,
                (true, Call::Load | Call::Follow) => Fault::Unreadable,
                // It may be out of reach in one direction only.
                (true, _) if is_out => random.choice([Fault::Lost, Fault::AnswerLost]).unwrap_or(Fault::Lost),
                (true, _) => random.choice(faults).unwrap_or(Fault::Lost),
            };
            let way = if call == Call::Follow { 0 } else { random.u64(0..=10) };
            (fault, nap.left() + Duration::from_millis(way))
        });
        FaultyLog::new(self.log.clone(), plan)
    }

    /// A process with a clock of its own.
    pub fn process(&self, mut random: fastrand::Rng, nap: &Nap) -> Process {
        let behind = chrono::Duration::milliseconds(random.i64(-CLOCKS_DIFFER_MAX_MS..=CLOCKS_DIFFER_MAX_MS));
        let right = self.clock.clone();
        let clock = Clock::from_fn(move || right.now() - behind);
        if behind.num_seconds().abs() >= 2 {
            self.counts.note("a clock is wrong");
        }
        // Most commits go by themselves here, unless few are enough for a batch.
        let batch_min = random.choice([2, 16]).unwrap_or(16);
        let together = writer::Settings { batch_min, ..Default::default() };
        let (memory, counts, nap) = (self.memory.clone(), self.counts.clone(), nap.clone());
        let log = self.way_to_the_log(random, &nap);
        let log: Arc<dyn EventLog> = match self.mutant {
            Mutant::Hasty => Arc::new(Hasty(log)),
            _ => Arc::new(log),
        };
        let log = Arc::new(Hearsay { log, memory, mutant: self.mutant, nap, counts });
        let writer = Writer::new(log.clone(), together);
        let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
        let settings = execute::Settings {
            idempotency_keep: Duration::from_secs(24 * 3_600),
            cached_aggregates_max: 1_000,
        };
        let shop = Arc::new(Executors::new(&writer, &snapshots, &clock, &settings));
        let checkouts = Executor::new(&writer, &snapshots, &clock, &settings);
        Process { log, shop, checkouts, clock }
    }

    /// The sagas of one process.
    pub fn sagas(&self, random: fastrand::Rng, nap: &Nap) -> Arc<Sagas> {
        let Process { log, shop: executors, checkouts, clock } = self.process(random, nap);
        Arc::new(Sagas {
            feed: Feed::new(log),
            clock,
            executors,
            checkouts,
            providers: Providers::new([Arc::new(Liar::new(self, nap)) as Arc<dyn PaymentProvider>]),
            timers: Arc::new(Sleepy { timers: self.timers.clone(), nap: nap.clone() }),
            settings: sagas::Settings {
                limits: self.limits.clone(),
                patience: sagas::Patience::default(),
                reconciliation: sagas::reconcile::Settings::default(),
            },
            index: Index::default(),
        })
    }

    /// A process with the sagas that dies and comes again, until it's calm; then it works on for ever.
    pub async fn saga_process(self: Arc<Self>, mut random: fastrand::Rng) {
        let lane = self.shared_lane.clone().unwrap_or_default();
        loop {
            let nap = Nap::default();
            let sagas = self.sagas(random.fork(), &nap);
            let dies = async {
                tokio::time::sleep(Duration::from_millis(random.u64(50..8_000))).await;
                if random.u32(0..4) == 0 && !self.calm.is_calm() {
                    self.counts.note("a process sleeps");
                    nap.begin(Duration::from_millis(random.u64(1_000..40_000)));
                    nap.over().await;
                    let longest = random.choice([60, 4_000]).unwrap_or(60);
                    tokio::time::sleep(Duration::from_millis(random.u64(0..longest))).await;
                }
                if self.calm.is_calm() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                () = dies => {}
                () = self.follow(&lane, &sagas, &nap) => {}
                () = self.fire_timers(&sagas, &nap) => {}
            }
            self.counts.note("a process dies");
            tokio::time::sleep(Duration::from_millis(random.u64(1..6_000))).await;
        }
    }

    /// Follows the log, whenever it has the lane.
    async fn follow(&self, lane: &Lane, sagas: &Arc<Sagas>, nap: &Nap) {
        loop {
            let (holder, checkpoint) = lane.taken(nap).await;
            let following = Following::new(sagas.clone(), 0..=63, checkpoint);
            let is_lost = async {
                loop {
                    nap.over().await;
                    tokio::time::sleep(SAVED_EVERY).await;
                    let done = match self.mutant {
                        Mutant::AcknowledgedEarly => self.memory.end().await.expect("an end"),
                        _ => following.done(),
                    };
                    if nap.left().is_zero() && !lane.save(holder, done) {
                        return self.counts.note("a lane is lost");
                    }
                }
            };
            tokio::select! {
                biased;
                () = is_lost => {}
                () = following.run() => {}
            }
        }
    }

    /// Lets a timer fire that did not, as the sweeper does with its table: who was late with an older one may have
    /// set it in its place.
    async fn sweep(&self, saga: &str, order_id: OrderId, due: &Due) {
        let is_swept = ![Mutant::TimerLost, Mutant::AllTimersCancelled].contains(&self.mutant);
        if is_swept && due.at + SWEPT_AFTER < self.clock.now() {
            let (saga, name) = (saga.to_owned(), due.timer.to_owned());
            let timer =
                Timer { saga, id: order_id.to_string(), name, generation: due.generation, at: due.at };
            self.timers.set(&timer).await.expect("it is calm");
            self.counts.note("a timer that did not fire is made up for");
        }
    }

    /// What the order's payment waits for.
    async fn payment_due(&self, order_id: OrderId) -> Option<Due> {
        let commits = self.memory.load(&StreamId::of::<Payment>(order_id), 0).await.expect("readable");
        let (mut payment, mut due) = (Payment::default(), None);
        for stored in commits {
            let events = stored.commit.events.iter().map(|event| event.decode().expect("readable"));
            let events: Vec<_> = events.inspect(|event| payment.evolve(event)).collect();
            let is_open = payment.open_request(order_id).is_some();
            let mut summaries = events.iter().filter_map(|event| payment::summary(event, is_open));
            due = summaries.next_back().map_or(due, |summary| summary.due);
        }
        due
    }

    fn give_up(&self, order_id: OrderId) {
        self.given_up.lock().expect("no panic").entry(order_id).or_insert_with(|| self.clock.now());
    }

    /// Gives up what is shipped and can't be paid, as somebody has to in the end, and sweeps.
    pub async fn operator(self: Arc<Self>, random: fastrand::Rng) {
        let checkouts = self.process(random, &Nap::default()).checkouts;
        let all: Vec<OrderId> = (0..BUYERS).map(|client| OrderId(Uuid::from_u128(2_100 + client))).collect();
        let mut orders = all.clone();
        loop {
            tokio::time::sleep(Duration::from_secs(20)).await;
            for order_id in &all {
                if let Some(due) = self.payment_due(*order_id).await {
                    self.sweep(payment::NAME, *order_id, &due).await;
                }
            }
            let mut left = Vec::new();
            for order_id in orders {
                let checkout = checkouts.load(order_id).await;
                let summary = checkout.ok().and_then(|checkout| checkout.state.summary());
                if let Some(due) = summary.as_ref().and_then(|summary| summary.due.as_ref()) {
                    self.sweep(Checkout::CATEGORY, order_id, due).await;
                }
                match summary {
                    Some(summary) if summary.is_over => continue,
                    Some(summary) if summary.stage == "capture_stuck" => {
                        self.give_up(order_id);
                    }
                    _ => {}
                }
                left.push(order_id);
            }
            orders = left;
        }
    }

    /// Gives up any order at any time, now and then. Some calls are taken up by a process that comes late, and dies.
    pub async fn rash_operator(self: Arc<Self>, mut random: fastrand::Rng) {
        while !self.calm.is_calm() {
            tokio::time::sleep(Duration::from_secs(random.u64(1..300))).await;
            let order_id = OrderId(Uuid::from_u128(2_100 + random.u128(0..BUYERS)));
            match random.u32(0..3) {
                0 => self.gives_up_and_dies(order_id, random.fork()).await,
                _ => self.give_up(order_id),
            }
        }
    }

    /// Only the saga's record of it is made.
    async fn gives_up_and_dies(&self, order_id: OrderId, random: fastrand::Rng) {
        let Process { checkouts, clock, .. } = self.process(random, &Nap::default());
        let input = Input::Abandoned { reason: "written off".into() };
        let told = Told { input, limits: self.limits.clone(), now: clock.now() };
        let recorded = checkouts.execute(order_id, &request(order_id.0.as_u128(), "given up"), told).await;
        if recorded.is_ok_and(|recorded| !recorded.events.is_empty()) {
            self.counts.note("what is recorded is not acted on");
        }
    }

    /// The provider tells of its payments whenever it likes: before the answer, several times, or of none.
    pub async fn signals(self: Arc<Self>, mut random: fastrand::Rng) {
        while !self.calm.is_calm() {
            tokio::time::sleep(Duration::from_millis(random.u64(100..3_000))).await;
            let any = OrderId(Uuid::from_u128(2_100 + random.u128(0..BUYERS)));
            let under_way: Vec<OrderId> =
                self.provider.under_way.lock().expect("no panic").keys().copied().collect();
            let order_id = random.choice(under_way).unwrap_or(any);
            if self.provider.statements(order_id).is_empty() {
                self.counts.note("a signal about nothing");
            }
            let now = self.clock.now();
            let signal = match random.u32(0..3) {
                0 => signal_about(order_id, &format!("{order_id}:authorize"), now),
                1 => signal_about(order_id, "somebody_elses", now),
                _ => signal(order_id, now),
            };
            for _ in 0..random.u32(1..=3) {
                self.counts.note("a signal");
                // One that is not taken is sent again, or not.
                let _ = self.timers.set(&signal).await;
                tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
            }
        }
    }

    /// All clocks jump ahead, now and then.
    pub async fn jumps(self: Arc<Self>, mut random: fastrand::Rng) {
        while !self.calm.is_calm() {
            tokio::time::sleep(Duration::from_secs(random.u64(10..200))).await;
            self.jumped.fetch_add(random.u64(1..120), Ordering::Relaxed);
            self.counts.note("the clocks jump ahead");
        }
    }

    /// Does what operators call for; a call stands until that is done, whoever dies over it.
    async fn take_up_calls(&self, sagas: &Sagas) {
        let calls = self.given_up.lock().expect("no panic").clone();
        for (order_id, at) in calls {
            if sagas.abandon(order_id, "written off".into(), at).await.is_ok() {
                let mut calls = self.given_up.lock().expect("no panic");
                calls.retain(|other, since| (*other, *since) != (order_id, at));
            }
        }
    }

    /// Timers fire for every process that is there, so often for several at a time.
    pub async fn fire_timers(&self, sagas: &Arc<Sagas>, nap: &Nap) {
        let mut firing = JoinSet::new();
        loop {
            // When it's calm, nothing depends on the moment any more.
            let pause = if self.calm.is_calm() { 1_000 } else { 200 };
            tokio::time::sleep(nap.left() + Duration::from_millis(pause)).await;
            while firing.try_join_next().is_some() {}
            self.take_up_calls(sagas).await;
            for timer in self.timers.due(self.clock.now()) {
                if self.mutant == Mutant::TimerLost {
                    self.timers.done(&timer);
                }
                let is_told_twice = timer.at.timestamp_millis() % 4 == 0;
                if is_told_twice {
                    self.counts.note("a timer fires twice");
                }
                let (sagas, timers) = (sagas.clone(), self.timers.clone());
                firing.spawn(async move {
                    sagas.fire(&timer).await;
                    if is_told_twice {
                        sagas.fire(&timer).await;
                    }
                    timers.done(&timer);
                });
            }
        }
    }
}

/// Short and long ones, so that each of them passes now and then.
fn limits(random: &mut fastrand::Rng) -> Limits {
    let hold = chrono::Duration::milliseconds(random.choice([60, 20_000, 60_000]).unwrap_or(60));
    // Some shops ship nothing, or do so elsewhere.
    let is_shipped = random.u32(0..5) > 0;
    let mut seconds = |choice: [i64; 3]| chrono::Duration::seconds(random.choice(choice).unwrap_or(30));
    Limits {
        hold,
        authorization: seconds([10, 30, 300]),
        challenge: seconds([10, 60, 300]),
        capture: seconds([20, 600, 3_600]),
        shipment: Some(seconds([60, 600, 600])).filter(|_| is_shipped),
        capture_at: random
            .choice([CaptureAt::Confirmation, CaptureAt::Shipment])
            .unwrap_or(CaptureAt::Confirmation),
    }
}
