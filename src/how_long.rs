//! Lengths of time as the command line has them: 90s, 15m, 24h, 7d.

use chrono::Duration;

/// `15m` is fifteen minutes.
pub fn how_long(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    match unit {
        's' => Duration::try_seconds(number),
        'm' => Duration::try_minutes(number),
        'h' => Duration::try_hours(number),
        'd' => Duration::try_days(number),
        _ => None,
    }
}
