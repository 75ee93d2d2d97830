//! From the log to Postgres: each projection owns its tables, and is a pure function of the log.

mod attend;
pub mod builds;
pub mod carts;
pub mod catalog;
pub mod dead_letters;
mod insert;
mod lane;
mod letters;
pub mod orders;
pub mod projection;
mod rows;
pub mod sales;
pub mod search;
pub mod status;
pub mod verify;
pub mod worker;

use std::collections::HashMap;
use std::sync::Arc;

pub use builds::{Builds, set_up};
pub use projection::Projection;
pub use worker::Worker;

/// All projections of this build. An older version of one may stand beside it, so that its read
/// model goes on following the log while it is kept.
#[must_use]
pub fn all() -> Vec<Arc<dyn Projection>> {
    vec![
        Arc::new(catalog::Catalog),
        Arc::new(search::Search),
        Arc::new(orders::Orders),
        Arc::new(carts::Carts),
        Arc::new(sales::Sales),
    ]
}

/// Version of each projection's code in this build.
#[must_use]
pub fn codes() -> HashMap<&'static str, i32> {
    let mut codes = HashMap::new();
    for projection in all() {
        let newest = codes.entry(projection.name()).or_insert(0);
        *newest = projection.version().max(*newest);
    }
    codes
}
