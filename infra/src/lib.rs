//! The outside world: one adapter per system, and what every role needs to speak to it.

pub mod clock;
pub mod embedded;
pub mod execute;
pub mod fail_points;
pub mod feed;
pub mod fence;
pub mod follow;
pub mod http;
pub mod known;
pub mod lanes;
pub mod log;
pub mod nats;
pub mod outgoing;
pub mod payment;
pub mod read_models;
pub mod secret;
pub mod snapshots;
pub mod storable;
pub mod timers;
pub mod writer;
