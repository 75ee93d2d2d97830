//! The commit: one message of the log, the outcome of one command.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::{CommandId, StreamId};
use crate::schema;
use crate::text::FromText;

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

/// One event as it stands in the log. Its data is text until somebody wants it: most readers of a
/// commit want only some of its events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedEvent {
    pub id: Uuid,
    /// `order.placed`
    #[serde(rename = "type")]
    pub kind: String,
    /// Version of the form of `data`.
    pub schema: u32,
    pub occurred_at: DateTime<Utc>,
    pub data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personal: Option<Box<RawValue>>,
}

impl PartialEq for RecordedEvent {
    fn eq(&self, other: &Self) -> bool {
        let personal = |event: &Self| event.personal.as_ref().map(|personal| personal.get().to_owned());
        (self.id, &self.kind, self.schema, self.occurred_at)
            == (other.id, &other.kind, other.schema, other.occurred_at)
            && self.data.get() == other.data.get()
            && personal(self) == personal(other)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the commit is not readable")]
    Commit(#[source] serde_json::Error),
    /// A newer build wrote it.
    #[error("this build does not know the event `{kind}`")]
    UnknownType { kind: String },
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
        let id = Self::id(command, index);
        let schema = schema::current(&kind).unwrap_or(1);
        Self { id, kind, schema, occurred_at: at, data: raw(&data), personal: personal.as_ref().map(raw) }
    }

    /// The id of a command's event of that number, from 0.
    #[must_use]
    pub fn id(command: CommandId, index: usize) -> Uuid {
        Uuid::new_v5(&command.0, &index.to_be_bytes())
    }

    /// Whether it has a form that is newer than this build: what is readable of it is read, and what
    /// came with the newer form is passed over.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        schema::current(&self.kind).is_some_and(|current| self.schema > current)
    }

    /// The event in its present form, whatever form it was written in.
    ///
    /// # Errors
    /// This build does not know the type, or its data is not of the type's form.
    pub fn decode<E: DeserializeOwned>(&self) -> Result<E, DecodeError> {
        let decoded = match schema::current(&self.kind) {
            Some(current) if self.schema < current => self.decode_older(),
            _ => serde_json::from_str(&self.tagged(self.data.get())),
        };
        decoded.map_err(|source| DecodeError::Event { kind: self.kind.clone(), schema: self.schema, source })
    }

    fn decode_older<E: DeserializeOwned>(&self) -> Result<E, serde_json::Error> {
        let mut data: Map<String, Value> = serde_json::from_str(self.data.get())?;
        let personal: Option<Value> =
            self.personal.as_ref().map(|personal| serde_json::from_str(personal.get())).transpose()?;
        schema::upcast(&self.kind, self.schema, &mut data, personal.as_ref());
        serde_json::from_str(&self.tagged(&serde_json::to_string(&data)?))
    }

    /// `{"type": …, "data": {…, "personal": …}}`: the type first, so that the data is read in one go.
    fn tagged(&self, data: &str) -> String {
        let personal = self.personal.as_ref().map_or("", |personal| personal.get());
        let mut tagged = String::with_capacity(self.kind.len() + data.len() + personal.len() + 40);
        tagged.push_str(r#"{"type":"#);
        match self.kind.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_')) {
            true => {
                tagged.push('"');
                tagged.push_str(&self.kind);
                tagged.push('"');
            }
            false => tagged.push_str(&Value::String(self.kind.clone()).to_string()),
        }
        tagged.push_str(r#","data":"#);
        match data.trim_end().strip_suffix('}').filter(|_| self.personal.is_some()) {
            Some(open) => {
                tagged.push_str(open);
                tagged.push_str(if open.trim_end().ends_with('{') { "\"" } else { ",\"" });
                tagged.push_str(PERSONAL);
                tagged.push_str("\":");
                tagged.push_str(personal);
                tagged.push('}');
            }
            None => tagged.push_str(data),
        }
        tagged.push('}');
        tagged
    }

    /// `order` of `order.placed`.
    #[must_use]
    pub fn category(&self) -> &str {
        self.kind.split('.').next().unwrap_or_default()
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|error| unreachable!("plain data: {error}"))
}

/// SHA-256, in JSON as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (digits, byte) in text.chunks_exact_mut(2).zip(self.0) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 0x0F)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
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

/// What a hexadecimal digit stands for; more than 15, if it's none. Every reader reads two hashes a commit.
const DIGITS: [u8; 256] = {
    let mut digits = [0xFF; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

impl std::str::FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a SHA-256 hash is 64 hexadecimal digits";
        let (mut bytes, mut all) = ([0; 32], 0);
        if text.len() != 64 {
            return Err(FORM);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (high, low) = (DIGITS[usize::from(digits[0])], DIGITS[usize::from(digits[1])]);
            all |= high | low;
            *byte = high << 4 | low & 0x0F;
        }
        if all > 0x0F { Err(FORM) } else { Ok(Self(bytes)) }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FromText::new("a SHA-256 hash"))
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
