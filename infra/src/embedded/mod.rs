//! The embedded default: a nats-server and a Postgres of the platform's own, as child processes
//! in a data folder. Tests start the same servers with the same code.

mod cluster;
mod folder;
mod nats;
mod nats_cluster;
mod postgres;
mod process;
mod user;

pub use folder::{Addresses, DataFolder};
pub use nats::{ClusterOptions, NatsOptions, NatsServer};
pub use nats_cluster::NatsCluster;
pub use postgres::{PostgresOptions, PostgresServer};

use std::path::PathBuf;

/// How often a server is started anew, on another port, because its port was taken from under it.
const START_ATTEMPTS: u32 = 5;

/// Why a server does not run, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the data folder {path} is in use by process {pid}; stop that one first, or take another --data-dir"
    )]
    InUse { path: PathBuf, pid: String },
    #[error("no instance is running with the data folder {0}; name one with --data-dir or a URL")]
    NotRunning(PathBuf),
    #[error("{path} is outdated: process {pid}, which wrote it, was killed; start the instance again")]
    Stale { path: PathBuf, pid: u32 },
    #[error("{0} was not found; `make servers` installs it")]
    NotInstalled(&'static str),
    #[error("{server} did not start: {reason}{log}")]
    NotStarted { server: &'static str, reason: String, log: String },
    #[error("{0}")]
    NotEnterable(String),
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }

    /// Whether a server did not start because another process listens on its port.
    fn port_taken(&self) -> bool {
        matches!(self, Self::NotStarted { log, .. } if log.contains("ddress already in use"))
    }
}

/// Both servers.
#[derive(Debug)]
pub struct Embedded {
    pub nats: NatsServer,
    pub postgres: PostgresServer,
}

impl Embedded {
    /// Starts both in the folder; ends first what an earlier instance left running there.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running then.
    pub async fn start(folder: &DataFolder) -> Result<Self, Error> {
        let nats = async { NatsServer::start(&folder.path().join("nats"), &NatsOptions::default()).await };
        let postgres = async {
            PostgresServer::start(&folder.path().join("postgres"), &PostgresOptions::default()).await
        };
        match tokio::join!(nats, postgres) {
            (Ok(nats), Ok(postgres)) => Ok(Self { nats, postgres }),
            (Ok(nats), Err(error)) => {
                nats.stop().await;
                Err(error)
            }
            (Err(error), Ok(postgres)) => {
                postgres.stop().await;
                Err(error)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Waits until one of the servers ends by itself, and says which, with its last words. May be
    /// dropped and called again.
    pub async fn died(&mut self) -> String {
        tokio::select! {
            words = self.nats.died() => words,
            words = self.postgres.died() => words,
        }
    }

    /// Stops both cleanly.
    pub async fn stop(self) {
        tokio::join!(self.nats.stop(), self.postgres.stop());
    }

    /// Kills both, as a crash of the machine would.
    pub async fn kill(self) {
        tokio::join!(self.nats.kill(), self.postgres.kill());
    }
}
