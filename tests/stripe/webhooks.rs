//! Webhooks: forged, old, lying, twice, out of order, before the answer.

use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use super::{PRICE, SECRET, Scene};
use crate::support::customer::Answer;
use crate::support::eventually;

const PATH: &str = "/v1/webhooks/stripe";

#[expect(clippy::disallowed_methods, reason = "the shop that is sent it goes by the machine's clock")]
fn now_s() -> i64 {
    Utc::now().timestamp()
}

fn signature(secret: &str, at_s: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(format!("{at_s}.{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={at_s},v1={hex}")
}

async fn send(scene: &Scene, body: &str, signature: &str) -> Answer {
    let request = scene.shop.request(reqwest::Method::POST, PATH).header("Stripe-Signature", signature);
    scene.shop.send(request.body(body.to_owned())).await
}

async fn send_signed(scene: &Scene, body: &Value) -> Answer {
    let body = body.to_string();
    send(scene, &body, &signature(SECRET, now_s(), &body)).await
}

/// An event that says that the order is paid.
fn paid(order: &str, payment: &str) -> Value {
    json!({"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "data": {"object": {
        "id": payment, "object": "payment_intent", "status": "succeeded", "amount": PRICE,
        "amount_received": PRICE, "metadata": {"order_id": order}}}})
}

/// How often the provider was asked for a payment.
async fn retrieved(scene: &Scene) -> u64 {
    let faults = scene.psp.get("/_sim/faults").await.body;
    faults.as_array().expect("a list").iter().map(|fault| fault["seen"].as_u64().unwrap_or_default()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_a_webhook_is_trusted_with_nothing() {
    let scene = Scene::start(&[], &[]).await;
    let hour_ms = 3_600_000;
    scene.psp.fault(json!({"kind": "late", "ms": hour_ms, "operation": "payment_intents.create"})).await;
    let watch =
        json!({"kind": "slow_answer", "ms": 0, "times": 1_000_000, "operation": "payment_intents.retrieve"});
    scene.psp.fault(watch).await;
    let order = scene.buy("visa").await;
    let key = format!("{order}:authorize");
    let payment = eventually("it is under way", async || {
        let lines = scene.psp.ledger(&key).await;
        lines.first().map(|line| line["payment_intent"].as_str().expect("an id").to_owned())
    })
    .await;

    let event = paid(&order, &payment);
    let body = event.to_string();
    let (now, old) = (now_s(), now_s() - 301);
    for wrong in [
        String::new(),
        signature("whsec_of_somebody_else", now, &body),
        signature(SECRET, now, "another body"),
        signature(SECRET, old, &body),
        signature(SECRET, now + 400, &body),
        signature(SECRET, now, &body).replace("v1=", "v0="),
    ] {
        assert_eq!(send(&scene, &body, &wrong).await.problem(), (400, "invalid_signature", ""), "{wrong}");
    }
    let strange = "no event";
    let signed = signature(SECRET, now, strange);
    assert_eq!(send(&scene, strange, &signed).await.problem(), (400, "invalid_event", ""));
    let long = "x".repeat(600 * 1024);
    assert_eq!(send(&scene, &long, &signed).await.problem(), (413, "body_too_large", ""));

    // What is signed is looked up, and what it says is not believed.
    let before = retrieved(&scene).await;
    assert_eq!(send_signed(&scene, &event).await.status, 200);
    eventually("it is looked up", async || (retrieved(&scene).await > before).then_some(())).await;
    // Neither are events about other shops' orders, about nothing that was ever asked for, or about no payment.
    let foreign = [paid(&Uuid::now_v7().to_string(), &payment), paid(&Uuid::now_v7().to_string(), "pi_1")];
    let customer = json!({"id": "evt_2", "type": "customer.created", "data": {"object": {"id": "cus_1", "object": "customer"}}});
    let dispute = json!({"id": "evt_3", "type": "charge.dispute.created",
        "data": {"object": {"id": "du_1", "object": "dispute", "payment_intent": payment}}});
    for other in foreign.iter().chain([&customer, &dispute]) {
        assert_eq!(send_signed(&scene, other).await.status, 200, "{other}");
    }
    let shown = scene.shop.get(&format!("/v1/orders/{order}")).await.body;
    assert_eq!(shown["status"], "pending");
    assert!(!scene.steps(&order).await.iter().any(|step| step == "payment.authorized"));

    scene.psp.advance_s(hour_ms / 1000).await;
    assert_eq!(send_signed(&scene, &event).await.status, 200);
    assert_eq!(scene.settled(&order).await["status"], "confirmed");
    scene.has_step(&order, "payment.captured").await;
    // Again and again, it changes nothing.
    let steps = scene.steps(&order).await;
    let before = retrieved(&scene).await;
    for _ in 0..20 {
        assert_eq!(send_signed(&scene, &event).await.status, 200);
    }
    eventually("they are looked up", async || (retrieved(&scene).await > before).then_some(())).await;
    assert_eq!(scene.steps(&order).await, steps);
    scene.books_agree(&[order]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_webhooks_come_before_with_and_after_the_answer_twice_and_out_of_order() {
    let psp = ["--webhook-duplicates-percent", "60", "--webhook-reorder-percent", "40", "--seed", "5"];
    let scene = Scene::start(&psp, &[]).await;
    scene.listen().await;
    for operation in ["payment_intents.create", "payment_intents.capture"] {
        scene.psp.fault(json!({"kind": "webhook_first", "operation": operation, "times": 10})).await;
        scene
            .psp
            .fault(json!({"kind": "slow_answer", "ms": 700, "operation": operation, "nth": 11, "times": 5}))
            .await;
    }
    let mut orders = Vec::new();
    for _ in 0..24 {
        orders.push(scene.buy("visa").await);
    }
    for order in &orders {
        assert_eq!(scene.settled(order).await["status"], "confirmed");
        scene.has_step(order, "payment.captured").await;
    }
    scene.books_agree(&orders).await;
    eventually("all webhooks are delivered", async || {
        (scene.psp.get("/_sim/webhooks").await.body["undelivered"] == 0).then_some(())
    })
    .await;
    let faults = scene.psp.get("/_sim/faults").await.body;
    let met: Vec<_> = faults.as_array().expect("a list").iter().map(|fault| &fault["met"]).collect();
    assert_eq!(met, [10, 5, 10, 5].map(|met| json!(met)).iter().collect::<Vec<_>>());
    for order in &orders {
        let steps = scene.steps(order).await;
        for once in ["payment.authorized", "payment.capture_requested", "payment.captured", "order.confirmed"]
        {
            assert_eq!(steps.iter().filter(|step| *step == once).count(), 1, "{order}: {steps:?}");
        }
    }
}
