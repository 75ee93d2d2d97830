//! Work in order within one saga, side by side across sagas, and how far all of it has come.
//! What is under way ends with the queues.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// A queue for each key; different keys don't wait for each other.
pub(crate) struct Queues<K, W> {
    state: Arc<Mutex<State<K, W>>>,
    places: Arc<Semaphore>,
}

struct State<K, W> {
    waiting: BTreeMap<K, VecDeque<(W, u64, OwnedSemaphorePermit)>>,
    /// Who works on each key, in order: they end in the same one in every run.
    running: BTreeMap<K, AbortHandle>,
    /// Work that is not done yet, by its position in the log.
    open: BTreeMap<u64, usize>,
    /// Everything up to here was handed in.
    seen: u64,
}

impl<K, W> Queues<K, W>
where
    K: Clone + Ord + Send + 'static,
    W: Send + 'static,
{
    /// Queues that hold at most so much work at a time, beginning after a position in the log.
    pub fn new(work_max: usize, after: u64) -> Self {
        let state =
            State { waiting: BTreeMap::new(), running: BTreeMap::new(), open: BTreeMap::new(), seen: after };
        Self { state: Arc::new(Mutex::new(state)), places: Arc::new(Semaphore::new(work_max)) }
    }

    /// Hands in work from a position in the log (`u64::MAX` for work from elsewhere); waits while there is too much already.
    /// `run` is called for one piece of work of a key at a time, in order.
    pub async fn push<F, R>(&self, key: K, work: W, position: u64, run: F)
    where
        F: Fn(W) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let places = self.places.clone();
        let Ok(place) = places.acquire_owned().await else { unreachable!("the semaphore is never closed") };
        let mut state = lock(&self.state);
        *state.open.entry(position).or_default() += 1;
        if let Some(queue) = state.waiting.get_mut(&key) {
            queue.push_back((work, position, place));
            return;
        }
        state.waiting.insert(key.clone(), VecDeque::new());
        // It begins only when the lock is free again, so it can't end before it is known to run.
        let task = tokio::spawn(drain(self.state.clone(), key.clone(), (work, position, place), run));
        state.running.insert(key, task.abort_handle());
    }

    /// Whether there is work with this key.
    pub fn is_busy(&self, key: &K) -> bool {
        lock(&self.state).waiting.contains_key(key)
    }

    /// Everything up to this position was handed in.
    pub fn seen(&self, position: u64) {
        lock(&self.state).seen = position;
    }

    /// Everything up to this position is done.
    pub fn done(&self) -> u64 {
        let state = lock(&self.state);
        let oldest = state.open.keys().next();
        oldest.map_or(state.seen, |oldest| state.seen.min(oldest - 1))
    }
}

impl<K, W> Drop for Queues<K, W> {
    fn drop(&mut self) {
        lock(&self.state).running.values().for_each(AbortHandle::abort);
    }
}

async fn drain<K, W, F, R>(
    state: Arc<Mutex<State<K, W>>>,
    key: K,
    first: (W, u64, OwnedSemaphorePermit),
    run: F,
) where
    K: Ord,
    F: Fn(W) -> R,
    R: Future<Output = ()>,
{
    let mut next = Some(first);
    while let Some((work, position, _place)) = next {
        run(work).await;
        let mut state = lock(&state);
        if let Some(open) = state.open.get_mut(&position) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&position);
            }
        }
        next = state.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        if next.is_none() {
            state.waiting.remove(&key);
            state.running.remove(&key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock, so a poisoned one is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_key_keeps_its_order_and_does_not_hold_up_another() {
        let queues = Queues::new(100, 0);
        let (done, mut finished) = mpsc::unbounded_channel();
        for position in 1..=20_u64 {
            let key = if position % 2 == 0 { "slow" } else { "fast" };
            let done = done.clone();
            let run = move |work: u64| {
                let done = done.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(if key == "slow" { 100 } else { 1 })).await;
                    done.send((key, work)).unwrap();
                }
            };
            queues.push(key, position, position, run).await;
            queues.seen(position);
        }
        assert_eq!(queues.done(), 0);
        let mut order = Vec::new();
        while order.len() < 20 {
            order.push(finished.recv().await.unwrap());
        }
        let of = |key| order.iter().filter(|(k, _)| *k == key).map(|(_, work)| *work).collect::<Vec<_>>();
        assert!(of("slow").is_sorted() && of("fast").is_sorted());
        assert!(order[..10].iter().all(|(key, _)| *key == "fast"), "{order:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(queues.done(), 20);
        queues.push("timer", 99, u64::MAX, |_| std::future::pending()).await;
        assert_eq!(queues.done(), 20, "work without a position holds nothing back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_open_work_holds_the_checkpoint_back() {
        let queues = Queues::new(100, 7);
        assert_eq!(queues.done(), 7);
        let wait = |ms: u64| async move { tokio::time::sleep(Duration::from_millis(ms)).await };
        queues.push("a", 100, 8, wait).await;
        queues.push("b", 1, 9, wait).await;
        queues.seen(10);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(queues.done(), 7, "b is done, a is not");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(queues.done(), 10);
    }
}
