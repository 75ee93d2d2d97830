//! From a payment's request to its outcome, however often the answer is lost.
//!
//! | when                       | + do                           | − undo, if a later step fails |
//! |----------------------------|--------------------------------|-------------------------------|
//! | payment::*Requested        | ask the provider, record       | payment::Undo (by checkout)   |
//! | payment::OutcomeUnknown    | set a timer                    |                               |
//! | the timer of this attempt  | look up, else ask again, record |                              |
//!
//! Its state is the payment itself: intents are recorded there before the provider is called, and
//! outcomes after. So it needs no stream of its own.

use domain::payment;
use domain::{Event, OrderId};

use crate::saga::{Action, Input};

pub const NAME: &str = "payment";

const LOOK_UP: &str = "look_up";

/// The payment that the event is about.
#[must_use]
pub fn follows(stream_id: &str, event: &Event) -> Option<OrderId> {
    matches!(event, Event::Payment(_)).then(|| stream_id.parse().ok()).flatten()
}

/// What is to be done about it.
#[must_use]
pub fn actions(input: &Input) -> Vec<Action> {
    match input {
        Input::Event { event: Event::Payment(event), .. } => match event {
            payment::Event::AuthorizationRequested { .. }
            | payment::Event::CaptureRequested { .. }
            | payment::Event::VoidRequested {}
            | payment::Event::RefundRequested { .. } => vec![Action::SettlePayment { generation: None }],
            payment::Event::OutcomeUnknown { attempt, look_up_at, .. } => {
                vec![Action::SetTimer { name: LOOK_UP, generation: *attempt, at: *look_up_at }]
            }
            payment::Event::Authorized { .. }
            | payment::Event::Declined { .. }
            | payment::Event::Captured { .. }
            | payment::Event::CancellationRequested {}
            | payment::Event::Voided {}
            | payment::Event::Refunded { .. } => Vec::new(),
        },
        Input::Event { .. } => Vec::new(),
        Input::Timer { generation, .. } => vec![Action::SettlePayment { generation: Some(*generation) }],
    }
}
