//! How many files and connections the process may have open: as many as the system lets it.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit from what is usual (often 1024) to what is allowed: each stream of events is a connection.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the process may not have more files open");
    }
}
