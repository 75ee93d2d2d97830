//! Which seeds are wanted, if not those that every run of the tests has.

use std::ops::Range;

/// `SEEDS=20000` or `SEEDS=900000..920000`; none without it.
///
/// # Panics
/// It is neither.
#[must_use]
pub fn wanted() -> Option<Range<u64>> {
    let wanted = std::env::var("SEEDS").unwrap_or_default();
    let number = |text: &str| text.trim().parse::<u64>().expect("SEEDS is a number, or a..b");
    match wanted.split_once("..") {
        _ if wanted.is_empty() => None,
        Some((first, end)) => Some(number(first)..number(end)),
        None => Some(0..number(&wanted)),
    }
}
