//! Commands that are being carried out: the same one again waits its turn, then finds it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use domain::CommandId;
use domain::commit::Hash;
use infra::execute::Request;
use infra::http::Problem;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// How long a repeat waits for the first one.
const TURN_LIMIT: Duration = Duration::from_secs(2);

const RECENT_MAX: u64 = 100_000;

type Slots = HashMap<CommandId, Arc<AsyncMutex<()>>>;

/// What recent commands asked for, by their ids.
///
/// A stream remembers the ids of its own commands. Where the body of a request names the stream,
/// as a new product's does, the same key with another name goes to another stream; that this is
/// another request is known here, for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Recent(Cache<CommandId, Hash>);

impl Default for Recent {
    fn default() -> Self {
        let recent = Cache::builder().max_capacity(RECENT_MAX);
        Self(recent.eviction_policy(EvictionPolicy::lru()).build())
    }
}

impl Recent {
    /// # Errors
    /// 422: the id was used for another request.
    pub fn check(&self, request: &Request) -> Result<(), Problem> {
        match self.0.get(&request.command_id) {
            Some(hash) if hash != request.hash => Err(other_request()),
            _ => Ok(()),
        }
    }

    pub fn done(&self, request: &Request) {
        self.0.insert(request.command_id, request.hash);
    }
}

/// 422: the key was used before, for something else.
pub(crate) fn other_request() -> Problem {
    let detail = "this Idempotency-Key was used before, for a request with other content";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
}

/// The commands under way in this process.
#[derive(Debug, Default)]
pub(crate) struct InProgress(Mutex<Slots>);

/// The right to carry out a command, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    all: &'a InProgress,
    id: CommandId,
    slot: Option<OwnedMutexGuard<()>>,
}

impl InProgress {
    /// Waits until nobody else carries out this command.
    ///
    /// # Errors
    /// 409: somebody still does.
    pub async fn turn(&self, id: CommandId) -> Result<Turn<'_>, Problem> {
        let slot = self.slots().entry(id).or_default().clone();
        let mut turn = Turn { all: self, id, slot: None };
        match tokio::time::timeout(TURN_LIMIT, slot.lock_owned()).await {
            Ok(slot) => {
                turn.slot = Some(slot);
                Ok(turn)
            }
            Err(_) => {
                let detail =
                    "a request with this Idempotency-Key is being carried out; ask again for its outcome";
                Err(Problem::new(StatusCode::CONFLICT, "command_in_progress", detail).retry_after(1))
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut slots = self.all.slots();
        drop(self.slot.take());
        // Whoever else is interested holds the slot, too.
        if slots.get(&self.id).is_some_and(|slot| Arc::strong_count(slot) == 1) {
            slots.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_repeat_waits_for_the_first_but_not_for_ever() {
        let all = InProgress::default();
        let id = CommandId(Uuid::nil());
        let first = all.turn(id).await.unwrap();
        let problem = all.turn(id).await.unwrap_err();
        assert_eq!((problem.status(), problem.code()), (StatusCode::CONFLICT, "command_in_progress"));
        let (second, ()) = tokio::join!(all.turn(id), async { drop(first) });
        drop(second.unwrap());
        assert!(all.slots().is_empty(), "nothing is left behind");
    }
}
