//! The form of every event, for ever: what is in a log must stay readable.
//!
//! A new event or an optional field adds a snapshot. A changed snapshot is a broken log.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use domain::commit::{DecodeError, ENVELOPE_VERSION, Hash};
use domain::order::{Address, Buyer, Customer, Line, Parcel, Reason, Reversal, Units};
use domain::payment::Operation;
use domain::product::{Changes, Details};
use domain::public::{self, Audience};
use domain::totals::{Shipping, Tax, Totals};
use domain::{CommandId, Commit, Event, Money, OrderId, QuoteId, RecordedEvent};
use domain::{cart, order, payment, product, stock};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

const ORDER: OrderId = OrderId(Uuid::from_u128(7));
const COMMAND: CommandId = CommandId(Uuid::from_u128(1));

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_456_000).unwrap()
}

fn gbp(amount: i64) -> Money {
    Money::new(amount, "GBP".parse().unwrap())
}

fn details() -> Details {
    Details {
        title: "Mug".into(),
        description: "Holds tea.".into(),
        brand: "Clay".into(),
        category: vec!["Home".into(), "Mugs".into()],
        attributes: BTreeMap::from([("Colour".into(), "Blue".into())]),
        images: vec!["https://example.com/mug.jpg".into()],
        gtins: vec!["4006381333931".into()],
    }
}

fn buyer() -> Buyer {
    let shipping_address = Address {
        name: "Alice".into(),
        line1: "1 High Street".into(),
        line2: None,
        city: "Leeds".into(),
        region: None,
        postal_code: "LS1 1AA".into(),
        country: "GB".into(),
    };
    Buyer { email: "alice@example.com".into(), shipping_address }
}

fn lines() -> Vec<Line> {
    let sku = "MUG".parse().unwrap();
    vec![Line { sku, title: "Mug".into(), quantity: 2, unit_price: gbp(500), total: gbp(1000) }]
}

fn token() -> cart::PaymentMethod {
    cart::PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() }
}

fn product_events() -> Vec<product::Event> {
    let sku = "MUG".parse().unwrap();
    let attributes = BTreeMap::from([("Colour".into(), None), ("Size".into(), Some("L".into()))]);
    let changes =
        Changes { title: Some("Big mug".into()), attributes: Some(attributes), ..Changes::default() };
    vec![
        product::Event::Created { sku, details: details(), price: gbp(500) },
        product::Event::Changed(changes),
        product::Event::PriceChanged { price: gbp(450), was: gbp(500) },
        product::Event::Withdrawn {},
    ]
}

fn stock_events() -> Vec<stock::Event> {
    vec![
        stock::Event::Received { quantity: 3 },
        stock::Event::Adjusted { delta: -1, reason: "broken".into() },
        stock::Event::Reserved { order_id: ORDER, quantity: 2 },
        stock::Event::ReservationRefused { order_id: ORDER, free: 1, asked: 2 },
        stock::Event::Released { order_id: ORDER, quantity: 2 },
        stock::Event::Sold { order_id: ORDER, quantity: 2 },
        stock::Event::Returned { order_id: ORDER, quantity: 2 },
        stock::Event::Opened { quantity: 9, derived: true },
        stock::Event::Dispatched { order_id: ORDER, quantity: 2 },
    ]
}

fn totals() -> Totals {
    let tax = Tax { name: "VAT".into(), rate: "7.7".parse().unwrap(), amount: gbp(110), included: true };
    Totals { subtotal: gbp(1000), shipping: shipping(Some("1-2")), tax: Some(tax), total: gbp(1595) }
}

fn shipping(delivery_days: Option<&str>) -> Shipping {
    let delivery_days = delivery_days.map(str::to_owned);
    Shipping { method: "express".into(), name: "Express".into(), price: gbp(595), delivery_days }
}

fn quote(region: Option<String>, tax: Option<Tax>) -> cart::Event {
    cart::Event::Quoted(cart::Quote {
        quote_id: QuoteId(Uuid::from_u128(9)),
        lines: lines(),
        totals: Totals { tax, ..totals() },
        country: "CA".into(),
        region,
        shipping_methods: vec![shipping(None), shipping(Some("3"))],
        expires_at: at(),
    })
}

fn checked_out(totals: Option<Totals>) -> cart::Event {
    let (lines, total) = (lines(), totals.as_ref().map_or(gbp(1000), |totals| totals.total));
    cart::Event::CheckedOut { order_id: ORDER, lines, total, totals, payment: token(), personal: buyer() }
}

