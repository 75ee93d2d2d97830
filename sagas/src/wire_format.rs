//! The form of the checkout's own events, for ever.

use std::collections::BTreeMap;

use chrono::DateTime;
use domain::order::Reason;
use domain::{CartId, CommandId, Money, RecordedEvent, cart};
use uuid::Uuid;

use crate::checkout::{Event, Quote};

fn all() -> Vec<Event> {
    let sku = || "MUG".parse().unwrap();
    let quote = Quote {
        cart_id: CartId(Uuid::from_u128(3)),
        units: BTreeMap::from([(sku(), 2)]),
        total: Money::new(1000, "GBP".parse().unwrap()),
        payment: cart::PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() },
        deadline: DateTime::from_timestamp(1_700_000_900, 0).unwrap(),
    };
    vec![
        Event::Started(quote),
        Event::ReservationBegun {},
        Event::LineHeld { sku: sku() },
        Event::LineRefused { sku: sku() },
        Event::AuthorizationBegun {},
        Event::ConfirmationBegun {},
        Event::CaptureBegun {},
        Event::Completed {},
        Event::Abandoned { reason: "the buyer called".into() },
        Event::Failed { reason: Reason::OutOfStock },
        Event::PaymentUndoBegun {},
        Event::PaymentUndone {},
        Event::ReleaseBegun {},
        Event::LineReleased { sku: sku() },
        Event::CancellationBegun {},
        Event::Cancelled {},
    ]
}

#[test]
fn every_event_keeps_its_form() {
    let line = |event: &Event| {
        let recorded = RecordedEvent::encode(event, CommandId(Uuid::nil()), 0, DateTime::UNIX_EPOCH);
        assert_eq!(recorded.decode::<Event>().unwrap(), *event);
        format!("{} {} {}", recorded.kind, recorded.schema, recorded.data)
    };
    insta::assert_snapshot!(all().iter().map(line).collect::<Vec<_>>().join("\n"));
}
