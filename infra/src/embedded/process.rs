//! Child processes: started in a group of their own, watched, and ended for certain, also those
//! that an earlier instance left behind.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::{Error, folder};

/// How long a server may take to become ready. After a crash it reads what it has: nats-server
/// about 2 s per million messages, Postgres up to 2 GB of its write-ahead log.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How long one attempt to reach a starting server may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// How long a server may take to end before it's killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Which process runs in the folder, or last did.
const RECORD: &str = "server.json";

const LOG_LINES_SHOWN: usize = 8;

/// What is told apart between the servers here.
#[derive(Debug)]
pub(super) struct Kind {
    pub name: &'static str,
    /// The file name of its program.
    pub program: &'static str,
    /// What it takes for the wish that it end cleanly and soon.
    pub end: Signal,
}

/// A server that runs as a child of this process. Dropping it asks it to end, without waiting.
#[derive(Debug)]
pub(super) struct ServerProcess {
    kind: &'static Kind,
    child: Child,
    /// The working folder of it and of all that it starts.
    works_in: PathBuf,
    log: PathBuf,
    /// Where in the log it began.
    log_start: u64,
}

impl ServerProcess {
    /// Starts it with its output in the folder's log, and remembers it there for the next start.
    /// Its own group keeps a Ctrl-C in the terminal from hitting it before the platform has come
    /// to its end.
    pub fn spawn(
        kind: &'static Kind,
        mut command: Command,
        folder: &Path,
        works_in: &Path,
    ) -> Result<Self, Error> {
        let log = folder.join("server.log");
        let output = File::options().create(true).append(true).open(&log).map_err(Error::file(&log))?;
        let errors = output.try_clone().map_err(Error::file(&log))?;
        let log_start = output.metadata().map_err(Error::file(&log))?.len();
        command.process_group(0).current_dir(works_in).stdin(Stdio::null()).stdout(output).stderr(errors);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|error| Error::NotStarted {
            server: kind.name,
            reason: format!("{program}: {error}"),
            log: String::new(),
        })?;
        let server = Self { kind, child, works_in: works_in.to_owned(), log, log_start };
        folder::write_secret_json(&folder.join(RECORD), &Identity::of(server.pid()))?;
        Ok(server)
    }

    /// 0 once it has ended and been waited for.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Waits until the probe succeeds. If the server ends instead, that shows at once.
    pub async fn until_ready<F>(&mut self, probe: impl Fn() -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), String>>,
    {
        let mut last = String::new();
        let answered = async {
            loop {
                match tokio::time::timeout(PROBE_LIMIT, probe()).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => last = error,
                    Err(_) => last = "no answer".to_owned(),
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let outcome = tokio::select! {
            status = self.child.wait() => Err(format!("it {}", ended(status))),
            outcome = tokio::time::timeout(READY_LIMIT, answered) => outcome.map_err(|_| String::new()),
        };
        outcome.map_err(|reason| Error::NotStarted {
            server: self.kind.name,
            reason: if reason.is_empty() { format!("it is not ready in time: {last}") } else { reason },
            log: self.last_words(),
        })
    }

    /// Waits until it ends by itself.
    pub async fn died(&mut self) -> String {
        let status = self.child.wait().await;
        format!("{} {}{}", self.kind.name, ended(status), self.last_words())
    }

    /// Ends it: cleanly, and by force if that takes too long.
    pub async fn stop(mut self) {
        self.ask_to_end();
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            tracing::warn!(server = self.kind.name, "did not end in time and is killed");
            self.kill().await;
        }
    }

    /// Kills it and all that it started, as a crash would.
    pub async fn kill(mut self) {
        if let Some(pid) = pid(self.pid()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        // It was killed or had ended: there's nothing else that the status could tell.
        let _ = self.child.wait().await;
        kill_strays(self.kind, &self.works_in).await;
    }

    fn ask_to_end(&self) {
        if let Some(pid) = pid(self.pid()) {
            // It may have ended in between, which is as good.
            let _ = kill_process(pid, self.kind.end);
        }
    }

    /// The end of what it has logged since it was started.
    fn last_words(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let log = read().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        format!("\n  the last lines of {}:\n  {shown}", self.log.display())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Once it has been waited for, it has no id here any more.
        self.ask_to_end();
    }
}

/// Ends what an earlier instance left running in the folder, which this one has for itself: the
/// recorded server, cleanly; then what else is found, such as backends that outlived a Postgres.
pub(super) async fn end_earlier(kind: &Kind, folder: &Path, works_in: &Path) {
    let record = fs::read(folder.join(RECORD)).unwrap_or_default();
    // No record, or one that was never finished: then there's no server either.
    if let Ok(Some(server)) = serde_json::from_slice::<Option<Identity>>(&record) {
        server.end(kind).await;
    }
    kill_strays(kind, works_in).await;
}

/// Kills what has no parent that could end it. Such a process has the server's program and the
/// server's working folder; where another user's processes can't be looked at, none is found.
async fn kill_strays(kind: &Kind, works_in: &Path) {
    let deadline = Instant::now() + STOP_LIMIT;
    while Instant::now() < deadline {
        let strays = Identity::all_working_in(works_in, kind.program);
        if strays.is_empty() {
            return;
        }
        for stray in strays {
            tracing::info!(pid = stray.pid, "killing a {} that was left behind", kind.program);
            if let Some(pid) = pid(stray.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A process that can be told from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub pid: u32,
    /// In clock ticks since the machine's start, from `/proc/<pid>/stat`.
    started: u64,
    boot: String,
}

impl Identity {
    /// Of a process that runs now.
    pub fn of(pid: u32) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so the fields are counted after it.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        // Threads have such entries, too.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse() == Ok(pid);
        // A zombie runs no more; who started it has only not looked yet.
        (process && !matches!(state, "Z" | "X")).then_some(Self { pid, started, boot })
    }

    pub fn runs(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    fn all_working_in(folder: &Path, program: &str) -> Vec<Self> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| works_in(*pid, folder) && runs_program(*pid, program))
            .filter_map(Self::of)
            .collect()
    }

    /// Ends the process if it still runs. It's not our child, so there's nothing to wait on but
    /// its entry in /proc.
    async fn end(&self, kind: &Kind) {
        let Some(process) = pid(self.pid).filter(|_| self.runs()) else { return };
        tracing::info!(pid = self.pid, "ending a {} that an earlier instance left running", kind.name);
        let _ = kill_process(process, kind.end);
        if !self.gone_within(STOP_LIMIT).await && self.runs() {
            tracing::warn!(pid = self.pid, "it did not end in time and is killed");
            let _ = kill_process_group(process, Signal::KILL);
            self.gone_within(STOP_LIMIT).await;
        }
    }

    async fn gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.runs() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        true
    }
}

pub(super) fn works_in(pid: u32, folder: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

fn runs_program(pid: u32, program: &str) -> bool {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // The file may have been replaced by a later version since the process was started.
    name.strip_suffix(" (deleted)").unwrap_or(name) == program
}

/// The first free one of: the usual port, any.
pub(super) fn free_port(usual: u16) -> Result<u16, Error> {
    let bind = |port| std::net::TcpListener::bind(("127.0.0.1", port)).and_then(|it| it.local_addr());
    let address = bind(usual).or_else(|_| bind(0)).map_err(Error::file("127.0.0.1"))?;
    Ok(address.port())
}

fn ended(status: std::io::Result<std::process::ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| format!("ended with {status}"))
}

/// `None` for 0, which would mean ourselves.
fn pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEP: Kind = Kind { name: "a sleeper", program: "sleep", end: Signal::TERM };

    #[tokio::test]
    async fn only_the_recorded_process_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let recorded = Identity::of(sleep.id()).unwrap();
        let record = |identity: &Identity| {
            folder::write_secret_json(&folder.path().join(RECORD), identity).unwrap();
        };
        record(&Identity { started: recorded.started + 1, ..recorded.clone() });
        end_earlier(&SLEEP, folder.path(), folder.path()).await;
        record(&Identity { boot: "another".to_owned(), ..recorded.clone() });
        end_earlier(&SLEEP, folder.path(), folder.path()).await;
        assert!(sleep.try_wait().unwrap().is_none(), "it was not the one");
        record(&recorded);
        end_earlier(&SLEEP, folder.path(), folder.path()).await;
        assert!(!recorded.runs());
        sleep.wait().unwrap();
    }

    #[tokio::test]
    async fn strays_are_known_by_program_and_folder() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sleep = |folder: &Path| {
            std::process::Command::new("sleep").arg("60").current_dir(folder).spawn().unwrap()
        };
        let (mut stray, mut bystander) = (sleep(ours.path()), sleep(other.path()));
        kill_strays(&Kind { program: "another", ..SLEEP }, ours.path()).await;
        assert!(stray.try_wait().unwrap().is_none());
        kill_strays(&SLEEP, ours.path()).await;
        assert!(!stray.wait().unwrap().success());
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
