//! A payment provider that loses requests and answers, and is slow; its ledger is the truth about money.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::{Operation, Request};
use domain::{Money, OrderId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::clock::Clock;
use infra::payment::{Answer, NoAnswer, PaymentProvider};

use super::{Calm, Mutant};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
}

/// One line of the ledger.
#[derive(Debug, Clone)]
pub struct Booked {
    pub order_id: OrderId,
    pub operation: Operation,
    pub amount: Money,
    pub declined: bool,
    settles_at: DateTime<Utc>,
}

pub struct Provider {
    pub ledger: Mutex<BTreeMap<String, Booked>>,
    pub seen: Mutex<BTreeMap<Trouble, usize>>,
    random: Mutex<fastrand::Rng>,
    clock: Clock,
    calm: Calm,
    mutant: Mutant,
}

impl Provider {
    pub fn new(random: fastrand::Rng, clock: Clock, calm: Calm, mutant: Mutant) -> Self {
        let (ledger, seen, random) = (Mutex::default(), Mutex::default(), Mutex::new(random));
        Self { ledger, seen, random, clock, calm, mutant }
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
            _ => Trouble::None,
        };
        *self.seen.lock().expect("no panic").entry(trouble).or_default() += 1;
        (trouble, Duration::from_millis(random.u64(1..400)))
    }

    fn key(&self, request: &Request) -> String {
        match self.mutant {
            Mutant::NewKeyOnRetry => format!("{}/{}", request.idempotency_key(), request.attempt),
            _ => request.idempotency_key(),
        }
    }

    /// Carries it out, unless its key is known.
    fn book(&self, request: &Request, trouble: Trouble) -> Answer {
        let mut ledger = self.ledger.lock().expect("no panic");
        let mut random = self.random.lock().expect("no panic");
        let is_done = |wanted: Operation| {
            let of_order = |booked: &&Booked| booked.order_id == request.order_id && !booked.declined;
            ledger.values().filter(of_order).any(|booked| booked.operation == wanted)
        };
        let is_possible = match request.operation {
            Operation::Authorize => request.payment.token != "tok_decline",
            Operation::Capture => is_done(Operation::Authorize) && !is_done(Operation::Void),
            Operation::Void => is_done(Operation::Authorize) && !is_done(Operation::Capture),
            Operation::Refund => is_done(Operation::Capture),
        };
        let wait = if trouble == Trouble::Later { random.u64(2..60) } else { 0 };
        let booked = Booked {
            order_id: request.order_id,
            operation: request.operation,
            amount: request.amount,
            declined: !is_possible,
            settles_at: self.clock.now() + Duration::from_secs(wait),
        };
        let key = self.key(request);
        self.answer(ledger.entry(key).or_insert(booked))
    }

    fn answer(&self, booked: &Booked) -> Answer {
        let left = (booked.settles_at - self.clock.now()).to_std().unwrap_or(Duration::ZERO);
        match booked.declined {
            _ if !left.is_zero() => Answer::Processing { look_up_after: left },
            true => Answer::Declined { reason: "declined".to_owned() },
            false => Answer::Done { provider_reference: booked.order_id.to_string() },
        }
    }
}

impl PaymentProvider for Provider {
    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        async move {
            let (trouble, time) = self.trouble();
            tokio::time::sleep(time).await;
            if trouble == Trouble::Lost {
                return Err(NoAnswer("it never got there".to_owned()));
            }
            if self.mutant == Mutant::UndoSkipped && request.operation == Operation::Void {
                return Ok(Answer::Done { provider_reference: request.order_id.to_string() });
            }
            let answer = self.book(request, trouble);
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

    fn look_up<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>> {
        async move {
            let (trouble, time) = self.trouble();
            tokio::time::sleep(time).await;
            if [Trouble::Lost, Trouble::AnswerLost].contains(&trouble) {
                return Err(NoAnswer("no answer".to_owned()));
            }
            let ledger = self.ledger.lock().expect("no panic");
            Ok(ledger.get(&self.key(request)).map(|booked| self.answer(booked)))
        }
        .boxed()
    }
}
