//! The form of a snapshot: a head in JSON, then the ids of the commands that led there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use domain::commit::Hash;
use domain::{Aggregate, CommandId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::Folded;

/// Version of this form.
const FORM: u32 = 1;

/// A command that led to the state: its id, the position of its commit, and when that was recorded.
pub(super) type Done = (CommandId, u64, DateTime<Utc>);

pub(super) struct Snapshot<A> {
    pub folded: Folded<A>,
    /// In the order in which they were recorded.
    pub done: Vec<Done>,
}

#[derive(Serialize, Deserialize)]
struct Head<A, C> {
    form: u32,
    /// What folded the state: another build's snapshot is not read.
    code: C,
    version: u64,
    sequence: u64,
    hash: Option<Hash>,
    state: A,
}

impl<A: Aggregate> Snapshot<A> {
    pub fn encode(&self) -> Bytes {
        let Folded { state, version, hash, sequence } = &self.folded;
        let head =
            Head { form: FORM, code: A::CODE, version: *version, sequence: *sequence, hash: *hash, state };
        let head = serde_json::to_vec(&head).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        let mut bytes = BytesMut::with_capacity(4 + head.len() + self.done.len() * 32);
        bytes.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&head);
        for (CommandId(id), sequence, recorded_at) in &self.done {
            bytes.put_slice(id.as_bytes());
            bytes.put_u64(*sequence);
            bytes.put_i64(recorded_at.timestamp_micros());
        }
        bytes.freeze()
    }

    /// None if it's damaged, or not this build's.
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        if bytes.len() < length {
            return None;
        }
        let head: Head<serde_json::Value, Vec<String>> =
            serde_json::from_slice(&bytes.split_to(length)).ok()?;
        if head.form != FORM || head.code != A::CODE || !bytes.len().is_multiple_of(32) {
            return None;
        }
        let mut done = Vec::with_capacity(bytes.len() / 32);
        while bytes.has_remaining() {
            let id = Uuid::from_u128(bytes.get_u128());
            let (sequence, recorded_at) =
                (bytes.get_u64(), DateTime::from_timestamp_micros(bytes.get_i64())?);
            done.push((CommandId(id), sequence, recorded_at));
        }
        let Head { version, sequence, hash, state, .. } = head;
        let state = serde_json::from_value(state).ok()?;
        Some(Self { folded: Folded { state, version, hash, sequence }, done })
    }
}

#[cfg(test)]
mod tests {
    use domain::stock::{Command, Stock};

    use super::*;

    #[test]
    fn a_snapshot_survives_and_a_damaged_one_is_none() {
        let mut state = Stock::default();
        for event in state.decide(Command::Receive { quantity: 3 }).unwrap() {
            state.evolve(&event);
        }
        let folded = Folded { state, version: 1, hash: Some(Hash::of(b"x")), sequence: 7 };
        let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
        let done = vec![(CommandId(Uuid::from_u128(1)), 7, at)];
        let bytes = Snapshot { folded: folded.clone(), done: done.clone() }.encode();
        let read = Snapshot::<Stock>::decode(bytes.clone()).unwrap();
        assert_eq!((read.folded.state, read.folded.version), (folded.state, 1));
        assert_eq!((read.folded.sequence, read.folded.hash, read.done), (7, folded.hash, done));
        for length in 0..bytes.len() - 32 {
            assert!(Snapshot::<Stock>::decode(bytes.slice(..length)).is_none(), "{length}");
        }
        let mut other = bytes.to_vec();
        let code = other.windows(16).position(|part| part == domain::CODE.as_bytes()).unwrap();
        other[code] = if other[code] == b'0' { b'1' } else { b'0' };
        assert!(Snapshot::<Stock>::decode(other.into()).is_none(), "of other code");
        assert!(Snapshot::<domain::cart::Cart>::decode(bytes).is_none(), "of another aggregate");
    }
}
