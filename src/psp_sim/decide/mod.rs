//! What a request does to the books: pure rules, from what is there to changes and an answer.

pub mod disputes;
mod endpoints;
mod intents;
mod refunds;
mod turns;

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use intents::challenge_ended;
pub use turns::turn;

use super::book::{Answer, Book, Change, Event};
use super::call::{Call, Operation};
use super::faults::{Kind, Plan};
use super::money::Intent;
use super::objects;
use super::packed::Packed;
use super::params::hex;
use super::refusal::Refusal;

/// When, where and for whom something is decided.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Of the record that it will be.
    pub number: u64,
    pub at_ms: i64,
    pub salt: &'a str,
    /// Where the simulator listens, for links to its own pages.
    pub base_url: &'a str,
    pub request: Option<&'a str>,
    pub key: Option<&'a str>,
}

impl Moment<'_> {
    /// A new id; ids sort by when they were made.
    pub fn id(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{:010}{index:02}{}", self.number, &self.secret(prefix, index)[..12])
    }

    /// What nobody can guess who does not know the salt.
    pub fn secret(&self, prefix: &str, index: usize) -> String {
        hex(&Sha256::digest(format!("{}/{prefix}/{}/{index}", self.salt, self.number)))
    }
}

/// Changes, and what is answered.
#[derive(Debug)]
pub struct Decision {
    pub changes: Vec<Change>,
    pub answer: Answer,
}

/// Decides a request that may change something.
///
/// # Errors
/// It is refused, and nothing changes.
pub fn decide(book: &Book, call: &Call, moment: Moment<'_>, plan: &Plan) -> Result<Decision, Refusal> {
    match call.operation {
        Operation::CreateIntent => intents::create(call, moment, plan),
        Operation::UpdateIntent => intents::update(book, call, moment),
        Operation::ConfirmIntent => intents::confirm(book, call, moment, plan),
        Operation::CaptureIntent => intents::capture(book, call, moment, plan),
        Operation::CancelIntent => intents::cancel(book, call, moment),
        Operation::CreateRefund => refunds::create(book, call, moment, plan),
        Operation::CreateEndpoint => endpoints::create(book, call, moment),
        Operation::DeleteEndpoint => endpoints::delete(book, call),
        Operation::RetrieveIntent
        | Operation::ListIntents
        | Operation::SearchIntents
        | Operation::RetrieveRefund
        | Operation::ListRefunds
        | Operation::RetrieveCharge
        | Operation::ListCharges
        | Operation::RetrieveDispute
        | Operation::ListDisputes
        | Operation::RetrieveEvent
        | Operation::ListEvents
        | Operation::RetrieveEndpoint
        | Operation::ListEndpoints => super::read::read(book, call, moment),
    }
}

/// An intent on its way through changes that are not in the books yet.
struct Draft<'a> {
    moment: Moment<'a>,
    intent: Intent,
    changes: Vec<Change>,
}

impl<'a> Draft<'a> {
    fn new(intent: Intent, moment: Moment<'a>) -> Self {
        Self { moment, intent, changes: Vec::new() }
    }

    fn then(&mut self, change: Change) {
        self.intent.evolve(&change, self.moment.at_ms);
        self.changes.push(change);
    }

    fn id(&self) -> String {
        self.intent.id.clone()
    }

    fn shown(&self) -> Value {
        objects::intent(&self.intent, self.moment.base_url)
    }

    /// Tells about the intent as it is now.
    fn tell(&mut self, kind: &str) {
        let object = self.shown();
        self.tell_of(kind, &object);
    }

    fn tell_of_charge(&mut self, kind: &str) {
        if let Some(charge) = objects::charge(&self.intent) {
            self.tell_of(kind, &charge);
        }
    }

    fn tell_of(&mut self, kind: &str, object: &Value) {
        let event = Event {
            id: self.moment.id("evt", self.changes.len()),
            kind: kind.to_owned(),
            created_ms: self.moment.at_ms,
            object: Packed::from(object),
            request: self.moment.request.map(str::to_owned),
            key: self.moment.key.map(str::to_owned),
        };
        self.changes.push(Change::Told { event });
    }

    /// Answers with the intent as it is now.
    fn answer(self, call: &Call) -> Decision {
        let mut body = self.shown();
        if call.params.expands("latest_charge")
            && let Some(charge) = objects::charge(&self.intent)
        {
            body["latest_charge"] = charge;
        }
        Decision { changes: self.changes, answer: Answer { status: 200, body } }
    }

    fn refuse(self, refusal: &Refusal) -> Decision {
        Decision { changes: self.changes, answer: refusal.answer() }
    }
}

/// The intent that the path names.
fn named<'a>(book: &'a Book, call: &Call) -> Result<&'a Intent, Refusal> {
    book.intents.get(&call.id).ok_or_else(|| Refusal::unknown("payment_intent", &call.id).param("intent"))
}

/// When what is made at this moment shows in reads, lists and searches.
fn visible_ms(moment: Moment<'_>, plan: &Plan) -> i64 {
    moment.at_ms.saturating_add(plan.ms(Kind::Lag, 60_000).map_or(0, |ms| ms.cast_signed()))
}

/// What is really moved, where a fault says another amount; never more than there is.
fn amount(asked: i64, at_most: i64, plan: &Plan) -> i64 {
    let other = plan.get(Kind::Amount).and_then(|fault| fault.amount);
    other.unwrap_or(asked).min(at_most)
}

/// Until when something is under way, if it is to be.
fn late_until(moment: Moment<'_>, plan: &Plan) -> Option<i64> {
    let ms = plan.ms(Kind::Late, 3_600_000).or_else(|| plan.ms(Kind::LateDecline, 3_600_000))?;
    Some(moment.at_ms.saturating_add(ms.cast_signed()))
}

#[cfg(test)]
mod tests;
