//! What a lane has set aside: events that can't be applied, and all that happens later to what they are
//! about, in order. Everything else goes on.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use infra::lanes::Lease;
use infra::read_models::Position;
use infra::storable::storable;
use sqlx::{FromRow, PgConnection};

/// Stands for all events of a commit that is not readable.
pub(crate) const WHOLE: u32 = u32::MAX;

/// An event of a newer form than this build's, which was read as far as this build knows it.
type Newer = BTreeMap<(String, u32), (u64, u64, u64)>;

/// An event that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub key: String,
    pub position: u64,
    pub index: u32,
    pub stream: String,
    pub kind: String,
    /// Why it can't be applied; nothing, if it only waits for another one.
    pub reason: Option<String>,
}

/// The keys of a lane whose events are set aside, and what is to be said of them with the next
/// checkpoint.
pub(crate) struct Letters {
    lease: Lease,
    keys: HashSet<String>,
    /// When somebody asked for another try.
    asked: HashMap<String, DateTime<Utc>>,
    projection: String,
    /// Events that operators have decided to do without, by position and place in the commit.
    skipped: HashSet<(u64, u32)>,
    new: Vec<Letter>,
    newer: Newer,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub(crate) struct Place {
    #[sqlx(try_from = "i64")]
    pub position: Position,
    pub index: i32,
}

/// This build's code, of the rules and of the projections: what it can't apply, other code may.
fn build() -> String {
    format!("{}/{}", domain::CODE, env!("CODE_HASH"))
}

impl Letters {
    /// What the lane has set aside; where other code did that, it is asked to be tried again.
    pub async fn load(
        lease: &Lease,
        projection: &str,
        connection: &mut PgConnection,
    ) -> Result<Self, sqlx::Error> {
        sqlx::query(
            "update cartulary.parked set asked_at = clock_timestamp()
             where reader = $1 and lane = $2 and build <> $3 and asked_at is null",
        )
        .bind(&lease.reader)
        .bind(lease.lane)
        .bind(build())
        .execute(&mut *connection)
        .await?;
        let mut letters = Self {
            lease: lease.clone(),
            keys: HashSet::new(),
            asked: HashMap::new(),
            projection: projection.to_owned(),
            skipped: HashSet::new(),
            new: Vec::new(),
            newer: Newer::new(),
        };
        letters.learn(connection).await?;
        Ok(letters)
    }

