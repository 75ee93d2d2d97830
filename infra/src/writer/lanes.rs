//! What waits: a lane for each stream, so that a stream's commits keep their order.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use domain::StreamId;
use domain::commit::Hash;
use tokio::time::Instant;

use super::{After, Done, Error, Priority, measure};
use crate::log::Message;

/// A commit that waits.
pub(super) struct Item {
    pub message: Message,
    pub after: After,
    pub priority: Priority,
    pub done: Done,
    pub since: Instant,
}

/// How long a commit that nobody waits for lets all others go first.
const BACKGROUND_WAIT_MAX: Duration = Duration::from_millis(100);

/// Commits of one stream that go out together, the first after a known position, each of the others
/// after the one before.
pub(super) struct Group {
    pub stream: StreamId,
    /// Position that the first one expects.
    pub expected: u64,
    pub items: Vec<Item>,
    /// Whether it was sent already, and the answer got lost.
    pub unknown: bool,
    /// One for each item, once it's known.
    pub outcomes: Vec<Result<u64, Error>>,
}

/// All that waits.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: HashMap<StreamId, Lane>,
    /// Those where somebody waits for some of it.
    urgent: Turn,
    /// The others.
    background: Turn,
    waiting: usize,
    waiting_bytes: usize,
}

/// Lanes of which something waits and nothing is under way.
#[derive(Default)]
struct Turn {
    /// In the order in which they came.
    streams: VecDeque<StreamId>,
    /// Commits in them.
    commits: usize,
}

#[derive(Default)]
struct Lane {
    items: VecDeque<Item>,
    under_way: bool,
    /// Somebody waits for one of them.
    is_urgent: bool,
    /// Position of the last commit that was appended from here, for the one behind it.
    last: u64,
    /// Hash of the last commit that was given here, which another one may come after.
    tail: Option<Hash>,
}

impl Lanes {
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Commits that could go out now.
    pub fn ready(&self) -> usize {
        self.urgent.commits + self.background.commits
    }

    /// The same, without those that let others go first.
    pub fn due(&self) -> usize {
        if self.background_is_due() { self.ready() } else { self.urgent.commits }
    }

    /// Queues the commit, unless what it comes after is not here any more: then it's given back.
    pub fn push(&mut self, item: Item) -> Result<(), Item> {
        let stream = &item.message.stream;
        if let After::Commit(before) = item.after
            && self.lanes.get(stream).and_then(|lane| lane.tail) != Some(before)
        {
            return Err(item);
        }
        self.waiting += 1;
        self.waiting_bytes += item.message.body.len();
        let Self { lanes, urgent, background, .. } = self;
        let lane = lanes.entry(stream.clone()).or_default();
        let becomes_urgent = item.priority == Priority::Normal && !lane.is_urgent;
        lane.is_urgent |= becomes_urgent;
        if !lane.under_way {
            let moves = becomes_urgent && !lane.items.is_empty();
            if moves {
                background.leave(stream, lane.items.len());
            }
            let turn = if lane.is_urgent { urgent } else { background };
            if moves || lane.items.is_empty() {
                turn.enter(stream.clone(), lane.items.len());
            }
            turn.commits += 1;
        }
        lane.tail = Some(item.message.hash);
        lane.items.push_back(item);
        Ok(())
    }

    /// The first commit in turn; one that nobody waits for only if the log has nothing else to do, or if it has
    /// let others go first for long enough.
    pub fn take_one(&mut self, log_is_idle: bool) -> Option<Group> {
        let may_go = log_is_idle || self.due() > 0;
        if may_go { self.take_group(1, usize::MAX) } else { None }
    }

    fn background_is_due(&self) -> bool {
        let first = self.background.streams.front().and_then(|stream| self.lanes.get(stream)?.items.front());
        first.is_some_and(|item| item.since.elapsed() > BACKGROUND_WAIT_MAX)
    }

    /// As many commits as there are, up to these limits.
    pub fn take(&mut self, commits_max: usize, bytes_max: usize) -> Vec<Group> {
        let (mut groups, mut commits, mut bytes) = (Vec::new(), 0, 0);
        while commits < commits_max && bytes < bytes_max {
            let Some(group) = self.take_group(commits_max - commits, bytes_max - bytes) else { break };
            commits += group.items.len();
            bytes += group.items.iter().map(|item| item.message.body.len()).sum::<usize>();
            groups.push(group);
        }
        groups
    }

