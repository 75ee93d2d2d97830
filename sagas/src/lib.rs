//! Sagas: events in, commands out, until a checkout has come to its good or its orderly end.

pub mod checkout;
pub mod payment;
mod queues;
pub mod runner;
pub mod saga;
mod settle;

#[cfg(test)]
mod spec;
#[cfg(test)]
mod wire_format;

pub use checkout::Checkout;
pub use runner::{Sagas, Settings};
