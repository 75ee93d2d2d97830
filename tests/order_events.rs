//! The stream of an order's events: all of them, once each, wherever it's taken up.

use domain::public::{self, Audience};
use futures_util::future::join_all;
use infra::log::{EventLog, JetStreamLog};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::customer::Client;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, Shop, shared};
use crate::support::sse::{Events, Message};
use crate::support::{Folder, eventually};

fn path(order: &str) -> String {
    format!("/v1/orders/{order}/events")
}

async fn open(client: &Client, order: &str) -> Events {
    Events::open(client.request(Method::GET, &path(order))).await
}

async fn resume(client: &Client, order: &str, message: &Message) -> Events {
    let id = message.id.as_ref().expect("an id");
    Events::open(client.request(Method::GET, &path(order)).header("Last-Event-ID", id)).await
}

/// What comes up to the message of that name; nothing, if that is said at once.
async fn rest(request: RequestBuilder, last: &str) -> Vec<Message> {
    let answer = request.send().await.expect("an answer");
    match answer.status().as_u16() {
        204 => Vec::new(),
        _ => Events::of(answer).until(last).await,
    }
}

/// Ids and types of what the log has of an order that its buyer may see, in the log's order.
async fn logged(nats_url: &str, order: &str) -> Vec<(String, String)> {
    let shown: Vec<&str> = public::kinds(Audience::Buyer).collect();
    let connection = infra::nats::connect(nats_url).await.expect("nats-server answers");
    let log = JetStreamLog::existing(connection).await.expect("a log");
    let mut events = Vec::new();
    for category in ["order", "payment"] {
        let stream = format!("{category}/{order}").parse().expect("a stream");
        for stored in log.load(&stream, 0).await.expect("commits") {
            for (index, event) in stored.commit.events.iter().enumerate() {
                if shown.contains(&event.kind.as_str()) {
                    events.push(((stored.sequence, index), event.kind.clone()));
                }
            }
        }
    }
    events.sort();
    events.into_iter().map(|((sequence, index), kind)| (format!("{sequence}.{index}"), kind)).collect()
}

