//! The form of a snapshot: a head in JSON, then the ids of the commands that led there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domain::Aggregate;
use domain::commit::Hash;
use serde::{Deserialize, Serialize};

use super::done::Records;
use super::entry::Folded;

/// Version of this form.
const FORM: u32 = 1;

pub(super) struct Snapshot<A> {
    pub folded: Folded<A>,
    pub done: Records,
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
        let done = self.done.as_bytes();
        let mut bytes = BytesMut::with_capacity(4 + head.len() + done.len());
        bytes.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&head);
        bytes.put_slice(done);
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
        if head.form != FORM || head.code != A::CODE {
            return None;
        }
        let done = Records::from_bytes(bytes)?;
        let Head { version, sequence, hash, state, .. } = head;
        let state = serde_json::from_value(state).ok()?;
        Some(Self { folded: Folded { state, version, hash, sequence }, done })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use domain::CommandId;
    use domain::stock::{Command, Stock};
    use uuid::Uuid;

    use super::super::done::DoneBefore;
    use super::*;

    #[test]
    fn a_snapshot_survives_and_a_damaged_one_is_none() {
        let mut state = Stock::default();
        for event in state.decide(Command::Receive { quantity: 3 }).unwrap() {
            state.evolve(&event);
        }
        let folded = Folded { state, version: 1, hash: Some(Hash::of(b"x")), sequence: 7 };
        let mut done = DoneBefore::default();
        done.note(CommandId(Uuid::from_u128(1)), 7, DateTime::from_timestamp(1_700_000_000, 0).unwrap());
        let bytes = Snapshot { folded: folded.clone(), done: done.records() }.encode();
        let read = Snapshot::<Stock>::decode(bytes.clone()).unwrap();
        assert_eq!((read.folded.state, read.folded.version), (folded.state, 1));
        assert_eq!((read.folded.sequence, read.folded.hash), (7, folded.hash));
        assert_eq!(read.done.as_bytes(), done.records().as_bytes());
        let head = bytes.len() - read.done.as_bytes().len();
        for length in (0..bytes.len()).filter(|length| *length != head) {
            assert!(Snapshot::<Stock>::decode(bytes.slice(..length)).is_none(), "{length}");
        }
        let mut other = bytes.to_vec();
        let code = other.windows(16).position(|part| part == domain::CODE.as_bytes()).unwrap();
        other[code] = if other[code] == b'0' { b'1' } else { b'0' };
        assert!(Snapshot::<Stock>::decode(other.into()).is_none(), "of other code");
        assert!(Snapshot::<domain::cart::Cart>::decode(bytes).is_none(), "of another aggregate");
    }
}
