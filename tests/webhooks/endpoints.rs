//! Endpoints: which are taken, and what operators do with them.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use reqwest::Method;
use serde_json::json;

use super::{QUICK, add, listed, logged, operate};
use crate::support::customer::Client;
use crate::support::receiver::{Receiver, verified};
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, Shop, operate_webhooks};
use crate::support::{Folder, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_gets_nothing_and_misses_nothing() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let (admin, nats) = (&shop.addresses.admin, &shop.addresses.nats);
    let receiver = Receiver::start().await;
    shop.product("earlier", 0).await;
    let (id, _) = add(admin, &receiver.url, "product.*,stock.*").await;
    let begun = logged(nats, 0, &[""]).await.len() as u64;
    shop.product("running", 1).await;
    receiver.knows(&logged(nats, begun, &["product.", "stock."]).await).await;
    assert_eq!(operate(admin, &["pause", &id]).await["state"], "paused");
    let other = Receiver::start().await;
    add(admin, &other.url, "*").await;
    shop.product("paused", 1).await;
    // Who is not paused has it, so it would have come.
    other.has(2).await;
    assert_eq!(
        receiver.events(),
        logged(nats, begun, &["product.", "stock."]).await.into_iter().take(2).collect()
    );
    assert_eq!(operate(admin, &["resume", &id]).await["state"], "active");
    receiver.knows(&logged(nats, begun, &["product.", "stock."]).await).await;
    shop.product("on", 0).await;
    receiver.knows(&logged(nats, begun, &["product.", "stock."]).await).await;
    assert_eq!(receiver.got().len(), 5, "and nothing of it twice");

    receiver.answers(StatusCode::GONE);
    shop.product("gone", 0).await;
    let gone = eventually("it is paused by its answer", async || {
        let endpoint = listed(admin, &id).await;
        (endpoint["state"] == "paused").then_some(endpoint)
    })
    .await;
    assert!(gone["reason"].as_str().expect("words").contains("410"), "{gone}");
    operate(admin, &["resume", &id]).await;
    receiver.knows(&logged(nats, begun, &["product.", "stock."]).await).await;

    let (removed, printed) = operate_webhooks(admin, &["remove", &id]).await;
    assert!(removed, "{printed}");
    let before = receiver.got().len();
    shop.product("removed", 0).await;
    other.knows(&logged(nats, begun + 2, &[""]).await).await;
    assert_eq!(receiver.got().len(), before);
    assert!(listed(admin, &id).await.is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_the_past_by_the_ids_that_it_had() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let (admin, nats) = (&shop.addresses.admin, &shop.addresses.nats);
    shop.product("before", 2).await;
    let receiver = Receiver::start().await;
    let (id, _) = add(admin, &receiver.url, "stock.*").await;
    let begun = logged(nats, 0, &[""]).await.len() as u64;
    shop.product("after", 2).await;
    receiver.knows(&logged(nats, begun, &["stock."]).await).await;
    let first = receiver.got()[0].clone();
    for moment in [["--from", "1"], ["--since", "1h"]] {
        receiver.forget();
        eventually("it is known to be delivered", async || {
            (listed(admin, &id).await["pending"] == 0).then_some(())
        })
        .await;
        let replay = operate(admin, &[&["replay", &id][..], &moment[..]].concat()).await;
        assert_eq!((&replay["from"], &replay["until"]), (&json!(1), &json!(begun + 2)));
        receiver.knows(&logged(nats, 0, &["stock."]).await).await;
        let again = receiver.got().into_iter().find(|again| again.event() == first.event()).expect("again");
        assert_eq!((again.id(), &again.body), (first.id(), &first.body));
    }
    let (fine, printed) = operate_webhooks(admin, &["replay", &id]).await;
    assert!(!fine && printed.contains("--from"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_secrets_are_valid_for_a_while() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let admin = &shop.addresses.admin;
    let receiver = Receiver::start().await;
    let (id, old) = add(admin, &receiver.url, "product.*").await;
    let signed = async |overlap: &str| {
        let rotated = operate(admin, &["rotate-secret", &id, "--overlap", overlap]).await;
        let new = rotated["secret"].as_str().expect("a secret").to_owned();
        receiver.forget();
        shop.product("rotate", 0).await;
        receiver.has(1).await;
        (new, receiver.got())
    };
    let (new, got) = signed("1h").await;
    assert_ne!(new, old);
    assert_eq!(got[0].header("webhook-signature").matches("v1,").count(), 2);
    if let Some(counts) = verified(&got, &[&old, &new]).await {
        assert_eq!(counts, [1, 1]);
    }
    assert!(listed(admin, &id).await["previous_secret_until"].is_string());
    let (newest, got) = signed("0s").await;
    if let Some(counts) = verified(&got, &[&old, &new, &newest]).await {
        assert_eq!(counts, [0, 0, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_an_endpoint_is_refused_with_a_pointer() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let roles = Roles::start(nats.url(), &database, &["webhooks"]).await;
    let admin = Client::new(&roles.admin, &database);
    let add = async |url: &str, types: &[&str]| {
        admin.post("/admin/webhooks", &json!({"url": url, "types": types})).await
    };
    let long = format!("https://example.com/{}", "a".repeat(3_000));
    for url in [
        "http://127.0.0.1:9/",
        "http://example.com/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0/",
        "https://user:pass@example.com/",
        "https://example.com/\0",
        "file:///etc/passwd",
        "",
        &long,
    ] {
        assert_eq!(add(url, &["*"]).await.problem(), (422, "invalid", "/url"), "{url:?}");
    }
    let url = "https://93.184.215.14/hooks";
    assert_eq!(add(url, &["order.placed", "order.nothing"]).await.problem(), (422, "invalid", "/types/1"));
    assert_eq!(add(url, &["order.placed\0"]).await.problem(), (422, "invalid", "/types/0"));
    assert_eq!(add(url, &[]).await.problem(), (422, "invalid", "/types"));

    let added = add(url, &["order.*"]).await;
    assert_eq!(added.status, 201, "{added:?}");
    let id = added.body["id"].as_str().expect("an id");
    for (method, path) in [
        (Method::POST, "00000000-0000-0000-0000-000000000001/pause"),
        (Method::DELETE, "00000000-0000-0000-0000-000000000001"),
        (Method::GET, "00000000-0000-0000-0000-000000000001/deliveries"),
    ] {
        let request = admin.request(method, &format!("/admin/webhooks/{path}"));
        assert_eq!(admin.send(request).await.problem(), (404, "endpoint_not_found", ""), "{path}");
    }
    let path = |verb: &str| format!("/admin/webhooks/{id}/{verb}");
    assert_eq!(admin.get(&path("deliveries?limit=0")).await.problem(), (400, "invalid_parameter", ""));
    assert_eq!(admin.get(&path("deliveries?state=%00")).await.problem(), (400, "invalid_parameter", ""));
    assert_eq!(admin.post(&path("replay"), &json!({})).await.problem(), (422, "invalid", "/from"));
    assert_eq!(
        admin.post(&path("replay"), &json!({"from": u64::MAX})).await.problem(),
        (422, "invalid", "/from")
    );
    assert_eq!(admin.post(&path("retry"), &json!({"id": "msg_\0"})).await.body, json!({"asked": 0}));
    for _ in 1..100 {
        assert_eq!(add(url, &["*"]).await.status, 201);
    }
    assert_eq!(add(url, &["*"]).await.problem(), (409, "refused", ""));
    let list = admin.get("/admin/webhooks").await.body;
    let ids: BTreeSet<_> =
        list["data"].as_array().expect("a list").iter().map(|one| one["id"].as_str()).collect();
    assert!(ids.len() == 100 && !list.to_string().contains("whsec_"));
    let document = admin.get("/openapi.json").await.body;
    for path in ["/admin/webhooks", "/admin/webhooks/{id}/replay", "/admin/webhooks/dead-letters"] {
        assert!(document["paths"][path].is_object(), "{path} is not described");
    }
}
