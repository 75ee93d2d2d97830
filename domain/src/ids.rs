//! Names of things: validated on the way in, so that they are safe in subjects, paths and SQL.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::Aggregate;
use crate::text::FromText;

/// Number of partitions of the log, fixed for ever: subjects contain it.
pub const PARTITIONS: u64 = 64;

/// Stock keeping unit: the code of a product, `[A-Za-z0-9._-]{1,64}`, case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Sku(String);

impl Sku {
    pub const LENGTH_MAX: usize = 64;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SKU is 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidSku;

impl TryFrom<String> for Sku {
    type Error = InvalidSku;

    fn try_from(code: String) -> Result<Self, InvalidSku> {
        if is_sku(&code) { Ok(Self(code)) } else { Err(InvalidSku) }
    }
}

fn is_sku(code: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=Sku::LENGTH_MAX).contains(&code.len()) && code.bytes().all(allowed)
}

impl FromStr for Sku {
    type Err = InvalidSku;

    fn from_str(code: &str) -> Result<Self, InvalidSku> {
        Self::try_from(code.to_owned())
    }
}

impl Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The id of what the command creates: a repeat of the command finds the same one.
            #[must_use]
            pub fn created_by(command: CommandId) -> Self {
                Self(Uuid::new_v5(&command.0, stringify!($name).as_bytes()))
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// A shopping cart.
    CartId
);
uuid_id!(
    /// An order, its payment, and the sagas that drive them.
    OrderId
);
uuid_id!(
    /// A quote for a cart.
    QuoteId
);

/// Identity of a command, and of the commit that records its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(pub Uuid);

impl CommandId {
    /// The id of a step that follows from this command's events: the same for every repeat.
    #[must_use]
    pub fn step(self, name: &str) -> Self {
        Self(Uuid::new_v5(&self.0, name.as_bytes()))
    }
}

impl Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Categories of the rules' own aggregates.
const CATEGORIES: [&str; 5] = [
    crate::stock::CATEGORY,
    crate::order::CATEGORY,
    crate::payment::CATEGORY,
    crate::cart::CATEGORY,
    crate::product::CATEGORY,
];

/// Name of one aggregate's stream, written `category/id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct StreamId {
    category: Cow<'static, str>,
    id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no stream: expected category/id, such as order/6f1c…")]
pub struct InvalidStreamId(String);

impl StreamId {
    /// The stream of the aggregate `A` with this id.
    #[must_use]
    pub fn of<A: Aggregate>(id: impl Display) -> Self {
        Self { category: A::CATEGORY.into(), id: id.to_string() }
    }

    #[must_use]
    pub fn category(&self) -> &str {
        &self.category
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// FNV-1a-64 of the id, mod 64: what has the same id keeps its order in one partition.
    #[must_use]
    pub fn partition(&self) -> u64 {
        partition(&self.id)
    }
}

impl OrderId {
    /// That of the id's text.
    #[must_use]
    pub fn partition(self) -> u64 {
        partition(self.0.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

/// FNV-1a-64 of the key, mod 64.
#[must_use]
pub fn partition(key: &str) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash % PARTITIONS
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        let invalid = || InvalidStreamId(text.to_owned());
        let (category, id) = text.split_once('/').ok_or_else(invalid)?;
        let letters = |b: u8| b.is_ascii_lowercase() || b == b'_';
        if category.is_empty() || !category.bytes().all(letters) || !is_sku(id) {
            return Err(invalid());
        }
        // Those that are read all the time need no text of their own.
        let known = CATEGORIES.iter().find(|known| **known == category);
        let category = known.map_or_else(|| category.to_owned().into(), |known| Cow::Borrowed(*known));
        Ok(Self { category, id: id.to_owned() })
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FromText::new("a stream"))
    }
}

impl From<StreamId> for String {
    fn from(stream: StreamId) -> Self {
        stream.to_string()
    }
}

impl Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.category, self.id)
    }
}

#[cfg(test)]
mod spec {
    use super::*;

    #[test]
    fn partitions_are_fixed_for_ever() {
        // Golden vectors: subjects in existing logs contain them.
        for (id, partition) in [("stock/a", 12), ("stock/foobar", 40), ("product/HAL-1", 28)] {
            let stream: StreamId = id.parse().expect("a stream");
            assert_eq!(stream.partition(), partition, "{id}");
        }
    }

    #[test]
    fn a_product_and_its_stock_share_a_partition() {
        let of = |text: &str| text.parse::<StreamId>().expect("a stream").partition();
        assert_eq!(of("product/KET-01"), of("stock/KET-01"));
    }

    #[test]
    fn hostile_skus_are_refused() {
        for code in ["", "a b", "a*", "a>", "a/b", "ä", "a\n", "a\0", &"x".repeat(65)] {
            assert_eq!(code.parse::<Sku>(), Err(InvalidSku), "{code:?}");
        }
        assert!(serde_json::from_str::<Sku>("\"a>b\"").is_err());
    }

    #[test]
    fn hostile_streams_are_refused() {
        for text in ["order", "/x", "Order/x", "order/", "order/a>b", "order/a/b"] {
            assert!(text.parse::<StreamId>().is_err(), "{text:?}");
        }
    }
}
