//! What the writer counts and times, through a facade that costs next to nothing when nobody listens.

use std::sync::Once;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::Instant;

const WAITING: &str = "cartulary_writer_waiting";
const WAITED_SECONDS: &str = "cartulary_writer_waited_seconds";
const APPEND_SECONDS: &str = "cartulary_writer_append_seconds";
const APPEND_COMMITS: &str = "cartulary_writer_append_commits";
const REFUSED: &str = "cartulary_writer_refused_total";
const EXPIRED: &str = "cartulary_writer_expired_total";
const BATCHES_REFUSED: &str = "cartulary_writer_batches_refused_total";
const CONFLICTS: &str = "cartulary_writer_conflicts_total";
const UNKNOWN: &str = "cartulary_writer_unknown_total";

/// Tells whoever listens what the names mean. Those who begin to listen later are not told.
pub(super) fn describe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        describe_gauge!(WAITING, Unit::Count, "Commits that wait for their turn");
        describe_histogram!(WAITED_SECONDS, Unit::Seconds, "How long a commit waited for its turn");
        describe_histogram!(APPEND_SECONDS, Unit::Seconds, "How long an append took, until its outcome");
        describe_histogram!(APPEND_COMMITS, Unit::Count, "Commits in an append, by kind: single or batch");
        describe_counter!(REFUSED, Unit::Count, "Commits for which there was no place in the queue");
        describe_counter!(EXPIRED, Unit::Count, "Commits that waited for too long");
        describe_counter!(BATCHES_REFUSED, Unit::Count, "Batches that were sent again one by one");
        describe_counter!(CONFLICTS, Unit::Count, "Commits that another one came before");
        describe_counter!(UNKNOWN, Unit::Count, "Appends whose answer was lost, and looked for");
    });
}

pub(super) fn waiting(commits: usize) {
    gauge!(WAITING).set(commits as f64);
}

pub(super) fn waited(since: Instant) {
    histogram!(WAITED_SECONDS).record(since.elapsed());
}

pub(super) fn appended(kind: &'static str, began: Instant, commits: usize) {
    tracing::trace!(kind, commits, took_us = began.elapsed().as_micros(), "appended");
    histogram!(APPEND_SECONDS, "kind" => kind).record(began.elapsed());
    histogram!(APPEND_COMMITS, "kind" => kind).record(commits as f64);
}

pub(super) fn refused() {
    counter!(REFUSED).increment(1);
}

pub(super) fn expired() {
    counter!(EXPIRED).increment(1);
}

pub(super) fn batch_refused() {
    counter!(BATCHES_REFUSED).increment(1);
}

pub(super) fn conflict() {
    counter!(CONFLICTS).increment(1);
}

pub(super) fn unknown() {
    counter!(UNKNOWN).increment(1);
}
