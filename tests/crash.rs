//! Whatever is killed or held still under load: what was acknowledged is in the log, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::commit::Hash;
use domain::stock::Event;
use domain::{StreamId, stock};
use infra::log::{EventLog, JetStreamLog};
use reqwest::header::HeaderMap;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, product};

const SKUS: [&str; 4] = ["CRASH-0", "CRASH-1", "CRASH-2", "CRASH-3"];

/// What the clients know.
#[derive(Default)]
struct Told {
    /// Position of each command that was acknowledged; the quantity received is its number.
    acknowledged: Mutex<BTreeMap<u32, u64>>,
    /// Requests that got no answer, or one that says that it's unknown or unavailable.
    interrupted: AtomicU32,
    enough: AtomicBool,
    /// Where the command API listens, which changes when it's started again.
    url: Mutex<String>,
}

/// Gives one command after the other, each until it is acknowledged.
async fn client(first: u32, told: Arc<Told>) {
    let http =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client");
    for number in first.. {
        if told.enough.load(Ordering::Relaxed) {
            return;
        }
        let sku = SKUS[number as usize % SKUS.len()];
        loop {
            let url = told.url.lock().expect("no panic").clone();
            let request =
                http.post(format!("{url}/v1/stock/{sku}/receipts")).json(&json!({"quantity": number}));
            match request.header("Idempotency-Key", number.to_string()).send().await {
                Ok(answer) if answer.status() == 201 => {
                    let position = position(answer.headers());
                    told.acknowledged.lock().expect("no panic").insert(number, position);
                    break;
                }
                Ok(answer) => assert!([409, 503].contains(&answer.status().as_u16()), "{answer:?}"),
                Err(_) => {}
            }
            told.interrupted.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn position(headers: &HeaderMap) -> u64 {
    headers["log-position"].to_str().expect("text").parse().expect("a number")
}

/// Waits until so many more commands are acknowledged.
async fn go_on(told: &Told, commands: usize) {
    let acknowledged = || told.acknowledged.lock().expect("no panic").len();
    let wanted = acknowledged() + commands;
    crate::support::eventually("commands are acknowledged again", async || {
        (acknowledged() >= wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_kills_and_pauses() {
    let (mut nats, database_url) = (Nats::start().await, database_url().await);
    let mut roles = Roles::start(nats.url(), &database_url, &["command-api"]).await;
    let told = Arc::new(Told { url: Mutex::new(roles.url.clone()), ..Told::default() });
    for sku in SKUS {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let create = http.post(format!("{}/v1/products", roles.url)).header("Idempotency-Key", sku);
        assert_eq!(create.json(&product(sku)).send().await.expect("an answer").status(), 201);
    }
    let mut clients = JoinSet::new();
    for number in 0..48 {
        clients.spawn(client(1 + number * 20_000, told.clone()));
    }
    for _ in 0..2 {
        go_on(&told, 200).await;
        nats.kill().await;
        nats.restart().await;
        go_on(&told, 200).await;
        drop(roles);
        roles = Roles::start(nats.url(), &database_url, &["command-api"]).await;
        told.url.lock().expect("no panic").clone_from(&roles.url);
        go_on(&told, 200).await;
        for pid in [Pid::from_raw(nats.pid().cast_signed()).expect("a pid"), roles.pid()] {
            kill_process(pid, Signal::STOP).expect("it runs");
            tokio::time::sleep(Duration::from_millis(700)).await;
            kill_process(pid, Signal::CONT).expect("it runs");
            go_on(&told, 200).await;
        }
    }
    told.enough.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    assert!(told.interrupted.load(Ordering::Relaxed) > 20, "nothing was hit");
    let acknowledged = told.acknowledged.lock().expect("no panic").clone();
    holds(&nats.log().await, &acknowledged).await;
}

/// I1, I3 and I4: each acknowledged command at its position, none twice, no gaps, all chained.
async fn holds(log: &JetStreamLog, acknowledged: &BTreeMap<u32, u64>) {
    let mut recorded: BTreeMap<u32, u64> = BTreeMap::new();
    let mut streams: BTreeMap<StreamId, (u64, Option<Hash>)> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for position in 1..=log.end().await.expect("an end") {
        let stored = log.read(position).await.expect("readable").expect("no gaps");
        let (version, last) = streams.entry(stored.commit.stream.clone()).or_default();
        assert_eq!((stored.commit.version, stored.commit.previous), (*version + 1, *last), "at {position}");
        (*version, *last) = (stored.commit.version_after(), Some(stored.hash));
        assert!(ids.insert(stored.commit.id), "the command of {position} was recorded before");
        if stored.commit.stream.category() == stock::CATEGORY {
            let Event::Received { quantity } = stored.commit.events[0].decode().expect("readable") else {
                continue;
            };
            assert_eq!(recorded.insert(quantity, position), None, "{quantity} is there twice");
        }
    }
    for (number, position) in acknowledged {
        assert_eq!(recorded.get(number), Some(position), "{number} was acknowledged");
    }
    // Each client gave up nothing, so nothing else is there either.
    assert_eq!(recorded.len(), acknowledged.len());
}
