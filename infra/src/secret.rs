//! Secrets, which nobody is shown.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// A key or a secret. Whatever prints it prints a dash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("—")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_printed() {
        let secret: Secret = "sk_test_hidden".parse().unwrap();
        assert!(!format!("{secret:?} {:?}", Some(&secret)).contains("hidden"));
    }
}
