//! Signatures as the Standard Webhooks specification has them (github.com/standard-webhooks/standard-webhooks).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// Within the specification's 24 to 64.
const SECRET_BYTES: usize = 32;

/// A new secret; nothing if the system has no randomness to give.
pub(crate) fn new_secret() -> Option<String> {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(format!("{PREFIX}{}", STANDARD.encode(bytes)))
}

/// The header `webhook-signature`: one for each secret that is valid now.
pub(crate) fn header(secrets: &[String], id: &str, timestamp: i64, body: &str) -> String {
    let signed = secrets.iter().map(|secret| format!("v1,{}", signature(secret, id, timestamp, body)));
    signed.collect::<Vec<_>>().join(" ")
}

fn signature(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
    // Only secrets of this file's own making are in the table.
    let key = STANDARD.decode(secret.trim_start_matches(PREFIX)).unwrap_or_default();
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else {
        unreachable!("a key of HMAC has any length")
    };
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example.
    #[test]
    fn signatures_are_as_the_specification_shows() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(header(&[secret], id, 1_614_265_330, body), signed);
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(one, other);
        assert_eq!(STANDARD.decode(one.strip_prefix(PREFIX).unwrap()).unwrap().len(), SECRET_BYTES);
    }
}
