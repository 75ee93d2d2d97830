//! A Postgres server: loopback only, with a password, and never as root.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::process::Command;

use super::process::{Kind, ServerProcess, end_earlier, free_port};
use super::user::{self, User};
use super::{Error, START_ATTEMPTS, cluster, folder};

/// SIGINT is Postgres' fast shutdown: what's open is rolled back, what's committed is on disk.
const KIND: Kind = Kind { name: "Postgres", program: "postgres", end: Signal::INT };
const USUAL_PORT: u16 = 5432;

/// Linux's limit for a Unix socket's path, without the zero that ends it.
const SOCKET_PATH_MAX: usize = 107;

/// How long to wait for what an earlier server holds, when it can be seen but not ended from here.
const RELEASE_LIMIT: Duration = Duration::from_secs(60);
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The port to listen on; without it, the usual one or any free one.
    pub port: Option<u16>,
    pub shared_buffers: &'static str,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { port: None, shared_buffers: "256MB" }
    }
}

/// A running Postgres. Dropping it asks it to end, without waiting.
#[derive(Debug)]
pub struct PostgresServer {
    process: ServerProcess,
    url: String,
    local_url: String,
    port: u16,
}

/// What a start needs to know beside the port.
struct Plan<'a> {
    folder: PathBuf,
    cluster: PathBuf,
    programs: PathBuf,
    user: Option<User>,
    password: String,
    options: &'a PostgresOptions,
}

impl PostgresServer {
    /// Starts a cluster in the folder, makes it where there is none, and waits until it answers.
    /// Ends first what an earlier instance left running there.
    ///
    /// # Errors
    /// It is not installed, the folder is out of its user's reach, or it does not become ready.
    pub async fn start(folder: &Path, options: &PostgresOptions) -> Result<Self, Error> {
        let folder = folder::make(folder, 0o755)?;
        let cluster = folder.join("cluster");
        end_earlier(&KIND, &folder, &cluster).await;
        let user = User::for_cluster(&cluster)?;
        let (programs, password) = (cluster::programs()?, folder::password(&folder)?);
        if !cluster.join("PG_VERSION").exists() {
            cluster::make(&cluster, &programs, user.as_ref(), &password).await?;
        }
        let plan = Plan { folder, cluster, programs, user, password, options };
        let deadline = Instant::now() + RELEASE_LIMIT;
        let mut attempt = 1;
        loop {
            let port = options.port.map_or_else(|| free_port(USUAL_PORT), Ok)?;
            match plan.try_start(port).await {
                // Another process took the port in between.
                Err(error) if error.port_taken() && attempt < START_ATTEMPTS => attempt += 1,
                Err(error) if held(&error) && Instant::now() < deadline => {
                    tracing::info!("an earlier Postgres still holds the cluster, waiting for its end");
                    tokio::time::sleep(RELEASE_INTERVAL).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Of the database `cartulary`, with the password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same for programs on this machine: by the server's Unix socket, which costs half as much as
    /// TCP, unless the folder's path is too long for one.
    #[must_use]
    pub fn local_url(&self) -> &str {
        &self.local_url
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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

    /// Stops it cleanly: open transactions are rolled back.
    pub async fn stop(self) {
        self.process.stop().await;
    }

    /// Kills it and its backends, as a crash would.
    pub async fn kill(self) {
        self.process.kill().await;
    }
}

impl Plan<'_> {
    async fn try_start(&self, port: u16) -> Result<PostgresServer, Error> {
        cluster::remove_stale_pids(&self.cluster);
        let process = ServerProcess::spawn(&KIND, self.command(port)?, &self.folder, &self.cluster)?;
        let url = format!("postgres://cartulary:{}@127.0.0.1:{port}", self.password);
        let own = format!("{url}/cartulary");
        let local_url =
            self.socket_folder().map_or_else(|| own.clone(), |folder| self.socket_url(folder, port));
        let mut server = PostgresServer { process, url: own, local_url, port };
        let any_database = format!("{url}/postgres");
        match server.process.until_ready(|| make_database(&any_database)).await {
            Ok(()) => Ok(server),
            Err(error) => {
                server.stop().await;
                Err(error)
            }
        }
    }

    /// Where the server's socket is, if its path is not too long for one. The setting takes a list, so a
    /// comma would make two of it.
    fn socket_folder(&self) -> Option<&Path> {
        let path = self.cluster.join(".s.PGSQL.65535");
        let is_fitting = path.as_os_str().len() <= SOCKET_PATH_MAX;
        let is_plain = path.to_str().is_some_and(|path| !path.contains([',', '"', '\'']));
        (is_fitting && is_plain).then_some(&self.cluster)
    }

    fn socket_url(&self, folder: &Path, port: u16) -> String {
        let options = PgConnectOptions::new_without_pgpass().socket(folder).port(port);
        let options = options.username("cartulary").password(&self.password).database("cartulary");
        options.ssl_mode(PgSslMode::Disable).to_url_lossy().to_string()
    }

    fn command(&self, port: u16) -> Result<Command, Error> {
        let mut command = user::command(self.user.as_ref(), &self.programs.join("postgres"), &self.cluster)?;
        command.arg("-D").arg(&self.cluster);
        let sockets = self.socket_folder().map_or_else(String::new, |folder| folder.display().to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("unix_socket_directories={sockets}"),
            "max_connections=200",
            "max_wal_size=2GB",
            "timezone=UTC",
            "jit=off",
            &format!("port={port}"),
            &format!("shared_buffers={}", self.options.shared_buffers),
        ] {
            command.args(["-c", setting]);
        }
        Ok(command)
    }
}

/// Whether a start failed because an earlier server is not all gone yet.
fn held(error: &Error) -> bool {
    let Error::NotStarted { log, .. } = error else { return false };
    log.contains("shared memory block") || log.contains("lock file \"postmaster.pid\" already exists")
}

/// Also is the proof that the server answers.
async fn make_database(url: &str) -> Result<(), String> {
    let make = async {
        let mut connection = PgConnection::connect(url).await?;
        let query = "select exists (select from pg_database where datname = 'cartulary')";
        let there: bool = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
        if !there {
            connection.execute("create database cartulary").await?;
        }
        connection.close().await
    };
    make.await.map_err(|error: sqlx::Error| error.to_string())
}
