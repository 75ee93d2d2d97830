//! Text from outside: what may be in it, and how a rule says what is wrong with it.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::Visitor;

/// One thing wrong with a command's data, with a JSON pointer (RFC 6901) to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub pointer: String,
    pub detail: String,
}

impl Invalid {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Collects all that is wrong, so that a client can mend it in one go.
#[derive(Debug, Default)]
pub struct Checks {
    found: Vec<Invalid>,
}

impl Checks {
    /// One line of text: 1 to `chars_max` characters, no control characters.
    pub fn line(&mut self, pointer: &str, text: &str, chars_max: usize) {
        if text.trim().is_empty() {
            self.add(pointer, "must not be empty");
        }
        self.optional(pointer, text, chars_max, false);
    }

    /// Text of several lines, possibly empty: line breaks and tabs are welcome.
    pub fn paragraphs(&mut self, pointer: &str, text: &str, chars_max: usize) {
        self.optional(pointer, text, chars_max, true);
    }

    fn optional(&mut self, pointer: &str, text: &str, chars_max: usize, breaks: bool) {
        let welcome = |c: char| breaks && matches!(c, '\n' | '\r' | '\t');
        if let Some(c) = text.chars().find(|c| is_hostile(*c) && !welcome(*c)) {
            self.add(pointer, format!("must not contain the control character U+{:04X}", u32::from(c)));
        }
        if text.chars().count() > chars_max {
            self.add(pointer, format!("must be at most {chars_max} characters"));
        }
    }

    /// Whatever else does not hold.
    pub fn require(&mut self, holds: bool, pointer: &str, detail: &str) {
        if !holds {
            self.add(pointer, detail);
        }
    }

    pub fn add(&mut self, pointer: &str, detail: impl Into<String>) {
        self.found.push(Invalid::new(pointer, detail));
    }

    /// # Errors
    /// All that was found wrong.
    pub fn finish(self) -> Result<(), Vec<Invalid>> {
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

/// Control characters (Postgres refuses U+0000), and the marks that make text read in another
/// direction than it is stored, with which a title can lie about itself.
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Escapes one step of a JSON pointer.
#[must_use]
pub fn pointer_step(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads what has a form in text, without making a string of it first.
pub(crate) struct FromText<T> {
    expected: &'static str,
    of: PhantomData<T>,
}

impl<T> FromText<T> {
    pub fn new(expected: &'static str) -> Self {
        Self { expected, of: PhantomData }
    }
}

impl<T: FromStr<Err: Display>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod spec {
    use super::*;

    fn line(text: &str) -> Result<(), Vec<Invalid>> {
        let mut checks = Checks::default();
        checks.line("/title", text, 5);
        checks.finish()
    }

    #[test]
    fn a_line_has_no_control_characters() {
        assert!(line("ok é").is_ok());
        for text in ["a\0", "a\nb", "a\u{85}", "a\u{202E}b"] {
            let found = line(text).expect_err("hostile");
            assert!(found[0].detail.contains("U+"), "{found:?}");
        }
    }

    #[test]
    fn a_line_is_neither_empty_nor_long() {
        assert!(line("  ").is_err());
        assert!(line("ééééé").is_ok());
        assert!(line("éééééé").is_err());
    }
}
