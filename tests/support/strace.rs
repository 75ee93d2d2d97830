//! System calls that fail or take long, in a process that runs already.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::warden::{Folder, kill_at_the_end};

/// While it lives, the process's system calls go wrong.
pub struct Injection {
    strace: Child,
    output: PathBuf,
    _folder: Folder,
}

impl Injection {
    /// What is to happen is in strace's language: `fsync:error=EIO:when=50`. None, with a word, where
    /// there is no strace or it may not be used.
    pub fn start(pid: u32, what: &str) -> Option<Self> {
        let folder = Folder::new();
        let output = folder.path().join("calls");
        let (call, _) = what.split_once(':').expect("a call");
        let mut command = Command::new("strace");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let strace = command
            .args(["-f", "-q", "-e", &format!("trace={call}"), "-e", &format!("inject={what}")])
            .args(["-p", &pid.to_string(), "-o"])
            .arg(&output)
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut strace) = strace else {
            eprintln!("skipped: there is no strace here (it is in the package of that name)");
            return None;
        };
        kill_at_the_end(strace.id());
        // It has begun when it is the tracer of the process.
        let attached = format!("TracerPid:\t{}\n", strace.id());
        for _ in 0..500 {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            if status.contains(&attached) {
                return Some(Self { strace, output, _folder: folder });
            }
            if !matches!(strace.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("skipped: strace may not look at process {pid} here");
        None
    }

    /// Calls that went wrong so far.
    pub fn hits(&self) -> usize {
        let output = std::fs::read_to_string(&self.output).unwrap_or_default();
        output.lines().filter(|line| line.contains("INJECTED") || line.contains("DELAYED")).count()
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.strace.id().cast_signed()).expect("a process id");
        // It lets go of the process before it ends.
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.strace.wait();
    }
}
