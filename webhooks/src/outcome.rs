//! What came of an attempt, and when the next one is: pure.

use std::time::Duration;

use crate::Settings;

/// After so many failures in a row an endpoint counts as down, and is only probed: one request at a time, with
/// growing pauses, until one arrives.
pub(crate) const DOWN_AFTER: i32 = 10;

/// Longest pause between two probes.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// Longest reason that is kept.
const REASON_CHARS_MAX: usize = 300;

/// Each pause is so many times the one before.
const FACTOR: f64 = 3.0;

/// Pauses differ by so much of themselves, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered {
        status: u16,
    },
    Failed {
        status: Option<u16>,
        reason: String,
        /// The endpoint asks to be left alone for so long.
        retry_after: Option<Duration>,
    },
    /// 410: the endpoint wants no more.
    Gone,
}

impl Outcome {
    /// The reason may quote what comes from outside.
    pub fn failed(reason: &str) -> Self {
        let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let reason = reason.chars().take(REASON_CHARS_MAX).map(plain).collect();
        Self::Failed { status: None, reason, retry_after: None }
    }

    /// What an answer means.
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        let reason = match status {
            200..=299 => return Self::Delivered { status },
            410 => return Self::Gone,
            300..=399 => format!("it answers {status}: redirects are not followed"),
            _ => format!("it answers {status}"),
        };
        Self::Failed { status: Some(status), reason, retry_after }
    }
}

/// How long until the next attempt, after so many. `chance` is from 0 to 1.
pub(crate) fn pause(attempts: i32, settings: &Settings, chance: f64) -> Duration {
    let grown = settings.retry_first.as_secs_f64() * FACTOR.powi(attempts.clamp(1, 64) - 1);
    let jitter = 1.0 + JITTER * (2.0 * chance - 1.0);
    Duration::from_secs_f64(grown.min(settings.retry_max.as_secs_f64()) * jitter)
}

/// For how long an endpoint is left alone after so many failures in a row.
pub(crate) fn rest(failures: i32, asked: Option<Duration>, settings: &Settings) -> Option<Duration> {
    let probe = (failures >= DOWN_AFTER).then(|| {
        let grown = settings.retry_first.as_secs_f64() * 2.0_f64.powi((failures - DOWN_AFTER).clamp(0, 32));
        Duration::from_secs_f64(grown.min(PROBE_MAX.as_secs_f64()))
    });
    let asked = asked.map(|asked| asked.min(settings.retry_max));
    probe.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            rules: crate::Rules::default(),
            keys: crate::Keys::default(),
            in_flight_max: 8,
            time_limit: Duration::from_secs(10),
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_secs(8 * 3_600),
            give_up_after: Duration::from_secs(72 * 3_600),
            keep: Duration::from_secs(7 * 24 * 3_600),
        }
    }

    #[test]
    fn pauses_grow_from_seconds_to_hours() {
        let settings = settings();
        let seconds: Vec<u64> = (1..=10).map(|attempts| pause(attempts, &settings, 0.5).as_secs()).collect();
        assert_eq!(seconds, [5, 15, 45, 135, 405, 1215, 3645, 10935, 28800, 28800]);
        assert_eq!(pause(1, &settings, 0.0), Duration::from_secs(4));
        assert_eq!(pause(1, &settings, 1.0), Duration::from_secs(6));
        assert!(pause(i32::MAX, &settings, 1.0) < settings.retry_max * 2);
        let mut tried = (Duration::ZERO, 0);
        while tried.0 < settings.give_up_after {
            tried = (tried.0 + pause(tried.1 + 1, &settings, 0.5), tried.1 + 1);
        }
        assert_eq!(tried.1, 17, "attempts in three days");
    }

    #[test]
    fn who_is_down_is_left_alone_and_who_asks_for_it_within_limits() {
        let settings = settings();
        assert_eq!(rest(9, None, &settings), None);
        assert_eq!(rest(10, None, &settings), Some(Duration::from_secs(5)));
        assert_eq!(rest(12, None, &settings), Some(Duration::from_secs(20)));
        assert_eq!(rest(1_000, None, &settings), Some(PROBE_MAX));
        let asked = Duration::from_secs(60);
        assert_eq!(rest(1, Some(asked), &settings), Some(asked));
        assert_eq!(rest(1, Some(Duration::MAX), &settings), Some(settings.retry_max));
    }

    #[test]
    fn a_reason_is_one_short_line_whatever_it_quotes() {
        let Outcome::Failed { reason, .. } = Outcome::failed(&format!("a\0b\n{}", "c".repeat(1_000))) else {
            unreachable!("it failed")
        };
        assert!(reason.starts_with("a\u{FFFD}b\u{FFFD}c") && reason.chars().count() == REASON_CHARS_MAX);
    }

    #[test]
    fn only_2xx_is_delivered() {
        assert_eq!(Outcome::of_status(204, None), Outcome::Delivered { status: 204 });
        assert_eq!(Outcome::of_status(410, None), Outcome::Gone);
        for status in [100, 199, 301, 304, 400, 429, 500] {
            assert!(matches!(Outcome::of_status(status, None), Outcome::Failed { .. }), "{status}");
        }
    }
}
