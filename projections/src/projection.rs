//! What a projection is.

use std::fmt::{self, Display};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use domain::commit::DecodeError;
use domain::{Event, OrderId, StreamId};
use futures_util::future::BoxFuture;
use infra::feed::Entry;
use sqlx::PgConnection;

/// Code that turns events into rows of tables that only it writes.
///
/// Its tables live in a schema of their own for each read model that is built, such as `orders_v7`,
/// so that another can be built beside the live one and switched in. Its queries get a read model and
/// name its schema. Views in the schema `orders` show the live one to whoever looks by hand.
pub trait Projection: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Version of this code, to be raised whenever tables or rows are to become different: where it
    /// runs, a read model of it is built then, and takes the live one's place.
    fn version(&self) -> i32;

    /// Categories of the streams that it's about. What is in others, readable or not, is no concern
    /// of its.
    fn categories(&self) -> &'static [&'static str];

    /// The tables, by name, with the columns that tell their rows apart.
    fn tables(&self) -> &'static [(&'static str, &'static str)];

    /// Makes the tables, in the schema that is on the search path.
    fn definition(&self) -> &'static str;

    /// Makes the indexes that only queries need, when most rows are there: `create index …`.
    fn indexes(&self) -> &'static [&'static str];

    /// Lanes in which it can work side by side. One, where rows are fed by events of several keys.
    fn lanes(&self) -> u64;

    /// Shortest time from the beginning of one transaction to that of the next, for what comes meanwhile to share
    /// one. What comes alone is not kept waiting.
    fn interval_min(&self) -> Duration {
        Duration::from_millis(4)
    }

    /// What decides on which rows the event touches: a SKU, say. Events of one key are applied in
    /// their order; different keys don't wait for each other. Nothing, if it touches none.
    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>>;

    /// Begins to write its rows, with none of them in memory.
    fn writer(&self) -> Box<dyn Writer>;
}

/// Brings the tables to after the events that it is told. No side effects but rows: a rebuild does it
/// again. It may keep in memory what it knows of its rows, for nobody else writes them; when something
/// fails, it is dropped with all that it knows, and another one begins at the last checkpoint.
pub trait Writer: Send + Sync {
    /// Takes the events in; rows that it has to know are read.
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;

    /// About how many bytes are to be written: with many, it's time.
    fn pending_bytes(&self) -> usize;

    /// Writes what has come of them, in the transaction that moves the checkpoint.
    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>>;
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'e> {
    /// That of its stream.
    Id(&'e str),
    Order(OrderId),
}

impl Key<'_> {
    /// FNV-1a-64 of its text, mod 64.
    #[must_use]
    pub fn partition(self) -> u64 {
        match self {
            Self::Id(id) => domain::ids::partition(id),
            Self::Order(id) => id.partition(),
        }
    }
}

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Order(id) => id.fmt(f),
        }
    }
}

/// An event as a projection sees it.
#[derive(Debug, Clone, Copy)]
pub struct Happened<'e> {
    /// Position of its commit in the log.
    pub position: u64,
    /// Its place in the commit, from 0.
    pub index: u32,
    pub stream: &'e StreamId,
    /// Version of the stream after it.
    pub version: u64,
    /// Such as `order.placed`.
    pub kind: &'e str,
    pub at: DateTime<Utc>,
    pub event: &'e Event,
}

impl<'e> Happened<'e> {
    /// The commit's events, in order: each that the rules know, or why it is not readable.
    pub fn all_of(entry: &'e Entry) -> impl Iterator<Item = Result<Self, (u32, &'e DecodeError)>> {
        let recorded = entry.commit.iter().flat_map(|commit| std::iter::repeat(commit).zip(&commit.events));
        (0_u32..).zip(recorded).zip(entry.events()).filter_map(|((index, (commit, recorded)), event)| {
            let happened = |event| Self {
                position: entry.sequence,
                index,
                stream: &commit.stream,
                version: commit.version + u64::from(index),
                kind: &recorded.kind,
                // As fine as Postgres keeps it, or it would round one way here and another there.
                at: recorded.occurred_at.trunc_subsecs(6),
                event,
            };
            event
                .as_ref()
                .map(|event| event.as_ref().map(happened))
                .map_err(|error| (index, error))
                .transpose()
        })
    }
}
