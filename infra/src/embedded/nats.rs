//! A nats-server with JetStream: loopback only, with a password, and every append fsynced.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::Command;

use super::process::{ServerProcess, end_orphan, free_port};
use super::{Error, folder};

const NAME: &str = "nats-server";
const USUAL_PORT: u16 = 4222;
const VERSION_MIN: (u32, u32) = (2, 14);
const READY_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// The port to listen on; without it, the usual one or any free one.
    pub port: Option<u16>,
}

/// A running nats-server. Dropping it leaves it running: stop it.
#[derive(Debug)]
pub struct NatsServer {
    process: ServerProcess,
    url: String,
    port: u16,
}

impl NatsServer {
    /// Starts a server in the folder and waits until JetStream answers.
    ///
    /// # Errors
    /// It is not installed, or does not become ready in time.
    pub async fn start(folder: &Path, options: &NatsOptions) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        end_orphan(folder).await;
        let program = program()?;
        let password = folder::password(folder)?;
        let port = match options.port {
            Some(port) => port,
            None => free_port(USUAL_PORT)?,
        };
        let config = folder.join("server.conf");
        folder::write_secret(&config, configuration(folder, port, &password).as_bytes())?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config);
        let process = ServerProcess::spawn(NAME, command, folder)?;
        let url = format!("nats://cartulary:{password}@127.0.0.1:{port}");
        let mut server = Self { process, url, port };
        match server.ready().await {
            Ok(()) => Ok(server),
            Err(error) => {
                server.process.kill().await;
                Err(error)
            }
        }
    }

    /// With the password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it ends by itself.
    pub async fn died(&mut self) -> String {
        self.process.died().await
    }

    /// Stops it cleanly.
    pub async fn stop(self) {
        self.process.stop(Signal::TERM).await;
    }

    /// Kills it, as a crash would.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    async fn ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if let Some(ended) = self.process.ended() {
                return Err(self.process.not_started(ended));
            }
            match answers(&self.url).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(self.process.not_started(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

async fn answers(url: &str) -> Result<(), String> {
    let client = crate::nats::connect(url).await.map_err(|error| error.to_string())?;
    let account = async_nats::jetstream::new(client).query_account().await;
    account.map(drop).map_err(|error| error.to_string())
}

fn configuration(folder: &Path, port: u16, password: &str) -> String {
    let store = folder.join("jetstream");
    format!(
        "# Written at every start.\n\
         server_name: cartulary\n\
         listen: \"127.0.0.1:{port}\"\n\
         http: \"127.0.0.1:-1\"\n\
         max_payload: 1MB\n\
         authorization {{ user: cartulary, password: \"{password}\" }}\n\
         jetstream {{\n\
         \x20 store_dir: {store:?}\n\
         \x20 # An acknowledged commit is on disk, not only on its way there.\n\
         \x20 sync_interval: always\n\
         }}\n"
    )
}

/// A suitable server: the one that is named, the one on the PATH, or the one that the project
/// installed.
fn program() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os("CARTULARY_NATS_SERVER") {
        return Ok(named.into());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&paths).map(|folder| folder.join(NAME)).find(|path| suitable(path));
    on_path.or_else(installed).ok_or(Error::NotInstalled("nats-server 2.14 or later"))
}

fn suitable(program: &Path) -> bool {
    let Ok(output) = std::process::Command::new(program).arg("--version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // nats-server: v2.15.1
    let version = || {
        let (major, rest) = text.trim().rsplit_once('v')?.1.split_once('.')?;
        Some((major.parse().ok()?, rest.split_once('.')?.0.parse().ok()?))
    };
    version().is_some_and(|version: (u32, u32)| version >= VERSION_MIN)
}

/// Below the working folder, or below a folder that this program is in.
fn installed() -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    let folders = here.iter().chain(&program).flat_map(|path| path.ancestors());
    folders.map(|folder| folder.join(".servers").join(NAME)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_append_is_fsynced() {
        let text = configuration(Path::new("/data/nats"), 4222, "secret");
        assert!(text.contains("sync_interval: always"), "{text}");
        assert!(text.contains("listen: \"127.0.0.1:4222\""), "{text}");
    }
}
