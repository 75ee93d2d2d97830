//! What is measured: the platform's command API as a process of its own, and its servers.

use std::process::Stdio;
use std::time::{Duration, Instant};

use infra::embedded::{NatsOptions, NatsServer, PostgresOptions, PostgresServer};
use infra::log::{JetStreamLog, LogSettings};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A nats-server and a Postgres as `cartulary dev` starts them, in a folder of their own.
pub struct Servers {
    pub nats: NatsServer,
    pub postgres: PostgresServer,
    _folder: TempDir,
}

impl Servers {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("cartulary-bench-").tempdir().expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("permissions");
        let options = NatsOptions { port: Some(free_port()), ..NatsOptions::default() };
        let nats = NatsServer::start(&folder.path().join("nats"), &options).await.expect("nats-server");
        let options = PostgresOptions { port: Some(free_port()), ..PostgresOptions::default() };
        let postgres =
            PostgresServer::start(&folder.path().join("postgres"), &options).await.expect("Postgres");
        Self { nats, postgres, _folder: folder }
    }

    pub async fn log(&self) -> JetStreamLog {
        let client = infra::nats::connect(self.nats.url()).await.expect("nats-server answers");
        let settings = LogSettings { replicas: 1, bytes_max: -1 };
        JetStreamLog::open(client, &settings).await.expect("JetStream answers")
    }

    pub async fn stop(self) {
        tokio::join!(self.nats.stop(), self.postgres.stop());
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// `cartulary serve command-api` on these servers.
pub struct Commands {
    process: Child,
    pub address: String,
}

impl Commands {
    pub async fn start(servers: &Servers, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cartulary"));
        command.args(["serve", "command-api", "--port", "0"]).args(flags);
        command.env("NATS_URL", servers.nats.url()).env("DATABASE_URL", servers.postgres.url());
        let mut process =
            command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("cartulary starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let line = lines.next_line().await.expect("its output").expect("cartulary says where it listens");
        let address = line.trim_start_matches("listening on http://").to_owned();
        Self { process, address }
    }

    /// Resident memory in MB.
    pub fn memory_mb(&self) -> f64 {
        let pid = self.process.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
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
