//! Secrets at rest: sealed with a key that is not in the database (ChaCha20-Poly1305, RFC 8439).
//!
//! In the table stands `sealed:` the key's name, and base64 of nonce and ciphertext. What is sealed belongs to one
//! endpoint, and opens for no other. Of several keys the first one seals, and all of them open: so a key is replaced
//! by putting the new one before it, and leaving it out after the next start, which seals anew what it had sealed.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::commit::Hash;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

const PREFIX: &str = "sealed:";

const KEY_BYTES: usize = 32;

/// Digits of a key's name.
const NAME_DIGITS: usize = 8;

/// A key, and a name that tells it from others and nothing about it.
#[derive(Clone)]
pub struct Key {
    name: String,
    bytes: [u8; KEY_BYTES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits, as `openssl rand -hex 32` makes them")]
pub struct NoKey;

/// Why a secret can't be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no key to seal secrets with: set CARTULARY_WEBHOOKS_KEY, to what `openssl rand -hex 32` makes"
    )]
    NoKey,
    #[error(
        "the secret of endpoint {endpoint} is sealed with the key {name}, which is not among those given"
    )]
    OtherKey { endpoint: Uuid, name: String },
    #[error("the secret of endpoint {0} is not what was sealed")]
    Changed(Uuid),
    #[error("the system has no randomness to seal secrets with")]
    NoRandomness,
}

/// The keys that are given, the one that seals first.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let text = text.trim();
        if text.len() != 2 * KEY_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NoKey);
        }
        let mut bytes = [0; KEY_BYTES];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| NoKey)?;
        }
        let name = Hash::of(&bytes).to_string()[..NAME_DIGITS].to_owned();
        Ok(Self { name, bytes })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl Key {
    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.bytes);
        LessSafeKey::new(key.unwrap_or_else(|_| unreachable!("it has the key's length")))
    }
}

impl Keys {
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    pub(crate) fn seal(&self, endpoint: Uuid, secret: &str) -> Result<String, Error> {
        let key = self.0.first().ok_or(Error::NoKey)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::NoRandomness)?;
        let mut sealed = secret.as_bytes().to_vec();
        let (nonce_used, about) = (Nonce::assume_unique_for_key(nonce), Aad::from(endpoint.as_bytes()));
        let done = key.cipher().seal_in_place_append_tag(nonce_used, about, &mut sealed);
        done.map_err(|_| Error::NoRandomness)?;
        let bytes = [&nonce[..], &sealed[..]].concat();
        Ok(format!("{PREFIX}{}:{}", key.name, STANDARD.encode(bytes)))
    }

    pub(crate) fn open(&self, endpoint: Uuid, sealed: &str) -> Result<String, Error> {
        let changed = || Error::Changed(endpoint);
        let (name, bytes) = parts(sealed).ok_or_else(changed)?;
        if self.0.is_empty() {
            return Err(Error::NoKey);
        }
        let key = self.0.iter().find(|key| key.name == name);
        let key = key.ok_or_else(|| Error::OtherKey { endpoint, name: name.to_owned() })?;
        let mut bytes = STANDARD.decode(bytes).map_err(|_| changed())?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(changed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| changed())?;
        let opened = key.cipher().open_in_place(nonce, Aad::from(endpoint.as_bytes()), sealed);
        let opened = opened.map_err(|_| changed())?;
        String::from_utf8(opened.to_vec()).map_err(|_| changed())
    }

    /// What is to stand in the table instead, if that is not sealed, or not with the key that seals.
    fn renewed(&self, endpoint: Uuid, known: &str) -> Result<Option<String>, Error> {
        let Some((name, _)) = parts(known) else { return self.seal(endpoint, known).map(Some) };
        let secret = self.open(endpoint, known)?;
        let is_latest = self.0.first().is_some_and(|key| key.name == name);
        if is_latest { Ok(None) } else { self.seal(endpoint, &secret).map(Some) }
    }
}

