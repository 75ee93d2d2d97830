//! The commands that led to an aggregate: recognised when they come again.
//!
//! Those from a snapshot stay in its form, sorted, and are searched where they lie: to take them apart
//! would be most of what it costs to load an aggregate with thousands of them.

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use domain::CommandId;

/// Id, position of the commit, and the second in which it was recorded.
const RECORD_BYTES: usize = 16 + 8 + 4;

#[derive(Debug, Clone, Default)]
pub(super) struct DoneBefore {
    earlier: Records,
    recent: HashMap<CommandId, u64>,
    recent_in_order: VecDeque<(DateTime<Utc>, CommandId)>,
    /// Commands recorded before that are forgotten.
    since: DateTime<Utc>,
}

/// Records of commands, sorted by their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(Bytes);

impl DoneBefore {
    /// Position of the command's commit.
    pub fn position(&self, id: CommandId) -> Option<u64> {
        let earlier = || {
            let (position, second) = self.earlier.find(id)?;
            (i64::from(second) >= self.since.timestamp()).then_some(position)
        };
        self.recent.get(&id).copied().or_else(earlier)
    }

    pub fn note(&mut self, id: CommandId, position: u64, recorded_at: DateTime<Utc>) {
        self.recent.insert(id, position);
        self.recent_in_order.push_back((recorded_at, id));
    }

    pub fn forget_before(&mut self, time: DateTime<Utc>) {
        self.since = time;
        while let Some((_, id)) = self.recent_in_order.front().filter(|(recorded_at, _)| *recorded_at < time)
        {
            self.recent.remove(id);
            self.recent_in_order.pop_front();
        }
    }

    /// All that are not forgotten.
    pub fn records(&self) -> Records {
        let recent = self.recent_in_order.iter().filter_map(|(recorded_at, id)| {
            let second = u32::try_from(recorded_at.timestamp()).unwrap_or_default();
            Some((*id, *self.recent.get(id)?, second))
        });
        let earlier = self.earlier.iter().filter(|(.., second)| i64::from(*second) >= self.since.timestamp());
        let mut all: Vec<_> = earlier.chain(recent).collect();
        all.sort_unstable();
        let mut bytes = BytesMut::with_capacity(all.len() * RECORD_BYTES);
        for (CommandId(id), position, second) in all {
            bytes.put_slice(id.as_bytes());
            bytes.put_u64(position);
            bytes.put_u32(second);
        }
        Records(bytes.freeze())
    }
}

impl From<Records> for DoneBefore {
    fn from(earlier: Records) -> Self {
        Self { earlier, ..Self::default() }
    }
}

impl Records {
    /// None if these are no records.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let records = Self(bytes);
        let sorted = || records.0.chunks_exact(RECORD_BYTES).is_sorted_by(|a, b| a[..16] <= b[..16]);
        (records.0.len().is_multiple_of(RECORD_BYTES) && sorted()).then_some(records)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn iter(&self) -> impl Iterator<Item = (CommandId, u64, u32)> {
        (0..self.len()).map(|index| self.get(index))
    }

    fn len(&self) -> usize {
        self.0.len() / RECORD_BYTES
    }

    fn get(&self, index: usize) -> (CommandId, u64, u32) {
        use bytes::Buf;
        let mut record = &self.0[index * RECORD_BYTES..(index + 1) * RECORD_BYTES];
        (CommandId(uuid::Uuid::from_u128(record.get_u128())), record.get_u64(), record.get_u32())
    }

    fn find(&self, id: CommandId) -> Option<(u64, u32)> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).0.cmp(&id) {
                std::cmp::Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        let (found, position, second) = (low < self.len()).then(|| self.get(low))?;
        (found == id).then_some((position, second))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> CommandId {
        CommandId(Uuid::new_v5(&Uuid::nil(), &number.to_be_bytes()))
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 5).unwrap()
    }

    #[test]
    fn commands_are_found_until_they_are_forgotten() {
        let mut done = DoneBefore::default();
        for round in 0..3_u32 {
            // Some are recent, some went through a snapshot once, some twice.
            for number in 0..100 {
                let number = 100 * round + number;
                done.note(id(number.into()), u64::from(number) + 1, at(number.into()));
            }
            let records = done.records();
            if round < 2 {
                done = Records::from_bytes(Bytes::copy_from_slice(records.as_bytes())).unwrap().into();
            }
        }
        assert!((0..300).all(|number| done.position(id(u128::from(number))) == Some(number + 1)));
        assert_eq!(done.position(id(300)), None);
        done.forget_before(at(250) + Duration::from_nanos(1));
        for (number, known) in [(0, false), (150, false), (249, false), (251, true), (299, true)] {
            assert_eq!(done.position(id(number)).is_some(), known, "{number}");
        }
        assert_eq!(DoneBefore::from(done.records()).position(id(99)), None, "not kept either");
    }

    #[test]
    fn other_bytes_are_no_records() {
        let mut done = DoneBefore::default();
        (0..10).for_each(|number| done.note(id(number), 1, at(1)));
        let bytes = done.records().as_bytes().to_vec();
        assert!(Records::from_bytes(bytes[1..].to_vec().into()).is_none());
        let mut unsorted = bytes.clone();
        unsorted.rotate_left(RECORD_BYTES);
        assert!(Records::from_bytes(unsorted.into()).is_none());
    }
}
