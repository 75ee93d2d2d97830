//! What somebody should look at, as soon as it happens: in the process's log, and counted.

use domain::{OrderId, payment};
use metrics::counter;
use uuid::Uuid;

use crate::checkout;
use crate::status::LOOK_UPS;

/// So many times, by kind, something happened that somebody has to see to. A repeat counts again.
const ALARMS: &str = "cartulary_saga_alarms_total";

pub(crate) fn of_payment(order_id: OrderId, event: &payment::Event) {
    if let Some(kind) = kind(event) {
        tell(order_id, kind);
    }
}

fn kind(event: &payment::Event) -> Option<&'static str> {
    Some(match event {
        payment::Event::ReviewRequired { .. } => "review_required",
        payment::Event::UndoRefused { .. } => "undo_refused",
        payment::Event::RefundFailed { .. } => "refund_failed",
        payment::Event::RefundReversed { .. } => "refund_reversed",
        payment::Event::ChargedBack { .. } => "charged_back",
        payment::Event::StrayFound { .. } => "stray_found",
        payment::Event::Refunded { refund, .. } if payment::is_made_again(refund) => "refunded_twice",
        payment::Event::OutcomeUnknown { operation, attempt, .. }
            if operation.undoes() && *attempt == LOOK_UPS =>
        {
            "undo_takes_long"
        }
        payment::Event::AuthorizationRequested { .. }
        | payment::Event::ActionRequired { .. }
        | payment::Event::Authorized { .. }
        | payment::Event::AuthorizationAdjusted { .. }
        | payment::Event::Declined { .. }
        | payment::Event::CaptureQueued { .. }
        | payment::Event::CaptureRequested { .. }
        | payment::Event::Captured { .. }
        | payment::Event::CaptureFailed { .. }
        | payment::Event::CancellationRequested {}
        | payment::Event::NothingToUndo {}
        | payment::Event::VoidRequested { .. }
        | payment::Event::Voided {}
        | payment::Event::RefundQueued { .. }
        | payment::Event::RefundRequested { .. }
        | payment::Event::Refunded { .. }
        | payment::Event::ChargeBackReversed { .. }
        | payment::Event::OutcomeUnknown { .. }
        | payment::Event::Abandoned { .. }
        | payment::Event::StrayUndone { .. } => return None,
    })
}

/// What was taken is not what was asked for.
pub(crate) fn of_status(order_id: OrderId, status: payment::Status) {
    match status {
        payment::Status::PartiallyCaptured => tell(order_id, "captured_less"),
        payment::Status::Overcharged => tell(order_id, "overcharged"),
        _ => {}
    }
}

pub(crate) fn of_checkout(order_id: OrderId, recorded: &[checkout::Event]) {
    for event in recorded {
        match event {
            checkout::Event::CaptureStuck { .. } => tell(order_id, "capture_stuck"),
            checkout::Event::ShipmentOverdue {} => tell(order_id, "shipment_overdue"),
            _ => {}
        }
    }
}

/// Something can't be read, and what happens to the same order waits behind it.
pub(crate) fn set_aside(id: Uuid, position: u64, reason: &str) {
    tracing::error!(%id, position, reason, "what can't be read is set aside, with what happens to the order later: cartulary sagas stuck");
    counter!(ALARMS, "kind" => "set_aside").increment(1);
}

fn tell(order_id: OrderId, kind: &'static str) {
    tracing::error!(order = %order_id, kind, "somebody should look at this order: cartulary sagas show ID");
    counter!(ALARMS, "kind" => kind).increment(1);
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use domain::payment::Operation;

    use super::*;

    #[test]
    fn an_undo_that_is_tried_in_vain_is_told_of_once() {
        let look_up_at = DateTime::UNIX_EPOCH;
        let told = |operation| {
            let tried = move |attempt| payment::Event::OutcomeUnknown { operation, attempt, look_up_at };
            (1..100).map(tried).filter_map(|event| kind(&event)).collect::<Vec<_>>()
        };
        for operation in [Operation::Void, Operation::Refund] {
            assert_eq!(told(operation), ["undo_takes_long"]);
        }
        for operation in [Operation::Authorize, Operation::Capture] {
            assert!(told(operation).is_empty(), "the checkout's deadline sees to it");
        }
    }
}
