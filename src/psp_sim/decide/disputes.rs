//! Disputes: the buyer's bank takes the money back at once, and gives it back if the shop is found right.

use super::{Draft, Moment};
use crate::psp_sim::book::{Book, Change};
use crate::psp_sim::money::{Dispute, DisputeStatus, Status};
use crate::psp_sim::objects;
use crate::psp_sim::refusal::Refusal;

/// The buyer goes to their bank about this payment, or about a part of it.
///
/// # Errors
/// There is no such payment, or nothing was taken that could be taken back.
pub fn open(
    book: &Book,
    intent: &str,
    amount: Option<i64>,
    moment: Moment<'_>,
) -> Result<Vec<Change>, Refusal> {
    let intent = book.intents.get(intent).ok_or_else(|| Refusal::unknown("payment_intent", intent))?;
    let mut draft = Draft::new(intent.clone(), moment);
    let (Status::Succeeded, false, Some(charge)) = (intent.status, intent.disputed, intent.charge.clone())
    else {
        return Err(Refusal::state(draft.shown(), "This PaymentIntent has nothing to dispute."));
    };
    let amount = amount.unwrap_or(intent.received);
    if !(1..=intent.received).contains(&amount) {
        let message = "The amount is not between 1 and what was captured.";
        return Err(Refusal::parameter("amount", "amount_too_large", message));
    }
    let dispute = Dispute {
        id: moment.id("du", 0),
        intent: intent.id.clone(),
        charge,
        created_ms: moment.at_ms,
        amount,
        currency: intent.currency.clone(),
        status: DisputeStatus::NeedsResponse,
    };
    let body = objects::dispute(&dispute);
    draft.then(Change::Disputed { dispute });
    draft.tell_of("charge.dispute.created", &body);
    draft.tell_of("charge.dispute.funds_withdrawn", &body);
    Ok(draft.changes)
}

/// The bank decides.
///
/// # Errors
/// There is no such dispute, or it has decided already.
pub fn close(book: &Book, id: &str, is_won: bool, moment: Moment<'_>) -> Result<Vec<Change>, Refusal> {
    let unknown = || Refusal::unknown("dispute", id);
    let dispute = book.disputes.get(id).ok_or_else(unknown)?;
    let intent = book.intents.get(&dispute.intent).ok_or_else(unknown)?;
    let mut draft = Draft::new(intent.clone(), moment);
    if dispute.status != DisputeStatus::NeedsResponse {
        return Err(Refusal::state(draft.shown(), "This dispute is closed."));
    }
    let status = if is_won { DisputeStatus::Won } else { DisputeStatus::Lost };
    let body = objects::dispute(&Dispute { status, ..dispute.clone() });
    draft.then(Change::DisputeClosed {
        dispute: dispute.id.clone(),
        intent: dispute.intent.clone(),
        amount: dispute.amount,
        status,
    });
    draft.tell_of("charge.dispute.closed", &body);
    if is_won {
        draft.tell_of("charge.dispute.funds_reinstated", &body);
    }
    Ok(draft.changes)
}
