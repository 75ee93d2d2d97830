//! A lane that one process has at a time: who takes it begins where its work was saved last. Who sleeps for too long
//! has lost it, and goes on until they notice.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::Nap;

/// For so long it is nobody else's, whatever happens to who has it.
const LEASE: Duration = Duration::from_secs(3);

/// How often that is saved.
pub const SAVED_EVERY: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct Lane(Mutex<State>);

#[derive(Default)]
struct State {
    /// Grows with each one who takes it.
    holder: u64,
    checkpoint: u64,
    held_until: Option<Instant>,
}

impl Lane {
    /// Who has it from now on, and where they begin, once it is nobody's.
    pub async fn taken(&self, nap: &Nap) -> (u64, u64) {
        loop {
            nap.over().await;
            if let Some(taken) = self.take() {
                return taken;
            }
            tokio::time::sleep(SAVED_EVERY).await;
        }
    }

    fn take(&self) -> Option<(u64, u64)> {
        let mut state = self.0.lock().expect("no panic");
        if state.held_until.is_some_and(|until| until > Instant::now()) {
            return None;
        }
        state.holder += 1;
        state.held_until = Some(Instant::now() + LEASE);
        Some((state.holder, state.checkpoint))
    }

    /// Saves how far the holder's work is; false, if somebody else has it.
    pub fn save(&self, holder: u64, done: u64) -> bool {
        let mut state = self.0.lock().expect("no panic");
        let is_held = state.holder == holder;
        if is_held {
            state.checkpoint = done;
            state.held_until = Some(Instant::now() + LEASE);
        }
        is_held
    }
}
