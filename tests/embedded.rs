//! The embedded servers: started, stopped, killed, orphaned, and out of each other's way.

use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use infra::embedded::{
    Addresses, DataFolder, Embedded, Error, NatsOptions, NatsServer, PostgresOptions, PostgresServer,
};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::servers::free_port;
use crate::support::shop::{Shop, server_pid};
use crate::support::{Folder, eventually};

async fn query(url: &str, query: &'static str) -> i32 {
    let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
    sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a row")
}

/// Leaves something behind in both servers.
async fn keep(servers: &Embedded) {
    let mut connection = PgConnection::connect(servers.postgres.url()).await.expect("Postgres answers");
    connection.execute("create table kept as select 42 as answer").await.expect("a table");
    let connection = infra::nats::connect(servers.nats.url()).await.expect("nats-server answers");
    let context = async_nats::jetstream::new(connection.client);
    let config = async_nats::jetstream::stream::Config { name: "KEPT".to_owned(), ..Default::default() };
    context.create_stream(config).await.expect("a stream");
    context.publish("KEPT", "42".into()).await.expect("sent").await.expect("acknowledged");
}

async fn assert_kept(servers: &Embedded) {
    assert_eq!(query(servers.postgres.url(), "select answer from kept").await, 42);
    let connection = infra::nats::connect(servers.nats.url()).await.expect("nats-server answers");
    let stream = async_nats::jetstream::new(connection.client).get_stream("KEPT").await.expect("the stream");
    assert_eq!(stream.get_raw_message(1).await.expect("the message").payload, "42");
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with('Z'))
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_none_for_a_socket_is_no_reason_not_to_start() {
    let place = Folder::new();
    let through_socket = "select (inet_server_port() is null)::int";
    for (name, is_by_socket) in [("short".to_owned(), 1), ("long".repeat(20), 0), ("a,b".to_owned(), 0)] {
        let options = PostgresOptions { port: Some(free_port()), shared_buffers: "16MB" };
        let folder = place.path().join(name);
        let server = PostgresServer::start(&folder, &options).await.expect("started");
        assert_eq!(query(server.local_url(), through_socket).await, is_by_socket);
        assert_eq!(query(server.url(), through_socket).await, 0);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_there_again_after_a_stop() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let servers = Embedded::start(&folder).await.expect("started");
    keep(&servers).await;
    let pids = [servers.nats.pid(), servers.postgres.pid()];
    servers.stop().await;
    assert!(!pids.into_iter().any(runs));
    let log = std::fs::read_to_string(place.path().join("postgres/server.log")).expect("a log");
    assert!(log.contains("database system is shut down"), "a clean end: {log}");
    let servers = Embedded::start(&folder).await.expect("started again");
    assert_kept(&servers).await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_there_again_after_a_crash_of_everything() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let servers = Embedded::start(&folder).await.expect("started");
    keep(&servers).await;
    servers.kill().await;
    let servers = Embedded::start(&folder).await.expect("started again");
    assert_kept(&servers).await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_a_killed_instance_left_are_ended() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let orphans = Embedded::start(&folder).await.expect("started");
    let pids = [orphans.nats.pid(), orphans.postgres.pid()];
    keep(&orphans).await;
    std::mem::forget(orphans);
    drop(folder);
    let folder = DataFolder::open(place.path()).expect("the folder");
    let servers = Embedded::start(&folder).await.expect("started over the orphans");
    assert!(!pids.into_iter().any(runs), "the orphans are gone");
    let log = std::fs::read_to_string(place.path().join("postgres/server.log")).expect("a log");
    assert!(log.contains("database system is shut down"), "they were given a clean end: {log}");
    assert_kept(&servers).await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_platform_starts_again_over_its_own_servers() {
    let shop = Shop::start(Folder::new()).await;
    let sku = shop.product("ORPHANED", 1).await;
    let folder = shop.kill();
    let orphans = ["nats", "postgres"].map(|server| server_pid(&folder, server));
    assert!(orphans.into_iter().all(runs), "they outlive the platform");
    let shop = Shop::start(folder).await;
    assert!(!orphans.into_iter().any(runs), "the orphans are gone");
    assert_eq!(shop.get(&format!("/v1/products/{sku}")).await.status, 200);
    let (folder, status) = shop.stop();
    assert!(status.success(), "{status}");
    let servers = ["nats", "postgres"].map(|server| server_pid(&folder, server));
    assert!(!servers.into_iter().any(runs), "a clean stop leaves nothing running");
    assert!(matches!(Addresses::read(&folder.path().join("data")), Err(Error::NotRunning(_))));
}

/// What such a Postgres leaves is a zombie with its process id, and a backend with its memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_was_killed_while_busy_starts_again() {
    let place = Folder::new();
    let options = PostgresOptions { shared_buffers: "16MB", ..Default::default() };
    let server = PostgresServer::start(place.path(), &options).await.expect("started");
    let mut connection = PgConnection::connect(server.url()).await.expect("Postgres answers");
    let backend: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.expect("a row");
    // It waits for nothing, so it does not notice that its server is gone.
    let busy = "do $$ begin loop null; end loop; end $$";
    connection.execute("set statement_timeout = '60s'").await.expect("set");
    let busy = tokio::spawn(async move { connection.execute(busy).await.map(drop) });
    let is_busy = "select count(*)::int from pg_stat_activity where state = 'active' and query like '%null%' \
                   and pid <> pg_backend_pid()";
    eventually("the backend is busy", async || (query(server.url(), is_busy).await == 1).then_some(())).await;
    kill(server.pid());
    std::mem::forget(server);
    assert!(runs(backend.cast_unsigned()), "else this test shows nothing");
    let server = PostgresServer::start(place.path(), &options).await.expect("started again");
    assert!(!runs(backend.cast_unsigned()));
    assert!(busy.await.expect("no panic").is_err());
    assert_eq!(query(server.url(), "select 42").await, 42);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_never_finished_is_made_again() {
    let place = Folder::new();
    std::fs::create_dir(place.path().join("cluster.new-0123")).expect("a folder");
    std::fs::write(place.path().join("cluster.new-0123/PG_VERSION"), "15\n").expect("a file");
    let options = PostgresOptions { shared_buffers: "16MB", ..Default::default() };
    let server = PostgresServer::start(place.path(), &options).await.expect("started");
    let safe = "select count(*)::int from pg_settings where setting = 'on' \
                and name in ('fsync', 'synchronous_commit', 'full_page_writes', 'data_checksums')";
    assert_eq!(query(server.url(), safe).await, 4);
    let unfinished = std::fs::read_dir(place.path()).expect("a folder").flatten();
    let names = unfinished.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.starts_with("cluster.new")).count(), 0);
    server.stop().await;
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
        Ok(servers) => {
            keep(&servers).await;
            servers.stop().await;
            let servers = Embedded::start(&folder).await.expect("started again");
            assert_kept(&servers).await;
            servers.stop().await;
        }
        // Without the capability to lend, a clear word.
        Err(error) => assert!(error.to_string().contains("--data-dir /var/lib/cartulary"), "{error}"),
    }
}

