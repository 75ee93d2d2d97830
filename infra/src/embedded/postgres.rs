//! A Postgres cluster: loopback only, with a password, and never as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection};
use tokio::process::Command;

use super::process::{ServerProcess, end_orphan, free_port};
use super::{Error, folder};

const NAME: &str = "Postgres";
const USUAL_PORT: u16 = 5432;
const VERSION_MIN: u32 = 15;
const READY_LIMIT: Duration = Duration::from_secs(60);

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

/// A running Postgres. Dropping it leaves it running: stop it.
#[derive(Debug)]
pub struct PostgresServer {
    process: ServerProcess,
    url: String,
}

impl PostgresServer {
    /// Starts a cluster in the folder, makes it where there is none, and waits until it answers.
    ///
    /// # Errors
    /// It is not installed, the folder is out of its user's reach, or it does not become ready.
    pub async fn start(folder: &Path, options: &PostgresOptions) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        end_orphan(folder).await;
        let programs = programs()?;
        let password = folder::password(folder)?;
        let user = Unprivileged::find()?;
        let cluster = folder.join("cluster");
        if !cluster.join("PG_VERSION").exists() {
            make_cluster(folder, &cluster, &programs, user.as_ref(), &password).await?;
        }
        let port = match options.port {
            Some(port) => port,
            None => free_port(USUAL_PORT)?,
        };
        let url = format!("postgres://cartulary:{password}@127.0.0.1:{port}");
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let command = server(&programs, &cluster, port, options, user.as_ref())?;
            let process = ServerProcess::spawn(NAME, command, folder)?;
            let mut server = Self { process, url: format!("{url}/cartulary") };
            match server.ready(&url, deadline).await {
                Ok(()) => return Ok(server),
                // Backends of a killed server keep its memory for a moment.
                Err(error) if Instant::now() < deadline && recovering(folder) => {
                    tracing::info!(%error, "trying again");
                    server.process.kill().await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => {
                    server.process.kill().await;
                    return Err(error);
                }
            }
        }
    }

    /// Of the database `cartulary`, with the password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it ends by itself.
    pub async fn died(&mut self) -> String {
        self.process.died().await
    }

    /// Stops it cleanly: open transactions are rolled back.
    pub async fn stop(self) {
        self.process.stop(Signal::INT).await;
    }

    /// Kills it and its backends, as a crash would.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    async fn ready(&mut self, url: &str, deadline: Instant) -> Result<(), Error> {
        loop {
            if let Some(ended) = self.process.ended() {
                return Err(self.process.not_started(ended));
            }
            match make_database(&format!("{url}/postgres")).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(self.process.not_started(error.to_string()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    }
}

async fn make_database(url: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = 'cartulary')")
        .fetch_one(&mut connection)
        .await?;
    if !there {
        connection.execute("create database cartulary").await?;
    }
    connection.close().await
}

/// Whether the last start failed because an earlier server is not all gone yet.
fn recovering(folder: &Path) -> bool {
    let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
    let last = log.lines().rev().take(5);
    last.into_iter().any(|line| line.contains("shared memory block") || line.contains("lock file \"postmaster.pid\""))
}

