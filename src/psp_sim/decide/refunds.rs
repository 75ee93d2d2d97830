//! Refunds: several for a payment, partial ones too, and never more than was captured.

use super::{Decision, Draft, Moment, amount, late_until, visible_ms};
use crate::psp_sim::book::{Answer, Book, Change};
use crate::psp_sim::call::Call;
use crate::psp_sim::faults::{Kind, Plan};
use crate::psp_sim::methods::{RefundFate, refund_fate};
use crate::psp_sim::money::{Dispute, DisputeStatus, Intent, Metadata, Refund, RefundStatus, Status};
use crate::psp_sim::objects;
use crate::psp_sim::refusal::Refusal;

/// After how long refunds of some payment methods become something else.
const TURNS_MS: i64 = 60_000;

pub fn create(book: &Book, call: &Call, moment: Moment<'_>, plan: &Plan) -> Result<Decision, Refusal> {
    let params = &call.params;
    params.only(&["payment_intent", "charge", "amount", "reason", "metadata"])?;
    let asked = params.amount("amount")?;
    let reasons = ["duplicate", "fraudulent", "requested_by_customer"];
    let reason = params.choice("reason", &reasons)?.map(str::to_owned);
    let metadata = params.metadata(&Metadata::new())?;
    let intent = refunded(book, call)?;
    let mut draft = Draft::new(intent.clone(), moment);
    let (Status::Succeeded, Some(charge)) = (intent.status, intent.charge.clone()) else {
        return Err(Refusal::state(draft.shown(), "This PaymentIntent has no money that could go back."));
    };
    let is_disputed = |dispute: &Dispute| dispute.intent == intent.id && dispute.status != DisputeStatus::Won;
    if book.disputes.values().any(is_disputed) {
        let message = "The buyer's bank has this charge's money.";
        return Err(Refusal::new(400, "invalid_request_error", message).code("charge_disputed").executed());
    }
    let asked = asked.unwrap_or_else(|| intent.refundable());
    if intent.refundable() == 0 {
        let message = "All of this charge has been refunded already.";
        return Err(Refusal::new(400, "invalid_request_error", message)
            .code("charge_already_refunded")
            .executed());
    }
    if asked > intent.refundable() {
        let message = "The refund is greater than what is left of the charge.";
        return Err(Refusal::parameter("amount", "amount_too_large", message).executed());
    }
    let (status, turns) = fate(intent, moment, plan);
    let refund = Refund {
        id: moment.id("re", 0),
        intent: intent.id.clone(),
        charge,
        created_ms: moment.at_ms,
        asked,
        amount: amount(asked, intent.refundable(), plan),
        currency: intent.currency.clone(),
        reason,
        metadata,
        status,
        turns,
        visible_ms: visible_ms(moment, plan),
    };
    let body = objects::refund(&refund);
    draft.then(Change::Refunded { refund });
    draft.tell_of("refund.created", &body);
    draft.tell_of_charge("charge.refunded");
    Ok(Decision { changes: draft.changes, answer: Answer { status: 200, body } })
}

/// How the refund begins, and when it becomes what.
fn fate(intent: &Intent, moment: Moment<'_>, plan: &Plan) -> (RefundStatus, Option<(i64, RefundStatus)>) {
    use RefundStatus::{Failed, Pending, Succeeded};
    if let Some(until_ms) = late_until(moment, plan) {
        let last = if plan.has(Kind::LateDecline) { Failed } else { Succeeded };
        return (Pending, Some((until_ms, last)));
    }
    let later = moment.at_ms.saturating_add(TURNS_MS);
    match refund_fate(intent.payment_method.as_deref()) {
        RefundFate::Succeeds => (Succeeded, None),
        RefundFate::IsPending => (Pending, Some((later, Succeeded))),
        RefundFate::Fails => (Succeeded, Some((later, Failed))),
    }
}

/// The payment that is meant, by its own id or its charge's.
fn refunded<'a>(book: &'a Book, call: &Call) -> Result<&'a Intent, Refusal> {
    let params = &call.params;
    match (params.text("payment_intent"), params.text("charge")) {
        (Some(id), None) => {
            book.intents.get(id).ok_or_else(|| Refusal::unknown("payment_intent", id).param("payment_intent"))
        }
        (None, Some(id)) => book
            .intents
            .values()
            .find(|intent| intent.charge.as_deref() == Some(id))
            .ok_or_else(|| Refusal::unknown("charge", id).param("charge")),
        (None, None) => Err(Refusal::missing("payment_intent")),
        (Some(_), Some(_)) => Err(Refusal::parameter(
            "charge",
            "parameter_invalid_string",
            "Give payment_intent or charge, not both.",
        )),
    }
}
