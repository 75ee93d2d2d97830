//! A request's parameters: pairs of a form, with `metadata[key]`, `list[]` and `range[gte]` among them.

use serde::{Deserialize, Serialize};

use super::money::{AMOUNT_MAX, Metadata};
use super::refusal::Refusal;

const PAIRS_MAX: usize = 200;
/// Longest value outside metadata, in characters.
const TEXT_CHARS_MAX: usize = 2_048;
const METADATA_KEYS_MAX: usize = 50;
const METADATA_KEY_CHARS_MAX: usize = 40;
const METADATA_VALUE_CHARS_MAX: usize = 500;

/// Names under which clients send card data.
const CARD_NAMES: [&str; 8] =
    ["card", "number", "cvc", "cvv", "exp_month", "exp_year", "payment_method_data", "source"];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params(Vec<(String, String)>);

/// The bounds of `created`, in seconds, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub from_s: i64,
    pub until_s: i64,
}

impl Params {
    /// Reads pairs of a form, as they are in bodies and behind the `?`.
    ///
    /// # Errors
    /// They are too many, or one of them may be card data.
    pub fn read(form: &[u8]) -> Result<Self, Refusal> {
        let mut pairs = Vec::new();
        for (name, value) in form_urlencoded::parse(form) {
            if pairs.len() == PAIRS_MAX {
                let message = format!("More than {PAIRS_MAX} parameters.");
                return Err(Refusal::new(400, "invalid_request_error", message));
            }
            let metadata = name.starts_with("metadata[");
            let names_a_card = name.split(['[', ']']).any(|part| CARD_NAMES.contains(&part));
            if (names_a_card && !metadata) || is_a_card(&value) || is_a_card(&name) {
                return Err(Refusal::new(
                    400,
                    "invalid_request_error",
                    "Card data is never taken: pay with one of the payment methods for tests, such as \
                     pm_card_visa.",
                )
                .code("card_data_refused"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// Sees that no parameter is there but these; each may have parts in brackets.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        for (name, value) in &self.0 {
            let base = name.split('[').next().unwrap_or_default();
            let shown: String = name.chars().take(METADATA_KEY_CHARS_MAX).collect();
            if base != "expand" && !known.contains(&base) {
                let message = format!("Received unknown parameter: {shown}");
                return Err(Refusal::parameter(&shown, "parameter_unknown", message));
            }
            if base != "metadata" && value.chars().count() > TEXT_CHARS_MAX {
                let message = format!("Longer than {TEXT_CHARS_MAX} characters: {shown}");
                return Err(Refusal::parameter(&shown, "parameter_invalid_string", message));
            }
        }
        Ok(())
    }

    /// A value that is not empty. Given twice, the later one counts.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub fn needed(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| Refusal::missing(name))
    }

    pub fn whole(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::parameter(name, "parameter_invalid_integer", "Invalid integer."));
        }
        // What does not fit is beyond every limit.
        Ok(Some(text.parse().unwrap_or(if digits.len() < text.len() { i64::MIN } else { i64::MAX })))
    }

