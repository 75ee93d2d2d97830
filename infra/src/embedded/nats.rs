//! A nats-server with JetStream: loopback only, with a password, and every append fsynced.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::process::Command;

use super::process::{Kind, ServerProcess, end_earlier, free_port};
use super::{Error, START_ATTEMPTS, folder};

const KIND: Kind = Kind { name: "nats-server", program: "nats-server", end: Signal::TERM };
const USUAL_PORT: u16 = 4222;
const USUAL_MONITORING_PORT: u16 = 8222;
const VERSION_MIN: (u32, u32) = (2, 14);

/// How much the server's heap may grow, in percent of what is in use, until its garbage is collected. It keeps every
/// stream's subject in memory, in small pieces: with 100 %, as it does by itself, a tenth of its time went into looking
/// through those of 100,000 orders.
const HEAP_GROWTH: (&str, &str) = ("GOGC", "200");

#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// The port to listen on; without it, the usual one or any free one.
    pub port: Option<u16>,
    /// Acknowledge what is not on disk yet, as the server does by itself: for what may be lost.
    pub lazy_sync: bool,
    /// Its place in a cluster, if it's to be part of one.
    pub cluster: Option<ClusterOptions>,
}

/// A server's place in a cluster of servers on this machine.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Name of this server.
    pub name: String,
    /// Where it listens for the other servers.
    pub port: u16,
    /// Where all of them do.
    pub ports: Vec<u16>,
    /// The clients' password, which is the same for all of them.
    pub password: String,
}

/// A running nats-server. Dropping it asks it to end, without waiting.
#[derive(Debug)]
pub struct NatsServer {
    process: ServerProcess,
    url: String,
    ports: Ports,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    monitoring: u16,
}

impl NatsServer {
    /// Starts a server in the folder and waits until JetStream answers. Ends first what an
    /// earlier instance left running there.
    ///
    /// # Errors
    /// It is not installed, or does not become ready in time.
    pub async fn start(folder: &Path, options: &NatsOptions) -> Result<Self, Error> {
        // The log's messages are nobody else's to read.
        let folder = folder::make(folder, 0o700)?;
        end_earlier(&KIND, &folder, &folder).await;
        let program = program()?;
        let password = match &options.cluster {
            Some(cluster) => cluster.password.clone(),
            None => folder::password(&folder)?,
        };
        let mut attempt = 1;
        loop {
            let ports = Ports {
                clients: options.port.map_or_else(|| free_port(USUAL_PORT), Ok)?,
                monitoring: free_port(USUAL_MONITORING_PORT)?,
            };
            match Self::try_start(&folder, &program, &password, ports, options).await {
                // Another process took the port in between.
                Err(error) if error.port_taken() && attempt < START_ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_start(
        folder: &Path,
        program: &Path,
        password: &str,
        ports: Ports,
        options: &NatsOptions,
    ) -> Result<Self, Error> {
        let config = folder.join("server.conf");
        folder::write_secret(&config, configuration(folder, ports, password, options).as_bytes())?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config);
        if std::env::var_os(HEAP_GROWTH.0).is_none() {
            command.env(HEAP_GROWTH.0, HEAP_GROWTH.1);
        }
        let process = ServerProcess::spawn(&KIND, command, folder, folder)?;
        let url = format!("nats://cartulary:{password}@127.0.0.1:{}", ports.clients);
        let mut server = Self { process, url, ports };
        match server.process.until_ready(|| answers(&server.url)).await {
            Ok(()) => Ok(server),
            Err(error) => {
                server.kill().await;
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
        self.ports.clients
    }

    /// Where it tells about itself over HTTP, such as `/jsz` and `/varz`.
    #[must_use]
    pub fn monitoring_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.monitoring)
    }

    /// 0 once it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it ends by itself, and says so with its last words.
    pub async fn died(&mut self) -> String {
        self.process.died().await
    }

    /// Stops it cleanly.
    pub async fn stop(self) {
        self.process.stop().await;
    }

    /// Kills it, as a crash would.
    pub async fn kill(self) {
        self.process.kill().await;
    }
}

async fn answers(url: &str) -> Result<(), String> {
    let connection = crate::nats::connect(url).await.map_err(|error| error.to_string())?;
    let account = async_nats::jetstream::new(connection.client).query_account().await;
    account.map(drop).map_err(|error| error.to_string())
}

fn configuration(folder: &Path, ports: Ports, password: &str, options: &NatsOptions) -> String {
    let Ports { clients, monitoring } = ports;
    let store = folder.join("jetstream");
    let sync = if options.lazy_sync { "2m" } else { "always" };
    let name = options.cluster.as_ref().map_or("cartulary", |cluster| cluster.name.as_str());
    let cluster = options.cluster.as_ref().map_or_else(String::new, cluster);
    format!(
        "# Written at every start.\n\
         server_name: {name}\n\
         listen: \"127.0.0.1:{clients}\"\n\
         http: \"127.0.0.1:{monitoring}\"\n\
         max_payload: 1MB\n\
         authorization {{ user: cartulary, password: \"{password}\" }}\n\
         jetstream {{\n\
         \x20 store_dir: {store:?}\n\
         \x20 # An acknowledged commit is on disk, not only on its way there.\n\
         \x20 sync_interval: {sync}\n\
         }}\n{cluster}"
    )
}

fn cluster(ClusterOptions { port, ports, .. }: &ClusterOptions) -> String {
    let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    format!("cluster {{ name: cartulary, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n", routes.join(", "))
}

/// A suitable server: the one that is named, the one on the PATH, or the one that the project
/// installed.
fn program() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os("CARTULARY_NATS_SERVER") {
        // The server's working folder is another one, so the path must not depend on it.
        return Path::new(&named).canonicalize().map_err(Error::file(named));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&paths).map(|folder| folder.join(KIND.program));
    let on_path = on_path.filter_map(|path| path.canonicalize().ok()).find(|path| suitable(path));
    on_path.or_else(installed).ok_or(Error::NotInstalled("nats-server 2.14 or later"))
}

fn suitable(program: &Path) -> bool {
    let Ok(output) = std::process::Command::new(program).arg("--version").output() else { return false };
    version(&String::from_utf8_lossy(&output.stdout)).is_some_and(|version| version >= VERSION_MIN)
}

/// `nats-server: v2.15.1` → (2, 15)
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.trim().rsplit_once('v')?.1.split_once('.')?;
    Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
}

/// In the working folder, the folder of this program, or one above either.
fn installed() -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    let folders = here.iter().chain(&program).flat_map(|path| path.ancestors());
    folders.map(|folder| folder.join(".servers").join(KIND.program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_append_is_fsynced() {
        let ports = Ports { clients: 4222, monitoring: 8222 };
        let text = configuration(Path::new("/data/nats"), ports, "secret", &NatsOptions::default());
        assert!(text.contains("sync_interval: always"), "{text}");
        assert!(text.contains("listen: \"127.0.0.1:4222\""), "{text}");
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(version("nats-server: v3.0.0-RC.1"), Some((3, 0)));
        assert_eq!(version(""), None);
    }
}
