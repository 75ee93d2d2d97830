//! What arrives, how it's signed, and what happens to those who don't take it.

use std::time::Instant;

use axum::http::StatusCode;
use serde_json::json;

use super::{QUICK, add, listed, logged, operate};
use crate::support::receiver::{Receiver, verified};
use crate::support::shop::{Shop, operate_webhooks};
use crate::support::{Folder, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_for_many_webhooks_and_one_that_is_gone_for_none() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let mut receiver = Receiver::start().await;
    let (id, _) = add(&shop.addresses.admin, &receiver.url, "product.created").await;
    for _ in 0..40 {
        shop.product("kept", 0).await;
    }
    receiver.has(40).await;
    assert!(receiver.connections() <= 8, "{} connections", receiver.connections());
    // It starts anew, and all connections to it are gone.
    receiver.down().await;
    receiver.up().await;
    shop.product("anew", 0).await;
    receiver.has(41).await;
    let endpoint = listed(&shop.addresses.admin, &id).await;
    assert_eq!((&endpoint["failures"], receiver.got().len()), (&json!(0), 41), "{endpoint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_arrives_signed_and_without_personal_data() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let (admin, nats) = (&shop.addresses.admin, &shop.addresses.nats);
    let sku = shop.product("signed", 5).await;
    let receiver = Receiver::start().await;
    let (id, secret) = add(admin, &receiver.url, "order.*,payment.*,cart.checked_out").await;
    assert!(secret.starts_with("whsec_"));
    for token in ["tok_approve", "tok_decline"] {
        let order = shop.check_out(&shop.cart(&sku, 1).await, token).await;
        shop.settled(&order).await;
    }
    eventually("the payment is captured", async || {
        let events = logged(nats, 0, &["payment.captured"]).await;
        (events.len() == 1).then_some(())
    })
    .await;
    receiver.knows(&logged(nats, 0, &["order.", "payment.", "cart.checked_out"]).await).await;
    let got = receiver.got();
    for received in &got {
        assert_eq!(received.header("content-type"), "application/json");
        let body = received.json();
        let fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["data", "event", "index", "position", "stream", "timestamp", "type"]);
        for secret in ["alice", "Alice", "High Street", "LS1", "tok_", "provider_reference", "personal"] {
            assert!(!received.body.contains(secret), "{secret} is told: {}", received.body);
        }
    }
    let placed = got.iter().find(|received| received.json()["type"] == "order.placed").expect("placed");
    assert_eq!(placed.json()["data"]["lines"][0]["sku"], sku.as_str());
    if let Some(counts) = verified(&got, &[&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]).await {
        assert_eq!(counts, [got.len(), 0]);
    }

    eventually("all of it is known to be delivered", async || {
        (listed(admin, &id).await["pending"] == 0).then_some(())
    })
    .await;
    let deliveries = operate(admin, &["deliveries", &id, "--state", "delivered"]).await;
    assert_eq!(deliveries["data"].as_array().map(Vec::len), Some(receiver.events().len()), "{deliveries}");
    let (_, printed) = operate_webhooks(admin, &["list"]).await;
    let log = std::fs::read_to_string(shop.folder.path().join("platform.log")).expect("a log file");
    assert!(printed.contains(&receiver.url) && !printed.contains(&secret) && !log.contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_comes_again_by_the_same_id_and_nothing_is_followed() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let receiver = Receiver::start().await;
    let elsewhere = Receiver::start().await;
    let (id, _) = add(&shop.addresses.admin, &receiver.url, "product.created").await;
    receiver.answers(StatusCode::INTERNAL_SERVER_ERROR);
    receiver.answers((StatusCode::FOUND, [("location", elsewhere.url.clone())]));
    receiver.answers((StatusCode::TOO_MANY_REQUESTS, [("retry-after", "86400")]));
    shop.product("again", 0).await;
    receiver.has(4).await;
    let got = receiver.got();
    assert!(got.iter().all(|again| (again.id(), &again.body) == (got[0].id(), &got[0].body)), "{got:?}");
    assert!(elsewhere.got().is_empty(), "a redirect was followed");
    let delivered = eventually("it is known to be delivered", async || {
        let found = operate(&shop.addresses.admin, &["deliveries", &id, "--state", "delivered"]).await;
        found["data"].get(0).cloned()
    })
    .await;
    assert_eq!((&delivered["attempts"], &delivered["id"]), (&json!(4), &json!(got[0].id())));
    assert_eq!(listed(&shop.addresses.admin, &id).await["failures"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_down_gets_it_all_when_it_is_up() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let (admin, nats) = (&shop.addresses.admin, &shop.addresses.nats);
    let mut receiver = Receiver::start().await;
    let (id, _) = add(admin, &receiver.url, "*").await;
    receiver.down().await;
    for index in 0..15 {
        shop.product(&format!("down-{index}"), 1).await;
    }
    eventually("it counts as down", async || {
        (listed(admin, &id).await["failures"].as_i64() > Some(11)).then_some(())
    })
    .await;
    receiver.up().await;
    receiver.knows(&logged(nats, 0, &[""]).await).await;
    eventually("and as up again", async || {
        let endpoint = listed(admin, &id).await;
        (endpoint["failures"] == 0 && endpoint["pending"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_delays_nobody() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let (admin, nats) = (&shop.addresses.admin, &shop.addresses.nats);
    let (dead, well) = (Receiver::start().await, Receiver::start().await);
    dead.hangs();
    let (id, _) = add(admin, &dead.url, "*").await;
    add(admin, &well.url, "*").await;
    shop.product("hangs", 1).await;
    dead.has(1).await;
    shop.product("hangs", 1).await;
    well.knows(&logged(nats, 0, &[""]).await).await;
    // Its first request is still within its ten seconds.
    assert_eq!(listed(admin, &id).await["failures"], 0);
    // And one that is slow keeps only its own place.
    dead.has(4).await;
    assert_eq!(listed(admin, &id).await["failures"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_down_is_probed_by_one_request_at_a_time() {
    let flags = ["--webhooks-time-limit-ms", "1000", "--webhooks-in-flight-max", "4"];
    let shop = Shop::start_with(Folder::new(), &[&QUICK[..], &flags[..]].concat()).await;
    let (admin, nats) = (&shop.addresses.admin, &shop.addresses.nats);
    let (dead, well) = (Receiver::start().await, Receiver::start().await);
    dead.hangs();
    let (id, _) = add(admin, &dead.url, "*").await;
    add(admin, &well.url, "*").await;
    let begun_at = Instant::now();
    for index in 0..10 {
        shop.product(&format!("slow-{index}"), 1).await;
    }
    well.knows(&logged(nats, 0, &[""]).await).await;
    let waiting = listed(admin, &id).await["pending"].as_u64().expect("a count");
    assert_eq!(waiting, 20, "nothing of it arrived, and all else did, in {:?}", begun_at.elapsed());
    assert!(dead.most_at_a_time() <= 4, "more than were allowed");
    eventually("it counts as down", async || {
        (listed(admin, &id).await["failures"].as_i64() > Some(13)).then_some(())
    })
    .await;
    dead.most_at_a_time();
    let before = dead.got().len();
    dead.has(before + 3).await;
    assert_eq!(dead.most_at_a_time(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_listed_and_tried_again_when_asked() {
    let flags = ["--webhooks-give-up-after-ms", "1000"];
    let shop = Shop::start_with(Folder::new(), &[&QUICK[..], &flags[..]].concat()).await;
    let admin = &shop.addresses.admin;
    let receiver = Receiver::start().await;
    receiver.always(503);
    let (id, _) = add(admin, &receiver.url, "product.*").await;
    let (fine, printed) = operate_webhooks(admin, &["dead-letters"]).await;
    assert!(fine && printed.contains("nothing was given up"), "{printed}");
    shop.product("dead", 0).await;
    shop.product("dead", 0).await;
    let printed = eventually("they are given up", async || {
        let (fine, printed) = operate_webhooks(admin, &["dead-letters"]).await;
        (!fine && printed.lines().count() == 3).then_some(printed)
    })
    .await;
    assert!(printed.contains(&id) && printed.contains("it answers 503"), "{printed}");
    assert_eq!(listed(admin, &id).await["dead"], 2);
    receiver.always(200);
    let known = receiver.events();
    receiver.forget();
    let message =
        operate(admin, &["deliveries", &id]).await["data"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(operate(admin, &["retry", &id, &message]).await, json!({"asked": 1}));
    receiver.has(1).await;
    assert_eq!(receiver.got()[0].id(), message);
    assert_eq!(operate(admin, &["retry", &id]).await, json!({"asked": 1}));
    receiver.has(2).await;
    assert_eq!(receiver.events(), known, "by the ids that they had");
    eventually("nothing is given up", async || {
        operate_webhooks(admin, &["dead-letters"]).await.0.then_some(())
    })
    .await;
}

/// A name or a rule may change after an endpoint was registered.
#[tokio::test(flavor = "multi_thread")]
async fn where_it_goes_is_looked_at_for_each_delivery() {
    let shop = Shop::start_with(Folder::new(), &QUICK).await;
    let receiver = Receiver::start().await;
    let named = receiver.url.replace("127.0.0.1", "localhost");
    let (id, _) = add(&shop.addresses.admin, &named, "product.*").await;
    shop.product("before", 0).await;
    receiver.has(1).await;
    let flags = [&QUICK[..], &["--webhooks-to-loopback", "false"]].concat();
    let shop = Shop::start_with(shop.stop().0, &flags).await;
    shop.product("after", 0).await;
    let delivery = eventually("it fails", async || {
        let found = operate(&shop.addresses.admin, &["deliveries", &id, "--state", "pending"]).await;
        found["data"].get(0).filter(|one| one["attempts"].as_i64() > Some(1)).cloned()
    })
    .await;
    assert!(delivery["last_error"].as_str().expect("words").contains("https"), "{delivery}");
    assert_eq!(receiver.got().len(), 1);
}
