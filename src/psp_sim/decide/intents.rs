//! Payment intents: made, changed, confirmed, captured, cancelled.
//!
//! | request | possible while                                                  | leads to                                |
//! |---------|-----------------------------------------------------------------|-----------------------------------------|
//! | update  | requires_payment_method, requires_confirmation                  |                                         |
//! | confirm | requires_payment_method, requires_confirmation                  | requires_action, processing, or an end  |
//! | capture | requires_capture                                                | succeeded; the rest is released         |
//! | cancel  | anything but processing, succeeded, canceled                    | canceled; what is held is released      |

use super::{Decision, Draft, Moment, amount, late_until, named, visible_ms};
use crate::psp_sim::book::{Book, Change};
use crate::psp_sim::call::Call;
use crate::psp_sim::faults::{Kind, Plan};
use crate::psp_sim::methods::{self, Decline, Method};
use crate::psp_sim::money::{AMOUNT_MAX, Capture, Intent, Metadata, Status};
use crate::psp_sim::params::Params;
use crate::psp_sim::refusal::Refusal;

/// How long money is held that nobody captures: seven days.
const HELD_MS: i64 = 7 * 24 * 60 * 60 * 1000;

const CREATES: [&str; 13] = [
    "amount",
    "currency",
    "capture_method",
    "confirm",
    "payment_method",
    "metadata",
    "payment_method_types",
    "description",
    "return_url",
    "off_session",
    "automatic_payment_methods",
    "confirmation_method",
    "error_on_requires_action",
];

pub fn create(call: &Call, moment: Moment<'_>, plan: &Plan) -> Result<Decision, Refusal> {
    let params = &call.params;
    params.only(&CREATES)?;
    let asked = params.amount("amount")?.ok_or_else(|| Refusal::missing("amount"))?;
    let currency = currency(params.needed("currency")?)?;
    let captures = params.choice("capture_method", &["automatic", "automatic_async", "manual"])?;
    let kinds = params.list("payment_method_types");
    if kinds.iter().any(|kind| *kind != "card") {
        return Err(Refusal::parameter(
            "payment_method_types",
            "parameter_invalid_string",
            "Only cards are simulated.",
        ));
    }
    let method = params.text("payment_method").map(known_method).transpose()?;
    let confirm = params.flag("confirm")?;
    if confirm && method.is_none() {
        return Err(Refusal::missing("payment_method"));
    }
    let intent = Intent {
        id: moment.id("pi", 0),
        created_ms: moment.at_ms,
        asked,
        amount: amount(asked, AMOUNT_MAX, plan),
        currency,
        capture: if captures == Some("manual") { Capture::Manual } else { Capture::Automatic },
        payment_method: method.as_ref().and(params.text("payment_method")).map(str::to_owned),
        metadata: params.metadata(&Metadata::new())?,
        description: params.text("description").map(str::to_owned),
        return_url: return_url(params)?,
        status: if method.is_some() { Status::RequiresConfirmation } else { Status::RequiresPaymentMethod },
        capturable: 0,
        received: 0,
        refunded: 0,
        charge: None,
        charge_ms: 0,
        problem: None,
        turns_ms: None,
        verdict: None,
        canceled_ms: None,
        cancellation_reason: None,
        disputed: false,
        visible_ms: visible_ms(moment, plan),
    };
    let alone = is_alone(params)?;
    params.choice("confirmation_method", &["automatic"])?;
    let mut draft = Draft::new(intent.clone(), moment);
    draft.then(Change::Created { intent });
    draft.tell("payment_intent.created");
    match method {
        Some(method) if confirm => Ok(carry_out(draft, call, &method, alone, plan)),
        _ => Ok(draft.answer(call)),
    }
}

