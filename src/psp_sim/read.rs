//! Reading what is there: by id, in lists, and by search.

mod search;

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::{Value, json};

use super::book::{Answer, Book, Event};
use super::call::{Call, Operation};
use super::decide::{Decision, Moment};
use super::money::{Dispute, Intent};
use super::objects;
use super::params::{Params, Period};
use super::refusal::Refusal;

const LIMIT_MAX: i64 = 100;
const LIMIT_USUAL: i64 = 10;

/// Answers a request that only reads. What still lags is not there.
pub fn read(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Decision, Refusal> {
    let body = match call.operation {
        Operation::RetrieveIntent => intent(book, call, moment)?,
        Operation::ListIntents => intents(book, call, moment)?,
        Operation::SearchIntents => search::intents(book, call, moment)?,
        Operation::RetrieveRefund => refund(book, call, moment)?,
        Operation::ListRefunds => refunds(book, call, moment)?,
        Operation::RetrieveCharge => charge(book, call, moment)?,
        Operation::ListCharges => charges(book, call, moment)?,
        Operation::RetrieveDispute => {
            call.params.only(&[])?;
            let found = book.disputes.get(&call.id);
            objects::dispute(found.ok_or_else(|| Refusal::unknown("dispute", &call.id))?)
        }
        Operation::ListDisputes => disputes(book, call)?,
        Operation::RetrieveEvent => {
            call.params.only(&[])?;
            let event = book.events.get(&call.id).ok_or_else(|| Refusal::unknown("event", &call.id))?;
            objects::event(event, book)
        }
        Operation::ListEvents => events(book, call)?,
        Operation::RetrieveEndpoint => {
            call.params.only(&[])?;
            let found = book.endpoints.get(&call.id);
            objects::endpoint(found.ok_or_else(|| Refusal::unknown("webhook endpoint", &call.id))?)
        }
        Operation::ListEndpoints => {
            call.params.only(&["limit", "starting_after", "ending_before"])?;
            page(&book.endpoints, call, |_| true, objects::endpoint)?
        }
        Operation::CreateIntent
        | Operation::UpdateIntent
        | Operation::ConfirmIntent
        | Operation::CaptureIntent
        | Operation::CancelIntent
        | Operation::CreateRefund
        | Operation::CreateEndpoint
        | Operation::DeleteEndpoint => unreachable!("{} does not only read", call.operation.name()),
    };
    Ok(Decision { changes: Vec::new(), answer: Answer { status: 200, body } })
}

/// As it's shown to who asks for it, with its charge if that was asked for.
fn shown(intent: &Intent, call: &Call, moment: Moment<'_>) -> Value {
    let mut shown = objects::intent(intent, moment.base_url);
    if call.params.expands("latest_charge")
        && let Some(charge) = objects::charge(intent)
    {
        shown["latest_charge"] = charge;
    }
    shown
}

fn intent(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    call.params.only(&[])?;
    let found = book.intents.get(&call.id).filter(|intent| intent.visible_ms <= moment.at_ms);
    let unknown = || Refusal::unknown("payment_intent", &call.id).param("intent");
    found.map(|intent| shown(intent, call, moment)).ok_or_else(unknown)
}

fn intents(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    call.params.only(&["created", "limit", "starting_after", "ending_before"])?;
    let period = call.params.period("created")?;
    let keep = |intent: &Intent| intent.visible_ms <= moment.at_ms && is_within(intent.created_ms, period);
    page(&book.intents, call, keep, |intent| shown(intent, call, moment))
}

fn refund(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    call.params.only(&[])?;
    let found = book.refunds.get(&call.id).filter(|refund| refund.visible_ms <= moment.at_ms);
    found.map(objects::refund).ok_or_else(|| Refusal::unknown("refund", &call.id))
}

fn refunds(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    let params = &call.params;
    params.only(&["payment_intent", "charge", "created", "limit", "starting_after", "ending_before"])?;
    let (intent, charge) = (params.text("payment_intent"), params.text("charge"));
    let period = params.period("created")?;
    let keep = |refund: &super::money::Refund| {
        refund.visible_ms <= moment.at_ms
            && is_within(refund.created_ms, period)
            && intent.is_none_or(|intent| intent == refund.intent)
            && charge.is_none_or(|charge| charge == refund.charge)
    };
    page(&book.refunds, call, keep, objects::refund)
}

fn charge(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    call.params.only(&[])?;
    let is_meant =
        |intent: &&Intent| intent.charge.as_deref() == Some(&call.id) && intent.visible_ms <= moment.at_ms;
    let found = book.intents.values().find(is_meant).and_then(objects::charge);
    found.ok_or_else(|| Refusal::unknown("charge", &call.id))
}

/// The latest charge of each payment.
fn charges(book: &Book, call: &Call, moment: Moment<'_>) -> Result<Value, Refusal> {
    let params = &call.params;
    params.only(&["payment_intent", "created", "limit", "starting_after", "ending_before"])?;
    let period = params.period("created")?;
    let is_meant =
        |intent: &&Intent| intent.visible_ms <= moment.at_ms && is_within(intent.charge_ms, period);
    let charge = |intent: &Intent| Some((intent.charge.clone()?, objects::charge(intent)?));
    let charges: BTreeMap<_, _> = match params.text("payment_intent") {
        Some(id) => book.intents.get(id).filter(is_meant).and_then(charge).into_iter().collect(),
        None => book.intents.values().filter(is_meant).filter_map(charge).collect(),
    };
    page(&charges, call, |_| true, Value::clone)
}

fn disputes(book: &Book, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    params.only(&["payment_intent", "charge", "created", "limit", "starting_after", "ending_before"])?;
    let (intent, charge) = (params.text("payment_intent"), params.text("charge"));
    let period = params.period("created")?;
    let keep = |dispute: &Dispute| {
        is_within(dispute.created_ms, period)
            && intent.is_none_or(|intent| intent == dispute.intent)
            && charge.is_none_or(|charge| charge == dispute.charge)
    };
    page(&book.disputes, call, keep, objects::dispute)
}

fn events(book: &Book, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    params.only(&["type", "types", "created", "limit", "starting_after", "ending_before"])?;
    let mut kinds = params.list("types");
    kinds.extend(params.text("type"));
    let is_meant = |kind: &str| {
        let fits = |wanted: &&str| match wanted.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => kind == *wanted,
        };
        kinds.is_empty() || kinds.iter().any(fits)
    };
    let period = params.period("created")?;
    let keep = |event: &Event| is_meant(&event.kind) && is_within(event.created_ms, period);
    page(&book.events, call, keep, |event| objects::event(event, book))
}

