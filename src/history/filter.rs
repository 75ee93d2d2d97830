//! Which events are wanted, and from when to when.

use std::str::FromStr;

use chrono::{DateTime, Duration, NaiveDate, Utc};
use domain::StreamId;

use crate::how_long::how_long;

/// Which events are wanted.
#[derive(Debug)]
pub struct Filter {
    types: Vec<String>,
    stream: Option<StreamId>,
}

impl Filter {
    pub fn new(types: &[String], stream: Option<StreamId>) -> Self {
        Self { types: types.to_vec(), stream }
    }

    pub fn wants(&self, stream: &StreamId, kind: &str) -> bool {
        let of_type = self.types.is_empty() || self.types.iter().any(|pattern| matches(pattern, kind));
        of_type && self.stream.as_ref().is_none_or(|wanted| wanted == stream)
    }
}

/// `*` stands for any characters, as in a shell.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches(after, &rest[at..]))
        }),
    }
}

/// A moment as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    Position(u64),
    Time(DateTime<Utc>),
    Ago(Duration),
}

/// A moment in the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    Position(u64),
    Time(DateTime<Utc>),
}

impl Moment {
    pub fn at(self, now: DateTime<Utc>) -> At {
        match self {
            Self::Position(position) => At::Position(position),
            Self::Time(time) => At::Time(time),
            Self::Ago(duration) => At::Time(now - duration),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Time(time.to_utc()));
        }
        if let Some(midnight) = text.parse::<NaiveDate>().ok().and_then(|date| date.and_hms_opt(0, 0, 0)) {
            return Ok(Self::Time(midnight.and_utc()));
        }
        let expected =
            "expected a position (42), a time (2026-11-23T10:00:00Z), a date, or how long ago (15m)";
        how_long(text).map(Self::Ago).ok_or_else(|| expected.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_match_by_pattern() {
        for (pattern, kind, expected) in [
            ("order.*", "order.placed", true),
            ("order.*", "payment.captured", false),
            ("*.placed", "order.placed", true),
            ("*", "stock.received", true),
            ("order.placed", "order.placed", true),
            ("order", "order.placed", false),
            ("o*r.p*d", "order.placed", true),
        ] {
            assert_eq!(matches(pattern, kind), expected, "{pattern} {kind}");
        }
    }

    #[test]
    fn moments_come_in_many_forms() {
        assert_eq!("42".parse(), Ok(Moment::Position(42)));
        assert_eq!("15m".parse(), Ok(Moment::Ago(Duration::minutes(15))));
        assert!(matches!("2026-11-23".parse(), Ok(Moment::Time(_))));
        assert!(matches!("2026-11-23T10:00:00+01:00".parse(), Ok(Moment::Time(_))));
        for text in ["", "yesterday", "5 minutes", "-", "9999999999999999999d"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