pub fn update(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Decision, Refusal> {
    let params = &call.params;
    params.only(&["amount", "metadata", "payment_method", "description", "return_url"])?;
    let amount = params.amount("amount")?;
    let method = params.text("payment_method").map(|name| known_method(name).map(|_| name.to_owned()));
    let method = method.transpose()?;
    let return_url = return_url(params)?;
    let intent = named(book, call)?;
    let metadata = params.metadata(&intent.metadata)?;
    let mut draft = Draft::new(intent.clone(), moment);
    // Metadata is the caller's own, and may change at any time.
    if (amount.is_some() || method.is_some()) && !intent.status.can_be_confirmed() {
        return Err(in_the_way(&draft, "be updated"));
    }
    let change = Change::Updated {
        intent: draft.id(),
        amount,
        metadata,
        payment_method: method,
        description: params.text("description").map(str::to_owned).or_else(|| intent.description.clone()),
        return_url: return_url.or_else(|| intent.return_url.clone()),
    };
    draft.then(change);
    Ok(draft.answer(call))
}

pub fn confirm(book: &Book, call: &Call, moment: Moment<'_>, plan: &Plan) -> Result<Decision, Refusal> {
    let params = &call.params;
    params.only(&["payment_method", "return_url", "off_session", "error_on_requires_action"])?;
    let given = params.text("payment_method").map(|name| known_method(name).map(|_| name.to_owned()));
    let given = given.transpose()?;
    let return_url = return_url(params)?;
    let alone = is_alone(params)?;
    let mut draft = Draft::new(named(book, call)?.clone(), moment);
    if !draft.intent.status.can_be_confirmed() {
        return Err(in_the_way(&draft, "be confirmed"));
    }
    if given.is_some() || return_url.is_some() {
        let change = Change::Updated {
            intent: draft.id(),
            amount: None,
            metadata: draft.intent.metadata.clone(),
            payment_method: given,
            description: draft.intent.description.clone(),
            return_url: return_url.or_else(|| draft.intent.return_url.clone()),
        };
        draft.then(change);
    }
    match draft.intent.payment_method.as_deref().and_then(methods::find) {
        Some(method) => Ok(carry_out(draft, call, &method, alone, plan)),
        None => Err(in_the_way(&draft, "be confirmed without a payment method")),
    }
}

pub fn capture(book: &Book, call: &Call, moment: Moment<'_>, plan: &Plan) -> Result<Decision, Refusal> {
    call.params.only(&["amount_to_capture", "final_capture"])?;
    let asked = call.params.amount("amount_to_capture")?;
    // The rest of a partial capture is released, always.
    call.params.choice("final_capture", &["true"])?;
    let intent = named(book, call)?;
    let mut draft = Draft::new(intent.clone(), moment);
    if intent.status != Status::RequiresCapture {
        return Err(in_the_way(&draft, "be captured"));
    }
    let asked = asked.unwrap_or(intent.capturable);
    if asked > intent.capturable {
        let message = "The amount to capture is greater than what is held.";
        return Err(Refusal::parameter("amount_to_capture", "amount_too_large", message).executed());
    }
    let change =
        Change::Captured { intent: draft.id(), asked, amount: amount(asked, intent.capturable, plan) };
    draft.then(change);
    draft.tell_of_charge("charge.captured");
    draft.tell("payment_intent.succeeded");
    Ok(draft.answer(call))
}

pub fn cancel(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Decision, Refusal> {
    let params = &call.params;
    params.only(&["cancellation_reason"])?;
    let reasons = ["duplicate", "fraudulent", "requested_by_customer", "abandoned"];
    let reason = params.choice("cancellation_reason", &reasons)?.map(str::to_owned);
    let mut draft = Draft::new(named(book, call)?.clone(), moment);
    if matches!(draft.intent.status, Status::Processing | Status::Succeeded | Status::Canceled) {
        return Err(in_the_way(&draft, "be canceled"));
    }
    let released = draft.intent.capturable;
    draft.then(Change::Canceled { intent: draft.id(), reason, released });
    draft.tell("payment_intent.canceled");
    Ok(draft.answer(call))
}

/// What follows when the buyer has passed or failed the challenge.
pub fn challenge_ended(intent: &Intent, passed: bool, moment: Moment<'_>) -> Result<Vec<Change>, Refusal> {
    let mut draft = Draft::new(intent.clone(), moment);
    if intent.status != Status::RequiresAction {
        return Err(in_the_way(&draft, "be challenged"));
    }
    if passed {
        let verdict = draft.intent.verdict.clone();
        end(&mut draft, verdict);
    } else {
        let decline = methods::not_authenticated();
        draft.then(Change::Declined { intent: draft.id(), charge: None, decline });
        draft.tell("payment_intent.payment_failed");
    }
    Ok(draft.changes)
}

/// Confirms: the buyer is asked, the bank takes its time, or it decides at once.
fn carry_out(mut draft: Draft<'_>, call: &Call, method: &Method, alone: bool, plan: &Plan) -> Decision {
    if method.challenges && !alone {
        draft.then(Change::Challenged { intent: draft.id(), verdict: method.decline.clone() });
        draft.tell("payment_intent.requires_action");
        return draft.answer(call);
    }
    let refused = plan.has(Kind::LateDecline).then(methods::refused);
    let nobody = method.challenges.then(methods::nobody_to_ask);
    let verdict = nobody.or(refused).or_else(|| method.decline.clone());
    if let Some(until_ms) = late_until(draft.moment, plan) {
        draft.then(Change::Processing { intent: draft.id(), until_ms, verdict });
        draft.tell("payment_intent.processing");
        return draft.answer(call);
    }
    end(&mut draft, verdict.clone());
    match verdict {
        Some(decline) => {
            let refusal = Refusal::declined(&decline, draft.intent.charge.clone(), draft.shown());
            draft.refuse(&refusal)
        }
        None => draft.answer(call),
    }
}

/// The bank decides.
pub fn end(draft: &mut Draft<'_>, verdict: Option<Decline>) {
    let charge = draft.moment.id("ch", draft.changes.len());
    if let Some(decline) = verdict {
        draft.then(Change::Declined { intent: draft.id(), charge: Some(charge), decline });
        draft.tell_of_charge("charge.failed");
        draft.tell("payment_intent.payment_failed");
        return;
    }
    let held = draft.intent.amount;
    let expires_ms = draft.moment.at_ms.saturating_add(HELD_MS);
    draft.then(Change::Authorised { intent: draft.id(), charge, amount: held, expires_ms });
    if draft.intent.capture == Capture::Automatic {
        draft.then(Change::Captured { intent: draft.id(), asked: held, amount: held });
        draft.tell_of_charge("charge.succeeded");
        draft.tell("payment_intent.succeeded");
    } else {
        draft.tell_of_charge("charge.succeeded");
        draft.tell("payment_intent.amount_capturable_updated");
    }
}

fn in_the_way(draft: &Draft<'_>, what: &str) -> Refusal {
    let status = draft.intent.status.name();
    Refusal::state(draft.shown(), format!("This PaymentIntent can't {what}: its status is {status}."))
}

fn known_method(name: &str) -> Result<Method, Refusal> {
    methods::find(name).ok_or_else(|| {
        let message = "No such PaymentMethod: only those for tests are known, such as pm_card_visa.";
        Refusal::parameter("payment_method", "resource_missing", message)
    })
}

/// Whether nobody is there to pass a challenge.
fn is_alone(params: &Params) -> Result<bool, Refusal> {
    Ok(params.flag("off_session")? || params.flag("error_on_requires_action")?)
}

fn currency(text: &str) -> Result<String, Refusal> {
    let currency = text.to_ascii_lowercase();
    match currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_lowercase()) {
        true => Ok(currency),
        false => Err(Refusal::parameter("currency", "parameter_invalid_string", "Invalid currency.")),
    }
}

fn return_url(params: &Params) -> Result<Option<String>, Refusal> {
    let Some(url) = params.text("return_url") else { return Ok(None) };
    match reqwest::Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Some(url.to_string())),
        _ => Err(Refusal::parameter("return_url", "url_invalid", "Not a valid URL.")),
    }
}
