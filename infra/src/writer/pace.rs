//! How much may be under way at a time.
//!
//! The log stores one append after the other, so the last of those under way waits for all of them.
//! On a slow disk that would be beyond the time-out, for every one of them, for ever.

use std::time::Duration;

use crate::log::ACK_LIMIT;

/// How long all that is under way may take together, as a part of the time-out.
const BUDGET_PART: f64 = 0.5;

/// How much the newest measurement counts.
const NEWEST_WEIGHT: f64 = 0.2;

/// Appends of one kind that are under way, and how long one of them takes the log.
#[derive(Debug, Default)]
pub(super) struct Pace {
    in_flight: usize,
    /// Seconds of the log's own time for one append, as a moving average; 0 before the first.
    service_s: f64,
}

impl Pace {
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether one more may go out; at least one always may.
    pub fn has_place(&self, most: usize) -> bool {
        let budget_s = ACK_LIMIT.as_secs_f64() * BUDGET_PART;
        self.in_flight == 0
            || (self.in_flight < most && (self.in_flight + 1) as f64 * self.service_s <= budget_s)
    }

    /// One more goes out; returns how many are under way with it.
    pub fn begin(&mut self) -> usize {
        self.in_flight += 1;
        self.in_flight
    }

    /// One has come to its end: so many were under way when it began, and all of them took this time.
    pub fn end(&mut self, at_begin: usize, took: Duration) {
        let each_s = took.as_secs_f64() / at_begin.max(1) as f64;
        self.service_s = match self.service_s {
            0.0 => each_s,
            before => before + (each_s - before) * NEWEST_WEIGHT,
        };
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that takes one append after the other, asked for as much as the pace allows.
    fn in_flight_on_a_disk_of(fsync: Duration) -> usize {
        let (mut pace, mut most) = (Pace::default(), 0);
        for _ in 0..100 {
            while pace.has_place(200) {
                pace.begin();
            }
            most = pace.in_flight();
            for place in 1..=most {
                // The first of them waited for itself only, the last one for all.
                pace.end(place, fsync * u32::try_from(place).unwrap());
            }
        }
        most
    }

    #[test]
    fn what_is_under_way_stays_below_half_of_the_time_out() {
        for (fsync_ms, least) in [(1, 200), (20, 50), (200, 4), (3_000, 1)] {
            let most = in_flight_on_a_disk_of(Duration::from_millis(fsync_ms));
            let together = Duration::from_millis(fsync_ms) * u32::try_from(most).unwrap();
            assert!(most >= least, "{fsync_ms} ms: {most}");
            assert!(most == 1 || together <= ACK_LIMIT / 2, "{fsync_ms} ms: {most} take {together:?}");
        }
    }
}