    /// An amount of money: 1 to 99,999,999 minor units.
    pub fn amount(&self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.whole(name)? {
            Some(amount) if amount > AMOUNT_MAX => {
                let message = format!("Amounts have no more than {AMOUNT_MAX} minor units.");
                Err(Refusal::parameter(name, "amount_too_large", message))
            }
            Some(amount) if amount < 1 => {
                let message = "This value must be greater than or equal to 1.";
                Err(Refusal::parameter(name, "parameter_invalid_integer", message))
            }
            amount => Ok(amount),
        }
    }

    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Refusal::parameter(name, "parameter_invalid_boolean", "Invalid boolean.")),
        }
    }

    /// One of these values.
    pub fn choice<'a>(&'a self, name: &str, values: &[&str]) -> Result<Option<&'a str>, Refusal> {
        match self.text(name) {
            Some(value) if !values.contains(&value) => {
                let message = format!("Invalid {name}: must be one of {}", values.join(", "));
                Err(Refusal::parameter(name, "parameter_invalid_string", message))
            }
            value => Ok(value),
        }
    }

    /// `name[]`, `name[0]`, …
    pub fn list(&self, name: &str) -> Vec<&str> {
        let part = |known: &str| {
            let index = known.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
            index.bytes().all(|byte| byte.is_ascii_digit()).then_some(())
        };
        let values = self.0.iter().filter(|(known, _)| part(known).is_some());
        values.map(|(_, value)| value.as_str()).collect()
    }

    /// `metadata[key]` laid over what is there; an empty value takes a key away.
    pub fn metadata(&self, there: &Metadata) -> Result<Metadata, Refusal> {
        let wrong = |message: String| Refusal::parameter("metadata", "parameter_invalid_string", message);
        let mut metadata = there.clone();
        for (name, value) in &self.0 {
            let Some(key) = name.strip_prefix("metadata") else { continue };
            let key = key.strip_prefix('[').and_then(|key| key.strip_suffix(']'));
            let Some(key) = key.filter(|key| !key.is_empty() && !key.contains(['[', ']'])) else {
                return Err(wrong("Metadata is given as metadata[key]=value.".to_owned()));
            };
            if key.chars().count() > METADATA_KEY_CHARS_MAX {
                return Err(wrong(format!("Metadata keys have up to {METADATA_KEY_CHARS_MAX} characters.")));
            }
            if value.chars().count() > METADATA_VALUE_CHARS_MAX {
                return Err(wrong(format!(
                    "Metadata values have up to {METADATA_VALUE_CHARS_MAX} characters."
                )));
            }
            match value.is_empty() {
                true => metadata.remove(key),
                false => metadata.insert(key.to_owned(), value.clone()),
            };
        }
        match metadata.len() > METADATA_KEYS_MAX {
            true => Err(wrong(format!("Metadata has up to {METADATA_KEYS_MAX} keys."))),
            false => Ok(metadata),
        }
    }

    pub fn period(&self, name: &str) -> Result<Period, Refusal> {
        let bound = |which: &str| self.whole(&format!("{name}[{which}]"));
        let from_s = bound("gte")?.or(bound("gt")?.map(|bound| bound.saturating_add(1)));
        let until_s = bound("lte")?.or(bound("lt")?.map(|bound| bound.saturating_sub(1)));
        let exactly = self.whole(name)?;
        Ok(Period {
            from_s: exactly.or(from_s).unwrap_or(i64::MIN),
            until_s: exactly.or(until_s).unwrap_or(i64::MAX),
        })
    }

    pub fn expands(&self, what: &str) -> bool {
        let name = what.rsplit('.').next().unwrap_or(what);
        self.list("expand").iter().any(|wanted| wanted.rsplit('.').next() == Some(name))
    }

    /// The same for the same parameters, in whichever order they were sent.
    pub fn fingerprint(&self, operation: &str, path: &str) -> String {
        use sha2::{Digest, Sha256};
        let mut pairs: Vec<_> = self.0.iter().collect();
        pairs.sort();
        let mut hash = Sha256::new();
        let texts = pairs.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        for text in [operation, path].into_iter().chain(texts) {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        hex(&hash.finalize())
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the text has what may be a card's number: 13 to 19 digits, alone or in groups of four to
/// six, with the right check digit (ISO/IEC 7812).
pub fn is_a_card(text: &str) -> bool {
    let grouped = text.trim();
    let groups: Vec<_> = grouped.split([' ', '-']).collect();
    let all_digits = |group: &&str| group.bytes().all(|byte| byte.is_ascii_digit());
    if groups.iter().all(|group| (2..=6).contains(&group.len()) && all_digits(group)) {
        return is_a_number(&groups.concat());
    }
    text.split(|char: char| !char.is_alphanumeric()).filter(all_digits).any(is_a_number)
}

fn is_a_number(digits: &str) -> bool {
    let issued = matches!(digits.bytes().next(), Some(b'2'..=b'6'));
    let checked = digits.bytes().rev().enumerate().map(|(index, digit)| {
        let digit = u32::from(digit - b'0') * if index % 2 == 1 { 2 } else { 1 };
        if digit > 9 { digit - 9 } else { digit }
    });
    (13..=19).contains(&digits.len()) && issued && checked.sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(form: &str) -> Params {
        Params::read(form.as_bytes()).unwrap()
    }

    #[test]
    fn forms_are_read_with_what_is_nested_in_them() {
        let params =
            params("amount=500&metadata[attempt_ref]=a%20b&enabled_events[]=x&enabled_events[1]=y&gone=");
        assert_eq!(params.amount("amount"), Ok(Some(500)));
        assert_eq!(params.list("enabled_events"), ["x", "y"]);
        assert_eq!(params.text("gone"), None);
        let there = Metadata::from([("k".to_owned(), "v".to_owned())]);
        let both = params.metadata(&there).unwrap();
        assert_eq!((both["attempt_ref"].as_str(), both["k"].as_str()), ("a b", "v"));
        let less = Params::read(b"metadata[k]=").unwrap().metadata(&there).unwrap();
        assert!(less.is_empty());
    }

    #[test]
    fn amounts_are_within_their_bounds() {
        for (text, wanted) in [("1", Some(1)), ("99999999", Some(99_999_999)), ("", None)] {
            assert_eq!(params(&format!("amount={text}")).amount("amount"), Ok(wanted), "{text}");
        }
        for wrong in ["0", "-1", "100000000", "9223372036854775808", "1e3", "1.5", "+1", "-", "%00", "１"] {
            let refused = params(&format!("amount={wrong}")).amount("amount").unwrap_err();
            assert_eq!(refused.status, 400, "{wrong}");
        }
    }

    #[test]
    fn the_same_parameters_have_the_same_fingerprint() {
        let of = |form: &str| params(form).fingerprint("refunds.create", "/v1/refunds");
        assert_eq!(of("a=1&b=2"), of("b=2&a=1"));
        assert_ne!(of("a=1&b=2"), of("a=12&b="));
    }

    #[test]
    fn card_data_is_recognised() {
        let refused =
            ["card[number]=1", "payment_method_data[type]=card", "description=4242424242424242", "cvc=123"];
        let grouped = ["metadata[note]=4242-4242-4242-4242", "description=3782+822463+10005"];
        for form in refused.into_iter().chain(grouped) {
            assert!(Params::read(form.as_bytes()).is_err(), "{form}");
        }
        let fine = [
            "metadata[number]=12",
            "description=4242424242424243",
            "metadata[order_id]=0198c0de-4242-7242-8242-424242424242",
            "metadata[at]=1764078000000000000",
        ];
        for form in fine {
            assert!(Params::read(form.as_bytes()).is_ok(), "{form}");
        }
    }
}