fn told(messages: &[Message]) -> Vec<(String, String)> {
    let events = messages.iter().filter(|message| message.event != "end");
    events.map(|message| (message.id.clone().expect("an id"), message.event.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_up_anywhere_it_shows_each_event_once_and_then_ends() {
    let shop = shared().await;
    let sku = shop.product("sse", 5).await;
    let order = shop.check_out(&shop.cart(&sku, 2).await, "tok_decline").await;
    let mut events = open(shop, &order).await;
    let all = events.until("end").await;
    assert_eq!(told(&all), logged(&shop.addresses.nats, &order).await);
    assert_eq!(all.last().expect("an end").data, json!({"reason": "order_over"}));
    assert_eq!(events.next_or_comment().await, None, "then the connection is closed");
    let placed = &all[0];
    assert_eq!(placed.data["type"], "order.placed");
    assert_eq!(placed.data["data"]["lines"][0]["sku"], sku.as_str());
    let position = placed.id.as_ref().and_then(|id| id.split('.').next()).expect("a position");
    assert_eq!(placed.data["position"].to_string(), position);
    assert!(placed.data["occurred_at"].is_string());
    for secret in ["alice", "Alice", "High Street", "LS1", "tok_", "provider", "cart_id"] {
        assert!(!events.text.contains(secret), "{secret} is shown: {}", events.text);
    }

    let (end, shown) = all.split_last().expect("an end");
    for (cut, message) in shown.iter().enumerate() {
        if cut + 1 < shown.len() {
            let mut resumed = resume(shop, &order, message).await;
            assert_eq!(resumed.until("end").await, all[cut + 1..], "after {cut}");
        }
        let id = message.id.as_ref().expect("an id");
        let by_query = shop.get(&format!("{}?lastEventId={id}", path(&order))).await;
        assert_eq!(by_query.status, if message == shown.last().expect("events") { 204 } else { 200 });
    }
    assert_eq!(end.id, None, "the end is no event to resume after");
}

/// Streams that are opened in the middle of what happens, at every point of it.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_seam_between_what_was_and_what_comes() {
    let shop = shared().await;
    let sku = shop.product("seam", 100).await;
    let orders = (0..12).map(async |index: usize| {
        let token = ["tok_decline", "tok_approve", "tok_lost"][index % 3];
        let order = shop.check_out(&shop.cart(&sku, 1).await, token).await;
        let last = if token == "tok_decline" { "end" } else { "payment.captured" };
        let mut first = open(shop, &order).await;
        let (mut shown, mut others) = (Vec::new(), Vec::new());
        loop {
            let message = first.next().await.expect("a message");
            let is_last = message.event == last;
            if !is_last {
                others.push(tokio::spawn({
                    let (request, last) = (shop.request(Method::GET, &path(&order)), last.to_owned());
                    let request = request.header("Last-Event-ID", message.id.clone().expect("an id"));
                    async move { rest(request, &last).await }
                }));
            }
            shown.push(message);
            if is_last {
                break;
            }
        }
        assert_eq!(told(&shown), logged(&shop.addresses.nats, &order).await);
        for (cut, other) in others.into_iter().enumerate() {
            assert_eq!(told(&other.await.expect("no panic")), told(&shown[cut + 1..]), "{order} after {cut}");
        }
    });
    join_all(orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_order_and_no_id_is_a_problem() {
    let shop = shared().await;
    let sku = shop.product("sse-bad", 1).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_approve").await;
    let unknown = shop.get(&path("00000000-0000-0000-0000-000000000001")).await;
    assert_eq!(unknown.problem(), (404, "order_not_found", ""));
    assert_eq!(shop.get(&path("x")).await.problem(), (404, "not_found", ""));
    for hostile in ["1", "a.b", "1.0.0", "-1.0", "99999999999999999999.0", "9999999999.0", "1.0\u{e9}"] {
        let request = shop.request(Method::GET, &path(&order)).header("Last-Event-ID", hostile);
        assert_eq!(
            shop.send(request).await.problem(),
            (400, "invalid_parameter", "/Last-Event-ID"),
            "{hostile}"
        );
    }
    for hostile in ["x", "%00", "1.%00"] {
        let answer = shop.get(&format!("{}?lastEventId={hostile}", path(&order))).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter", "/lastEventId"), "{hostile}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_streams_are_open_and_each_says_that_it_lives() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let all = ["command-api", "query-api", "projections", "sagas"];
    let flags = ["--order-streams-max", "2", "--heartbeat-s", "1"];
    let shop = Roles::start(nats.url(), &database, &[&all[..], &flags[..]].concat()).await;
    let client = Client::new(&shop.url, &database);
    eventually("it is ready", async || (client.get("/readyz").await.status == 200).then_some(())).await;
    let sku = client.product("limit", 1).await;
    let order = client.check_out(&client.cart(&sku, 1).await, "tok_approve").await;
    let mut first = open(&client, &order).await;
    first.until("payment.captured").await;
    let heartbeat = first.next_or_comment().await.expect("it goes on");
    assert!(heartbeat.is_comment, "{heartbeat:?}");
    let second = open(&client, &order).await;
    let refused = client.get(&path(&order)).await;
    assert_eq!(refused.problem(), (503, "too_many_streams", ""));
    assert!(!refused.header("retry-after").is_empty());
    drop(second);
    eventually("a place is free again", async || {
        let answer = client.request(Method::GET, &path(&order)).send().await.expect("an answer");
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_after_a_kill_and_after_a_stop() {
    let shop = Shop::start(Folder::new()).await;
    let sku = shop.product("kill", 1).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_approve").await;
    let mut events = open(&shop, &order).await;
    let mut shown = events.until("order.confirmed").await;
    let folder = shop.kill();
    while let Some(message) = events.next().await {
        shown.push(message);
    }
    assert!(shown.iter().all(|message| message.event != "end"), "nothing was over: {shown:?}");

    let shop = Shop::start(folder).await;
    let mut events = resume(&shop, &order, shown.last().expect("events")).await;
    if shown.iter().all(|message| message.event != "payment.captured") {
        shown.extend(events.until("payment.captured").await);
    }
    let (folder, status) = shop.stop();
    assert!(status.success());
    let end = events.next().await.expect("an end");
    assert_eq!((end.event.as_str(), &end.data), ("end", &json!({"reason": "reconnect"})));
    assert!(end.retry.is_some(), "{end:?}");

    let shop = Shop::start(folder).await;
    let mut events = resume(&shop, &order, shown.last().expect("events")).await;
    assert_eq!(shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await.status, 202);
    shown.extend(events.until("end").await);
    assert_eq!(told(&shown), logged(&shop.addresses.nats, &order).await);
    let kinds: Vec<&str> = shown.iter().map(|message| message.event.as_str()).collect();
    assert!(kinds.contains(&"payment.refunded") && kinds.contains(&"order.cancelled"), "{kinds:?}");
}
