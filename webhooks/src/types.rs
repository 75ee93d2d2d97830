//! Which types of events an endpoint wants: `payment.captured`, `order.*`, `*`.

use domain::public::{self, Audience};
use domain::text::Checks;

const PATTERNS_MAX: usize = 50;

/// Longest that is repeated to who sent it.
const SHOWN_CHARS_MAX: usize = 60;

/// Whether the pattern stands for the type.
pub(crate) fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => pattern == kind,
    }
}

/// Every pattern has to stand for a type that there is.
pub(crate) fn check(patterns: &[String], checks: &mut Checks) {
    if patterns.is_empty() || patterns.len() > PATTERNS_MAX {
        checks.add("/types", format!("must be 1 to {PATTERNS_MAX} types"));
        return;
    }
    for (index, pattern) in patterns.iter().enumerate() {
        if !public::kinds(Audience::Shop).any(|kind| matches(pattern, kind)) {
            let shown: String = pattern.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
            let detail = format!("no event is of the type `{shown}`; such are order.placed, payment.*, *");
            checks.add(&format!("/types/{index}"), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_there_are_can_be_wanted() {
        let pointers = |patterns: &[&str]| {
            let mut checks = Checks::default();
            check(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), &mut checks);
            let found = checks.finish().err().unwrap_or_default();
            found.into_iter().map(|invalid| invalid.pointer).collect::<Vec<_>>()
        };
        assert!(pointers(&["order.*", "payment.captured", "*", "stock.re*"]).is_empty());
        assert_eq!(
            pointers(&["order", "order.*", "*.placed", "checkout.*", "", "order.placed\0"]),
            ["/types/0", "/types/2", "/types/3", "/types/4", "/types/5"]
        );
        assert_eq!(pointers(&[]), ["/types"]);
        assert_eq!(pointers(&["*"; 51]), ["/types"]);
    }
}