fn is_within(at_ms: i64, period: Period) -> bool {
    (period.from_s..=period.until_s).contains(&at_ms.div_euclid(1000))
}

fn limit(params: &Params) -> Result<usize, Refusal> {
    match params.whole("limit")?.unwrap_or(LIMIT_USUAL) {
        limit @ 1..=LIMIT_MAX => Ok(usize::try_from(limit).unwrap_or(1)),
        _ => Err(Refusal::parameter("limit", "parameter_invalid_integer", "The limit is 1 to 100.")),
    }
}

/// A page of a list, newest first.
fn page<T>(
    all: &BTreeMap<String, T>,
    call: &Call,
    keep: impl Fn(&T) -> bool,
    show: impl Fn(&T) -> Value,
) -> Result<Value, Refusal> {
    let limit = limit(&call.params)?;
    let cursor = |name: &str| match call.params.text(name) {
        Some(id) if !all.contains_key(id) => {
            Err(Refusal::parameter(name, "resource_missing", format!("No such object: '{id}'")))
        }
        id => Ok(id),
    };
    let (after, before) = (cursor("starting_after")?, cursor("ending_before")?);
    let (mut found, has_more): (Vec<&T>, bool);
    if let Some(before) = before {
        let later = all.range::<str, _>((Bound::Excluded(before), Bound::Unbounded));
        let mut kept = later.map(|(_, object)| object).filter(|object| keep(object));
        found = kept.by_ref().take(limit).collect();
        found.reverse();
        has_more = kept.next().is_some();
    } else {
        let end = after.map_or(Bound::Unbounded, Bound::Excluded);
        let earlier = all.range::<str, _>((Bound::Unbounded, end)).rev();
        let mut kept = earlier.map(|(_, object)| object).filter(|object| keep(object));
        found = kept.by_ref().take(limit).collect();
        has_more = kept.next().is_some();
    }
    let data: Vec<_> = found.into_iter().map(show).collect();
    Ok(json!({"object": "list", "url": call.path, "has_more": has_more, "data": data}))
}
