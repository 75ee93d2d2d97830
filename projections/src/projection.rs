//! What a projection is.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use domain::commit::DecodeError;
use domain::{Event, StreamId};
use futures_util::future::BoxFuture;
use infra::log::Stored;
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

    /// What decides on which rows the event touches: a SKU, say. Events of one key are applied in
    /// their order; different keys don't wait for each other. Nothing, if it touches none.
    fn key<'a>(&self, happened: &'a Happened) -> Option<Cow<'a, str>>;

    /// Brings the tables to after these events. No side effects but rows: a rebuild does it again.
    fn apply<'a>(
        &'a self,
        batch: &'a [Happened],
        transaction: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;
}

/// An event as a projection sees it.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Position of its commit in the log.
    pub position: u64,
    /// Its place in the commit, from 0.
    pub index: u32,
    pub stream: StreamId,
    /// Version of the stream after it.
    pub version: u64,
    /// Such as `order.placed`.
    pub kind: String,
    pub at: DateTime<Utc>,
    pub event: Event,
}

impl Happened {
    /// The events of a commit that the rules know.
    ///
    /// # Errors
    /// An event of a known category is not readable.
    pub fn all_of(stored: &Stored) -> Result<Vec<Self>, DecodeError> {
        let mut all = Vec::with_capacity(stored.commit.events.len());
        for (index, recorded) in (0_u32..).zip(&stored.commit.events) {
            if let Some(event) = Event::decode(recorded)? {
                all.push(Self {
                    position: stored.sequence,
                    index,
                    stream: stored.commit.stream.clone(),
                    version: stored.commit.version + u64::from(index),
                    kind: recorded.kind.clone(),
                    at: recorded.occurred_at,
                    event,
                });
            }
        }
        Ok(all)
    }
}