    /// Learns what others have decided: what is to be tried again, what came from other lanes, and what is
    /// to be done without.
    async fn learn(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let parked: Vec<(String, Option<DateTime<Utc>>)> =
            sqlx::query_as("select key, asked_at from cartulary.parked where reader = $1 and lane = $2")
                .bind(&self.lease.reader)
                .bind(self.lease.lane)
                .fetch_all(&mut *connection)
                .await?;
        self.keys.extend(parked.iter().map(|(key, _)| key.clone()));
        self.asked = parked.into_iter().filter_map(|(key, asked_at)| Some((key, asked_at?))).collect();
        let skipped: Vec<Place> =
            sqlx::query_as("select position, index from cartulary.skipped_events where projection = $1")
                .bind(&self.projection)
                .fetch_all(connection)
                .await?;
        self.skipped = skipped
            .into_iter()
            .map(|Place { position, index }| (position.0, index.cast_unsigned()))
            .collect();
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether events of the key have to wait.
    pub fn holds(&self, key: &str) -> bool {
        !self.keys.is_empty() && self.keys.contains(key)
    }

    pub fn is_skipped(&self, position: u64, index: u32) -> bool {
        !self.skipped.is_empty()
            && [index, WHOLE].iter().any(|index| self.skipped.contains(&(position, *index)))
    }

    pub fn add(&mut self, letter: Letter) {
        self.keys.insert(letter.key.clone());
        self.new.push(letter);
    }

    /// Takes note of an event in a form that is newer than this build.
    pub fn note_newer(&mut self, kind: &str, schema: u32, position: u64) {
        let (events, first, last) =
            self.newer.entry((kind.to_owned(), schema)).or_insert((0, position, position));
        *events += 1;
        *first = position.min(*first);
        *last = position.max(*last);
    }

    /// Says what was set aside and seen since the last checkpoint.
    pub async fn store(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let reader = self.lease.reader.clone();
        for letter in std::mem::take(&mut self.new) {
            self.park(&letter, transaction).await?;
        }
        for ((kind, schema), (events, first, last)) in std::mem::take(&mut self.newer) {
            tracing::warn!(reader, kind, schema, "an event has a newer form than this build knows");
            sqlx::query(
                "insert into cartulary.newer_events as known (reader, kind, schema, events, first_position, last_position)
                 values ($1, $2, $3, $4, $5, $6)
                 on conflict (reader, kind, schema) do update set events = known.events + excluded.events,
                     last_position = excluded.last_position",
            )
            .bind(&reader)
            .bind(kind)
            .bind(schema.cast_signed())
            .bind(events.cast_signed())
            .bind(first.cast_signed())
            .bind(last.cast_signed())
            .execute(&mut *transaction)
            .await?;
        }
        Ok(())
    }

    async fn park(&self, letter: &Letter, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Letter { key, position, index, stream, kind, reason } = letter;
        sqlx::query(
            // Another lane, which could not read it, may have put it here.
            "insert into cartulary.dead_letters (reader, key, position, index, stream, kind, reason)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (reader, key, position, index) do update set reason = coalesce(excluded.reason, cartulary.dead_letters.reason)",
        )
        .bind(&self.lease.reader)
        .bind(key)
        .bind(position.cast_signed())
        .bind(index.cast_signed())
        .bind(stream)
        .bind(storable(kind))
        .bind(reason.as_deref().map(storable))
        .execute(&mut *transaction)
        .await?;
        let Some(reason) = reason else { return Ok(()) };
        tracing::error!(reader = self.lease.reader, key, position, kind, reason, "an event can't be applied");
        sqlx::query(
            // An operator may have decided to do without it while this lane was on its way there.
            "insert into cartulary.parked (reader, lane, key, build, asked_at)
             values ($1, $2, $3, $4, (select clock_timestamp() from cartulary.skipped_events
                                      where projection = $5 and position = $6 and index = $7))
             on conflict do nothing",
        )
        .bind(&self.lease.reader)
        .bind(self.lease.lane)
        .bind(key)
        .bind(build())
        .bind(&self.projection)
        .bind(position.cast_signed())
        .bind(index.cast_signed())
        .execute(&mut *transaction)
        .await?;
        record(&self.lease.reader, key, Some((*position, *index)), "set aside", reason, transaction).await
    }

    /// Keys whose events are to be tried again.
    pub async fn asked(&mut self, connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
        self.learn(connection).await?;
        Ok(self.asked.keys().cloned().collect())
    }

    /// Puts what turned out to be about something else where it belongs: an event of a commit that can be
    /// read now, under its own key, in its own lane. It is tried there, in its turn. A lane that has yet to
    /// come to the position meets it by itself. The reader's lanes must be locked.
    pub async fn put_where_they_belong(
        &mut self,
        key: &str,
        place: Place,
        found: &[(u64, Letter)],
        transaction: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        self.taken(key, place, transaction).await?;
        for (partition, letter) in found {
            let Letter { key, position, index, stream, kind, .. } = letter;
            if !self.has_passed(*partition, *position, transaction).await? {
                continue;
            }
            sqlx::query(
                "insert into cartulary.dead_letters (reader, key, position, index, stream, kind)
                 values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
            )
            .bind(&self.lease.reader)
            .bind(key)
            .bind(position.cast_signed())
            .bind(index.cast_signed())
            .bind(stream)
            .bind(storable(kind))
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "insert into cartulary.parked (reader, lane, key, build, asked_at)
                 select reader, lane, $2, $3, clock_timestamp() from cartulary.lanes
                 where reader = $1 and $4 between first_partition and last_partition
                 on conflict (reader, key) do update set asked_at = excluded.asked_at",
            )
            .bind(&self.lease.reader)
            .bind(key)
            .bind(build())
            .bind(partition.cast_signed())
            .execute(&mut *transaction)
            .await?;
            let place = Some((*position, *index));
            record(&self.lease.reader, key, place, "turned out to be about this", kind, transaction).await?;
            if self.lease.partitions.contains(partition) {
                self.keys.insert(key.clone());
            }
        }
        Ok(())
    }

