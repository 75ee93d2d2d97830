//! Tests of the whole system, in one binary, with real servers.

mod embedded;
mod execute;
mod journeys;
mod log_contract;
mod projections;
mod support;
mod tidy;
