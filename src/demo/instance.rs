//! A shop of the demo's own: this program again, in a temporary folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use infra::embedded::Addresses;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A running shop, and the folder that goes with it.
pub struct Instance {
    process: Child,
    addresses: Addresses,
    _folder: TempDir,
}

impl Instance {
    /// Starts it on free ports and waits until it's ready.
    ///
    /// # Errors
    /// It does not start; its last words are in the error.
    pub async fn start() -> anyhow::Result<Self> {
        // Postgres runs as a user of its own, who must be able to enter.
        let folder = tempfile::Builder::new()
            .prefix("cartulary-demo-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()?;
        let data_dir = folder.path().join("data");
        let log = folder.path().join("platform.log");
        let output = fs::File::create(&log)?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["dev", "--port", "0", "--data-dir"])
            .arg(&data_dir)
            .env_remove("NATS_URL")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0)
            .spawn()?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Ok(addresses) = Addresses::read(&data_dir) {
                return Ok(Self { process, addresses, _folder: folder });
            }
            let ended = process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                terminate(&mut process).await?;
                anyhow::bail!("the shop did not start: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Stops it cleanly, and removes its folder.
    ///
    /// # Errors
    /// It did not end in time, or not well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        terminate(&mut self.process).await
    }
}

async fn terminate(process: &mut Child) -> anyhow::Result<()> {
    let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    kill_process(pid, Signal::TERM)?;
    let ended =
        tokio::time::timeout(STOP_LIMIT, process.wait()).await.context("the shop does not stop")??;
    anyhow::ensure!(ended.success(), "the shop ended with {ended}");
    Ok(())
}