fn cart_events() -> Vec<cart::Event> {
    let sku = || "MUG".parse().unwrap();
    vec![
        cart::Event::Created {},
        cart::Event::LineSet { sku: sku(), quantity: 2, price: gbp(500) },
        cart::Event::LineRemoved { sku: sku() },
        quote(None, None),
        quote(Some("QC".into()), totals().tax),
        checked_out(None),
        checked_out(Some(totals())),
        cart::Event::Reopened { order_id: ORDER },
    ]
}

fn placed(totals: Option<Totals>) -> order::Event {
    let cart_id = domain::CartId(Uuid::from_u128(3));
    let (lines, total) = (lines(), totals.as_ref().map_or(gbp(1000), |totals| totals.total));
    let country = "GB".into();
    order::Event::Placed { cart_id, lines, total, totals, country, personal: buyer() }
}

fn order_events() -> Vec<order::Event> {
    let (id, reason) = (Uuid::from_u128(9), "too small".to_owned());
    let units = vec![Units { sku: "MUG".parse().unwrap(), quantity: 1 }];
    let parcel = Parcel {
        carrier: Some("Parcelforce".into()),
        tracking_number: Some("PF1".into()),
        tracking_url: Some("https://example.com/PF1".into()),
    };
    vec![
        placed(None),
        placed(Some(totals())),
        order::Event::Confirmed {},
        order::Event::CancellationRequested {},
        order::Event::CancellationBegun { reason: Reason::NotShipped },
        order::Event::Cancelled { reason: Reason::OutOfStock },
        order::Event::Cancelled { reason: Reason::PaymentDeclined },
        order::Event::Cancelled { reason: Reason::PaymentTimedOut },
        order::Event::Cancelled { reason: Reason::CancelledByBuyer },
        order::Event::Cancelled { reason: Reason::Abandoned },
        imported(Some(Customer { customer: "17850".into() })),
        imported(None),
        order::Event::Returned(reversal()),
        order::Event::Refunded(reversal()),
        order::Event::Cancelled { reason: Reason::ReservationTimedOut },
        order::Event::Cancelled { reason: Reason::PaymentMismatch },
        order::Event::Cancelled { reason: Reason::NotShipped },
        order::Event::Shipped { shipment_id: id, lines: units.clone(), parcel, is_last: true },
        order::Event::GoodsReturned { return_id: id, lines: units, reason: reason.clone() },
        order::Event::RefundRequested { refund_id: id, amount: gbp(500), reason: reason.clone() },
        order::Event::RefundFailed { refund_id: id, amount: gbp(500), reason },
    ]
}

fn imported(personal: Option<Customer>) -> order::Event {
    let (number, country) = ("536365".into(), "EIRE".into());
    order::Event::Imported { number, country, lines: lines(), total: gbp(1000), personal }
}

fn reversal() -> Reversal {
    Reversal { reference: "C536379".into(), lines: lines(), refund: gbp(1000) }
}

fn payment_events() -> Vec<payment::Event> {
    let amount = gbp(1000);
    let (refund, reason, operation) = ("refund".to_owned(), "no_funds".to_owned(), Operation::Refund);
    let (some_at, stray) = (Some(at()), Some("p-2".to_owned()));
    vec![
        payment::Event::AuthorizationRequested { amount, payment: token(), at: None },
        payment::Event::Authorized { amount, provider_reference: "p-1".into() },
        payment::Event::Declined { reason: "insufficient_funds".into() },
        payment::Event::CaptureQueued { amount },
        payment::Event::CaptureRequested { amount, at: None },
        payment::Event::Captured { amount },
        payment::Event::CancellationRequested {},
        payment::Event::VoidRequested { at: None, stray: None },
        payment::Event::Voided {},
        payment::Event::RefundRequested { amount, refund: refund.clone(), at: None, stray: None },
        payment::Event::Refunded { amount, refund: refund.clone() },
        payment::Event::OutcomeUnknown { operation: Operation::Authorize, attempt: 1, look_up_at: at() },
        payment::Event::AuthorizationRequested { amount, payment: token(), at: some_at },
        payment::Event::ActionRequired { provider_reference: "p-1".into(), attempt: 1, look_up_at: at() },
        payment::Event::AuthorizationAdjusted { amount },
        payment::Event::CaptureRequested { amount, at: some_at },
        payment::Event::CaptureFailed { reason: reason.clone() },
        payment::Event::VoidRequested { at: some_at, stray: stray.clone() },
        payment::Event::RefundQueued { refund: "refund:1".into(), amount },
        payment::Event::RefundRequested { amount, refund: "refund:1".into(), at: some_at, stray },
        payment::Event::Refunded { amount, refund: "refund:1".into() },
        payment::Event::RefundFailed { refund: "refund:1".into(), amount, reason: reason.clone() },
        payment::Event::RefundReversed { refund, amount },
        payment::Event::ChargedBack { amount },
        payment::Event::ChargeBackReversed { amount },
        payment::Event::NothingToUndo {},
        payment::Event::UndoRefused { operation, attempt: 1, reason, again_at: at() },
        payment::Event::ReviewRequired { operation },
        payment::Event::StrayFound { provider_reference: "p-2".into(), authorized: amount, captured: amount },
        payment::Event::StrayUndone { provider_reference: "p-2".into() },
        payment::Event::Abandoned {
            operation,
            amount,
            refund: None,
            stray: None,
            reason: "paid in cash".into(),
        },
        payment::Event::Abandoned {
            operation,
            amount,
            refund: Some("refund:1".into()),
            stray: Some("p-2".into()),
            reason: "paid in cash".into(),
        },
    ]
}

