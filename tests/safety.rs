//! A log that may lose what it has acknowledged, or that has lost it, is not worked on.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use domain::commit::Hash;
use infra::log::{EventLog, JetStreamLog, LogSettings, MemoryLog};
use infra::{fence, lanes};
use reqwest::Method;

use crate::support::eventually;
use crate::support::servers::{Nats, database, database_url};
use crate::support::shop::Roles;
use crate::support::stock::{commit, message};

/// Appends so many commits to a stream of their own.
async fn append(log: &dyn EventLog, name: &str, commits: u64) {
    let stream = format!("stock/{name}").parse().expect("a stream");
    let mut last = 0;
    for version in 1..=commits {
        last = log.append(&message(&commit(&stream, version, 1)), last).await.expect("appended");
    }
}

async fn advance(pool: &sqlx::PgPool, from: u64, to: u64, hash: Hash) {
    let mut connection = pool.acquire().await.expect("a connection");
    lanes::add(&mut connection, "sagas", 1).await.expect("a lane");
    let moved = sqlx::query(
        "update cartulary.lanes set position = $2, hash = $3 where reader = 'sagas' and position = $1",
    );
    let moved = moved.bind(from.cast_signed()).bind(to.cast_signed()).bind(String::from(hash));
    let moved = moved.execute(&mut *connection).await.expect("Postgres answers");
    assert_eq!(moved.rows_affected(), 1, "the checkpoint moves");
}