fn parts(sealed: &str) -> Option<(&str, &str)> {
    sealed.strip_prefix(PREFIX)?.split_once(':')
}

#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("the database does not answer: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Sealed(#[from] Error),
}

/// Opens each secret, and seals those anew that are not sealed with the key that seals now.
///
/// # Errors
/// Postgres does not answer, or one can't be opened with the keys given; then all stay as they were.
pub async fn seal_all(keys: &Keys, pool: &PgPool) -> Result<(), SetUpError> {
    let mut transaction = pool.begin().await?;
    let all: Vec<(Uuid, String, Option<String>)> = sqlx::query_as(
        "select id, secret, previous_secret from cartulary.webhook_endpoints where state <> 'removed'
         order by id for update",
    )
    .fetch_all(&mut *transaction)
    .await?;
    for (endpoint, secret, previous) in all {
        let renewed = keys.renewed(endpoint, &secret)?;
        let renewed_previous = match &previous {
            Some(previous) => keys.renewed(endpoint, previous)?,
            None => None,
        };
        if renewed.is_some() || renewed_previous.is_some() {
            let previous = renewed_previous.or(previous);
            store(endpoint, &renewed.unwrap_or(secret), previous.as_deref(), &mut transaction).await?;
        }
    }
    Ok(transaction.commit().await?)
}

async fn store(
    endpoint: Uuid,
    secret: &str,
    previous: Option<&str>,
    transaction: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query("update cartulary.webhook_endpoints set secret = $2, previous_secret = $3 where id = $1")
        .bind(endpoint)
        .bind(secret)
        .bind(previous)
        .execute(transaction)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Uuid = Uuid::from_u128(1);

    fn key(digit: &str) -> Key {
        digit.repeat(64).parse().unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_for_its_endpoint_alone() {
        let keys = Keys::new(vec![key("a")]);
        let (sealed, again) = (keys.seal(HERE, "whsec_1").unwrap(), keys.seal(HERE, "whsec_1").unwrap());
        assert!(!sealed.contains("whsec_1") && sealed != again);
        assert_eq!(keys.open(HERE, &sealed).unwrap(), "whsec_1");
        let elsewhere = Uuid::from_u128(2);
        assert_eq!(keys.open(elsewhere, &sealed), Err(Error::Changed(elsewhere)));
        let other = Keys::new(vec![key("b")]).open(HERE, &sealed);
        assert!(matches!(other, Err(Error::OtherKey { .. })), "{other:?}");
        assert_eq!(Keys::default().open(HERE, &sealed), Err(Error::NoKey));
        assert_eq!(Keys::default().seal(HERE, "whsec_1"), Err(Error::NoKey));
        let last = if sealed.ends_with('A') { "B" } else { "A" };
        let forged = format!("{}{last}", &sealed[..sealed.len() - 1]);
        assert_eq!(keys.open(HERE, &forged), Err(Error::Changed(HERE)));
    }

    #[test]
    fn a_key_is_replaced_by_one_before_it() {
        let old = Keys::new(vec![key("a")]).seal(HERE, "whsec_1").unwrap();
        let both = Keys::new(vec![key("b"), key("a")]);
        assert_eq!(both.open(HERE, &old).unwrap(), "whsec_1");
        let new = both.renewed(HERE, &old).unwrap().unwrap();
        assert_eq!(both.renewed(HERE, &new), Ok(None));
        assert_eq!(Keys::new(vec![key("b")]).open(HERE, &new).unwrap(), "whsec_1");
        // As an earlier build left it.
        let sealed = both.renewed(HERE, "whsec_2").unwrap().unwrap();
        assert_eq!(both.open(HERE, &sealed).unwrap(), "whsec_2");
    }

    #[test]
    fn a_key_is_64_digits_and_never_shown() {
        for wrong in ["", "a", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
        assert!(!format!("{:?}", Keys::new(vec![key("a")])).contains("aaaaaaaaa"));
    }
}
