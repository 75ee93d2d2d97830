//! Why a lane can't go on: because the world does not answer, or because of an event.

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nothing is wrong with the events; waiting helps.
    #[error("Postgres does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// One of the events after the first position, up to the last, can't be applied.
    #[error("an event after position {first}, up to {last}, can't be applied: {reason}")]
    Rejected { first: u64, last: u64, reason: String },
    #[error("somebody else has the lane now")]
    Lost,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error)
    }
}

impl Error {
    /// What went wrong while events of these positions were applied.
    pub fn applying(error: sqlx::Error, first: u64, last: u64) -> Self {
        match is_outage(&error) {
            true => Self::Unavailable(error),
            false => Self::Rejected { first, last, reason: error.to_string() },
        }
    }
}

/// Whether the trouble lies with Postgres or the way there, and not with what it was given.
fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        // Class 22: bad data; 23: a constraint; 54: beyond a limit. All else passes, or is mended.
        sqlx::Error::Database(error) => {
            !error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
        }
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

/// The error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What a panic says.
pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> sqlx::Error {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    sqlx::Error::Decode(format!("the projection panicked: {}", text.unwrap_or_default()).into())
}
