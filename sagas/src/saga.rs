//! What all sagas have in common: what they are told, and what they can ask for.
//!
//! A saga is an aggregate turned round. It is told what happened ([`Input`]), records in its own
//! stream what it makes of that, and asks for actions as data. The order of work is fixed: react,
//! record, act, and only then is the input done with. A crash anywhere in between repeats the
//! input; the record is found done before, and so is each command, because their ids derive from
//! the input's. What is recorded by somebody who comes late, and dies before they act, when all
//! others are past the input, is acted on by whoever follows the saga.

use chrono::{DateTime, Utc};
use domain::{Command, Event, StreamId, order, payment};
use infra::writer::Priority;

/// Name of the timer that an operator lets fire.
pub(crate) const RETRY: &str = "retry";

/// What a saga is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Something happened in a stream.
    Event { stream: StreamId, event: Event, at: DateTime<Utc> },
    /// Several things happened, one after the other.
    Together(Vec<Input>),
    /// A timer of the saga's own fired.
    Timer { name: String, generation: u32 },
    /// An operator wants it to end, and says why.
    Abandoned { reason: String },
    /// The saga recorded something; who did that may not have acted on it.
    Recorded,
}

/// What a saga asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give a command. The step's name and the input's id make the command's id.
    Execute {
        step: String,
        command: Command,
    },
    /// Get an outcome for the payment's open request; `generation` is that of the timer, if one
    /// fired.
    SettlePayment {
        generation: Option<u32>,
    },
    /// Take from the provider's books what is news about the payment; `reference` is the provider's name for the
    /// one that is meant, if that may be another one than the order's own.
    ObservePayment {
        reference: Option<String>,
    },
    SetTimer {
        name: &'static str,
        generation: u32,
        at: DateTime<Utc>,
    },
    CancelTimer {
        name: &'static str,
    },
}

/// Where a saga has come to, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What it waits for, in a word.
    pub stage: &'static str,
    /// Why it goes backwards, if it does.
    pub reason: Option<&'static str>,
    /// Nothing will come of it any more by itself.
    pub is_over: bool,
    /// When it goes on, whatever else happens.
    pub due: Option<Due>,
}

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub timer: &'static str,
    pub generation: u32,
    pub at: DateTime<Utc>,
}

impl Input {
    /// What it is, in a word: of several things, the first.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Event { stream, .. } => stream.to_string(),
            Self::Together(inputs) => inputs.first().map(Self::name).unwrap_or_default(),
            Self::Timer { name, generation } => format!("{name}/{generation}"),
            Self::Abandoned { .. } => "abandoned".to_owned(),
            Self::Recorded => "recorded".to_owned(),
        }
    }

    /// Whether anybody waits for what is made of it: who has their order confirmed doesn't wait for its money.
    pub(crate) fn priority(&self) -> Priority {
        let Self::Event { event, .. } = self else { return Priority::Normal };
        match event {
            Event::Order(order::Event::Confirmed { .. })
            | Event::Payment(payment::Event::CaptureRequested { .. } | payment::Event::Captured { .. }) => {
                Priority::Background
            }
            _ => Priority::Normal,
        }
    }
}

impl Action {
    /// Whether it may be done only when those before it are: who sees the order cancelled finds the cart open.
    pub(crate) fn waits_for_those_before(&self) -> bool {
        matches!(self, Self::Execute { command: Command::Order(_, order::Command::Cancel { .. }), .. })
    }

    /// Shorthand for a step that gives a command.
    pub fn execute(step: impl Into<String>, command: Command) -> Self {
        Self::Execute { step: step.into(), command }
    }
}
