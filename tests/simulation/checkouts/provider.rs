//! A payment provider that loses requests and answers, and is slow; its ledger is the truth about money.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::{Operation, Refund, RefundState, Request, State, Statement};
use domain::{Money, OrderId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::clock::Clock;
use infra::payment::{Answer, NoAnswer, Page, PaymentProvider, Wanted};

use super::accountant::LISTED_LATE_MAX_S;
use super::{Calm, Counts, Mutant};

/// Payments on one page of the list.
const PAGE: usize = 3;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// It never gets there.
    Lost,
    /// It's carried out, and the answer never comes back.
    AnswerLost,
    /// It's carried out, and the answer comes when nobody waits any more.
    TooSlow,
    /// It's taken, and carried out later.
    Later,
    /// It gets there when nobody waits any more.
    ArrivesLate,
}

impl Trouble {
    fn what(self) -> &'static str {
        match self {
            Self::None => "a request has its answer",
            Self::Lost => "a request is lost",
            Self::AnswerLost => "an answer is lost",
            Self::TooSlow => "an answer is too slow",
            Self::Later => "a request is carried out later",
            Self::ArrivesLate => "a request arrives late",
        }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone)]
pub struct Booked {
    /// The provider's name for it.
    pub id: String,
    pub order_id: OrderId,
    pub operation: Operation,
    pub amount: Money,
    pub declined: bool,
    /// Of the payment that it is about.
    pub reference: String,
    /// Our name for it, if it is a refund.
    pub refund: Option<String>,
    pub made_at: DateTime<Utc>,
    pub settles_at: DateTime<Utc>,
    /// When the buyer does what is required of them, and whether they approve; nothing, if nothing is.
    pub challenge: Option<(DateTime<Utc>, bool)>,
    /// What the buyer's bank took back of the payment.
    pub charged_back: i64,
}

impl Booked {
    fn is_like(&self, other: &Self) -> bool {
        self.operation.creates()
            && (self.order_id, self.operation, &self.refund)
                == (other.order_id, other.operation, &other.refund)
            && !self.is_declined()
    }

    /// The provider or the buyer said no.
    pub fn is_declined(&self) -> bool {
        self.declined || self.challenge.is_some_and(|(_, approves)| !approves)
    }
}

#[derive(Clone)]
pub struct Provider(Arc<Books>);

pub struct Books {
    pub ledger: Mutex<BTreeMap<String, Booked>>,
    random: Mutex<fastrand::Rng>,
    /// Requests under way, by order.
    pub under_way: Mutex<BTreeMap<OrderId, u32>>,
    /// How long what was made is not in its list.
    listed_late: Duration,
    /// Who asks twice has it done twice.
    pub forgets_keys: bool,
    pub clock: Clock,
    calm: Calm,
    pub counts: Counts,
    mutant: Mutant,
}

/// A request that somebody waits for.
struct UnderWay(Provider, OrderId);

impl UnderWay {
    fn new(provider: &Provider, order_id: OrderId) -> Self {
        *provider.under_way.lock().expect("no panic").entry(order_id).or_default() += 1;
        Self(provider.clone(), order_id)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way.lock().expect("no panic");
        if let Some(requests) = under_way.get_mut(&self.1) {
            *requests -= 1;
        }
        under_way.retain(|_, requests| *requests > 0);
    }
}

impl std::ops::Deref for Provider {
    type Target = Books;

    fn deref(&self) -> &Books {
        &self.0
    }
}

impl Provider {
    pub fn new(mut random: fastrand::Rng, clock: Clock, calm: Calm, counts: Counts, mutant: Mutant) -> Self {
        let (ledger, under_way) = (Mutex::default(), Mutex::default());
        let listed_late = Duration::from_secs(random.u64(0..=LISTED_LATE_MAX_S));
        let forgets_keys = random.u32(0..4) == 0;
        let random = Mutex::new(random);
        Self(Arc::new(Books {
            ledger,
            random,
            under_way,
            listed_late,
            forgets_keys,
            clock,
            calm,
            counts,
            mutant,
        }))
    }

    /// What happens to the request, and how long it takes.
    fn trouble(&self) -> (Trouble, Duration) {
        let mut random = self.random.lock().expect("no panic");
        let trouble = match random.u32(0..100) {
            _ if self.calm.is_calm() => Trouble::None,
            0..8 => Trouble::Lost,
            8..20 => Trouble::AnswerLost,
            20..26 => Trouble::TooSlow,
            26..36 => Trouble::Later,
            36..40 => Trouble::ArrivesLate,
            _ => Trouble::None,
        };
        self.counts.note(trouble.what());
        (trouble, Duration::from_millis(random.u64(1..400)))
    }

    /// What tells requests apart here.
    fn key(&self, request: &Request, ledger: &BTreeMap<String, Booked>) -> String {
        let key = request.idempotency_key();
        match self.mutant {
            Mutant::NewKeyOnRetry => format!("{key}/{}", request.open.attempt),
            _ if self.forgets_keys && request.open.operation.creates() => format!("{key}/{}", ledger.len()),
            _ => key,
        }
    }

