//! The simulator at work: books, keys and faults under one lock, and the ledger behind it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use infra::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::book::{Answer, Book, Change, Record, Request};
use super::call::Call;
use super::decide::{self, Decision, Moment};
use super::faults::{self, Faults, Kind, Plan};
use super::idempotency::{KEPT_MS, Profile, Verdict, differs, in_use};
use super::ledger::{Content, Ledger};
use super::lines::Lines;
use super::money::Intent;
use super::refusal::Refusal;

/// After how many records answers to old keys are forgotten.
const PRUNE_RECORDS: u64 = 1_000;

/// What can be set at any time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub idempotency: Profile,
    pub seed: u64,
    /// Of all requests, 0 to 1.
    pub fault_rate: f64,
    /// How long a connection is held that is cut then.
    pub hold_ms: u64,
    pub webhooks: WebhookSettings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookSettings {
    /// How many in a hundred events are sent again although they arrived.
    pub duplicates_percent: u8,
    /// How many in a hundred wait until a later one has arrived, or for `reorder_ms`.
    pub reorder_percent: u8,
    pub reorder_ms: u64,
    /// Until the first retry; each further one takes twice as long, up to an hour.
    pub backoff_ms: u64,
    /// How long an endpoint may take to answer.
    pub timeout_ms: u64,
}

impl Settings {
    /// # Errors
    /// Something is out of bounds; told for people.
    pub fn check(&self) -> Result<(), String> {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let percents = [self.webhooks.duplicates_percent, self.webhooks.reorder_percent];
        let times =
            [self.hold_ms, self.webhooks.reorder_ms, self.webhooks.backoff_ms, self.webhooks.timeout_ms];
        if !(0.0..=1.0).contains(&self.fault_rate) {
            return Err("the fault rate is 0 to 1".to_owned());
        }
        if percents.iter().any(|percent| *percent > 100) {
            return Err("percents are 0 to 100".to_owned());
        }
        if times.iter().any(|ms| !(1..=DAY_MS).contains(ms)) {
            return Err(format!("times are 1 to {DAY_MS} ms"));
        }
        Ok(())
    }
}

/// All state that requests share.
pub struct Core {
    pub book: Book,
    pub lines: Lines,
    pub settings: Settings,
    pub faults: Faults,
    /// Keys of requests that are under way.
    in_progress: HashSet<String>,
    /// Records whose events wait for their answer.
    pub held: HashSet<u64>,
    /// Requests so far, for the random faults.
    requests: u64,
    request_ids: u64,
}

pub struct Sim {
    core: Mutex<Core>,
    pub ledger: Ledger,
    clock: Clock,
    salt: String,
    started_ms: i64,
    pub base_url: String,
    /// Changes whenever there may be something to send or to wait for.
    pulse: watch::Sender<u64>,
}

/// An executed request, and what is to be done about its answer.
pub struct Executed {
    pub answer: Answer,
    /// Of the record that has it, if it's in the ledger.
    pub record: Option<u64>,
    /// The request whose answer this is again.
    pub replayed: Option<String>,
}

/// Lets go of a key at the end of its request, whatever that is.
pub struct KeyInUse<'a> {
    sim: &'a Sim,
    key: String,
}

impl Drop for KeyInUse<'_> {
    fn drop(&mut self) {
        self.sim.lock().in_progress.remove(&self.key);
    }
}

/// Whether a request with a key may go on.
pub enum Begun<'a> {
    Execute(Option<KeyInUse<'a>>),
    Replay(Executed),
}

impl Sim {
    pub fn new(ledger: Ledger, content: Content, settings: Settings, base_url: String, clock: Clock) -> Self {
        let (mut book, mut lines) = (Book::default(), Lines::default());
        for record in &content.records {
            book.evolve(record);
            lines.evolve(&book, record);
        }
        let core = Core {
            book,
            lines,
            settings,
            faults: Faults::default(),
            in_progress: HashSet::new(),
            held: HashSet::new(),
            requests: 0,
            request_ids: 0,
        };
        let (core, pulse) = (Mutex::new(core), watch::Sender::new(0));
        let started_ms = clock.now().timestamp_millis();
        Self { core, ledger, clock, salt: content.salt, started_ms, base_url, pulse }
    }

    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The simulator's own time.
    pub fn now_ms(&self, core: &Core) -> i64 {
        self.clock.now().timestamp_millis().saturating_add(core.book.clock_offset_ms)
    }

