//! What all tests need: servers, shops, and the certainty that they end with the tests.

pub mod customer;
pub mod disk;
pub mod load;
pub mod memory;
pub mod metrics;
pub mod poisoned;
pub mod projecting;
pub mod proxy;
pub mod psp;
pub mod python;
pub mod receiver;
pub mod revenue;
pub mod sandboxed;
pub mod servers;
pub mod shop;
pub mod sse;
pub mod story;
pub mod strace;
mod warden;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sagas::checkout::{CaptureAt, Limits};
pub use simulation::{faulty_log, stock};
pub use warden::Folder;

/// Waits until the condition holds.
///
/// # Panics
/// It does not within a minute.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    within(Duration::from_secs(60), what, condition).await
}

/// Waits until the condition holds, for so long at most.
///
/// # Panics
/// It does not.
pub async fn within<T>(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Deadlines of checkouts that no test comes to; what is confirmed is paid at once.
pub fn far_deadlines() -> Limits {
    let limit = chrono::Duration::minutes(10);
    Limits {
        hold: limit,
        authorization: limit,
        challenge: limit,
        capture: limit,
        shipment: Some(limit),
        capture_at: CaptureAt::Confirmation,
    }
}

/// A file of real data, which lies beside a checkout in some places; a test that wants it and
/// does not find it says so, and is done.
pub fn data_file(name: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("CARTULARY_TEST_DATA").map_or(beside, PathBuf::from);
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there (CARTULARY_TEST_DATA names its folder)", path.display());
    None
}