#[tokio::test]
async fn addresses_are_those_of_a_running_instance() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    assert!(matches!(Addresses::read(place.path()), Err(Error::NotRunning(_))));
    let text = |text: &str| text.to_owned();
    let addresses = Addresses {
        http: text("http://127.0.0.1:1"),
        admin: String::new(),
        nats: text("nats://127.0.0.1:2"),
        postgres: text("postgres://127.0.0.1:3"),
        pid: std::process::id(),
    };
    folder.write_addresses(&addresses).expect("written");
    assert_eq!(Addresses::read(place.path()).expect("there"), addresses);
    let mode = std::fs::metadata(place.path().join("addresses.json")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it has passwords");
    // The file of an instance that was killed, and the id that another process has since then.
    let mut later = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
    for _ in ["while the later process runs", "when it has ended, too"] {
        folder.write_addresses(&Addresses { pid: later.id(), ..addresses.clone() }).expect("written");
        let error = Addresses::read(place.path()).expect_err("whoever wrote it has ended");
        assert!(matches!(&error, Error::Stale { pid, .. } if *pid == later.id()), "{error}");
        later.kill().expect("a child");
        later.wait().expect("a child");
    }
    folder.remove_addresses();
    assert!(matches!(Addresses::read(place.path()), Err(Error::NotRunning(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_read_the_passwords() {
    let place = Folder::new();
    let folder = DataFolder::open(place.path()).expect("a folder");
    let servers = Embedded::start(&folder).await.expect("started");
    let addresses = Addresses {
        http: String::new(),
        admin: String::new(),
        nats: servers.nats.url().to_owned(),
        postgres: servers.postgres.url().to_owned(),
        pid: std::process::id(),
    };
    folder.write_addresses(&addresses).expect("written");
    let secret = |url: &str| url.split([':', '@']).nth(2).expect("a password").to_owned();
    let secrets = [secret(servers.nats.url()), secret(servers.postgres.url())];
    let mut found = 0;
    let folders = ["", "nats", "postgres"].map(|name| place.path().join(name));
    for file in folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder").flatten()) {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        if secrets.iter().any(|secret| text.contains(secret)) {
            let mode = file.metadata().expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.path().display());
            found += 1;
        }
    }
    assert_eq!(found, 4, "addresses.json, server.conf, and a password each");
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_by_itself_is_noticed() {
    let place = Folder::new();
    let mut server = NatsServer::start(place.path(), &NatsOptions::default()).await.expect("started");
    kill(server.pid());
    let words = server.died().await;
    assert!(words.contains("nats-server ended") && words.contains("Server is ready"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_ends() {
    let place = Folder::new();
    let server = NatsServer::start(place.path(), &NatsOptions::default()).await.expect("started");
    let pid = server.pid();
    drop(server);
    eventually("it ends", async || (!runs(pid)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_collects_its_garbage_less_often_than_by_itself() {
    let place = Folder::new();
    let server = NatsServer::start(place.path(), &NatsOptions::default()).await.expect("started");
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", server.pid())).expect("its own");
    let growth = environment.split('\0').find_map(|variable| variable.strip_prefix("GOGC="));
    // Whoever sets it for the platform sets it for the server.
    let expected = std::env::var("GOGC").unwrap_or_else(|_| "200".to_owned());
    assert_eq!(growth, Some(expected.as_str()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_avoided() {
    let places: Vec<_> = (0..4).map(|_| Folder::new()).collect();
    let options = NatsOptions::default();
    let starts = places.iter().map(|place| NatsServer::start(place.path(), &options));
    // All at once, so that they take ports from each other between looking and listening.
    let servers: Vec<_> = join_all(starts).await.into_iter().map(|it| it.expect("started")).collect();
    let ports: std::collections::BTreeSet<_> = servers.iter().map(NatsServer::port).collect();
    assert_eq!(ports.len(), servers.len());
    join_all(servers.into_iter().map(NatsServer::stop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why() {
    let place = Folder::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let options = NatsOptions { port: Some(port), ..NatsOptions::default() };
    let error = NatsServer::start(&place.path().join("nats"), &options).await.expect_err("it is taken");
    assert!(error.to_string().contains("address already in use"), "{error}");
    let options = PostgresOptions { port: Some(port), shared_buffers: "16MB" };
    let error =
        PostgresServer::start(&place.path().join("postgres"), &options).await.expect_err("it is taken");
    assert!(error.to_string().contains("Address already in use"), "{error}");
}
