//! Tries again what was set aside: in order, and only as far as it goes.

use std::sync::Arc;
use std::time::Duration;

use infra::feed::Entry;
use infra::log::ReadError;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::error::chain;
use super::work::Work;
use super::{Error, Lane};
use crate::letters::{Letter, Letters, Place, WHOLE};
use crate::projection::Happened;

/// Events that are tried at a time.
const TRIED_MAX: usize = 200;

/// How long everything else may wait for it at a time.
const TIME_MAX: Duration = Duration::from_millis(200);

/// What came of a try.
enum Tried {
    /// There may be more of the key.
    Applied,
    /// Nothing of the key is set aside any more.
    Drained,
    /// Nothing was done.
    Failed(String),
}

/// What an event that was set aside is now.
enum Now<'e> {
    Applicable(Happened<'e>),
    /// It turned out to be about something else, or to be several.
    Elsewhere(Vec<(u64, Letter)>),
    NoConcern,
    Unreadable(String),
}

impl Lane {
    /// Tries the keys again for which somebody asked, for a while; true if that was not enough. Nothing
    /// else may be under way.
    pub(super) async fn retry_asked(
        &self,
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<bool, Error> {
        let enough = Instant::now() + TIME_MAX;
        for key in letters.asked(connection).await? {
            while let Tried::Applied = self.retry(&key, letters, work, connection).await? {
                if Instant::now() > enough {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Tries the first events of the key; if that fails, the first one alone, to know which one it is.
    async fn retry(
        &self,
        key: &str,
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<Tried, Error> {
        let places = letters.first(key, TRIED_MAX, connection).await?;
        let Some(first) = places.first() else {
            let mut transaction = connection.begin().await?;
            self.check_lease(&mut transaction).await?;
            let is_drained = letters.release(key, &mut transaction).await?;
            transaction.commit().await?;
            if !is_drained {
                return Ok(Tried::Applied);
            }
            letters.released(key);
            return Ok(Tried::Drained);
        };
        let mut tried = self.try_again(key, &places, letters, work, connection).await?;
        if matches!(tried, Tried::Failed(_)) && places.len() > 1 {
            tried = self.try_again(key, &places[..1], letters, work, connection).await?;
        }
        if let Tried::Failed(reason) = &tried {
            let mut transaction = connection.begin().await?;
            self.check_lease(&mut transaction).await?;
            letters.failed(key, *first, reason, &mut transaction).await?;
            transaction.commit().await?;
        }
        Ok(tried)
    }

    async fn try_again(
        &self,
        key: &str,
        places: &[Place],
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<Tried, Error> {
        let entries = self.read(places).await?;
        let mut ours = Vec::new();
        for (place, entry) in places.iter().zip(&entries) {
            match self.now(key, *place, entry, letters) {
                Now::Applicable(happened) => ours.push(happened),
                Now::NoConcern => {}
                Now::Unreadable(reason) => return Ok(Tried::Failed(reason)),
                Now::Elsewhere(found) => {
                    let mut transaction = connection.begin().await?;
                    // In order, so that two who do it don't wait for each other.
                    self.lease.lock_all(&mut transaction).await?;
                    self.check_lease(&mut transaction).await?;
                    letters.put_where_they_belong(key, *place, &found, &mut transaction).await?;
                    transaction.commit().await?;
                    // What was found before it comes in its turn, without it.
                    return Ok(Tried::Applied);
                }
            }
        }
        let mut transaction = connection.begin().await?;
        self.check_lease(&mut transaction).await?;
        let mut applied = work.fold_only(&ours, &mut transaction).await;
        if applied.is_ok() {
            applied = work.flush_only(&mut transaction).await;
        }
        match applied.map_err(|error| Error::applying(error, 0, 0)) {
            Ok(()) => {
                letters.applied(key, places, &mut transaction).await?;
                transaction.commit().await?;
                Ok(Tried::Applied)
            }
            Err(Error::Rejected { reason, .. }) => {
                transaction.rollback().await?;
                work.renew(self.projection.writer());
                Ok(Tried::Failed(reason))
            }
            Err(error) => Err(error),
        }
    }

    fn now<'e>(&self, key: &str, place: Place, entry: &'e Entry, letters: &Letters) -> Now<'e> {
        let index = place.index.cast_unsigned();
        if letters.is_skipped(place.position.0, index) {
            return Now::NoConcern;
        }
        if let Err(error) = &entry.commit {
            return Now::Unreadable(chain(error));
        }
        let mut found = Vec::new();
        for happened in Happened::all_of(entry) {
            let happened = match happened {
                Ok(happened) if index == WHOLE || happened.index == index => happened,
                Err((at, error)) if index == WHOLE || at == index => return Now::Unreadable(chain(error)),
                Ok(_) | Err(_) => continue,
            };
            let Some(about) = self.projection.key(&happened) else { continue };
            if index != WHOLE && about.to_string() == key {
                return Now::Applicable(happened);
            }
            let (key, position, index) = (about.to_string(), happened.position, happened.index);
            let (stream, kind) = (happened.stream.to_string(), happened.kind.to_owned());
            found.push((about.partition(), Letter { key, position, index, stream, kind, reason: None }));
        }
        if found.is_empty() { Now::NoConcern } else { Now::Elsewhere(found) }
    }

    async fn read(&self, places: &[Place]) -> Result<Vec<Arc<Entry>>, Error> {
        let mut entries = Vec::new();
        for place in places {
            let entry = match self.feed.log().read(place.position.0).await {
                Ok(Some(stored)) => Entry::new(stored),
                Err(error @ ReadError::Unreadable { .. }) => Entry::unreadable(error).map_err(unavailable)?,
                Ok(None) => return Err(Error::Unavailable(sqlx::Error::RowNotFound)),
                Err(error) => return Err(unavailable(error)),
            };
            entries.push(Arc::new(entry));
        }
        Ok(entries)
    }

    async fn check_lease(&self, transaction: &mut PgConnection) -> Result<(), Error> {
        match self.lease.is_valid(transaction).await? {
            true => Ok(()),
            false => Err(Error::Lost),
        }
    }
}

/// The log does not answer; the lane begins anew in a moment.
fn unavailable(error: ReadError) -> Error {
    Error::Unavailable(sqlx::Error::Io(std::io::Error::other(error)))
}
