//! The commit: one message of the log, the outcome of one command.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::{CommandId, StreamId};

/// Version of the envelope that this build writes.
pub const ENVELOPE_VERSION: u32 = 1;

/// Key of an event's data that is kept apart, so that it can be encrypted per person.
const PERSONAL: &str = "personal";

/// The outcome of one command on one stream: 1..n events, all or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    pub envelope: u32,
    /// Id of the command, and so of the commit.
    pub id: CommandId,
    /// Hash of what was asked: a repeat of the id with another request is refused.
    pub request: Hash,
    pub stream: StreamId,
    /// Version of the first event in its stream: gapless, from 1.
    pub version: u64,
    /// Hash of the stream's previous commit as stored; absent on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Hash>,
    pub recorded_at: DateTime<Utc>,
    /// On whose behalf: `anonymous`, `saga:checkout`, `import`, …
    pub actor: String,
    /// The command at the beginning of it all.
    pub correlation: CommandId,
    /// The event that led to this command, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causation: Option<Uuid>,
    /// W3C trace context of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
    pub events: Vec<RecordedEvent>,
}

/// One event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedEvent {
    pub id: Uuid,
    /// `order.placed`
    #[serde(rename = "type")]
    pub kind: String,
    /// Version of the form of `data`.
    pub schema: u32,
    pub occurred_at: DateTime<Utc>,
    pub data: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personal: Option<Value>,
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the commit is not readable")]
    Commit(#[source] serde_json::Error),
    #[error("the event `{kind}`, schema {schema}, is not readable")]
    Event {
        kind: String,
        schema: u32,
        #[source]
        source: serde_json::Error,
    },
}

impl Commit {
    /// The message body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| unreachable!("a commit is plain data: {error}"))
    }

    /// # Errors
    /// The bytes are no commit that this build can read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(bytes).map_err(DecodeError::Commit)
    }

    /// Version of the stream after this commit.
    #[must_use]
    pub fn version_after(&self) -> u64 {
        self.version + self.events.len() as u64 - 1
    }
}

impl RecordedEvent {
    /// The log's form of an aggregate's event. Ids are derived, so that a repeat writes the same.
    #[must_use]
    pub fn encode<E: Serialize>(event: &E, command: CommandId, index: usize, at: DateTime<Utc>) -> Self {
        let value = serde_json::to_value(event);
        let Ok(Value::Object(mut tagged)) = value else {
            unreachable!("an event is an object with type and data")
        };
        let kind = match tagged.remove("type") {
            Some(Value::String(kind)) => kind,
            other => unreachable!("an event's type is text, not {other:?}"),
        };
        let mut data = tagged.remove("data").unwrap_or_else(|| Value::Object(Map::new()));
        let personal = data.as_object_mut().and_then(|data| data.remove(PERSONAL));
        let id = Uuid::new_v5(&command.0, &index.to_be_bytes());
        Self { id, kind, schema: 1, occurred_at: at, data, personal }
    }

    /// # Errors
    /// This build does not know the type, or its data is not of the type's form.
    pub fn decode<E: DeserializeOwned>(&self) -> Result<E, DecodeError> {
        let mut data = self.data.clone();
        if let (Some(data), Some(personal)) = (data.as_object_mut(), &self.personal) {
            data.insert(PERSONAL.to_owned(), personal.clone());
        }
        let tagged = Map::from_iter([
            ("type".to_owned(), Value::String(self.kind.clone())),
            ("data".to_owned(), data),
        ]);
        serde_json::from_value(Value::Object(tagged)).map_err(|source| DecodeError::Event {
            kind: self.kind.clone(),
            schema: self.schema,
            source,
        })
    }

    /// `order` of `order.placed`.
    #[must_use]
    pub fn category(&self) -> &str {
        self.kind.split('.').next().unwrap_or_default()
    }
}

/// SHA-256, in JSON as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "a SHA-256 hash is 64 hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(FORM);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| FORM)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| FORM)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod spec {
    use super::*;

    #[test]
    fn a_hash_survives_the_wire() {
        let hash = Hash::of(b"cartulary");
        let text = serde_json::to_string(&hash).expect("json");
        assert_eq!(serde_json::from_str::<Hash>(&text).expect("hash"), hash);
        assert!(serde_json::from_str::<Hash>("\"+1\"").is_err());
        assert!(serde_json::from_str::<Hash>(&format!("{:?}", "é".repeat(32))).is_err());
    }
}
