//! Webhooks: what happens, told to the shop's own systems, signed, until they have it.
//!
//! | step                                        | what survives a crash there               |
//! |---------------------------------------------|-------------------------------------------|
//! | an event is in the log                      | the checkpoint, which is behind it        |
//! | a row for each endpoint that wants it       | row and checkpoint, in one transaction    |
//! | a row is claimed for an attempt             | the claim ends by itself, and it's due    |
//! | the endpoint said 2xx                       | nothing: it is sent again, by the same id |
//! | the row says so                             | all of it                                 |
//!
//! So every event arrives at least once, and its id tells when it's more than once. No order is promised.

mod address;
pub mod deliveries;
pub mod endpoints;
mod lane;
mod message;
mod outbox;
mod outcome;
pub mod replays;
pub mod sealing;
mod send;
mod sender;
mod signature;
mod tables;
mod types;
mod unreadable;
pub mod worker;

use std::time::Duration;

pub use address::Rules;
pub use endpoints::{Endpoints, Error};
pub use sealing::{Key, Keys, seal_all};
pub use tables::set_up;
pub use worker::Worker;

/// What an operator can choose.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rules: Rules,
    /// What secrets are sealed with.
    pub keys: Keys,
    /// Most requests on their way to one endpoint.
    pub in_flight_max: u32,
    /// How long one may take, from the look-up of the name to the answer.
    pub time_limit: Duration,
    /// Pause after the first failure; each further one is three times as long.
    pub retry_first: Duration,
    pub retry_max: Duration,
    /// For how long it's tried.
    pub give_up_after: Duration,
    /// How long what was delivered is remembered.
    pub keep: Duration,
}
