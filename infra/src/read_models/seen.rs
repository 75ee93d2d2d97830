//! How far each lane of the read models has come, by the table and by the lanes of this process themselves.

use sqlx::{FromRow, PgPool, Row, postgres::PgRow};

use super::{Position, ReadModel};
use crate::lanes::Lease;

/// A read model as it was when it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub model: ReadModel,
    /// As the table of lanes calls it.
    pub reader: String,
    lanes: Vec<Lane>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lane {
    number: i32,
    /// What another holder had said of it counts no more; least of all where it began anew.
    epoch: i64,
    position: u64,
    /// This process holds it, and says when it moves.
    is_ours: bool,
}

impl<'r> FromRow<'r, PgRow> for Seen {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let numbers: Vec<i32> = row.try_get("lanes")?;
        let epochs: Vec<i64> = row.try_get("epochs")?;
        let positions: Vec<i64> = row.try_get("positions")?;
        let lanes = numbers.into_iter().zip(epochs).zip(positions).map(|((number, epoch), position)| Lane {
            number,
            epoch,
            position: position.cast_unsigned(),
            is_ours: false,
        });
        let (model, reader, lanes) = (ReadModel::from_row(row)?, row.try_get("reader")?, lanes.collect());
        Ok(Self { model, reader, lanes })
    }
}

/// All read models that are not retired, as the tables have them.
pub(super) async fn look(pool: &PgPool) -> Result<Vec<Seen>, sqlx::Error> {
    sqlx::query_as(
        "select projection, version, code, state, projection || '_v' || version as reader,
                coalesce(min(position), 0) as position,
                coalesce(array_agg(lane) filter (where lane is not null), '{}') as lanes,
                coalesce(array_agg(epoch) filter (where lane is not null), '{}') as epochs,
                coalesce(array_agg(position) filter (where lane is not null), '{}') as positions
         from cartulary.read_models left join cartulary.lanes on reader = projection || '_v' || version
         where state <> 'retired'
         group by projection, version order by projection, version",
    )
    .fetch_all(pool)
    .await
}

/// What is known after this look at the tables, by what was known before it and is now: a lane may have moved while
/// they were read. But if it was farther before, the database has lost something.
pub(super) fn after(before: &[Seen], now: &[Seen], mut looked: Vec<Seen>) -> Vec<Seen> {
    for seen in &mut looked {
        for lane in &mut seen.lanes {
            let (before, now) = (same(before, &seen.reader, lane), same(now, &seen.reader, lane));
            if before.is_some_and(|before| before.position > lane.position) {
                continue;
            }
            if let Some(now) = now {
                (lane.position, lane.is_ours) = (lane.position.max(now.position), now.is_ours);
            }
        }
        seen.add_up();
    }
    looked
}

/// The lane among these, if it has the same holder.
fn same<'a>(all: &'a [Seen], reader: &str, lane: &Lane) -> Option<&'a Lane> {
    let mut lanes = all.iter().find(|seen| seen.reader == reader)?.lanes.iter();
    lanes.find(|one| (one.number, one.epoch) == (lane.number, lane.epoch))
}

impl Seen {
    /// The lane's holder says that it is there; farther back, after it lost the database. Whether all have come on by
    /// that.
    pub fn moved(&mut self, lease: &Lease, position: u64) -> bool {
        let mut lanes = self.lanes.iter_mut();
        let ours = lanes.find(|lane| (lane.number, lane.epoch) == (lease.lane, lease.epoch));
        let Some(lane) = ours else { return false };
        (lane.position, lane.is_ours) = (position, true);
        let before = self.model.position;
        self.add_up();
        self.model.position > before
    }

    fn add_up(&mut self) {
        let slowest = self.lanes.iter().map(|lane| lane.position).min();
        self.model.position = Position(slowest.unwrap_or_default());
    }

    /// Whether this process has all of its lanes.
    pub fn is_ours(&self) -> bool {
        self.lanes.iter().all(|lane| lane.is_ours)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn orders(lanes: [(i64, u64); 2]) -> Seen {
        let lane = |(number, (epoch, position))| Lane { number, epoch, position, is_ours: false };
        let (projection, state) = ("orders".to_owned(), "live".to_owned());
        let mut seen = Seen {
            model: ReadModel { projection, version: 7, code: 7, state, position: Position::default() },
            reader: "orders_v7".to_owned(),
            lanes: (0..).zip(lanes).map(lane).collect(),
        };
        seen.add_up();
        seen
    }

    pub fn lease(lane: i32, epoch: i64) -> Lease {
        Lease { reader: "orders_v7".to_owned(), lane, partitions: 0..=31, epoch }
    }

    #[test]
    fn it_is_as_far_as_its_slowest_lane() {
        let mut seen = orders([(1, 10), (1, 12)]);
        assert!(seen.moved(&lease(0, 1), 20));
        assert_eq!(seen.model.position, Position(12));
        assert!(!seen.moved(&lease(0, 1), 21) && !seen.is_ours());
        assert!(seen.moved(&lease(1, 1), 20) && seen.is_ours());
        assert_eq!(seen.model.position, Position(20));
    }

    #[test]
    fn a_look_that_began_before_a_lane_moved_takes_nothing_back() {
        let before = vec![orders([(1, 10), (1, 12)])];
        let mut now = before.clone();
        assert!(now[0].moved(&lease(0, 1), 20));
        let seen = after(&before, &now, vec![orders([(1, 10), (1, 30)])]);
        assert_eq!(seen[0].model.position, Position(20));
    }

    #[test]
    fn what_the_database_has_lost_is_not_there_whatever_was_said_before() {
        let mut known = vec![orders([(1, 10), (1, 30)])];
        assert!(known[0].moved(&lease(0, 1), 20));
        let mut seen = after(&known, &known, vec![orders([(1, 15), (1, 30)])]);
        assert!(seen[0].model.position == Position(15) && !seen[0].is_ours());
        // Its holder has found out.
        assert!(!seen[0].moved(&lease(0, 1), 14));
        assert_eq!(seen[0].model.position, Position(14));
    }

    #[test]
    fn what_an_earlier_holder_said_counts_no_more() {
        let mut known = vec![orders([(1, 10), (1, 12)])];
        known[0].moved(&lease(0, 1), 20);
        known[0].moved(&lease(1, 1), 20);
        let mut seen = after(&known, &known, vec![orders([(2, 0), (1, 20)])]).remove(0);
        assert!(seen.model.position == Position(0) && !seen.is_ours());
        assert!(!seen.moved(&lease(0, 1), 25));
        assert!(seen.moved(&lease(0, 2), 5));
        assert_eq!(seen.model.position, Position(5));
    }
}
