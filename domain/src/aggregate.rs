//! The one shape that every aggregate has.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

/// A consistency boundary: the state of one stream, and the rules of what may happen next.
///
/// `Default` is the state before the first event.
pub trait Aggregate: Clone + Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// First part of the stream's name and of every event type, such as `stock`.
    const CATEGORY: &'static str;

    /// Hashes of the code that folds events into states. A state that other code has folded, and
    /// that was kept, is not read.
    const CODE: &'static [&'static str];

    type Command: Clone + Send + Sync + 'static;
    type Event: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
    type Error: std::error::Error + Clone + Send + Sync + 'static;

    /// What happens when the command is given in this state; no events if all is as asked already.
    ///
    /// # Errors
    /// The business refuses the command; giving it again can't help.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// Whether the command makes the stream that it's given to, so that it needn't be looked for first.
    fn begins(_command: &Self::Command) -> bool {
        false
    }

    /// Folds one event that has happened into the state. Never fails: it did happen.
    fn evolve(&mut self, event: &Self::Event);
}
