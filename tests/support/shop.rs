//! A shop as its users see it: the real program, spoken to over HTTP.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use infra::embedded::Addresses;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::customer::Client;
use super::warden::{Folder, kill_at_the_end};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cartulary");

/// What secrets are sealed with.
const WEBHOOKS_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const START_LIMIT: Duration = Duration::from_secs(120);

static SHARED: OnceCell<Shop> = OnceCell::const_new();
static NAMES: AtomicU32 = AtomicU32::new(1);

/// A running shop.
pub struct Shop {
    process: Child,
    pub addresses: Addresses,
    pub folder: Folder,
    client: Client,
}

impl Deref for Shop {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Some roles of the platform, in a process of their own.
pub struct Roles {
    process: Child,
    pub url: String,
    /// Of the admin API, which the role projections has.
    pub admin: String,
}

impl Roles {
    pub async fn start(nats_url: &str, database_url: &str, arguments: &[&str]) -> Self {
        Self::start_to_die(nats_url, database_url, arguments, "").await
    }

    /// Starts roles that die where `infra::fail_points` says.
    pub async fn start_to_die(
        nats_url: &str,
        database_url: &str,
        arguments: &[&str],
        fail_points: &str,
    ) -> Self {
        Self::start_with(nats_url, database_url, arguments, &[("FAILPOINTS", fail_points)]).await
    }

    /// Starts roles with something more in their environment.
    pub async fn start_with(
        nats_url: &str,
        database_url: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let started = Self::start_or_die(nats_url, database_url, arguments, environment).await;
        started.unwrap_or_else(|told| panic!("it does not say where it listens: {told}"))
    }

    /// The same for roles that may die before they listen, because there is work left for them; then what they told.
    pub async fn start_or_die(
        nats_url: &str,
        database_url: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self, String> {
        let log = tempfile::tempfile().expect("a file");
        let mut command = Command::new(PROGRAM);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .args(["serve", "--port", "0", "--admin-port", "0"])
            .args(arguments)
            .env("CARTULARY_SANDBOX", "true")
            .env("NATS_URL", nats_url)
            .env("DATABASE_URL", database_url)
            .env("CARTULARY_WEBHOOKS_KEY", WEBHOOKS_KEY)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().expect("a file"));
        // Where the setting is to be as it is by itself.
        for (name, _) in environment.iter().filter(|(_, value)| value.is_empty()) {
            command.env_remove(name);
        }
        let mut process = command.spawn().expect("the program starts");
        kill_at_the_end(process.id());
        let mut output = std::io::BufReader::new(process.stdout.take().expect("its output"));
        let has_admin = arguments.iter().any(|role| ["projections", "sagas", "webhooks"].contains(role));
        let told = tokio::task::spawn_blocking(move || {
            let mut told = |before: &str| {
                let mut line = String::new();
                std::io::BufRead::read_line(&mut output, &mut line).expect("its output");
                line.trim().strip_prefix(before).map(str::to_owned).ok_or_else(|| printed(&log))
            };
            let url = told("listening on ")?;
            Ok((url, if has_admin { told("admin API on ")? } else { String::new() }))
        });
        match told.await.expect("no panic") {
            Ok((url, admin)) => Ok(Self { process, url, admin }),
            Err(told) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(told)
            }
        }
    }

    /// Status and body of an answer.
    pub async fn send(&self, method: Method, path: &str) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = client.request(method, format!("{}{path}", self.url));
        let answer =
            request.header("Idempotency-Key", Uuid::now_v7().to_string()).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

impl Roles {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed()).expect("a process id")
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.process.try_wait().expect("a child").is_some()
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is in the file, from its beginning.
fn printed(mut log: &File) -> String {
    let mut text = String::new();
    log.seek(SeekFrom::Start(0)).and_then(|_| log.read_to_string(&mut text)).expect("readable");
    text
}

/// A name that no other test uses.
pub fn name(prefix: &str) -> String {
    format!("{prefix}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// The one shop that tests share which don't mind each other.
pub async fn shared() -> &'static Shop {
    SHARED.get_or_init(|| Shop::start(Folder::new())).await
}

impl Shop {
    /// Starts one with an empty catalogue, on what the folder holds.
    pub async fn start(folder: Folder) -> Self {
        Self::start_with(folder, &["--no-seed"]).await
    }

    pub async fn start_with(folder: Folder, flags: &[&str]) -> Self {
        let data_dir = folder.path().join("data");
        let log = folder.path().join("platform.log");
        let output = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new(PROGRAM);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .args(["dev", "--port", "0", "--admin-port", "0", "--data-dir"])
            .arg(&data_dir)
            .args(flags)
            .env_remove("NATS_URL")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log file"))
            .stderr(output)
            .spawn()
            .expect("the program starts");
        kill_at_the_end(process.id());
        let deadline = Instant::now() + START_LIMIT;
        let addresses = loop {
            if let Ok(addresses) = Addresses::read(&data_dir)
                && addresses.pid == process.id()
            {
                break addresses;
            }
            let ended = process.try_wait().expect("a child");
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "the shop did not start: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for server in ["nats", "postgres"] {
            kill_at_the_end(server_pid(&folder, server));
        }
        let client = Client::new(&addresses.http, &addresses.postgres);
        Self { process, addresses, folder, client }
    }

    /// Kills the platform's process alone: its servers go on, as after a crash.
    pub fn kill(mut self) -> Folder {
        self.process.kill().expect("it runs");
        self.process.wait().expect("a child");
        self.folder
    }

    /// Stops it cleanly.
    pub fn stop(mut self) -> (Folder, std::process::ExitStatus) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("it runs");
        let status = self.process.wait().expect("a child");
        (self.folder, status)
    }
}

/// Runs `cartulary projections` against an admin API; whether it succeeded, and what it printed.
pub async fn operate(admin: &str, arguments: &[&str]) -> (bool, String) {
    run_verb("projections", admin, arguments).await
}

/// The same with `cartulary sagas`.
pub async fn operate_sagas(admin: &str, arguments: &[&str]) -> (bool, String) {
    run_verb("sagas", admin, arguments).await
}

/// The same with `cartulary webhooks`.
pub async fn operate_webhooks(admin: &str, arguments: &[&str]) -> (bool, String) {
    run_verb("webhooks", admin, arguments).await
}

async fn run_verb(verb: &str, admin: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.arg(verb).args(arguments).args(["--admin-url", admin]).kill_on_drop(true);
    let output = command.output().await.expect("the program starts");
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), printed.concat())
}

pub fn product(sku: &str) -> Value {
    json!({
        "sku": sku, "title": format!("Mug {sku}"), "description": "Holds tea.", "brand": "Clayworth",
        "category": ["Home", "Mugs"], "price": {"amount": 1250, "currency": "GBP"},
        "attributes": {"Colour": "Blue"}, "images": ["https://example.com/mug.jpg"], "gtins": ["4006381333931"],
    })
}

pub fn checkout(token: &str) -> Value {
    checkout_by("sandbox", token)
}

pub fn checkout_by(method: &str, token: &str) -> Value {
    json!({
        "email": "alice@example.com",
        "shipping_address": {
            "name": "Alice Ames", "line1": "1 High Street", "city": "Leeds", "postal_code": "LS1 1AA", "country": "GB",
        },
        "payment": {"method": method, "token": token},
    })
}

/// Of a server that the platform started.
pub fn server_pid(folder: &Folder, server: &str) -> u32 {
    let record =
        std::fs::read(folder.path().join("data").join(server).join("server.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    record["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}