    pub fn statements(&self, order_id: OrderId) -> Vec<Statement> {
        statements(&self.ledger.lock().expect("no panic"), order_id, self.clock.now())
    }

    /// So many payments at a time, newest first, by when they were made and what they are called. What was made
    /// a moment ago is not there yet.
    fn page(&self, since: DateTime<Utc>, until: DateTime<Utc>, cursor: Option<&str>) -> Page {
        let (ledger, now) = (self.ledger.lock().expect("no panic"), self.clock.now());
        let is_listed = |booked: &&Booked| {
            let listed_at = booked.made_at + self.listed_late;
            booked.operation == Operation::Authorize
                && (since..until).contains(&booked.made_at)
                && (listed_at <= now || self.calm.is_calm())
        };
        let place =
            |booked: &Booked| format!("{:020} {}", booked.made_at.timestamp_millis(), booked.reference);
        let mut made: Vec<&Booked> = ledger.values().filter(is_listed).collect();
        made.retain(|booked| cursor.is_none_or(|cursor| place(booked).as_str() < cursor));
        made.sort_by_key(|booked| Reverse(place(booked)));
        let next = made.get(PAGE).map(|_| place(made[PAGE - 1]));
        let payments = made.into_iter().take(PAGE).map(|made| {
            let mut all = statements(&ledger, made.order_id, now).into_iter();
            let statement = all.find(|one| one.reference == made.reference).expect("made");
            infra::payment::Booked { order_id: Some(made.order_id), made_at: made.made_at, statement }
        });
        Page { payments: payments.collect(), next }
    }

    /// Carries it out, unless its key is known.
    fn book(&self, request: &Request, trouble: Trouble) -> Answer {
        let mut ledger = self.ledger.lock().expect("no panic");
        let mut random = self.random.lock().expect("no panic");
        let (key, operation) = (self.key(request, &ledger), request.open.operation);
        let reference = request.provider_reference.clone().filter(|_| operation != Operation::Authorize);
        let reference = reference.unwrap_or_else(|| key.clone());
        let now = self.clock.now();
        let before =
            statements(&ledger, request.order_id, now).into_iter().find(|one| one.reference == reference);
        let allowed = before.as_ref().map_or(0, |before| before.authorized);
        let is_refund = |booked: &&Booked| {
            booked.operation == Operation::Refund && booked.reference == reference && !booked.declined
        };
        let refunded: i64 = ledger.values().filter(is_refund).map(|booked| booked.amount.amount).sum();
        let charged_back = before.as_ref().map_or(0, |before| before.charged_back);
        let left = before.as_ref().map_or(0, |before| before.captured - refunded - charged_back);
        let knows = self.forgets_keys || charged_back > 0;
        if operation == Operation::Refund
            && knows
            && !ledger.contains_key(&key)
            && left < request.amount.amount
        {
            // Whatever it forgets, it does not give back more than it took.
            return match before.filter(|_| left == 0) {
                Some(before) => Answer::Stated(before),
                None => Answer::Refused { reason: "not so much is left".to_owned() },
            };
        }
        let token = request.payment.token.as_str();
        let is_possible = match (operation, before.map(|before| before.state)) {
            (Operation::Authorize, _) => token != "tok_decline",
            (Operation::Capture, _) if token == "tok_capture_declined" => false,
            (Operation::Refund, _) if token == "tok_refund_refused" && request.open.round == 0 => false,
            (Operation::Capture, ref state) => *state == Some(State::Authorized),
            (Operation::Void, ref state) => {
                state.as_ref().is_some_and(|state| !matches!(state, State::Captured | State::Voided))
            }
            // If it knows its keys, it has no bounds: that no more is given back than was taken is for the shop
            // to see to.
            (Operation::Refund, ref state) => *state == Some(State::Captured),
        };
        let wait = if trouble == Trouble::Later { random.u64(2..60) } else { 0 };
        let amount = match operation {
            Operation::Authorize if token == "tok_partial" => (request.amount.amount + 1) / 2,
            Operation::Capture => request.amount.amount.min(allowed),
            _ => request.amount.amount,
        };
        let booked = Booked {
            id: key.clone(),
            order_id: request.order_id,
            operation,
            amount: Money::new(amount, request.amount.currency),
            declined: !is_possible,
            reference: reference.clone(),
            refund: request.open.refund.clone(),
            challenge: (operation == Operation::Authorize && token == "tok_challenge")
                .then(|| (now + Duration::from_secs(random.u64(1..400)), random.u32(0..4) > 0)),
            made_at: now,
            settles_at: now + Duration::from_secs(wait),
            charged_back: 0,
        };
        if self.forgets_keys && ledger.values().any(|other| other.is_like(&booked)) {
            self.counts.note("it is done twice");
        }
        let booked = ledger.entry(key).or_insert(booked).clone();
        if booked.declined && booked.settles_at <= now {
            return Answer::Refused { reason: "declined".to_owned() };
        }
        let all = statements(&ledger, request.order_id, now);
        match all.into_iter().find(|one| one.reference == booked.reference) {
            Some(statement) => Answer::Stated(statement),
            None => Answer::Failed { reason: "there is no such payment".to_owned() },
        }
    }
}