async fn hash(log: &dyn EventLog, position: u64) -> Hash {
    log.read(position).await.expect("readable").expect("there").hash()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_in_time_is_noticed() {
    let pool = database().await;
    let mut nats = Nats::start().await;
    let log = nats.log().await;
    assert_eq!(
        fence::check(&pool, &log).await.expect("answers"),
        Vec::<String>::new(),
        "nothing is known yet"
    );
    append(&log, "before", 2).await;
    advance(&pool, 0, 2, hash(&log, 2).await).await;
    nats.kill().await;
    let backup = nats.store().with_extension("backup");
    copy(&nats.store(), &backup);
    nats.restart().await;
    let log = nats.log().await;
    append(&log, "lost", 3).await;
    advance(&pool, 2, 5, hash(&log, 5).await).await;
    assert_eq!(fence::check(&pool, &log).await.expect("answers"), Vec::<String>::new());

    nats.kill().await;
    std::fs::remove_dir_all(nats.store()).expect("removed");
    copy(&backup, &nats.store());
    nats.restart().await;
    let log = nats.log().await;
    let shorter = fence::check(&pool, &log).await.expect("answers");
    assert_eq!(shorter, ["sagas has read up to position 5, and the log ends at 2"]);
    append(&log, "other", 4).await;
    let diverged = fence::check(&pool, &log).await.expect("answers");
    assert_eq!(diverged, ["position 5 of the log is not the commit that sagas has read there"]);
    let another = fence::check(&pool, &MemoryLog::default()).await.expect("answers");
    assert!(another[0].starts_with("the log is another one"), "{another:?}");
}

/// Who starts while others work sees checkpoints that move on, over a log that grows.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_others_read_on_meanwhile_is_safe() {
    let pool = database().await;
    let log = Arc::new(MemoryLog::default());
    assert_eq!(fence::check(&pool, log.as_ref()).await.expect("answers"), Vec::<String>::new());
    let (others, busy) = (pool.clone(), log.clone());
    let worker = tokio::spawn(async move {
        let mut position = 0;
        loop {
            append(busy.as_ref(), &format!("sku-{position}"), 1).await;
            advance(&others, position, position + 1, hash(busy.as_ref(), position + 1).await).await;
            position += 1;
        }
    });
    for _ in 0..200 {
        assert_eq!(fence::check(&pool, log.as_ref()).await.expect("answers"), Vec::<String>::new());
    }
    assert!(!worker.is_finished(), "nothing was read on");
    worker.abort();
    assert!(log.end().await.expect("an end") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_commands_are_taken_on_a_log_that_lost_its_end() {
    let (nats, database_url) = (Nats::start().await, database_url().await);
    let pool = sqlx::PgPool::connect(&database_url).await.expect("Postgres answers");
    projections::set_up(&projections::all(), &pool).await.expect("tables");
    advance(&pool, 0, 7, Hash::of(b"lost")).await;
    let everything = ["command-api", "query-api", "projections", "sagas", "--accept-unsafe-log"];
    let roles = Roles::start(nats.url(), &database_url, &everything).await;
    let (status, problem) = roles.send(Method::GET, "/readyz").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("not_ready")));
    assert_eq!(problem["reasons"][0], "sagas has read up to position 7, and the log ends at 0");
    let (status, problem) = roles.send(Method::POST, "/v1/carts").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("log_unsafe")));
    assert_eq!(nats.log().await.end().await.expect("an end"), 0);
    assert_eq!(roles.send(Method::GET, "/v1/products").await.0, 200, "what is there can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_forgets_is_refused_unless_it_is_accepted() {
    let (nats, database_url) = (Nats::start().await, database_url().await);
    let log = nats.log().await;
    let settings = LogSettings { replicas: 1, bytes_max: 1 << 30 };
    assert_eq!(log.drift(&settings).await.expect("an answer"), Vec::<String>::new());
    let config = log.context().get_stream("EVENTS").await.expect("a stream").cached_info().config.clone();
    let forgetful = Config { max_age: Duration::from_secs(3_600), discard: DiscardPolicy::Old, ..config };
    log.context().update_stream(forgetful).await.expect("updated");
    let drift = log.drift(&settings).await.expect("an answer");
    assert_eq!(
        drift,
        [
            "the log's stream has discard Old instead of New",
            "the log's stream has max_age 3600s instead of 0ns",
        ]
    );
    assert_eq!(served(&nats, &database_url, &[]).await, (503, 503));
    assert_eq!(served(&nats, &database_url, &["--accept-unsafe-log"]).await, (200, 201));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_an_earlier_build_forgets_the_ids_of_its_messages_as_soon_as_a_new_one() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    append(&log, "before", 2).await;
    let config = async |log: &JetStreamLog| {
        log.context().get_stream("EVENTS").await.expect("a stream").cached_info().config.clone()
    };
    let new = config(&log).await;
    let earlier = Config { duplicate_window: Duration::from_secs(120), ..new.clone() };
    log.context().update_stream(earlier).await.expect("updated");
    let log = nats.log().await;
    assert_eq!(config(&log).await, new, "and nothing else is changed");
    assert_eq!(log.end().await.expect("an end"), 2, "and all is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_the_server_syncs_is_looked_up() {
    let (nats, database_url) = (Nats::start().await, crate::support::servers::database_url().await);
    let url = nats.monitoring_url();
    assert_eq!(served(&nats, &database_url, &["--nats-monitoring-url", &url]).await, (200, 201));
    let (lazy, of_lazy) = (Nats::start_lazy().await, crate::support::servers::database_url().await);
    let url = lazy.monitoring_url();
    assert_eq!(served(&lazy, &of_lazy, &["--nats-monitoring-url", &url]).await, (503, 503));
    // Nobody answers there: what is not known is not safe.
    let nobody = ["--nats-monitoring-url", "http://127.0.0.1:9"];
    assert_eq!(served(&nats, &database_url, &nobody).await, (503, 503));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_says_so_and_goes_on_when_there_is_space() {
    let (nats, database_url) = (Nats::start().await, database_url().await);
    let roles =
        Roles::start(nats.url(), &database_url, &["command-api", "query-api", "--log-bytes-max", "200000"])
            .await;
    let mut taken = 0;
    let (status, problem) = loop {
        match roles.send(Method::POST, "/v1/carts").await {
            (201, _) => taken += 1,
            refused => break refused,
        }
        assert!(taken < 1_000, "it is never full");
    };
    assert_eq!((status, problem["code"].as_str()), (503, Some("log_full")), "after {taken} carts");
    let (status, problem) = roles.send(Method::GET, "/readyz").await;
    assert!(status == 503 && problem["detail"].to_string().contains("the log is full"), "{problem}");
    assert_eq!(roles.send(Method::GET, "/v1/products").await.0, 200, "what is there can be read");
    let connection = infra::nats::connect(nats.url()).await.expect("nats-server answers");
    let log = JetStreamLog::existing(connection).await.expect("a log");
    assert_eq!(log.end().await.expect("an end"), taken, "each that was taken, and no other");
    let config = log.context().get_stream("EVENTS").await.expect("a stream").cached_info().config.clone();
    log.context().update_stream(Config { max_bytes: 1 << 30, ..config }).await.expect("updated");
    assert_eq!(roles.send(Method::POST, "/v1/carts").await.0, 201);
    assert_eq!(roles.send(Method::GET, "/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_appended_is_told_at_once() {
    let (nats, database_url) = (Nats::start().await, database_url().await);
    let roles = Roles::start(nats.url(), &database_url, &["command-api"]).await;
    assert_eq!(roles.send(Method::POST, "/v1/carts").await.0, 201);
    let config = std::fs::read_to_string(nats.config()).expect("its settings");
    let permissions = r#", permissions: { publish: { deny: "ev.*.cart.>" } }"#;
    let without = config
        .replace("authorization { user", "authorization { users: [ { user")
        .replace("\" }\njetstream", &format!("\"{permissions} }} ] }}\njetstream"));
    assert!(without.contains(permissions), "{without}");
    nats.reload(&without);
    // In the log there is nothing of what was refused, and nobody waited for it.
    let problem = eventually("the permission is gone", async || {
        let (status, problem) = roles.send(Method::POST, "/v1/carts").await;
        (status != 201).then_some(problem)
    })
    .await;
    assert_eq!(problem["code"], "log_unavailable", "{problem}");
    let (status, problem) = roles.send(Method::GET, "/readyz").await;
    let reason = problem["reasons"][0].as_str().unwrap_or_default();
    assert!(status == 503 && reason.contains("may not append to ev."), "{problem}");
    nats.reload(&without.replace(permissions, ""));
    eventually("it may append again", async || {
        (roles.send(Method::POST, "/v1/carts").await.0 == 201).then_some(())
    })
    .await;
    assert_eq!(roles.send(Method::GET, "/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_locked_out_waits_until_it_may_come_in_again() {
    let (nats, database_url) = (Nats::start().await, database_url().await);
    let roles = Roles::start(nats.url(), &database_url, &["command-api"]).await;
    let config = std::fs::read_to_string(nats.config()).expect("its settings");
    nats.reload(&config.replace("password: \"", "password: \"another"));
    eventually("it's not ready", async || (roles.send(Method::GET, "/readyz").await.0 == 503).then_some(()))
        .await;
    nats.reload(&config);
    eventually("it's ready again", async || {
        (roles.send(Method::GET, "/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(roles.send(Method::POST, "/v1/carts").await.0, 201);
}

/// Read models set aside what they can't read, and their checkpoint may be just there.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_at_a_checkpoint_keeps_nobody_out() {
    let (nats, database_url) = (Nats::start().await, database_url().await);
    let roles = Roles::start(nats.url(), &database_url, &["projections"]).await;
    let context = nats.log().await.context().clone();
    let unread = context.publish("ev.0.product.unreadable", "no commit".into()).await.expect("sent");
    unread.await.expect("in the log");
    let pool = sqlx::PgPool::connect(&database_url).await.expect("Postgres answers");
    let there = "select count(*) from cartulary.lanes where reader like 'catalog%' and position = 1";
    eventually("it is passed", async || {
        let lanes: i64 = sqlx::query_scalar(there).fetch_one(&pool).await.expect("lanes");
        (lanes > 0).then_some(())
    })
    .await;
    drop(roles);
    assert_eq!(served(&nats, &database_url, &[]).await, (200, 201));
}

/// Status of readiness, and of a command.
async fn served(nats: &Nats, database_url: &str, flags: &[&str]) -> (u16, u16) {
    let roles = Roles::start(nats.url(), database_url, &[&["command-api"], flags].concat()).await;
    (roles.send(Method::GET, "/readyz").await.0, roles.send(Method::POST, "/v1/carts").await.0)
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(copied.success());
}
