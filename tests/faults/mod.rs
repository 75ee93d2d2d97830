//! Whatever fails under load: what was acknowledged is in the log, once, and nothing else is.
//!
//! A short run of some is part of the tests. `make soak` runs all of them, each for as long as asked,
//! at other moments each time, and counts what was hit: a run in which nothing was proves nothing.
//!
//! | row | fault                                                 | in           |
//! |-----|-------------------------------------------------------|--------------|
//! | 1   | kill -9 of nats-server, of one and all of a cluster   | `processes`  |
//! | 2   | power cut                                             | `disks`      |
//! | 4   | kill -9 of the platform, at random and at fail points | `processes`  |
//! | 5   | disk full                                             | `disks`      |
//! | 7   | fsync fails                                           | `disks`      |
//! | 8   | fsync takes long                                      | `disks`      |
//! | 9   | no connection: cut, or nothing gets through           | `connections` |
//! | 11  | half-open connections, lost answers                   | `connections` |
//! | 24  | out of memory                                         | `processes`  |

mod connections;
mod disks;
mod processes;
mod short;

use std::time::{Duration, Instant};

use infra::log::JetStreamLog;
use serde_json::Value;

use crate::support::load::Load;
use crate::support::servers::database_url;
use crate::support::shop::Roles;

const CLIENTS: u64 = 128;

/// Two processes that take commands, and clients that give them to both.
struct Scene {
    nats_url: String,
    database_url: String,
    arguments: Vec<&'static str>,
    roles: Vec<Roles>,
    load: Load,
}

impl Scene {
    async fn start(nats_url: &str, arguments: &[&'static str]) -> Self {
        let (nats_url, database_url) = (nats_url.to_owned(), database_url().await);
        let arguments = [&["command-api"], arguments].concat();
        let mut roles = Vec::new();
        for _ in 0..2 {
            roles.push(Roles::start(&nats_url, &database_url, &arguments).await);
        }
        let urls: Vec<_> = roles.iter().map(|roles| roles.url.as_str()).collect();
        let load = Load::start(&urls, CLIENTS).await;
        Self { nats_url, database_url, arguments, roles, load }
    }

    /// Kills one of the processes if it still lives, and starts another that dies where the fail points say.
    async fn replace(&mut self, index: usize, fail_points: &str) {
        drop(self.roles.remove(index));
        let roles =
            Roles::start_to_die(&self.nats_url, &self.database_url, &self.arguments, fail_points).await;
        self.roles.insert(index, roles);
        let urls: Vec<_> = self.roles.iter().map(|roles| roles.url.as_str()).collect();
        self.load.now_at(&urls);
    }

    /// Why the first of the processes is not ready.
    async fn reasons(&self) -> Vec<String> {
        let (_, answer) = self.roles[0].send(reqwest::Method::GET, "/readyz").await;
        let reasons = answer["reasons"].as_array().into_iter().flatten();
        reasons.filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// A row of the table, for as long as it takes.
struct Row {
    name: &'static str,
    until: Instant,
    rounds: usize,
    /// Requests that were under way when it happened.
    hits: usize,
    /// How long it took until a command was acknowledged again, at most.
    worst: Duration,
}

impl Row {
    /// Goes on for `SOAK_MINUTES`, or for one.
    fn begin(name: &'static str) -> Self {
        let minutes = std::env::var("SOAK_MINUTES").ok().filter(|minutes| !minutes.is_empty());
        let minutes: f64 = minutes.map_or(1.0, |minutes| minutes.parse().expect("SOAK_MINUTES is a number"));
        let until = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
        Self { name, until, rounds: 0, hits: 0, worst: Duration::ZERO }
    }

    /// Waits for a random moment of the next round, unless the time is over.
    async fn next(&mut self, load: &mut Load) -> bool {
        if Instant::now() >= self.until && self.rounds > 0 {
            return false;
        }
        load.go_on(100).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1_000))).await;
        self.rounds += 1;
        true
    }

    /// It's about to happen.
    fn hits(&mut self, load: &Load) {
        self.hits += load.under_way();
    }

    /// It's over; waits until a command is acknowledged again.
    async fn over(&mut self, load: &mut Load) {
        self.worst = self.worst.max(load.go_on(1).await);
    }

    /// Holds the log against what the clients were told.
    async fn end(self, scene: Scene, log: &JetStreamLog) {
        let told = scene.load.finish().await;
        told.holds(log).await;
        let Self { name, rounds, hits, worst, .. } = self;
        println!(
            "{name}: {rounds} times, {hits} requests under way; {told}; goes on after {worst:.1?} at most"
        );
        assert!(hits > 0, "nothing was hit");
    }
}
