//! Child processes: started in a group of their own, watched, and ended for certain.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::{Error, folder};

/// How long a server may take to end before it's killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Which process runs in the folder, or last did.
const RECORD: &str = "server.json";

const LOG_LINES_SHOWN: usize = 8;

/// A server that runs as a child of this process.
#[derive(Debug)]
pub(super) struct ServerProcess {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts it with its output in the folder's log, and remembers it there for the next start.
    /// Its own group keeps a Ctrl-C in the terminal from hitting it before the platform has come
    /// to its end.
    pub fn spawn(name: &'static str, mut command: Command, folder: &Path) -> Result<Self, Error> {
        let log = folder.join("server.log");
        let output = File::options().create(true).append(true).open(&log).map_err(Error::file(&log))?;
        let errors = output.try_clone().map_err(Error::file(&log))?;
        command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|error| Error::NotStarted {
            server: name,
            reason: error.to_string(),
            log: String::new(),
        })?;
        let server = Self { name, child, log };
        folder::write_secret_json(&folder.join(RECORD), &Identity::of(server.pid()))?;
        Ok(server)
    }

    /// 0 once it has ended and been waited for.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub fn not_started(&self, reason: impl Into<String>) -> Error {
        Error::NotStarted { server: self.name, reason: reason.into(), log: self.last_words() }
    }

    /// Why it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("it ended with {status}"))
    }

    /// Waits until it ends by itself.
    pub async fn died(&mut self) -> String {
        let status = self.child.wait().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("{} ended with {status}{}", self.name, self.last_words())
    }

    /// Ends it: first with the signal that it takes for a clean end, then by force.
    pub async fn stop(mut self, signal: Signal) {
        if let Some(pid) = pid(self.pid()) {
            // It may have ended in between, which is as good.
            let _ = kill_process(pid, signal);
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            tracing::warn!(server = self.name, "did not end in time and is killed");
            self.kill().await;
        }
    }

    /// Kills it and all that it started, as a crash would.
    pub async fn kill(mut self) {
        if let Some(pid) = pid(self.pid()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait().await;
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        format!("\n  last lines of {}:\n  {shown}", self.log.display())
    }
}

fn pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Ends the server that an earlier instance left running in the folder.
pub(super) async fn end_orphan(folder: &Path) {
    let record = std::fs::read(folder.join(RECORD)).unwrap_or_default();
    // No record, or one that was never finished: then there's no server either.
    if let Ok(Some(server)) = serde_json::from_slice::<Option<Identity>>(&record) {
        server.end().await;
    }
}

/// A process that can be told from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: u32,
    /// In clock ticks since the machine's start, from `/proc/<pid>/stat`.
    started: u64,
    boot: String,
}

impl Identity {
    /// Of a process that runs now.
    pub fn of(pid: u32) -> Option<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so the fields are counted after it.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        // A zombie runs no more; who started it has only not looked yet.
        (state != "Z").then_some(Self { pid, started, boot })
    }

    fn runs(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Ends the process if it still runs: cleanly if it can, and by force if it doesn't.
    pub async fn end(&self) {
        let Some(process) = pid(self.pid).filter(|_| self.runs()) else { return };
        tracing::info!(pid = self.pid, "ending a server that an earlier instance left running");
        // For Postgres SIGINT is a fast shutdown; nats-server takes it as a clean end, too.
        let _ = kill_process(process, Signal::INT);
        if !self.gone_within(STOP_LIMIT).await {
            let _ = kill_process_group(process, Signal::KILL);
            self.gone_within(STOP_LIMIT).await;
        }
    }

    /// It's not our child, so there's nothing to wait on but its entry in /proc.
    async fn gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.runs() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// The first free one of: the usual port, any.
pub(super) fn free_port(usual: u16) -> Result<u16, Error> {
    let bind = |port| std::net::TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    let address = bind(usual).or_else(|_| bind(0)).map_err(Error::file("127.0.0.1"))?;
    Ok(address.port())
}