/// What the ledger says of an order's payments.
pub fn statements(
    ledger: &BTreeMap<String, Booked>,
    order_id: OrderId,
    now: DateTime<Utc>,
) -> Vec<Statement> {
    let ours: Vec<&Booked> = ledger.values().filter(|booked| booked.order_id == order_id).collect();
    let made = ours.iter().filter(|booked| booked.operation == Operation::Authorize);
    let statement = |made: &&Booked| {
        let is_settled = |booked: &&&Booked| booked.settles_at <= now && !booked.declined;
        let done = |operation: Operation| {
            let is = move |booked: &&&Booked| {
                booked.operation == operation && booked.reference == made.reference && is_settled(booked)
            };
            ours.iter().filter(is)
        };
        let captured: i64 = done(Operation::Capture).map(|booked| booked.amount.amount).sum();
        let is_answered = made.challenge.is_none_or(|(at, _)| at <= now);
        let is_settled = made.settles_at <= now && is_answered;
        let is_declined = made.declined || made.challenge.is_some_and(|(_, approves)| !approves);
        let state = match () {
            () if captured > 0 => State::Captured,
            () if done(Operation::Void).next().is_some() => State::Voided,
            () if !is_answered => State::ActionRequired,
            () if !is_settled => State::Processing,
            () if is_declined => State::Declined { reason: "declined".to_owned() },
            () => State::Authorized,
        };
        let is_refund = |booked: &&&Booked| {
            booked.operation == Operation::Refund && booked.reference == made.reference && !booked.declined
        };
        let refund = |booked: &&Booked| Refund {
            name: booked.refund.clone(),
            reference: booked.id.clone(),
            amount: booked.amount.amount,
            state: if booked.settles_at <= now { RefundState::Done } else { RefundState::Processing },
        };
        Statement {
            reference: made.reference.clone(),
            state,
            currency: made.amount.currency,
            authorized: if is_settled && !is_declined { made.amount.amount } else { 0 },
            captured,
            charged_back: made.charged_back,
            reinstated: 0,
            refunds: ours.iter().filter(is_refund).map(refund).collect(),
        }
    };
    made.map(statement).collect()
}

impl PaymentProvider for Provider {
    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        async move {
            let _under_way = UnderWay::new(self, request.order_id);
            let (trouble, time) = self.trouble();
            tokio::time::sleep(time).await;
            if trouble == Trouble::Lost {
                return Err(NoAnswer("it never got there".to_owned()));
            }
            if self.mutant == Mutant::UndoSkipped && request.open.operation == Operation::Void {
                let mut statements = self.statements(request.order_id);
                let mut statement = statements.pop().expect("authorised");
                statement.state = State::Voided;
                return Ok(Answer::Stated(statement));
            }
            if trouble == Trouble::ArrivesLate {
                let (provider, request) = (self.clone(), request.clone());
                let late = Duration::from_secs(self.random.lock().expect("no panic").u64(11..90));
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    provider.book(&request, Trouble::None);
                });
                return Err(NoAnswer("it is on its way".to_owned()));
            }
            let answer = self.book(request, trouble);
            let takes_money = matches!(request.open.operation, Operation::Authorize | Operation::Capture);
            if takes_money && matches!((trouble, &answer), (Trouble::TooSlow, Answer::Stated(_))) {
                self.counts.note("charged, but timed out");
            }
            if trouble == Trouble::TooSlow {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            match trouble {
                Trouble::AnswerLost => Err(NoAnswer("the answer is lost".to_owned())),
                _ => Ok(answer),
            }
        }
        .boxed()
    }

    fn name(&self) -> &'static str {
        "sandbox"
    }

    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        async move {
            let (trouble, time) = self.trouble();
            tokio::time::sleep(time).await;
            if [Trouble::Lost, Trouble::AnswerLost].contains(&trouble) {
                return Err(NoAnswer("no answer".to_owned()));
            }
            let is_under_way = self.under_way.lock().expect("no panic").contains_key(&wanted.order_id);
            if is_under_way && !self.statements(wanted.order_id).is_empty() {
                self.counts.note("news before the answer");
            }
            let is_wanted = |one: &Statement| wanted.reference.is_none_or(|wanted| one.reference == wanted);
            Ok(self.statements(wanted.order_id).into_iter().filter(is_wanted).collect())
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, NoAnswer>> {
        async move {
            let (trouble, time) = self.trouble();
            tokio::time::sleep(time).await;
            if [Trouble::Lost, Trouble::AnswerLost].contains(&trouble) {
                return Err(NoAnswer("no answer".to_owned()));
            }
            Ok(self.page(since, until, cursor))
        }
        .boxed()
    }

    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        let ledger = self.ledger.lock().expect("no panic");
        let booked = ledger.values().find(|booked| booked.reference == reference);
        let order_id = booked.map(|booked| booked.order_id);
        async move { Ok(order_id) }.boxed()
    }

    fn challenge<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
        async { Ok(None) }.boxed()
    }
}
