//! The form of the checkout's own events, for ever.

use std::collections::BTreeMap;

use chrono::DateTime;
use domain::order::{Reason, Units};
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
        hold_until: None,
    };
    let (deadline, generation) = (quote.deadline, 2);
    let (id, amount) = (Uuid::from_u128(9), quote.total);
    let held_for_less = Quote { hold_until: Some(deadline), ..quote.clone() };
    vec![
        Event::Started(quote),
        Event::ReservationBegun {},
        Event::LineHeld { sku: sku() },
        Event::LineRefused { sku: sku() },
        Event::AuthorizationBegun {},
        Event::ConfirmationBegun {},
        Event::CaptureBegun { deadline: None, generation: 0 },
        Event::Completed {},
        Event::Abandoned { reason: "the buyer called".into() },
        Event::Failed { reason: Reason::OutOfStock },
        Event::PaymentUndoBegun {},
        Event::PaymentUndone {},
        Event::ReleaseBegun {},
        Event::LineReleased { sku: sku() },
        Event::CancellationBegun {},
        Event::Cancelled {},
        Event::Started(held_for_less),
        Event::ChallengeBegun { deadline, generation },
        Event::DeadlineMoved { deadline, generation },
        Event::CaptureBegun { deadline: Some(deadline), generation },
        Event::SaleBegun {},
        Event::ShippingBegun { is_paid: true, deadline, generation },
        Event::GoodsShipped { shipment_id: id, is_last: true },
        Event::ShipmentOverdue {},
        Event::CaptureStuck { reason: "expired_card".into() },
        Event::RefundBegun { refund_id: id, amount },
        Event::RefundFailed { refund_id: id, reason: "expired_card".into() },
        Event::ReturnBegun { return_id: id, lines: vec![Units { sku: sku(), quantity: 1 }] },
        Event::PaymentUndoLeft {},
        Event::WrittenOff {},
        Event::CapturedEarly {},
        Event::Failed { reason: Reason::ReservationTimedOut },
        Event::Failed { reason: Reason::PaymentMismatch },
        Event::Failed { reason: Reason::NotShipped },
        Event::WithdrawalBegun { reason: Reason::PaymentTimedOut },
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
