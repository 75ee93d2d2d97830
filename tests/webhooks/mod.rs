//! Webhooks to real receivers: what arrives, whatever happens to either side.

mod crashes;
mod delivery;
mod endpoints;
mod tls;
mod unreadable;

use std::collections::BTreeSet;

use futures_util::StreamExt;
use infra::log::{EventLog, JetStreamLog};
use serde_json::Value;

use crate::support::receiver::Event;
use crate::support::shop::operate_webhooks;

/// Settings under which time passes quickly.
const QUICK: [&str; 5] = ["--no-seed", "--webhooks-retry-first-ms", "100", "--webhooks-retry-max-ms", "500"];

/// What `cartulary webhooks` prints as JSON, if it succeeds.
async fn operate(admin: &str, arguments: &[&str]) -> Value {
    let (fine, printed) = operate_webhooks(admin, &[arguments, &["--json"]].concat()).await;
    assert!(fine, "{arguments:?}: {printed}");
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("JSON: {printed}"))
}

/// Registers an endpoint; its id and secret.
async fn add(admin: &str, url: &str, types: &str) -> (String, String) {
    let added = operate(admin, &["add", url, "--types", types]).await;
    let text = |name: &str| added[name].as_str().expect("text").to_owned();
    (text("id"), text("secret"))
}

/// An endpoint, as it's listed.
async fn listed(admin: &str, id: &str) -> Value {
    let list = operate(admin, &["list"]).await;
    let all = list["data"].as_array().expect("a list");
    all.iter().find(|endpoint| endpoint["id"] == id).cloned().unwrap_or(Value::Null)
}

/// All events of the log behind a position, of types that begin so.
async fn logged(nats_url: &str, after: u64, beginnings: &[&str]) -> BTreeSet<Event> {
    let connection = infra::nats::connect(nats_url).await.expect("nats-server answers");
    let log = JetStreamLog::existing(connection).await.expect("a log");
    let count = usize::try_from(log.end().await.expect("an end") - after).expect("not that many");
    let commits: Vec<_> = log.follow(after).take(count).collect().await;
    let mut events = BTreeSet::new();
    for stored in commits {
        let stored = stored.expect("a commit");
        for (index, event) in (0..).zip(&stored.commit.events) {
            if beginnings.iter().any(|beginning| event.kind.starts_with(beginning)) {
                events.insert((stored.sequence, index, event.kind.clone()));
            }
        }
    }
    events
}
