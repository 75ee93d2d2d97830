//! What is measured: the platform as a process of its own, and its servers.

use std::process::Stdio;
use std::time::{Duration, Instant};

use infra::embedded::{NatsCluster, NatsOptions, NatsServer, PostgresOptions, PostgresServer};
use infra::log::{JetStreamLog, LogSettings};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A nats-server (or three) and a Postgres as `cartulary dev` starts them, in a folder of their own.
pub struct Servers {
    nats: Nats,
    pub nats_url: String,
    pub replicas: usize,
    pub postgres: PostgresServer,
    _folder: TempDir,
}

enum Nats {
    One(NatsServer),
    Three(NatsCluster),
}

impl Servers {
    pub async fn start() -> Self {
        Self::start_with(1).await
    }

    pub async fn start_cluster() -> Self {
        Self::start_with(3).await
    }

    async fn start_with(replicas: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("cartulary-bench-").tempdir().expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("permissions");
        let nats = match replicas {
            1 => {
                let options = NatsOptions { port: Some(free_port()), ..NatsOptions::default() };
                Nats::One(
                    NatsServer::start(&folder.path().join("nats"), &options).await.expect("nats-server"),
                )
            }
            _ => {
                let ports = [(); 3].map(|()| (free_port(), free_port()));
                Nats::Three(NatsCluster::start(folder.path(), &ports).await.expect("nats-servers"))
            }
        };
        let nats_url = match &nats {
            Nats::One(server) => server.url().to_owned(),
            Nats::Three(cluster) => cluster.url(),
        };
        let options = PostgresOptions { port: Some(free_port()), ..PostgresOptions::default() };
        let postgres =
            PostgresServer::start(&folder.path().join("postgres"), &options).await.expect("Postgres");
        let servers = Self { nats, nats_url, replicas, postgres, _folder: folder };
        servers.log().await;
        servers
    }

    pub async fn log(&self) -> JetStreamLog {
        let connection = infra::nats::connect(&self.nats_url).await.expect("nats-server answers");
        let settings = LogSettings { replicas: self.replicas, bytes_max: -1 };
        // A cluster takes a moment to agree on who leads.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match JetStreamLog::open(connection.clone(), &settings).await {
                Ok(log) => return log,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn nats_pids(&self) -> Vec<u32> {
        match &self.nats {
            Nats::One(server) => vec![server.pid()],
            Nats::Three(cluster) => cluster.pids(),
        }
    }

    pub async fn stop(self) {
        match self.nats {
            Nats::One(server) => server.stop().await,
            Nats::Three(cluster) => cluster.stop().await,
        }
        self.postgres.stop().await;
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// `cartulary serve` with some roles on these servers.
pub struct Instance {
    process: Child,
    pub address: String,
    /// Of its admin API, if it has the role projections.
    pub admin: Option<String>,
}

impl Instance {
    /// With the role command-api alone.
    pub async fn commands(servers: &Servers) -> Self {
        Self::start(servers, &["command-api"]).await
    }

    pub async fn start(servers: &Servers, roles: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cartulary"));
        command.arg("serve").args(roles).args(["--port", "0", "--admin-port", "0"]);
        command.args(["--sandbox", "true", "--log-replicas", &servers.replicas.to_string()]);
        command.env("NATS_URL", &servers.nats_url).env("DATABASE_URL", servers.postgres.local_url());
        let mut process =
            command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("cartulary starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut line =
            async || lines.next_line().await.expect("its output").expect("cartulary says where it listens");
        let address = line().await.trim_start_matches("listening on http://").to_owned();
        let admin = match roles.contains(&"projections") {
            true => Some(line().await.trim_start_matches("admin API on ").to_owned()),
            false => None,
        };
        Self { process, address, admin }
    }

    pub fn pid(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// Resident memory in MB.
    pub fn memory_mb(&self) -> f64 {
        self.status_mb("VmRSS:")
    }

    /// The most that it ever had.
    pub fn memory_most_mb(&self) -> f64 {
        self.status_mb("VmHWM:")
    }

    fn status_mb(&self, field: &str) -> f64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("its memory");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib / 1024.0
    }

    pub async fn stop(mut self) {
        let pid = i32::try_from(self.process.id().expect("it runs")).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let deadline = Instant::now() + Duration::from_secs(30);
        tokio::time::timeout_at(deadline.into(), self.process.wait())
            .await
            .expect("it stops")
            .expect("a status");
    }
}
