//! Sagas: events in, commands out, until a checkout has come to its good or its orderly end.

mod alarms;
mod answers;
mod aside;
mod calls;
pub mod checkout;
mod follow_up;
mod following;
mod index;
mod lane;
pub mod payment;
mod queues;
pub mod reconcile;
pub mod saga;
mod settle;
pub mod status;
mod work;
pub mod worker;

#[cfg(test)]
mod model;
#[cfg(test)]
mod spec;
#[cfg(test)]
mod wire_format;

pub use checkout::Checkout;
pub use following::Following;
pub use index::Index;
pub use settle::Patience;
pub use work::{Again, Sagas, Settings};
pub use worker::Worker;
