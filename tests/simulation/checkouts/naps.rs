//! A process that is away for a while, as one that is paused: what it wants of the world waits until it wakes, and
//! by then others have gone on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::log::Unavailable;
use infra::timers::{Timer, Timers};
use tokio::time::Instant;

/// When the process wakes up from its last one, if it ever slept.
#[derive(Clone, Default)]
pub struct Nap(Arc<Mutex<Option<Instant>>>);

impl Nap {
    pub fn begin(&self, length: Duration) {
        *self.0.lock().expect("no panic") = Some(Instant::now() + length);
    }

    pub fn has_slept(&self) -> bool {
        self.0.lock().expect("no panic").is_some()
    }

    /// How long it sleeps on.
    pub fn left(&self) -> Duration {
        let wakes = *self.0.lock().expect("no panic");
        wakes.map_or(Duration::ZERO, |wakes| wakes.saturating_duration_since(Instant::now()))
    }

    pub async fn over(&self) {
        tokio::time::sleep(self.left()).await;
    }
}

/// A process's way to the timers.
pub struct Sleepy {
    pub timers: Arc<dyn Timers>,
    pub nap: Nap,
}

impl Timers for Sleepy {
    fn set<'a>(&'a self, timer: &'a Timer) -> BoxFuture<'a, Result<(), Unavailable>> {
        async move {
            self.nap.over().await;
            self.timers.set(timer).await
        }
        .boxed()
    }

    fn cancel<'a>(
        &'a self,
        saga: &'a str,
        id: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        async move {
            self.nap.over().await;
            self.timers.cancel(saga, id, name).await
        }
        .boxed()
    }
}