    /// The machine's time, in seconds, for signatures: whoever checks them has that one.
    pub fn wall_s(&self) -> i64 {
        self.clock.now().timestamp()
    }

    pub fn changed(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    pub fn announce(&self) {
        self.pulse.send_modify(|pulse| *pulse += 1);
    }

    pub fn request_id(&self) -> String {
        let mut core = self.lock();
        core.request_ids += 1;
        format!("req_{:011x}{:09}", self.started_ms, core.request_ids)
    }

    /// What is to go wrong with this request.
    pub fn plan(&self, call: &Call) -> Plan {
        let mut core = self.lock();
        core.requests += 1;
        let refs = attempt_refs(&core.book, call);
        let mut faults = core.faults.meet(call, &refs);
        let Settings { seed, fault_rate, hold_ms, .. } = core.settings;
        if faults.is_empty() {
            faults.extend(faults::by_chance(seed, fault_rate, core.requests, call.operation, hold_ms));
        }
        Plan::of(faults)
    }

    /// Looks at the request's key.
    ///
    /// # Errors
    /// It was used with other parameters, or is in use.
    pub fn begin(&self, call: &Call) -> Result<Begun<'_>, Refusal> {
        let mut core = self.lock();
        let profile = core.settings.idempotency;
        let key = call.key.as_ref().filter(|_| call.operation.writes() && profile != Profile::None);
        let Some(key) = key else { return Ok(Begun::Execute(None)) };
        if core.in_progress.contains(key) {
            return Err(in_use());
        }
        let fingerprint = call.params.fingerprint(call.operation.name(), &call.path);
        let saved = core.book.saved.get(key);
        match (profile.verdict(saved, &fingerprint, self.now_ms(&core)), saved) {
            (Verdict::Differs, _) => Err(differs()),
            (Verdict::Replay, Some(saved)) => Ok(Begun::Replay(Executed {
                answer: Answer { status: saved.status, body: saved.body.value() },
                record: None,
                replayed: Some(saved.request.clone()),
            })),
            (Verdict::Execute | Verdict::Replay, _) => {
                core.in_progress.insert(key.clone());
                Ok(Begun::Execute(Some(KeyInUse { sim: self, key: key.clone() })))
            }
        }
    }

    /// Decides the request and records what it changes. The record is on its way to the disk.
    ///
    /// # Errors
    /// It is refused before it's executed.
    pub fn execute(&self, call: &Call, request_id: &str, plan: &Plan) -> Result<Executed, Refusal> {
        let mut core = self.lock();
        let at_ms = self.now_ms(&core);
        self.turn_what_is_due(&mut core, at_ms);
        let moment =
            Moment { request: Some(request_id), key: call.key.as_deref(), ..self.moment(&core, at_ms) };
        let failed = |kind| plan.get(kind).map(|fault| Refusal::fault(fault.status.unwrap_or(500)).answer());
        let decision = decide::decide(&core.book, call, moment, plan);
        let mut decision = match decision {
            Err(refusal) if !refusal.executed => return Err(refusal),
            Err(refusal) => Decision { changes: Vec::new(), answer: refusal.answer() },
            Ok(decision) => decision,
        };
        if let Some(answer) = failed(Kind::ErrorBefore) {
            decision = Decision { changes: Vec::new(), answer };
        } else if let Some(answer) = failed(Kind::ErrorAfter) {
            decision.answer = answer;
        }
        let Decision { changes, answer } = decision;
        if !call.operation.writes() {
            return Ok(Executed { answer, record: None, replayed: None });
        }
        let request = Request {
            id: request_id.to_owned(),
            operation: call.operation.name().to_owned(),
            path: call.path.clone(),
            key: call.key.clone(),
            fingerprint: call.params.fingerprint(call.operation.name(), &call.path),
            faults: plan.names(),
        };
        let number = self.append(&mut core, at_ms, Some(request), changes, Some(answer.clone()));
        core.held.insert(number);
        Ok(Executed { answer, record: Some(number), replayed: None })
    }