/// Makes the cluster beside its place, then moves it there: a crash in between leaves none.
async fn make_cluster(
    folder: &Path,
    cluster: &Path,
    programs: &Path,
    user: Option<&Unprivileged>,
    password: &str,
) -> Result<(), Error> {
    let new = folder.join("cluster.new");
    if new.exists() {
        fs::remove_dir_all(&new).map_err(Error::file(&new))?;
    }
    fs::create_dir(&new).map_err(Error::file(&new))?;
    let password_file = folder.join("initdb-password");
    folder::write_secret(&password_file, password.as_bytes())?;
    if let Some(user) = user {
        user.own(&new)?;
        user.own(&password_file)?;
    }
    let mut command = user_command(user, &programs.join("initdb"), folder)?;
    command.arg("--pgdata").arg(&new).arg("--pwfile").arg(&password_file);
    command.args(["--auth=scram-sha-256", "--username=cartulary", "--encoding=UTF8", "--locale=C"]);
    command.args(["--data-checksums", "--no-instructions"]);
    let output = command.output().await;
    fs::remove_file(&password_file).map_err(Error::file(&password_file))?;
    let not_started = |reason: String| Error::NotStarted { server: NAME, reason, log: String::new() };
    let output = output.map_err(|error| not_started(format!("initdb: {error}")))?;
    if !output.status.success() {
        return Err(not_started(format!("initdb: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    fs::rename(&new, cluster).map_err(Error::file(cluster))
}

fn server(
    programs: &Path,
    cluster: &Path,
    port: u16,
    options: &PostgresOptions,
    user: Option<&Unprivileged>,
) -> Result<Command, Error> {
    let mut command = user_command(user, &programs.join("postgres"), cluster)?;
    command.arg("-D").arg(cluster);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
        "max_wal_size=2GB",
        "timezone=UTC",
        "jit=off",
        &format!("port={port}"),
        &format!("shared_buffers={}", options.shared_buffers),
    ] {
        command.args(["-c", setting]);
    }
    Ok(command)
}

/// The folder with `postgres` and `initdb`: on the PATH, or where Debian puts them.
fn programs() -> Result<PathBuf, Error> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    debian.sort();
    let folders = std::env::split_paths(&paths).chain(debian.into_iter().rev());
    let suitable = |folder: &PathBuf| folder.join("initdb").exists() && version(&folder.join("postgres")) >= Some(VERSION_MIN);
    folders.into_iter().find(suitable).ok_or(Error::NotInstalled("Postgres 15 or later"))
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15
fn version(program: &Path) -> Option<u32> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whom Postgres runs as, because it refuses to run as root.
#[derive(Debug)]
struct Unprivileged {
    name: String,
    uid: u32,
    gid: u32,
}

impl Unprivileged {
    /// `None` when this process is not root, and so is good enough itself.
    fn find() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let users = fs::read_to_string(path).map_err(Error::file(path))?;
        let find = |wanted: &str| {
            let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let fields = fields.into_iter().find(|fields| fields.len() > 3 && fields[0] == wanted)?;
            Some(Self { name: wanted.to_owned(), uid: fields[2].parse().ok()?, gid: fields[3].parse().ok()? })
        };
        let user = find("postgres").or_else(|| find("nobody"));
        user.map(Some).ok_or_else(|| {
            let reason = "Postgres refuses to run as root, and there is neither a user postgres nor nobody";
            Error::NotEnterable(reason.to_owned())
        })
    }

    fn own(&self, path: &Path) -> Result<(), Error> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(Error::file(path))
    }

    /// The first folder above that this user can't enter.
    fn closed_folder(&self, path: &Path) -> Option<PathBuf> {
        let closed = |folder: &&Path| {
            let Ok(metadata) = folder.metadata() else { return false };
            let shift = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
                (true, _) => 6,
                (false, true) => 3,
                (false, false) => 0,
            };
            (metadata.permissions().mode() >> shift) & 1 == 0
        };
        path.ancestors().skip(1).find(closed).map(Path::to_owned)
    }
}

/// A command as the unprivileged user. Where a folder on the way to its data is closed to that
/// user (root's home, say), it's given the one capability of passing through.
fn user_command(user: Option<&Unprivileged>, program: &Path, data: &Path) -> Result<Command, Error> {
    let Some(user) = user else { return Ok(Command::new(program)) };
    let Some(closed) = user.closed_folder(data) else {
        let mut command = Command::new(program);
        command.uid(user.uid).gid(user.gid).current_dir("/");
        return Ok(command);
    };
    let pass_through = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
        command.args(["--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"]);
        command.arg(program).current_dir("/");
        command
    };
    let tried = pass_through(Path::new("true")).as_std_mut().output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Ok(pass_through(program));
    }
    Err(Error::NotEnterable(format!(
        "Postgres does not run as root, and its user `{}` can't enter {}; take a data folder that it can reach, \
         such as --data-dir /var/lib/cartulary",
        user.name,
        closed.display()
    )))
}
