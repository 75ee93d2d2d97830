//! The ledger as people and reconciliations read it: a line for each time that money moved, or was to.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use super::book::{Book, Change, Record};
use super::money::{DisputeStatus, Intent, Metadata, RefundStatus};

#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Of the record; lines of one record happened at once.
    pub number: u64,
    pub at: String,
    /// created, challenged, processing, authorised, declined, captured, canceled, refunded,
    /// refund_succeeded, refund_failed, charged_back, reinstated, dispute_lost
    pub what: &'static str,
    pub payment_intent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund: Option<String>,
    pub amount: i64,
    /// What was asked for, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<i64>,
    pub currency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of the payment; of a refund, its own.
    pub metadata: Metadata,
    /// The request's operation; none if it happened by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether the answer was handed to the caller's connection; none while that is open, if there was
    /// nobody to answer, and if the simulator was killed before it was known.
    pub answered: Option<bool>,
}

/// What a change did to money.
struct Move<'a> {
    what: &'static str,
    amount: i64,
    asked: i64,
    refund: Option<&'a str>,
    reason: Option<String>,
}

/// All lines so far.
#[derive(Debug, Default)]
pub struct Lines {
    pub lines: Vec<Line>,
    /// Where the lines of records are whose answer is not known to be handed over.
    open: HashMap<u64, std::ops::Range<usize>>,
}

impl Lines {
    /// Adds the record's, with the books as they are after it.
    pub fn evolve(&mut self, book: &Book, record: &Record) {
        let first = self.lines.len();
        for change in &record.changes {
            if let Change::Answered { record, whole } = change {
                for line in &mut self.lines[self.open.remove(record).unwrap_or_default()] {
                    line.answered = Some(*whole);
                }
            }
            let intent = change.intent().and_then(|id| book.intents.get(id));
            if let (Some(intent), Some(moved)) = (intent, moved(change, book)) {
                self.lines.push(line(record, intent, moved, book));
            }
        }
        if record.request.is_some() && first < self.lines.len() {
            self.open.insert(record.number, first..self.lines.len());
        }
    }
}

fn moved<'a>(change: &'a Change, book: &Book) -> Option<Move<'a>> {
    let plain = |what, amount| Move { what, amount, asked: amount, refund: None, reason: None };
    let of_intent = |id: &String| book.intents.get(id).map(|intent| intent.amount);
    Some(match change {
        Change::Created { intent } => Move { asked: intent.asked, ..plain("created", intent.amount) },
        Change::Challenged { intent, .. } => plain("challenged", of_intent(intent)?),
        Change::Processing { intent, .. } => plain("processing", of_intent(intent)?),
        Change::Authorised { amount, .. } => plain("authorised", *amount),
        Change::Declined { intent, decline, .. } => {
            let reason = decline.decline_code.clone().unwrap_or_else(|| decline.code.clone());
            Move { reason: Some(reason), ..plain("declined", of_intent(intent)?) }
        }
        Change::Captured { asked, amount, .. } => Move { asked: *asked, ..plain("captured", *amount) },
        Change::Canceled { reason, released, .. } => {
            Move { reason: reason.clone(), ..plain("canceled", *released) }
        }
        Change::Refunded { refund } => Move {
            asked: refund.asked,
            refund: Some(&refund.id),
            reason: refund.reason.clone(),
            ..plain("refunded", refund.amount)
        },
        Change::RefundTurned { refund, amount, status, .. } => {
            let failed = *status == RefundStatus::Failed;
            let what = if failed { "refund_failed" } else { "refund_succeeded" };
            Move { refund: Some(refund), ..plain(what, *amount) }
        }
        Change::Disputed { dispute } => plain("charged_back", dispute.amount),
        Change::DisputeClosed { amount, status: DisputeStatus::Won, .. } => plain("reinstated", *amount),
        Change::DisputeClosed { amount, .. } => plain("dispute_lost", *amount),
        Change::Updated { .. }
        | Change::EndpointCreated { .. }
        | Change::EndpointDeleted { .. }
        | Change::Told { .. }
        | Change::Tried { .. }
        | Change::ClockAdvanced { .. }
        | Change::Answered { .. } => return None,
    })
}

fn line(record: &Record, intent: &Intent, moved: Move<'_>, book: &Book) -> Line {
    let request = record.request.as_ref();
    let refund = moved.refund.and_then(|id| book.refunds.get(id));
    Line {
        number: record.number,
        at: time(record.at_ms),
        what: moved.what,
        payment_intent: intent.id.clone(),
        refund: moved.refund.map(str::to_owned),
        amount: moved.amount,
        asked: Some(moved.asked).filter(|asked| *asked != moved.amount),
        currency: intent.currency.clone(),
        reason: moved.reason,
        metadata: refund.map_or_else(|| intent.metadata.clone(), |refund| refund.metadata.clone()),
        operation: request.map(|request| request.operation.clone()),
        request: request.map(|request| request.id.clone()),
        idempotency_key: request.and_then(|request| request.key.clone()),
        faults: request.map(|request| request.faults.clone()).unwrap_or_default(),
        status: record.answer.as_ref().map(|answer| answer.status),
        answered: None,
    }
}

pub fn time(at_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For people.
pub fn text(line: &Line) -> String {
    let answered = match (&line.operation, line.answered) {
        (None, _) => "by itself",
        (Some(_), Some(true)) => "answered",
        (Some(_), Some(false)) => "answer lost",
        (Some(_), None) => "answer unknown",
    };
    let asked = line.asked.map(|asked| format!(" (asked: {asked})")).unwrap_or_default();
    let mut text = format!(
        "{:>6}  {}  {:<16} {:>9} {}{asked}  {}  {answered}",
        line.number,
        line.at,
        line.what,
        line.amount,
        line.currency.to_uppercase(),
        line.refund.as_ref().unwrap_or(&line.payment_intent),
    );
    let more = [
        ("attempt_ref", line.metadata.get("attempt_ref").cloned()),
        ("key", line.idempotency_key.clone()),
        ("reason", line.reason.clone()),
        ("faults", Some(line.faults.join(",")).filter(|faults| !faults.is_empty())),
    ];
    for (name, value) in more {
        text.extend(value.map(|value| format!("  {name}={}", value.escape_debug())));
    }
    text
}
