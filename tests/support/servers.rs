//! The servers that tests use: a nats-server each, and one Postgres for all, with a database each.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use infra::embedded::{NatsCluster, NatsOptions, NatsServer, PostgresOptions, PostgresServer};
use infra::log::{JetStreamLog, LogSettings};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;

use super::warden::{Folder, kill_at_the_end};

/// A nats-server of a test's own.
pub struct Nats {
    server: Option<NatsServer>,
    /// Where it stores, and the folder that goes with it.
    place: PathBuf,
    _folder: Option<Folder>,
    options: NatsOptions,
    url: String,
}

impl Nats {
    pub async fn start() -> Self {
        let folder = Folder::new();
        let place = folder.path().join("nats");
        Self { _folder: Some(folder), ..Self::start_in(place, false).await }
    }

    /// One that acknowledges what is not on disk yet.
    pub async fn start_lazy() -> Self {
        let folder = Folder::new();
        let place = folder.path().join("nats");
        Self { _folder: Some(folder), ..Self::start_in(place, true).await }
    }

    /// One that stores in a place that the test looks after.
    pub async fn start_in(place: PathBuf, lazy_sync: bool) -> Self {
        // Never the usual port, which belongs to whoever works on this machine.
        let options = NatsOptions { port: Some(free_port()), lazy_sync, cluster: None };
        let server = start(&place, &options).await;
        let url = server.url().to_owned();
        Self { server: Some(server), place, _folder: None, options, url }
    }

    /// An empty log, or the one that it had.
    pub async fn log(&self) -> JetStreamLog {
        let connection = infra::nats::connect(&self.url).await.expect("nats-server answers");
        let settings = LogSettings { replicas: 1, bytes_max: 1 << 30 };
        JetStreamLog::open(connection, &settings).await.expect("JetStream answers")
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its URL for those who reach it through another port.
    pub fn url_at(&self, port: u16) -> String {
        let (rest, _) = self.url.rsplit_once(':').expect("a port in the URL");
        format!("{rest}:{port}")
    }

    pub fn port(&self) -> u16 {
        self.options.port.expect("a port")
    }

    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    /// Where it tells about itself.
    pub fn monitoring_url(&self) -> String {
        self.server.as_ref().expect("it runs").monitoring_url()
    }

    /// The folder with all that it stores.
    pub fn store(&self) -> PathBuf {
        self.place.join("jetstream")
    }

    /// The file with its settings.
    pub fn config(&self) -> PathBuf {
        self.place.join("server.conf")
    }

    /// Gives it other settings while it runs.
    pub fn reload(&self, config: &str) {
        std::fs::write(self.config(), config).expect("written");
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        kill_process(pid, Signal::HUP).expect("it runs");
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await;
    }

    /// Starts it again, at the same place.
    pub async fn restart(&mut self) {
        self.server = Some(start(&self.place, &self.options).await);
    }
}

/// Three servers that keep the log together.
pub struct Cluster {
    servers: NatsCluster,
    _folder: Folder,
}

impl Cluster {
    pub async fn start() -> Self {
        let (folder, ports) = (Folder::new(), [(); 3].map(|()| (free_port(), free_port())));
        let servers = NatsCluster::start(folder.path(), &ports).await.expect("the servers start");
        servers.pids().into_iter().for_each(kill_at_the_end);
        Self { servers, _folder: folder }
    }

    /// An empty log, or the one that it had, with three copies.
    pub async fn log(&self) -> JetStreamLog {
        let connection = infra::nats::connect(&self.servers.url()).await.expect("a server answers");
        let settings = LogSettings { replicas: 3, bytes_max: 1 << 30 };
        super::eventually("the cluster has a log", async || {
            JetStreamLog::open(connection.clone(), &settings).await.ok()
        })
        .await
    }

    /// The server that leads the log's stream.
    pub async fn leader(&self, log: &JetStreamLog) -> usize {
        super::eventually("the log has a leader", async || {
            let stream = log.context().get_stream("EVENTS").await.ok()?;
            let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
            (0..3).find(|index| NatsCluster::name(*index) == leader)
        })
        .await
    }

    pub async fn kill(&mut self, index: usize) {
        self.servers.kill(index).await;
    }

    /// URLs of all servers.
    pub fn url(&self) -> String {
        self.servers.url()
    }

    /// Starts those again that were killed.
    pub async fn restart_killed(&mut self) {
        self.servers.restart_killed().await.expect("the servers start");
        self.servers.pids().into_iter().for_each(kill_at_the_end);
    }
}

async fn start(place: &Path, options: &NatsOptions) -> NatsServer {
    let server = NatsServer::start(place, options).await.expect("nats-server starts");
    kill_at_the_end(server.pid());
    server
}

/// A port that no other test gets, so that a killed server finds it free again; and below those
/// that the system gives to clients, of which one that tries to reconnect may get its server's.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = 20_000 + std::process::id() % 100 * 100;
    let port = || u16::try_from(first + NEXT.fetch_add(1, Ordering::Relaxed)).expect("a port");
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(port).take(10_000).find(free).expect("a free port")
}

/// A Postgres that a test may kill.
pub struct MortalPostgres {
    server: Option<PostgresServer>,
    options: PostgresOptions,
    folder: Folder,
    pub url: String,
}

impl MortalPostgres {
    pub async fn start() -> Self {
        let folder = Folder::new();
        let options = PostgresOptions { port: Some(free_port()), shared_buffers: "64MB" };
        let mut new = Self { server: None, options, folder, url: String::new() };
        new.restart().await;
        new
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await;
    }

    /// Starts it again, at the same place.
    pub async fn restart(&mut self) {
        let server = PostgresServer::start(self.folder.path(), &self.options).await.expect("Postgres starts");
        kill_at_the_end(server.pid());
        server.url().clone_into(&mut self.url);
        self.server = Some(server);
    }
}

/// The Postgres of this test process.
struct Postgres {
    url: String,
    _folder: Folder,
}

static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// URL of a fresh database.
pub async fn database_url() -> String {
    database_of(&POSTGRES.get_or_init(start_postgres).await.url).await
}

/// URL of a fresh database of this server.
pub async fn database_of(server: &str) -> String {
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(server).await.expect("Postgres answers");
    let create = AssertSqlSafe(format!("create database {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.expect("a database");
    let (server, _) = server.rsplit_once('/').expect("a database in the URL");
    format!("{server}/{name}")
}

/// A fresh database with the read models' tables.
pub async fn database() -> PgPool {
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    projections::set_up(&projections::all(), &pool).await.expect("tables");
    pool
}

async fn start_postgres() -> Postgres {
    // It outlives the runtime of the test that happens to be the first.
    let started = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = Folder::new();
        let options = PostgresOptions { port: Some(free_port()), shared_buffers: "64MB" };
        let start = PostgresServer::start(folder.path(), &options);
        let server = runtime.block_on(start).expect("Postgres starts");
        kill_at_the_end(server.pid());
        let url = server.url().to_owned();
        std::mem::forget(server);
        Postgres { url, _folder: folder }
    });
    started.join().expect("Postgres starts")
}
