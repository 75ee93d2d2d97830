//! Stripe's webhooks: what is signed by one of our secrets, and not long ago, names a payment to look up.
//!
//! Nothing else is taken from them: they come twice, late, in any order, and may be older than what is known.
//! The signature is HMAC-SHA256 over `<seconds>.<body>`, in `Stripe-Signature: t=<seconds>,v1=<hex>,…`; there
//! may be several, and while a secret is replaced, two are valid (docs.stripe.com/webhooks#verify-manually).

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use domain::OrderId;
use hmac::{Hmac, KeyInit, Mac};
use metrics::counter;
use serde::Deserialize;
use sha2::Sha256;

use crate::clock::Clock;
use crate::log::Unavailable;
use crate::payment::{NoAnswer, PaymentProvider, signal_about};
use crate::secret::Secret;
use crate::timers::Timers;

/// How old a signature may be, or how far its maker's clock ahead of ours.
const TOLERANCE: Duration = Duration::seconds(300);

const SIGNATURES_MAX: usize = 16;

const ID_CHARS_MAX: usize = 100;

/// Webhooks by what became of them, as a metric.
const WEBHOOKS: &str = "cartulary_payment_webhooks_total";

/// Whoever sent it is not the provider, or sent it too long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    #[error("there is no signature of the form t=…,v1=…")]
    Unsigned,
    #[error("the signature is too old, or from the future")]
    OutOfTime,
    #[error("the signature is not one of ours")]
    WrongSignature,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Forged(#[from] Forged),
    /// It was signed, and is no event.
    #[error("the body is no event")]
    NoEvent,
    /// It may be sent again.
    #[error("whose payment it is can't be found out now: {0}")]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What is done about webhooks.
pub struct Webhooks {
    secrets: Vec<Secret>,
    provider: Arc<dyn PaymentProvider>,
    timers: Arc<dyn Timers>,
    clock: Clock,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Object,
}

/// Of the object that the event is about, no more than whose it is.
#[derive(Deserialize)]
struct Object {
    id: Option<String>,
    object: Option<String>,
    payment_intent: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    order_id: Option<String>,
}

impl Object {
    /// The payment's name, if it is about one.
    fn payment(&self) -> Option<&str> {
        let id = match self.object.as_deref() {
            Some("payment_intent") => self.id.as_deref(),
            _ => self.payment_intent.as_deref(),
        };
        id.filter(|id| is_id(id))
    }

    fn order_id(&self) -> Option<OrderId> {
        self.metadata.as_ref()?.order_id.as_ref()?.parse().ok()
    }
}

impl Webhooks {
    #[must_use]
    pub fn new(
        secrets: Vec<Secret>,
        provider: Arc<dyn PaymentProvider>,
        timers: Arc<dyn Timers>,
        clock: Clock,
    ) -> Self {
        Self { secrets, provider, timers, clock }
    }

    /// Sees to it that the payment is looked up. When it returns, this is on disk.
    ///
    /// # Errors
    /// It is not the provider's; or it can't be dealt with now, and is to be sent again.
    pub async fn take(&self, signature: Option<&str>, body: &[u8]) -> Result<(), Error> {
        let taken = self.try_to_take(signature, body).await;
        let outcome = match &taken {
            Ok(true) => "taken",
            Ok(false) => "ignored",
            Err(Error::Forged(_)) => "forged",
            Err(Error::NoEvent) => "no_event",
            Err(Error::NoAnswer(_) | Error::Unavailable(_)) => "unavailable",
        };
        counter!(WEBHOOKS, "provider" => super::NAME, "outcome" => outcome).increment(1);
        taken.map(drop)
    }

    async fn try_to_take(&self, signature: Option<&str>, body: &[u8]) -> Result<bool, Error> {
        let now = self.clock.now();
        verify(&self.secrets, signature, body, now)?;
        let event: Event = serde_json::from_slice(body).map_err(|_| Error::NoEvent)?;
        let object = event.data.object;
        let Some(payment) = object.payment() else {
            tracing::debug!(event = event.id, kind = event.kind, "a webhook about no payment is ignored");
            return Ok(false);
        };
        // Disputes, and refunds that were made by hand, don't carry what we told the provider of the payment.
        let order_id = match object.order_id() {
            Some(order_id) => Some(order_id),
            None => self.provider.order_of(payment).await?,
        };
        let Some(order_id) = order_id else {
            tracing::debug!(
                event = event.id,
                kind = event.kind,
                "a webhook about no order of ours is ignored"
            );
            return Ok(false);
        };
        self.timers.set(&signal_about(order_id, payment, now)).await?;
        tracing::debug!(event = event.id, kind = event.kind, order = %order_id, "a webhook was taken");
        Ok(true)
    }
}

/// Whether it may be an id of the provider's.
pub(super) fn is_id(text: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
    (1..=ID_CHARS_MAX).contains(&text.len()) && text.chars().all(is_plain)
}

/// # Errors
/// It was not signed with one of the secrets, or not about now.
pub fn verify(
    secrets: &[Secret],
    signature: Option<&str>,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<(), Forged> {
    let (mut time, mut signatures) = (None, Vec::new());
    for (name, value) in signature.unwrap_or_default().split(',').filter_map(|part| part.split_once('=')) {
        match name.trim() {
            "t" => time = Some(value.trim()),
            "v1" if signatures.len() < SIGNATURES_MAX => signatures.extend(bytes_of(value.trim())),
            _ => {}
        }
    }
    let time = time.ok_or(Forged::Unsigned)?;
    let at = time.parse().ok().and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0));
    let at = at.ok_or(Forged::Unsigned)?;
    if signatures.is_empty() {
        return Err(Forged::Unsigned);
    }
    let is_by = |secret: &Secret, signature: &[u8]| {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()) else { return false };
        mac.update(time.as_bytes());
        mac.update(b".");
        mac.update(body);
        // Takes the same time for whatever is wrong.
        mac.verify_slice(signature).is_ok()
    };
    if !secrets.iter().any(|secret| signatures.iter().any(|signature| is_by(secret, signature))) {
        return Err(Forged::WrongSignature);
    }
    // A signature that is ours and old is told from one that is not.
    if (now - at).abs() > TOLERANCE {
        return Err(Forged::OutOfTime);
    }
    Ok(())
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// printf '%s' '1492774577.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test_secret
    const SIGNATURE: &str = "799c4ba7bb339f3c8601adfd112f0e477c930a268be1243d341abb8286501c2f";
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;
    const AT: i64 = 1_492_774_577;

    fn check(secrets: &[&str], header: &str, body: &[u8], seconds_later: i64) -> Result<(), Forged> {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| secret.parse().unwrap()).collect();
        let now = DateTime::from_timestamp(AT + seconds_later, 0).unwrap();
        verify(&secrets, Some(header), body, now)
    }

    #[test]
    fn signatures_are_as_openssl_makes_them() {
        let (ours, header) = (["whsec_test_secret"], format!("t={AT},v1={SIGNATURE}"));
        for (seconds_later, verdict) in [
            (0, Ok(())),
            (300, Ok(())),
            (-300, Ok(())),
            (301, Err(Forged::OutOfTime)),
            (-301, Err(Forged::OutOfTime)),
        ] {
            assert_eq!(check(&ours, &header, BODY, seconds_later), verdict, "{seconds_later}");
        }
        let rotated = ["whsec_next_secret", "whsec_test_secret"];
        assert_eq!(check(&rotated, &header, BODY, 0), Ok(()));
        let several = format!("t={AT},v0=00,v1={},v1={SIGNATURE}", "00".repeat(32));
        assert_eq!(check(&ours, &several, BODY, 0), Ok(()));
    }

    #[test]
    fn what_is_not_the_providers_is_refused() {
        let (ours, header) = (["whsec_test_secret"], format!("t={AT},v1={SIGNATURE}"));
        let wrong = Err(Forged::WrongSignature);
        assert_eq!(check(&["whsec_other_secret"], &header, BODY, 0), wrong);
        assert_eq!(check(&[], &header, BODY, 0), wrong);
        assert_eq!(check(&ours, &header, br#"{"id":"evt_2"}"#, 0), wrong);
        let (moved, short) =
            (format!("t={},v1={SIGNATURE}", AT + 1), format!("t={AT},v1={}", &SIGNATURE[2..]));
        assert_eq!(check(&ours, &moved, BODY, 0), wrong);
        assert_eq!(check(&ours, &short, BODY, 0), wrong);
        let unsigned = Err(Forged::Unsigned);
        let only_v0 = format!("t={AT},v0={SIGNATURE}");
        let late = format!("t=later,v1={SIGNATURE}");
        for header in ["", "t=", "v1=", "t=1", &only_v0, &late, &format!("v1={SIGNATURE}"), "t=1,v1=xyz"] {
            assert_eq!(check(&ours, header, BODY, 0), unsigned, "{header}");
        }
    }

    #[test]
    fn an_event_names_a_payment_in_one_way_or_the_other() {
        let of = |text: &str| {
            let object: Object = serde_json::from_str(text).unwrap();
            (object.payment().map(str::to_owned), object.order_id().is_some())
        };
        let order = uuid::Uuid::from_u128(1);
        let payment =
            format!(r#"{{"object":"payment_intent","id":"pi_1","metadata":{{"order_id":"{order}"}},"x":1}}"#);
        assert_eq!(of(&payment), (Some("pi_1".to_owned()), true));
        let dispute = r#"{"object":"dispute","id":"du_1","payment_intent":"pi_1","metadata":{}}"#;
        assert_eq!(of(dispute), (Some("pi_1".to_owned()), false));
        assert_eq!(of(r#"{"object":"customer","id":"cus_1"}"#), (None, false));
        assert_eq!(of(r#"{"object":"payment_intent","id":"../x"}"#), (None, false));
    }
}