    /// The next lane's commits that belong together, up to these limits but for the first.
    fn take_group(&mut self, commits_max: usize, bytes_max: usize) -> Option<Group> {
        let background_first = self.urgent.streams.is_empty() || self.background_is_due();
        let turn = if background_first { &mut self.background } else { &mut self.urgent };
        let stream = turn.streams.pop_front()?;
        let lane = self.lanes.get_mut(&stream)?;
        lane.under_way = true;
        turn.commits -= lane.items.len();
        let first = lane.items.pop_front()?;
        let expected = match first.after {
            After::Position(position) => position,
            After::Commit(_) => lane.last,
        };
        let mut bytes = first.message.body.len();
        let mut items = vec![first];
        while let Some(next) = lane.items.front() {
            bytes += next.message.body.len();
            let follows = matches!(next.after, After::Commit(_));
            if !follows || items.len() >= commits_max || bytes > bytes_max {
                break;
            }
            items.extend(lane.items.pop_front());
        }
        items.iter().for_each(|item| measure::waited(item.since));
        self.waiting -= items.len();
        self.waiting_bytes -= items.iter().map(|item| item.message.body.len()).sum::<usize>();
        Some(Group { stream, expected, items, unknown: false, outcomes: Vec::new() })
    }

    /// The stream's group has come to its end: with the position of its last commit, or without one
    /// if that was not appended. Then those behind it are returned, which can't be appended either.
    pub fn release(&mut self, stream: &StreamId, last: Option<u64>) -> Vec<Item> {
        let Some(lane) = self.lanes.get_mut(stream) else { return Vec::new() };
        lane.under_way = false;
        lane.last = last.unwrap_or_default();
        let behind = match last {
            Some(_) => Vec::new(),
            None => drain_followers(lane),
        };
        self.waiting -= behind.len();
        self.waiting_bytes -= behind.iter().map(|item| item.message.body.len()).sum::<usize>();
        if lane.items.is_empty() {
            self.lanes.remove(stream);
        } else {
            lane.is_urgent = lane.items.iter().any(|item| item.priority == Priority::Normal);
            let turn = if lane.is_urgent { &mut self.urgent } else { &mut self.background };
            turn.enter(stream.clone(), lane.items.len());
        }
        behind
    }

    /// Takes out what waits for longer than that, with all that is behind it.
    pub fn expire(&mut self, limit: Duration) -> Vec<Item> {
        let late = |lane: &Lane| lane.items.front().is_some_and(|item| item.since.elapsed() > limit);
        let mut expired = Vec::new();
        for turn in [&mut self.urgent, &mut self.background] {
            // Lanes wait about in the order in which they came.
            while let Some(stream) = turn.streams.front() {
                let Some(lane) = self.lanes.get_mut(stream).filter(|lane| late(lane)) else { break };
                turn.commits -= lane.items.len();
                self.waiting -= lane.items.len();
                let items = std::mem::take(&mut lane.items);
                self.waiting_bytes -= items.iter().map(|item| item.message.body.len()).sum::<usize>();
                expired.extend(items);
                self.lanes.remove(stream);
                turn.streams.pop_front();
            }
        }
        expired
    }
}

impl Turn {
    fn enter(&mut self, stream: StreamId, commits: usize) {
        self.streams.push_back(stream);
        self.commits += commits;
    }

    fn leave(&mut self, stream: &StreamId, commits: usize) {
        self.streams.retain(|other| other != stream);
        self.commits -= commits;
    }
}

