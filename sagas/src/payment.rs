//! From a payment's request to its outcome, however often the answer is lost.
//!
//! | when                                  | + do                            | − undo, if a later step fails |
//! |---------------------------------------|---------------------------------|-------------------------------|
//! | payment::*Requested                   | ask the provider, record        | payment::Undo (by checkout)   |
//! | payment::OutcomeUnknown, ActionRequired, UndoRefused | set a timer      |                               |
//! | the timer of this attempt             | look up, else ask again, record |                               |
//! | the provider's signal                 | look up, record what is news    |                               |
//! | an operator gives it up               | payment::Abandon                |                               |
//!
//! Its state is the payment itself: intents are recorded there before the provider is called, and
//! outcomes after. So it needs no stream of its own.

use chrono::{DateTime, Utc};
use domain::payment;
use domain::{Event, OrderId};
use infra::payment::{SIGNAL, signalled};

use crate::saga::{Action, Due, Input, Summary};

pub const NAME: &str = "payment";

const LOOK_UP: &str = "look_up";

/// The payment that the event is about.
#[must_use]
pub fn follows(stream_id: &str, event: &Event) -> Option<OrderId> {
    matches!(event, Event::Payment(_)).then(|| stream_id.parse().ok()).flatten()
}

/// Where the payment has come to with the event; nothing, if that says nothing of it. While a request is open
/// after it, such as a release that is asked for before the buyer has approved, it is not over.
#[must_use]
pub fn summary(event: &payment::Event, is_open: bool) -> Option<Summary> {
    let waits = |stage, due| Some(Summary { stage, reason: None, is_over: false, due });
    let over = |stage| (!is_open).then_some(Summary { stage, reason: None, is_over: true, due: None });
    let look_up =
        |attempt: &u32, at: &DateTime<Utc>| Some(Due { timer: LOOK_UP, generation: *attempt, at: *at });
    match event {
        payment::Event::AuthorizationRequested { .. } => waits("authorize", None),
        payment::Event::ActionRequired { attempt, look_up_at, .. } => {
            waits("action_required", look_up(attempt, look_up_at))
        }
        payment::Event::CaptureRequested { .. } => waits("capture", None),
        payment::Event::VoidRequested { .. } => waits("void", None),
        payment::Event::RefundRequested { .. } => waits("refund", None),
        payment::Event::OutcomeUnknown { operation, attempt, look_up_at } => {
            waits(operation.code(), look_up(attempt, look_up_at))
        }
        payment::Event::UndoRefused { operation, attempt, again_at, .. } => {
            waits(operation.code(), look_up(attempt, again_at))
        }
        payment::Event::Authorized { .. } => over("authorized"),
        payment::Event::Declined { .. } => over("declined"),
        payment::Event::Captured { .. } => over("captured"),
        payment::Event::CaptureFailed { .. } => over("capture_failed"),
        payment::Event::Voided {} => over("voided"),
        payment::Event::NothingToUndo {} => over("nothing_to_undo"),
        payment::Event::Refunded { .. } => over("refunded"),
        payment::Event::RefundFailed { .. } => over("refund_failed"),
        payment::Event::StrayUndone { .. } => over("stray_undone"),
        payment::Event::Abandoned { .. } => over("abandoned"),
        payment::Event::CancellationRequested {}
        | payment::Event::CaptureQueued { .. }
        | payment::Event::AuthorizationAdjusted { .. }
        | payment::Event::RefundQueued { .. }
        | payment::Event::RefundReversed { .. }
        | payment::Event::ChargedBack { .. }
        | payment::Event::ChargeBackReversed { .. }
        | payment::Event::ReviewRequired { .. }
        | payment::Event::StrayFound { .. } => None,
    }
}

/// What is to be done about it.
#[must_use]
pub fn actions(input: &Input) -> Vec<Action> {
    match input {
        Input::Event { event: Event::Payment(event), .. } => match event {
            payment::Event::AuthorizationRequested { .. }
            | payment::Event::CaptureRequested { .. }
            | payment::Event::VoidRequested { .. }
            | payment::Event::RefundRequested { .. } => vec![Action::SettlePayment { generation: None }],
            payment::Event::ActionRequired { attempt, look_up_at: at, .. }
            | payment::Event::OutcomeUnknown { attempt, look_up_at: at, .. }
            | payment::Event::UndoRefused { attempt, again_at: at, .. } => {
                vec![Action::SetTimer { name: LOOK_UP, generation: *attempt, at: *at }]
            }
            payment::Event::Authorized { .. }
            | payment::Event::AuthorizationAdjusted { .. }
            | payment::Event::Declined { .. }
            | payment::Event::Captured { .. }
            | payment::Event::CaptureFailed { .. }
            | payment::Event::CancellationRequested {}
            | payment::Event::CaptureQueued { .. }
            | payment::Event::NothingToUndo {}
            | payment::Event::Voided {}
            | payment::Event::RefundQueued { .. }
            | payment::Event::Refunded { .. }
            | payment::Event::RefundFailed { .. }
            | payment::Event::RefundReversed { .. }
            | payment::Event::ChargedBack { .. }
            | payment::Event::ChargeBackReversed { .. }
            | payment::Event::ReviewRequired { .. }
            | payment::Event::StrayFound { .. }
            | payment::Event::Abandoned { .. }
            | payment::Event::StrayUndone { .. } => Vec::new(),
        },
        Input::Event { .. } | Input::Together(_) | Input::Abandoned { .. } | Input::Recorded => Vec::new(),
        Input::Timer { name, .. } if name.starts_with(SIGNAL) => {
            vec![Action::ObservePayment { reference: signalled(name).map(str::to_owned) }]
        }
        Input::Timer { generation, .. } => vec![Action::SettlePayment { generation: Some(*generation) }],
    }
}
