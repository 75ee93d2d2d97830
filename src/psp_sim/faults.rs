//! What goes wrong, and when: faults that were asked for, and random ones by seed.
//!
//! | kind           | what happens                                                                     |
//! |----------------|----------------------------------------------------------------------------------|
//! | timeout_before | nothing is done; the connection is held for `ms`, then cut                       |
//! | timeout_after  | it is done; the connection is held for `ms`, then cut                            |
//! | error_before   | nothing is done; `status` (500)                                                  |
//! | error_after    | it is done; `status` (500)                                                       |
//! | slow           | it is done after `ms`, the key in use meanwhile                                  |
//! | slow_answer    | it is done at once, the answer comes after `ms`                                  |
//! | reset          | it is done; the connection is reset in the middle of the answer's body           |
//! | conflict       | 409 `idempotency_key_in_use`                                                     |
//! | rate_limit     | 429 with `Retry-After: retry_after_s` (1)                                        |
//! | late           | a payment or refund is under way for `ms` of the clock (an hour), then as it would have been |
//! | late_decline   | the same, and then it fails                                                      |
//! | webhook_first  | its events are sent before its answer                                            |
//! | lag            | what it makes is neither read, listed nor found for `ms` of the clock (a minute) |
//! | amount         | another `amount` than asked for is authorised, captured or refunded              |

use serde::{Deserialize, Serialize};

use super::call::{Call, Operation};
use super::webhooks::dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    TimeoutBefore,
    TimeoutAfter,
    ErrorBefore,
    ErrorAfter,
    Slow,
    SlowAnswer,
    Reset,
    Conflict,
    RateLimit,
    Late,
    LateDecline,
    WebhookFirst,
    Lag,
    Amount,
}

impl Kind {
    /// Whether it makes a difference to the operation; where it makes none, it does not meet it.
    fn acts_on(self, operation: Operation) -> bool {
        use Operation::{CaptureIntent, ConfirmIntent, CreateIntent, CreateRefund};
        match self {
            Self::Late | Self::LateDecline => {
                matches!(operation, CreateIntent | ConfirmIntent | CreateRefund)
            }
            Self::Lag => matches!(operation, CreateIntent | CreateRefund),
            Self::Amount => matches!(operation, CreateIntent | CaptureIntent | CreateRefund),
            Self::TimeoutBefore
            | Self::TimeoutAfter
            | Self::ErrorBefore
            | Self::ErrorAfter
            | Self::Slow
            | Self::SlowAnswer
            | Self::Reset
            | Self::Conflict
            | Self::RateLimit
            | Self::WebhookFirst => true,
        }
    }
}

/// A fault, as it's asked for. Without a limit to what it meets, it meets anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: Kind,
    /// Such as payment_intents.create
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The `metadata[attempt_ref]` of the request, or of the payment that it's about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_ref: Option<String>,
    /// Begins with so manieth request that fits.
    #[serde(default = "one")]
    pub nth: u64,
    /// And meets so many.
    #[serde(default = "one")]
    pub times: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
}

fn one() -> u64 {
    1
}

/// Longest time that a fault takes: a month.
const MS_MAX: u64 = 31 * 24 * 60 * 60 * 1000;

impl Fault {
    fn plain(kind: Kind) -> Self {
        Self {
            kind,
            operation: None,
            path: None,
            attempt_ref: None,
            nth: 1,
            times: 1,
            ms: None,
            status: None,
            retry_after_s: None,
            amount: None,
        }
    }

    /// # Errors
    /// Something is missing, or out of bounds; told for people.
    pub fn check(&self) -> Result<(), String> {
        if let Some(wanted) = &self.operation {
            match Operation::ALL.iter().find(|operation| operation.name() == wanted) {
                Some(operation) if self.kind.acts_on(*operation) => {}
                Some(_) => return Err(format!("a fault of this kind makes no difference to {wanted}")),
                None => {
                    let names: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
                    return Err(format!("operation {wanted:?} is none of {}", names.join(", ")));
                }
            }
        }
        if self.nth == 0 || self.times == 0 {
            return Err("nth and times begin with 1".to_owned());
        }
        if self.ms.is_some_and(|ms| ms > MS_MAX) {
            return Err(format!("ms is at most {MS_MAX}"));
        }
        if self.status.is_some_and(|status| !(500..600).contains(&status)) {
            return Err("status is 500 to 599".to_owned());
        }
        let amount = self.amount.is_some_and(|amount| (1..=super::money::AMOUNT_MAX).contains(&amount));
        if self.kind == Kind::Amount && !amount {
            return Err("amount is needed, 1 to 99999999".to_owned());
        }
        Ok(())
    }

    fn meets(&self, call: &Call, attempt_refs: &[String]) -> bool {
        self.kind.acts_on(call.operation)
            && self.operation.as_ref().is_none_or(|wanted| wanted == call.operation.name())
            && self.path.as_ref().is_none_or(|wanted| *wanted == call.path)
            && self.attempt_ref.as_ref().is_none_or(|wanted| attempt_refs.contains(wanted))
    }
}

/// A fault that waits for requests.
#[derive(Debug, Clone, Serialize)]
pub struct Armed {
    pub id: u64,
    #[serde(flatten)]
    pub fault: Fault,
    /// Requests that fitted so far.
    pub seen: u64,
    /// Requests that met it so far.
    pub met: u64,
}

/// All of them, in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Faults {
    pub armed: Vec<Armed>,
    last_id: u64,
}

impl Faults {
    pub fn arm(&mut self, fault: Fault) -> Armed {
        self.last_id += 1;
        let armed = Armed { id: self.last_id, fault, seen: 0, met: 0 };
        self.armed.push(armed.clone());
        armed
    }