fn drain_followers(lane: &mut Lane) -> Vec<Item> {
    let mut behind = Vec::new();
    while lane.items.front().is_some_and(|item| matches!(item.after, After::Commit(_))) {
        behind.extend(lane.items.pop_front());
    }
    behind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sku: &str, body: &'static str, after: After) -> Item {
        let stream = format!("stock/{sku}").parse().unwrap();
        let message = Message { stream, hash: Hash::of(body.as_bytes()), body: body.into() };
        Item { message, after, priority: Priority::Normal, done: Box::new(drop), since: Instant::now() }
    }

    fn hash(body: &str) -> After {
        After::Commit(Hash::of(body.as_bytes()))
    }

    fn bodies(items: &[Item]) -> Vec<&[u8]> {
        items.iter().map(|item| item.message.body.as_ref()).collect()
    }

    #[test]
    fn nothing_comes_after_what_is_not_here() {
        let mut lanes = Lanes::default();
        assert!(lanes.push(item("A", "a2", hash("a1"))).is_err(), "never given");
        lanes.push(item("A", "a1", After::Position(7))).ok().unwrap();
        assert!(lanes.push(item("B", "b2", hash("a1"))).is_err(), "of another stream");
        lanes.push(item("A", "a2", hash("a1"))).ok().unwrap();
        assert!(lanes.push(item("A", "a2'", hash("a1"))).is_err(), "there is one after it already");
        let group = lanes.take_one(true).unwrap();
        assert_eq!((group.expected, bodies(&group.items)), (7, vec![&b"a1"[..]]));
        assert_eq!(bodies(&lanes.release(&group.stream, None)), [b"a2"], "fails with the one before it");
        assert!(lanes.push(item("A", "a3", hash("a2"))).is_err(), "failed");
        assert_eq!((lanes.waiting(), lanes.waiting_bytes(), lanes.ready()), (0, 0, 0));
    }

    #[test]
    fn a_lane_goes_on_where_its_group_ended() {
        let mut lanes = Lanes::default();
        for (sku, body, after) in [
            ("A", "a1", After::Position(0)),
            ("B", "b1", After::Position(0)),
            ("A", "a2", hash("a1")),
            ("A", "a3", hash("a2")),
            ("A", "a1'", After::Position(3)),
        ] {
            lanes.push(item(sku, body, after)).ok().unwrap();
        }
        let groups = lanes.take(3, usize::MAX);
        assert_eq!(groups.iter().map(|group| group.items.len()).collect::<Vec<_>>(), [3]);
        assert_eq!((lanes.ready(), lanes.waiting()), (1, 2), "one lane is under way");
        lanes.push(item("A", "a2'", hash("a1'"))).ok().unwrap();
        assert!(lanes.release(&groups[0].stream, Some(12)).is_empty());
        let groups = lanes.take(10, usize::MAX);
        let taken: Vec<_> = groups.iter().map(|group| (group.expected, bodies(&group.items))).collect();
        assert_eq!(taken, [(0, vec![&b"b1"[..]]), (3, vec![&b"a1'"[..], b"a2'"])]);
        assert_eq!((lanes.waiting(), lanes.waiting_bytes(), lanes.ready()), (0, 0, 0));
    }

    /// That nobody waits for.
    fn background(sku: &str, body: &'static str, after: After) -> Item {
        Item { priority: Priority::Background, ..item(sku, body, after) }
    }

    fn taken(group: Option<Group>) -> Option<Vec<Vec<u8>>> {
        Some(group?.items.iter().map(|item| item.message.body.to_vec()).collect())
    }

    #[test]
    fn a_lane_is_as_urgent_as_what_is_in_it() {
        let mut lanes = Lanes::default();
        lanes.push(background("A", "a1", After::Position(0))).ok().unwrap();
        lanes.push(background("B", "b1", After::Position(0))).ok().unwrap();
        assert_eq!((lanes.due(), lanes.ready()), (0, 2));
        assert_eq!(taken(lanes.take_one(false)), None, "the log has something else to do");
        lanes.push(item("B", "b2", hash("b1"))).ok().unwrap();
        lanes.push(item("C", "c1", After::Position(0))).ok().unwrap();
        assert_eq!((lanes.due(), lanes.ready()), (3, 4));
        assert_eq!(taken(lanes.take_one(false)), Some(vec![b"b1".to_vec()]));
        lanes.push(background("B", "b3", hash("b2"))).ok().unwrap();
        lanes.release(&"stock/B".parse().unwrap(), Some(1));
        assert_eq!((lanes.due(), lanes.ready()), (3, 4));
        assert_eq!(taken(lanes.take_one(false)), Some(vec![b"c1".to_vec()]));
        assert_eq!(taken(lanes.take_one(false)), Some(vec![b"b2".to_vec()]));
        lanes.release(&"stock/B".parse().unwrap(), Some(2));
        assert_eq!((lanes.due(), lanes.ready()), (0, 2));
        assert_eq!(taken(lanes.take_one(false)), None);
        assert_eq!(taken(lanes.take_one(true)), Some(vec![b"a1".to_vec()]));
        assert_eq!(taken(lanes.take_one(true)), Some(vec![b"b3".to_vec()]));
        assert_eq!((lanes.waiting(), lanes.waiting_bytes(), lanes.ready()), (0, 0, 0));
    }

    #[test]
    fn what_nobody_waits_for_goes_first_once_it_has_waited_for_long() {
        let mut lanes = Lanes::default();
        let since = Instant::now() - 2 * BACKGROUND_WAIT_MAX;
        lanes.push(Item { since, ..background("A", "a1", After::Position(0)) }).ok().unwrap();
        lanes.push(item("B", "b1", After::Position(0))).ok().unwrap();
        assert_eq!(lanes.due(), 2);
        assert_eq!(taken(lanes.take_one(false)), Some(vec![b"a1".to_vec()]));
        assert_eq!(bodies(&lanes.expire(Duration::ZERO)), [b"b1"]);
        assert_eq!((lanes.waiting(), lanes.waiting_bytes(), lanes.ready()), (0, 0, 0));
    }

    #[test]
    fn what_waits_too_long_is_taken_out_with_all_behind_it() {
        let mut lanes = Lanes::default();
        lanes.push(item("A", "a1", After::Position(0))).ok().unwrap();
        lanes.push(item("A", "a2", hash("a1"))).ok().unwrap();
        assert!(lanes.expire(Duration::from_secs(60)).is_empty());
        assert_eq!(bodies(&lanes.expire(Duration::ZERO)), [b"a1", b"a2"]);
        assert!(lanes.push(item("A", "a3", hash("a2"))).is_err());
        assert_eq!((lanes.waiting(), lanes.waiting_bytes(), lanes.ready()), (0, 0, 0));
    }
}