/// Every event that there is, as the log has it.
fn all() -> Vec<RecordedEvent> {
    fn record<E: Serialize>(events: &[E]) -> Vec<RecordedEvent> {
        let encode = |(index, event)| RecordedEvent::encode(event, COMMAND, index, at());
        events.iter().enumerate().map(encode).collect()
    }
    let all = [
        record(&product_events()),
        record(&stock_events()),
        record(&cart_events()),
        record(&order_events()),
        record(&payment_events()),
    ];
    all.concat()
}

#[test]
fn every_event_keeps_its_form() {
    let line = |event: &RecordedEvent| {
        let personal = event.personal.as_ref().map(|personal| format!(" + personal {personal}"));
        format!("{} {} {}{}", event.kind, event.schema, event.data, personal.unwrap_or_default())
    };
    let lines: Vec<_> = all().iter().map(line).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_event_can_be_read_back() {
    for recorded in all() {
        let again = match Event::decode(&recorded).unwrap().unwrap() {
            Event::Product(event) => RecordedEvent::encode(&event, COMMAND, 0, at()),
            Event::Stock(event) => RecordedEvent::encode(&event, COMMAND, 0, at()),
            Event::Cart(event) => RecordedEvent::encode(&event, COMMAND, 0, at()),
            Event::Order(event) => RecordedEvent::encode(&event, COMMAND, 0, at()),
            Event::Payment(event) => RecordedEvent::encode(&event, COMMAND, 0, at()),
        };
        assert_eq!(again.kind, recorded.kind);
        assert_eq!(again, RecordedEvent { id: again.id, ..recorded });
    }
}

#[test]
fn no_event_is_forgotten_here() {
    // Every `#[serde(rename = "category.event")]` of the aggregates' files.
    let named = ["product", "stock", "cart", "order", "payment"].iter().flat_map(|name| {
        let path = format!("{}/src/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let names = text.split("#[serde(rename = \"").skip(1);
        let names: Vec<_> = names.map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
        names
    });
    let named: BTreeSet<String> = named.filter(|name| name.contains('.')).collect();
    let shown: BTreeSet<String> = all().into_iter().map(|event| event.kind).collect();
    assert_eq!(named, shown);
}

#[test]
fn every_type_has_its_present_form() {
    for recorded in all() {
        assert_eq!(domain::schema::current(&recorded.kind), Some(recorded.schema), "{}", recorded.kind);
        assert!(!recorded.is_newer());
    }
}

/// Whoever adds a type decides what of it may be seen outside: in `domain::public`, one way or the other.
#[test]
fn every_type_says_who_may_see_it() {
    let all: BTreeSet<String> = all().into_iter().map(|event| event.kind).collect();
    let shown: BTreeSet<&str> = public::kinds(Audience::Shop).chain(public::HIDDEN.iter().copied()).collect();
    let undecided: Vec<_> = all.iter().filter(|kind| !shown.contains(kind.as_str())).collect();
    assert!(undecided.is_empty(), "to be shown in domain/src/public.rs, or hidden there: {undecided:?}");
    assert!(public::kinds(Audience::Buyer).all(|kind| shown.contains(kind)));
}

#[test]
fn nobody_outside_sees_personal_data_or_what_opens_doors() {
    let older = include_str!("older_forms.jsonl").lines().map(|line| serde_json::from_str(line).unwrap());
    for event in all().into_iter().chain(older) {
        for audience in [Audience::Buyer, Audience::Shop] {
            let shown = serde_json::to_string(&public::data(&event, audience)).unwrap();
            for secret in [
                "example.com\"",
                "High Street",
                "Alice",
                "tok_",
                "p-1",
                "p-2",
                "refund:1",
                "17850",
                "personal",
                "LS1",
            ] {
                assert!(!shown.contains(secret), "{} shows {secret} to {audience:?}: {shown}", event.kind);
            }
        }
        let buyer = serde_json::to_string(&public::data(&event, Audience::Buyer)).unwrap();
        assert!(!buyer.contains("cart_id") && !buyer.contains("insufficient_funds"), "{buyer}");
    }
}

#[test]
fn what_is_shown_has_the_present_form_and_no_field_that_was_not_named() {
    let older = include_str!("older_forms.jsonl").lines().next().unwrap();
    let placed: RecordedEvent = serde_json::from_str(older).unwrap();
    let shown = public::data(&placed, Audience::Buyer).unwrap();
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["country", "lines", "total"], "{older}");
    let mut newer = all().remove(4);
    newer.data =
        RawValue::from_string(r#"{"quantity":3,"supplier_email":"bob@example.com"}"#.into()).unwrap();
    assert_eq!(public::data(&newer, Audience::Shop).unwrap().keys().collect::<Vec<_>>(), ["quantity"]);
    assert_eq!(public::data(&newer, Audience::Buyer), None);
    newer.kind = "stock.teleported".into();
    assert_eq!(public::data(&newer, Audience::Shop), None);
}

/// Every form that an event ever had, as it was written, and what it is today: lines are only added.
#[test]
fn older_forms_become_the_present_one() {
    let golden = include_str!("older_forms.jsonl").lines().collect::<Vec<_>>();
    assert!(!golden.is_empty());
    let present: Vec<String> = golden
        .iter()
        .map(|line| {
            let recorded: RecordedEvent = serde_json::from_str(line).unwrap();
            assert!(Some(recorded.schema) < domain::schema::current(&recorded.kind), "{line}");
            format!(
                "{} {}\n  {:?}",
                recorded.kind,
                recorded.schema,
                Event::decode(&recorded).unwrap().unwrap()
            )
        })
        .collect();
    insta::assert_snapshot!(present.join("\n"));
}

#[test]
fn unknown_fields_of_a_newer_version_are_tolerated() {
    let mut recorded = all().remove(4);
    recorded.data = RawValue::from_string(r#"{"quantity":3,"warehouse":"north"}"#.into()).unwrap();
    recorded.schema += 1;
    assert!(recorded.is_newer());
    let event = Event::decode(&recorded).unwrap();
    assert_eq!(event, Some(Event::Stock(stock::Event::Received { quantity: 3 })));
}

#[test]
fn an_unknown_type_of_a_known_category_is_an_error_and_another_category_is_not_ours() {
    let mut recorded = all().remove(4);
    recorded.kind = "stock.teleported".into();
    let unknown = Event::decode(&recorded).unwrap_err();
    assert!(matches!(unknown, DecodeError::UnknownType { kind } if kind == "stock.teleported"));
    recorded.kind = "loyalty.points_earned".into();
    assert!(matches!(Event::decode(&recorded), Ok(None)));
}

#[test]
fn the_envelope_keeps_its_form() {
    let commit = Commit {
        envelope: ENVELOPE_VERSION,
        id: COMMAND,
        request: Hash::of(b"request"),
        stream: "order/00000000-0000-0000-0000-000000000007".parse().unwrap(),
        version: 2,
        previous: Some(Hash::of(b"previous")),
        recorded_at: at(),
        actor: "anonymous".into(),
        correlation: CommandId(Uuid::from_u128(2)),
        causation: Some(Uuid::from_u128(3)),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        events: vec![RecordedEvent::encode(&order::Event::Confirmed {}, COMMAND, 0, at())],
    };
    let bytes = commit.to_bytes();
    assert_eq!(Commit::from_bytes(&bytes).unwrap(), commit);
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    insta::assert_json_snapshot!(value);
}