    /// Whether the lane of the partition is behind the position.
    async fn has_passed(
        &self,
        partition: u64,
        position: u64,
        transaction: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "select coalesce(bool_and(position >= $3), false) from cartulary.lanes
             where reader = $1 and $2 between first_partition and last_partition",
        )
        .bind(&self.lease.reader)
        .bind(partition.cast_signed())
        .bind(position.cast_signed())
        .fetch_one(transaction)
        .await
    }

    /// Takes one event off the key's list.
    async fn taken(
        &self,
        key: &str,
        place: Place,
        transaction: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "delete from cartulary.dead_letters
             where reader = $1 and key = $2 and position = $3 and index = $4",
        )
        .bind(&self.lease.reader)
        .bind(key)
        .bind(place.position.0.cast_signed())
        .bind(place.index)
        .execute(transaction)
        .await?;
        Ok(())
    }

    /// The first events of the key that are set aside, in order.
    pub async fn first(
        &self,
        key: &str,
        most: usize,
        connection: &mut PgConnection,
    ) -> Result<Vec<Place>, sqlx::Error> {
        sqlx::query_as(
            "select position, index from cartulary.dead_letters where reader = $1 and key = $2
             order by position, index limit $3",
        )
        .bind(&self.lease.reader)
        .bind(key)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
    }

    /// Takes these events of the key off the list, and no other: one may have come meanwhile.
    pub async fn applied(
        &self,
        key: &str,
        places: &[Place],
        transaction: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        for place in places {
            self.taken(key, *place, transaction).await?;
        }
        Ok(())
    }

    /// Lets the key go if nothing of it is set aside any more, and says whether that is so.
    pub async fn release(&mut self, key: &str, transaction: &mut PgConnection) -> Result<bool, sqlx::Error> {
        if !self.first(key, 1, &mut *transaction).await?.is_empty() {
            return Ok(false);
        }
        sqlx::query("delete from cartulary.parked where reader = $1 and key = $2")
            .bind(&self.lease.reader)
            .bind(key)
            .execute(&mut *transaction)
            .await?;
        record(&self.lease.reader, key, None, "drained", "all of its events are applied", transaction)
            .await?;
        Ok(true)
    }

    /// The key's events are applied now, for good: later ones need not wait.
    pub fn released(&mut self, key: &str) {
        self.keys.remove(key);
        self.asked.remove(key);
    }

    /// The key's first event can't be applied, still or again.
    pub async fn failed(
        &self,
        key: &str,
        place: Place,
        reason: &str,
        transaction: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let Place { position: Position(position), index } = place;
        sqlx::query(
            "update cartulary.dead_letters set reason = $5, attempts = attempts + 1
             where reader = $1 and key = $2 and position = $3 and index = $4",
        )
        .bind(&self.lease.reader)
        .bind(key)
        .bind(position.cast_signed())
        .bind(index)
        .bind(storable(reason))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            // Who asked meanwhile is not forgotten.
            "update cartulary.parked set asked_at = nullif(asked_at, $4), build = $3
             where reader = $1 and key = $2",
        )
        .bind(&self.lease.reader)
        .bind(key)
        .bind(build())
        .bind(self.asked.get(key))
        .execute(&mut *transaction)
        .await?;
        let place = Some((position, index.cast_unsigned()));
        record(&self.lease.reader, key, place, "tried again in vain", reason, transaction).await
    }
}

/// Writes down what was done with a dead letter.
pub(crate) async fn record(
    reader: &str,
    key: &str,
    place: Option<(u64, u32)>,
    what: &str,
    detail: &str,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into cartulary.dead_letter_history (reader, key, position, index, what, detail)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(reader)
    .bind(key)
    .bind(place.map(|(position, _)| position.cast_signed()))
    .bind(place.map(|(_, index)| index.cast_signed()))
    .bind(what)
    .bind(storable(detail))
    .execute(connection)
    .await?;
    Ok(())
}
