//! Log lines: to standard error, for people or for programs.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Begins logging. `RUST_LOG` says what; without it, warnings and the platform's own news.
pub fn begin(json: bool) {
    let quiet = "warn,cartulary=info,infra=info,sagas=info,projections=info,command_api=info,query_api=info";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(in_colour()).with_writer(stderr);
    // A second call in one process (a test's) changes nothing.
    let _ = if json { lines.json().try_init() } else { lines.with_target(false).try_init() };
}

/// No colours in a file, nor for those who want none (no-color.org).
fn in_colour() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
