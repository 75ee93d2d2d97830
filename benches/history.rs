//! A real history, imported into a log of its own; and a longer one, made of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;

use domain::{Commit, OrderId, StreamId};
use futures_util::StreamExt;
use infra::log::{Append, EventLog, Expected};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::process::Command;
use uuid::Uuid;

use crate::servers::Servers;

const FILE: &str = "online_retail_uci.csv.gz";

const BATCH: usize = 1_000;

/// The file, if it is there.
pub fn file() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("CARTULARY_TEST_DATA").map_or(beside, PathBuf::from);
    let path = folder.join(FILE);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there (CARTULARY_TEST_DATA names its folder)", path.display());
    None
}

/// Imports the file into the log of these servers.
pub async fn import(servers: &Servers) -> Option<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cartulary"));
    command.args(["import", "orders"]).arg(file()?).env("NATS_URL", &servers.nats_url);
    command.env_remove("CARTULARY_URL").env("CARTULARY_DATA_DIR", "/nonexistent").stdin(Stdio::null());
    let output = command.output().await.expect("it runs");
    // It says by 1 that some rows can't be mapped.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("      {}", told.lines().next().unwrap_or_default());
    Some(())
}

/// Makes the log so many times as long: with other products and other orders, in the same order.
pub async fn repeat(servers: &Servers, times: u32) {
    let log = servers.log().await;
    let end = usize::try_from(log.end().await.expect("an end")).expect("a count");
    let mut last: HashMap<StreamId, u64> = HashMap::new();
    for copy in 1..times {
        let mut commits = log.follow(0).take(end).chunks(BATCH);
        while let Some(chunk) = commits.next().await {
            let mut batch: Vec<Append> = Vec::with_capacity(chunk.len());
            let mut in_batch: HashMap<StreamId, usize> = HashMap::new();
            for stored in chunk {
                let commit = copied(stored.expect("readable").commit, copy);
                let expected = match in_batch.insert(commit.stream.clone(), batch.len()) {
                    Some(_) => Expected::AfterPrevious,
                    None => Expected::Position(last.get(&commit.stream).copied().unwrap_or(0)),
                };
                batch.push(Append { message: (&commit).into(), expected });
            }
            let first = log.append_batch(&batch).await.expect("appended");
            last.extend(in_batch.into_iter().map(|(stream, index)| (stream, first + index as u64)));
        }
    }
}

fn copied(mut commit: Commit, copy: u32) -> Commit {
    let id = commit.stream.id();
    let other_order = |id: &str| id.parse::<OrderId>().ok().map(|id| order(id, copy).to_string());
    let other = match commit.stream.category() {
        "order" => other_order(id).expect("an order"),
        _ => format!("{id}-{copy}"),
    };
    commit.stream = format!("{}/{other}", commit.stream.category()).parse().expect("a stream");
    commit.id.0 = Uuid::new_v5(&commit.id.0, &copy.to_be_bytes());
    for event in &mut commit.events {
        event.id = Uuid::new_v5(&event.id, &copy.to_be_bytes());
        let mut data: Value = serde_json::from_str(event.data.get()).expect("JSON");
        if let Some(id) = data["order_id"].as_str().and_then(other_order) {
            data["order_id"] = id.into();
        }
        if data["sku"].is_string() {
            data["sku"] = other.clone().into();
        }
        event.data = RawValue::from_string(data.to_string()).expect("JSON");
    }
    commit
}

fn order(OrderId(id): OrderId, copy: u32) -> OrderId {
    OrderId(Uuid::new_v5(&id, &copy.to_be_bytes()))
}