    /// What this request meets.
    pub fn meet(&mut self, call: &Call, attempt_refs: &[String]) -> Vec<Fault> {
        let mut met = Vec::new();
        for armed in &mut self.armed {
            if armed.met < armed.fault.times && armed.fault.meets(call, attempt_refs) {
                armed.seen += 1;
                if armed.seen >= armed.fault.nth {
                    armed.met += 1;
                    met.push(armed.fault.clone());
                }
            }
        }
        met
    }
}

/// The fault that chance has for the request of this number, if any: the same for the same seed.
pub fn by_chance(seed: u64, rate: f64, number: u64, operation: Operation, hold_ms: u64) -> Option<Fault> {
    let mut dice = dice(seed, "fault", number);
    if dice.f64() >= rate {
        return None;
    }
    let reading = [Kind::TimeoutBefore, Kind::ErrorBefore, Kind::Slow, Kind::Reset, Kind::RateLimit];
    let writing = [
        Kind::TimeoutBefore,
        Kind::TimeoutAfter,
        Kind::ErrorBefore,
        Kind::ErrorAfter,
        Kind::Slow,
        Kind::SlowAnswer,
        Kind::Reset,
        Kind::Conflict,
        Kind::RateLimit,
        Kind::Late,
        Kind::LateDecline,
        Kind::WebhookFirst,
        Kind::Lag,
    ];
    let kinds = if operation.writes() { &writing[..] } else { &reading[..] };
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.acts_on(operation)).collect();
    let mut fault = Fault::plain(kinds[dice.usize(..kinds.len())]);
    fault.ms = match fault.kind {
        Kind::Slow | Kind::SlowAnswer => Some(dice.u64(50..2_000)),
        Kind::Late | Kind::LateDecline | Kind::Lag => Some(dice.u64(500..10_000)),
        Kind::TimeoutBefore | Kind::TimeoutAfter => Some(hold_ms),
        _ => None,
    };
    Some(fault)
}

/// What is to go wrong with one request, out of all that it meets.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    faults: Vec<Fault>,
}

impl Plan {
    pub fn of(faults: Vec<Fault>) -> Self {
        Self { faults }
    }

    pub fn get(&self, kind: Kind) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.kind == kind)
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.get(kind).is_some()
    }

    /// How long that fault takes, if it's there.
    pub fn ms(&self, kind: Kind, usual: u64) -> Option<u64> {
        self.get(kind).map(|fault| fault.ms.unwrap_or(usual))
    }

    pub fn names(&self) -> Vec<String> {
        let name = |fault: &Fault| serde_json::to_value(fault.kind).ok()?.as_str().map(str::to_owned);
        self.faults.iter().filter_map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::psp_sim::params::Params;

    fn call(operation: Operation) -> Call {
        let path = "/v1/payment_intents".to_owned();
        Call { operation, path, id: String::new(), params: Params::default(), key: None }
    }

    #[test]
    fn faults_meet_what_they_were_meant_for_so_many_times() {
        let mut faults = Faults::default();
        let text = r#"{"kind":"error_after","operation":"payment_intents.create","attempt_ref":"a","nth":2,"times":2}"#;
        faults.arm(serde_json::from_str(text).unwrap());
        let refs = ["a".to_owned()];
        assert!(faults.meet(&call(Operation::ListIntents), &refs).is_empty());
        assert!(faults.meet(&call(Operation::CreateIntent), &[]).is_empty());
        let met: Vec<_> = (0..5).map(|_| faults.meet(&call(Operation::CreateIntent), &refs).len()).collect();
        assert_eq!(met, [0, 1, 1, 0, 0]);
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        let of = |seed, rate| -> Vec<_> {
            let kind =
                |number| by_chance(seed, rate, number, Operation::CreateIntent, 1).map(|fault| fault.kind);
            (1..=1_000).map(kind).collect()
        };
        assert_eq!(of(7, 0.2), of(7, 0.2));
        assert_ne!(of(7, 0.2), of(8, 0.2));
        let hits = of(7, 0.2).iter().flatten().count();
        assert!((150..250).contains(&hits), "{hits}");
        assert!(of(7, 0.0).iter().all(Option::is_none) && of(7, 1.0).iter().all(Option::is_some));
    }

    #[test]
    fn what_would_make_no_difference_is_not_met() {
        let mut faults = Faults::default();
        faults.arm(serde_json::from_str(r#"{"kind":"amount","amount":5}"#).unwrap());
        assert!(faults.meet(&call(Operation::ConfirmIntent), &[]).is_empty());
        assert_eq!(faults.meet(&call(Operation::CaptureIntent), &[]).len(), 1);
        let kinds = (1..=1_000).filter_map(|number| by_chance(7, 1.0, number, Operation::CancelIntent, 1));
        let without = [Kind::Late, Kind::LateDecline, Kind::Lag];
        assert!(kinds.into_iter().all(|fault| !without.contains(&fault.kind)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (wrong, why) in [
            (r#"{"kind":"slow","operation":"payment_intents.steal"}"#, "is none of"),
            (r#"{"kind":"slow","times":0}"#, "begin with 1"),
            (r#"{"kind":"error_after","status":200}"#, "500 to 599"),
            (r#"{"kind":"amount"}"#, "amount is needed"),
            (r#"{"kind":"lag","operation":"payment_intents.capture"}"#, "no difference"),
            (r#"{"kind":"slow","ms":18446744073709551615}"#, "at most"),
        ] {
            let fault: Fault = serde_json::from_str(wrong).unwrap();
            assert!(fault.check().unwrap_err().contains(why), "{wrong}");
        }
    }
}
