//! Processes that get no more memory, and are killed for wanting some.

use std::fs;
use std::path::{Path, PathBuf};

/// The memory controller of cgroups, version 1.
const CONTROLLER: &str = "/sys/fs/cgroup/memory";

/// What a process may have beside what it had.
const BYTES: &str = "1M";

/// A process that gets next to nothing any more.
pub struct Limit(PathBuf);

impl Limit {
    /// None, with a word, where there are no such limits or they may not be set.
    pub fn below(pid: u32) -> Option<Self> {
        let group = Path::new(CONTROLLER).join(format!("cartulary-test-{pid}"));
        let limit = Self(group);
        let set = fs::create_dir(&limit.0)
            // What it has stays where it was counted; from now on it gets less than it needs.
            .and_then(|()| limit.set("memory.limit_in_bytes", BYTES))
            .and_then(|()| limit.set("cgroup.procs", &pid.to_string()));
        if let Err(error) = set {
            eprintln!("skipped: no process can be limited here ({CONTROLLER}: {error})");
            return None;
        }
        Some(limit)
    }

    fn set(&self, file: &str, value: &str) -> std::io::Result<()> {
        fs::write(self.0.join(file), value)
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    /// Whether it was killed for wanting more.
    pub fn killed(&self) -> bool {
        let killed = |line: &str| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0");
        self.get("memory.oom_control").lines().any(killed)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A process that still ends keeps it; it limits nobody else.
        let _ = fs::remove_dir(&self.0);
    }
}
