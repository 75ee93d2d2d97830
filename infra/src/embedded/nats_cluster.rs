//! Three nats-servers on this machine that keep streams together: for tests and measurements. In
//! production, each is on a machine of its own.

use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;

use super::Error;
use super::nats::{ClusterOptions, NatsOptions, NatsServer};

#[derive(Debug)]
pub struct NatsCluster {
    folder: PathBuf,
    password: String,
    /// For clients, and for each other.
    ports: Vec<(u16, u16)>,
    servers: Vec<Option<NatsServer>>,
}

impl NatsCluster {
    /// Starts one server for each pair of ports (for clients, and for each other), each in a folder of
    /// its own, and waits until they answer together.
    ///
    /// # Errors
    /// A server is not installed, or does not become ready in time.
    pub async fn start(folder: &Path, ports: &[(u16, u16)]) -> Result<Self, Error> {
        let (folder, ports) = (folder.to_owned(), ports.to_vec());
        let password = uuid::Uuid::now_v7().simple().to_string();
        let mut cluster = Self { folder, password, servers: Vec::new(), ports };
        // None of them is ready before there are enough.
        let servers = try_join_all((0..cluster.ports.len()).map(|index| cluster.start_server(index))).await?;
        cluster.servers = servers.into_iter().map(Some).collect();
        Ok(cluster)
    }

    async fn start_server(&self, index: usize) -> Result<NatsServer, Error> {
        let (port, cluster_port) = self.ports[index];
        let place = ClusterOptions {
            name: Self::name(index),
            port: cluster_port,
            ports: self.ports.iter().map(|(_, port)| *port).collect(),
            password: self.password.clone(),
        };
        let options = NatsOptions { port: Some(port), cluster: Some(place), ..NatsOptions::default() };
        NatsServer::start(&self.folder.join(Self::name(index)), &options).await
    }

    /// Name of the server, by its place among the ports.
    #[must_use]
    pub fn name(index: usize) -> String {
        format!("server-{index}")
    }

    /// URLs of all servers, with the password.
    #[must_use]
    pub fn url(&self) -> String {
        let url = |(port, _): &(u16, u16)| format!("nats://cartulary:{}@127.0.0.1:{port}", self.password);
        self.ports.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// Process ids of those that run.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().flatten().map(NatsServer::pid).collect()
    }

    /// Kills one, as a crash would.
    pub async fn kill(&mut self, index: usize) {
        if let Some(server) = self.servers[index].take() {
            server.kill().await;
        }
    }

    /// Starts those again that were killed, with what they have stored.
    ///
    /// # Errors
    /// One of them does not become ready in time.
    pub async fn restart_killed(&mut self) -> Result<(), Error> {
        let killed: Vec<_> = (0..self.servers.len()).filter(|index| self.servers[*index].is_none()).collect();
        // If most of them were, none is ready before there are enough.
        let servers = try_join_all(killed.iter().map(|index| self.start_server(*index))).await?;
        for (index, server) in killed.into_iter().zip(servers) {
            self.servers[index] = Some(server);
        }
        Ok(())
    }

    /// Stops all of them cleanly.
    pub async fn stop(self) {
        for server in self.servers.into_iter().flatten() {
            server.stop().await;
        }
    }
}
