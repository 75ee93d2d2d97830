//! What a key that was seen before means, by profile.
//!
//! | profile   | kept                      | with other parameters | forgotten  |
//! |-----------|---------------------------|-----------------------|------------|
//! | stripe    | the first answer, or 5xx  | refused               | after 24 h |
//! | only-2xx  | answers of 200 to 299     | the kept answer       | never      |
//! | 24h       | answers of 200 to 299     | the kept answer       | after 24 h |
//! | none      | nothing                   |                       |            |
//!
//! What is refused before execution (401, 429, 409, parameters that are not valid) is never kept. A
//! key whose request is still under way is refused with 409, but under `none`.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::book::Saved;
use super::refusal::Refusal;

/// For how long keys are kept where they are forgotten.
pub const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

pub const KEY_CHARS_MAX: usize = 255;

/// How a provider treats idempotency keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The first answer is kept for 24 hours, whatever it is; other parameters are refused.
    Stripe,
    /// Only answers of success are kept, for ever; after others, the request is executed again.
    #[value(name = "only-2xx")]
    #[serde(rename = "only-2xx")]
    Only2xx,
    /// Only answers of success are kept, for 24 hours.
    #[value(name = "24h")]
    #[serde(rename = "24h")]
    Day,
    /// Keys mean nothing.
    None,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Execute,
    Replay,
    /// The key was used with other parameters.
    Differs,
}

impl Profile {
    /// What to do about a key with this history.
    pub fn verdict(self, saved: Option<&Saved>, fingerprint: &str, now_ms: i64) -> Verdict {
        let Some(saved) = saved else { return Verdict::Execute };
        let old = now_ms - saved.at_ms >= KEPT_MS;
        let success = (200..300).contains(&saved.status);
        match self {
            Self::None => Verdict::Execute,
            Self::Stripe | Self::Day if old => Verdict::Execute,
            Self::Stripe if saved.fingerprint != fingerprint => Verdict::Differs,
            Self::Only2xx | Self::Day if !success => Verdict::Execute,
            Self::Stripe | Self::Only2xx | Self::Day => Verdict::Replay,
        }
    }

    pub fn forgets(self) -> bool {
        match self {
            Self::Stripe | Self::Day => true,
            Self::Only2xx | Self::None => false,
        }
    }
}

pub fn differs() -> Refusal {
    let message = "This idempotency key was used with other parameters before.";
    Refusal::new(400, "idempotency_error", message)
}

pub fn in_use() -> Refusal {
    let message = "A request with this idempotency key is still under way.";
    Refusal::new(409, "idempotency_error", message).code("idempotency_key_in_use")
}

pub fn not_a_key() -> Refusal {
    let message =
        format!("Idempotency keys have up to {KEY_CHARS_MAX} printable characters, and no card data.");
    Refusal::new(400, "invalid_request_error", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::psp_sim::packed::Packed;

    #[test]
    fn a_key_that_comes_again_means_what_its_profile_says() {
        use Profile::{Day, None, Only2xx, Stripe};
        use Verdict::{Differs, Execute, Replay};
        let hour = 60 * 60 * 1000;
        // Status of the first answer, its parameters, the time since; and what follows in each profile.
        let table = [
            (200, "same", 1, [(Stripe, Replay), (Only2xx, Replay), (Day, Replay), (None, Execute)]),
            (402, "same", 1, [(Stripe, Replay), (Only2xx, Execute), (Day, Execute), (None, Execute)]),
            (500, "same", 1, [(Stripe, Replay), (Only2xx, Execute), (Day, Execute), (None, Execute)]),
            (200, "other", 1, [(Stripe, Differs), (Only2xx, Replay), (Day, Replay), (None, Execute)]),
            (500, "other", 1, [(Stripe, Differs), (Only2xx, Execute), (Day, Execute), (None, Execute)]),
            (200, "same", 23, [(Stripe, Replay), (Only2xx, Replay), (Day, Replay), (None, Execute)]),
            (200, "same", 24, [(Stripe, Execute), (Only2xx, Replay), (Day, Execute), (None, Execute)]),
            (200, "other", 24, [(Stripe, Execute), (Only2xx, Replay), (Day, Execute), (None, Execute)]),
        ];
        for (status, fingerprint, hours, wanted) in table {
            let body = Packed::from(&serde_json::Value::Null);
            let (request, at_ms) = ("req_1".to_owned(), 1_000);
            let saved = Saved { at_ms, request, fingerprint: fingerprint.to_owned(), status, body };
            for (profile, wanted) in wanted {
                let verdict = profile.verdict(Some(&saved), "same", at_ms + hours * hour);
                assert_eq!(verdict, wanted, "{profile:?}: {status}, {fingerprint}, {hours} h");
                assert_eq!(profile.verdict(Option::None, "same", 0), Execute);
            }
        }
    }
}
