//! Text as Postgres takes it.

use std::borrow::Cow;

/// Without U+0000, which Postgres refuses: what is wrong with an event may be that it has one, and that has to be
/// written down, too.
#[must_use]
pub fn storable(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{FFFD}").into(),
        false => text.into(),
    }
}
