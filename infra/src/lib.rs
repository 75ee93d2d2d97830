//! The outside world: one adapter per system, and what every role needs to speak to it.

pub mod embedded;
