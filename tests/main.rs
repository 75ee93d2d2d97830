//! Tests of the whole system, in one binary, with real servers.

mod dead_letters;
mod embedded;
mod exactly_once;
mod execute;
mod faults;
mod giving_up;
mod histories;
mod import_orders;
mod journeys;
mod liveness;
mod log_contract;
mod order_events;
mod projections;
mod psp_sim;
mod read_models;
mod safety;
mod sagas;
mod sandbox;
mod set_aside;
mod settings;
mod snapshots;
mod stripe;
mod support;
mod tidy;
mod webhooks;
mod writer;