    /// Waits until all that anybody may have seen is on disk.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub async fn is_durable(&self) -> anyhow::Result<()> {
        let last = self.lock().book.last_number;
        self.ledger.is_durable(last).await
    }

    fn append(
        &self,
        core: &mut Core,
        at_ms: i64,
        request: Option<Request>,
        changes: Vec<Change>,
        answer: Option<Answer>,
    ) -> u64 {
        let number = core.book.last_number + 1;
        let record = Record { number, at_ms, request, changes, answer };
        core.book.evolve(&record);
        core.lines.evolve(&core.book, &record);
        self.ledger.append(&record);
        if number.is_multiple_of(PRUNE_RECORDS) && core.settings.idempotency.forgets() {
            core.book.prune(at_ms - KEPT_MS);
        }
        self.announce();
        number
    }

    /// Records something that no request of the API led to.
    pub fn record(&self, core: &mut Core, changes: Vec<Change>) -> u64 {
        let at_ms = self.now_ms(core);
        self.append(core, at_ms, None, changes, None)
    }

    /// Lets the record's events go, and notes whether its answer was handed over.
    pub fn answered(&self, record: u64, whole: bool) {
        let mut core = self.lock();
        core.held.remove(&record);
        self.record(&mut core, vec![Change::Answered { record, whole }]);
    }

    /// Lets the record's events go before it's answered.
    pub fn release(&self, record: u64) {
        self.lock().held.remove(&record);
        self.announce();
    }

    fn turn_what_is_due(&self, core: &mut Core, at_ms: i64) {
        while let Some((due_ms, id)) = core.book.due.first().filter(|(due_ms, _)| *due_ms <= at_ms).cloned() {
            let moment = self.moment(core, at_ms);
            let changes = decide::turn(&core.book, &id, moment);
            self.append(core, at_ms, None, changes, None);
            // Whatever it was, it must not be due for ever.
            core.book.due.remove(&(due_ms, id));
        }
    }

    fn moment(&self, core: &Core, at_ms: i64) -> Moment<'_> {
        let number = core.book.last_number + 1;
        Moment { number, at_ms, salt: &self.salt, base_url: &self.base_url, request: None, key: None }
    }

    /// The buyer has passed or failed the challenge; gives the payment after it.
    ///
    /// # Errors
    /// There is none, or it waits for nobody.
    pub fn end_challenge(&self, id: &str, passed: bool) -> Result<Intent, Refusal> {
        let unknown = || Refusal::unknown("payment_intent", id);
        let end = |book: &Book, moment: Moment<'_>| {
            decide::challenge_ended(book.intents.get(id).ok_or_else(unknown)?, passed, moment)
        };
        self.happens(end, |book, _| book.intents.get(id).cloned())?.ok_or_else(unknown)
    }

    /// Records what somebody else does, such as a buyer or their bank; gives what is to be seen after it.
    ///
    /// # Errors
    /// It can't be.
    pub fn happens<T>(
        &self,
        decide: impl FnOnce(&Book, Moment<'_>) -> Result<Vec<Change>, Refusal>,
        see: impl FnOnce(&Book, &[Change]) -> T,
    ) -> Result<T, Refusal> {
        let mut core = self.lock();
        let at_ms = self.now_ms(&core);
        self.turn_what_is_due(&mut core, at_ms);
        let changes = decide(&core.book, self.moment(&core, at_ms))?;
        self.append(&mut core, at_ms, None, changes.clone(), None);
        Ok(see(&core.book, &changes))
    }

    /// Moves the clock on; gives its time then.
    pub fn advance_clock(&self, by_ms: i64) -> i64 {
        let mut core = self.lock();
        self.record(&mut core, vec![Change::ClockAdvanced { by_ms }]);
        let now_ms = self.now_ms(&core);
        self.turn_what_is_due(&mut core, now_ms);
        now_ms
    }

    /// Lets things happen when their time has come, for as long as it runs.
    pub async fn keep_time(&self) {
        let mut changed = self.changed();
        loop {
            let left = {
                let mut core = self.lock();
                let now_ms = self.now_ms(&core);
                self.turn_what_is_due(&mut core, now_ms);
                let next =
                    core.book.due.first().map_or(i64::MAX, |(due_ms, _)| due_ms.saturating_sub(now_ms));
                Duration::from_millis(u64::try_from(next).unwrap_or(0).min(60_000))
            };
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = changed.changed() => {}
            }
        }
    }
}

/// The references by which a script may mean this request.
fn attempt_refs(book: &Book, call: &Call) -> Vec<String> {
    let own = call.params.text("metadata[attempt_ref]");
    let intent = match call.params.text("payment_intent") {
        Some(id) => book.intents.get(id),
        None => book.intents.get(&call.id),
    };
    let of_intent = intent.and_then(|intent| intent.metadata.get("attempt_ref"));
    own.into_iter().chain(of_intent.map(String::as_str)).map(str::to_owned).collect()
}
