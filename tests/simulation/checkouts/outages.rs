//! When a process does not get to the log, for so long that whoever waits for it gives up.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::Counts;

const APART_MAX_MS: u64 = 60_000;
const LONGEST_MS: u64 = 25_000;

pub struct Outages {
    random: fastrand::Rng,
    /// The one that is, or the next.
    next: Range<Instant>,
    is_noticed: bool,
    counts: Counts,
}

impl Outages {
    pub fn new(mut random: fastrand::Rng, counts: Counts) -> Self {
        let next = after(Instant::now(), &mut random);
        Self { random, next, is_noticed: false, counts }
    }

    /// Whether who calls now doesn't get through.
    pub fn is_one_now(&mut self) -> bool {
        let now = Instant::now();
        while self.next.end <= now {
            self.next = after(self.next.end, &mut self.random);
            self.is_noticed = false;
        }
        let is_one = self.next.contains(&now);
        if is_one && !std::mem::replace(&mut self.is_noticed, true) {
            self.counts.note("the log is out of reach");
        }
        is_one
    }
}

fn after(end: Instant, random: &mut fastrand::Rng) -> Range<Instant> {
    let begin = end + Duration::from_millis(random.u64(1..APART_MAX_MS));
    begin..begin + Duration::from_millis(random.u64(1..LONGEST_MS))
}
