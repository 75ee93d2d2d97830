//! The embedded servers: started, stopped, orphaned, and out of each other's way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use infra::embedded::{Addresses, DataFolder, Embedded, Error, NatsOptions, NatsServer};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::Folder;

async fn postgres(servers: &Embedded) -> PgConnection {
    PgConnection::connect(servers.postgres.url()).await.expect("Postgres answers")
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_there_again_after_a_stop() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let servers = Embedded::start(&folder).await.expect("started");
    postgres(&servers).await.execute("create table kept as select 42 as answer").await.expect("a table");
    servers.stop().await;
    let servers = Embedded::start(&folder).await.expect("started again");
    let answer: i32 = sqlx::query_scalar("select answer from kept").fetch_one(&mut postgres(&servers).await).await.unwrap();
    assert_eq!(answer, 42);
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_a_killed_instance_left_are_ended() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let orphans = Embedded::start(&folder).await.expect("started");
    let pids = [orphans.nats.pid(), orphans.postgres.pid()];
    postgres(&orphans).await.execute("create table kept as select 42 as answer").await.expect("a table");
    std::mem::forget(orphans);
    let servers = Embedded::start(&folder).await.expect("started over the orphans");
    assert!(pids.iter().all(|pid| !runs(*pid)), "the orphans are gone");
    let answer: i32 = sqlx::query_scalar("select answer from kept").fetch_one(&mut postgres(&servers).await).await.unwrap();
    assert_eq!(answer, 42);
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_only_has_the_same_id_is_left_alone() {
    let place = Folder::new();
    let dir = place.path().join("nats");
    let server = NatsServer::start(&dir, &NatsOptions::default()).await.expect("started");
    server.stop().await;
    let mut bystander = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
    let record = std::fs::read_to_string(dir.join("server.json")).expect("a record");
    let mut record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    record["pid"] = bystander.id().into();
    std::fs::write(dir.join("server.json"), record.to_string()).expect("written");
    let server = NatsServer::start(&dir, &NatsOptions::default()).await.expect("started");
    assert!(runs(bystander.id()), "another start time is another process");
    server.stop().await;
    bystander.kill().expect("it runs");
    bystander.wait().expect("a child");
}

#[tokio::test]
async fn a_folder_has_one_user_at_a_time() {
    let place = Folder::new();
    let first = DataFolder::open(place.path()).expect("a folder");
    let second = DataFolder::open(place.path());
    let Err(error @ Error::InUse { .. }) = second else { panic!("{second:?}") };
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(first);
    DataFolder::open(place.path()).expect("free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_only_root_can_enter_works_too() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root has such folders");
        return;
    }
    let place = Folder::new();
    let closed = place.path().join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("permissions");
    let folder = DataFolder::open(&closed.join("data")).expect("a folder");
    match Embedded::start(&folder).await {
        Ok(servers) => servers.stop().await,
        // Without the capability to lend, a clear word.
        Err(error) => assert!(error.to_string().contains("--data-dir /var/lib/cartulary"), "{error}"),
    }
}

#[tokio::test]
async fn addresses_are_those_of_a_running_instance() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let not_running = |dir: &Path| matches!(Addresses::read(dir), Err(Error::NotRunning(_)));
    assert!(not_running(place.path()));
    let text = |text: &str| text.to_owned();
    let addresses = Addresses {
        http: text("http://127.0.0.1:1"),
        nats: text("nats://127.0.0.1:2"),
        postgres: text("postgres://127.0.0.1:3"),
        pid: std::process::id(),
    };
    folder.write_addresses(&addresses).expect("written");
    assert_eq!(Addresses::read(place.path()).expect("there"), addresses);
    let mode = std::fs::metadata(place.path().join("addresses.json")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it has passwords");
    let mut ended = std::process::Command::new("true").spawn().expect("a process");
    ended.wait().expect("a child");
    folder.write_addresses(&Addresses { pid: ended.id(), ..addresses }).expect("written");
    assert!(not_running(place.path()), "whoever wrote it has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_by_itself_is_noticed() {
    let place = Folder::new();
    let mut server = NatsServer::start(place.path(), &NatsOptions::default()).await.expect("started");
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    let words = server.died().await;
    assert!(words.contains("nats-server ended") && words.contains("Server is ready"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_avoided() {
    let (one, other) = (Folder::new(), Folder::new());
    let first = NatsServer::start(one.path(), &NatsOptions::default()).await.expect("started");
    let second = NatsServer::start(other.path(), &NatsOptions::default()).await.expect("started");
    assert_ne!(first.port(), second.port());
    first.stop().await;
    second.stop().await;
}
