//! Tries again what was set aside: in order, and only as far as it goes.

use std::sync::Arc;

use infra::feed::Entry;
use infra::log::ReadError;
use sqlx::{Connection, PgConnection};

use super::error::chain;
use super::work::Work;
use super::{Error, Lane};
use crate::letters::{Letters, Place};
use crate::projection::Happened;

/// Events that are tried at a time.
const TRIED_MAX: usize = 200;

/// What came of a try.
enum Tried {
    Applied,
    /// Nothing was done.
    Failed(String),
}

impl Lane {
    /// Tries the keys again for which somebody asked. Nothing else may be under way.
    pub(super) async fn retry_asked(
        &self,
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        for key in letters.asked(self.projection.name(), connection).await? {
            self.retry(&key, letters, work, connection).await?;
        }
        Ok(())
    }

    async fn retry(
        &self,
        key: &str,
        letters: &mut Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        let mut most = TRIED_MAX;
        loop {
            let places = letters.first(key, most, connection).await?;
            let Some((first, last)) = places.first().zip(places.last()) else {
                let mut transaction = connection.begin().await?;
                self.check_lease(&mut transaction).await?;
                letters.release(key, &mut transaction).await?;
                transaction.commit().await?;
                letters.released(key);
                return Ok(());
            };
            match self.try_again(key, &places, *last, letters, work, connection).await? {
                Tried::Applied => {}
                Tried::Failed(reason) if most == 1 => {
                    let mut transaction = connection.begin().await?;
                    self.check_lease(&mut transaction).await?;
                    letters.failed(key, *first, &reason, &mut transaction).await?;
                    return Ok(transaction.commit().await?);
                }
                // One by one, to find out which one it is.
                Tried::Failed(_) => most = 1,
            }
        }
    }

    async fn try_again(
        &self,
        key: &str,
        places: &[Place],
        last: Place,
        letters: &Letters,
        work: &mut Work,
        connection: &mut PgConnection,
    ) -> Result<Tried, Error> {
        let entries = self.read(places).await?;
        let mut ours = Vec::new();
        for (place, entry) in places.iter().zip(&entries) {
            let index = place.index.cast_unsigned();
            if letters.is_skipped(place.position.0, index) {
                continue;
            }
            if let Err(error) = &entry.commit {
                return Ok(Tried::Failed(chain(error)));
            }
            for happened in Happened::all_of(entry) {
                match happened {
                    Ok(happened) if happened.index == index => ours.push(happened),
                    Err((at, error)) if at == index => return Ok(Tried::Failed(chain(error))),
                    Ok(_) | Err(_) => {}
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
                letters.applied(key, last, &mut transaction).await?;
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
