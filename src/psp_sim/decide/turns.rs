//! What happens by itself when its time has come: what was under way ends, what is held expires.

use super::intents::end;
use super::{Draft, Moment};
use crate::psp_sim::book::{Book, Change};
use crate::psp_sim::money::{RefundStatus, Status};
use crate::psp_sim::objects;

/// The changes for an intent or a refund whose time has come.
pub fn turn(book: &Book, id: &str, moment: Moment<'_>) -> Vec<Change> {
    if let Some(intent) = book.intents.get(id) {
        let mut draft = Draft::new(intent.clone(), moment);
        if intent.status == Status::Processing {
            let verdict = intent.verdict.clone();
            end(&mut draft, verdict);
        } else {
            let (reason, released) = (Some("automatic".to_owned()), intent.capturable);
            draft.then(Change::Canceled { intent: draft.id(), reason, released });
            draft.tell("payment_intent.canceled");
        }
        return draft.changes;
    }
    let Some(refund) = book.refunds.get(id) else { return Vec::new() };
    let (Some(intent), Some((_, status))) = (book.intents.get(&refund.intent), refund.turns) else {
        return Vec::new();
    };
    let mut draft = Draft::new(intent.clone(), moment);
    let mut turned = refund.clone();
    (turned.status, turned.turns) = (status, None);
    draft.then(Change::RefundTurned {
        refund: refund.id.clone(),
        intent: refund.intent.clone(),
        amount: refund.amount,
        status,
    });
    let object = objects::refund(&turned);
    draft.tell_of("refund.updated", &object);
    if status == RefundStatus::Failed {
        draft.tell_of("refund.failed", &object);
    }
    draft.changes
}
