//! Webhooks of the simulated provider: signed, until they arrive, and as it was told to send them.

use serde_json::json;

use crate::support::psp::{Endpoint, Psp};
use crate::support::{Folder, eventually};

const SECRET: &str = "whsec_0123456789abcdef";

async fn listen(psp: &Psp, endpoint: &Endpoint, kinds: &[&str]) -> String {
    let mut form = vec![("url", endpoint.url.as_str()), ("secret", SECRET)];
    form.extend(kinds.iter().map(|kind| ("enabled_events[]", *kind)));
    let created = psp.post("/v1/webhook_endpoints", &form).await;
    assert_eq!((created.status.as_u16(), &created.body["secret"]), (200, &json!(SECRET)), "{created:?}");
    created.body["id"].as_str().expect("an id").to_owned()
}

/// HMAC-SHA256 by another hand.
fn hmac(secret: &str, text: &str) -> String {
    use std::io::Write;
    let script =
        "import hmac, sys\nprint(hmac.digest(sys.argv[1].encode(), sys.stdin.buffer.read(), 'sha256').hex())";
    let mut python = std::process::Command::new("python3")
        .args(["-I", "-c", script, secret])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    python.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = python.wait_with_output().expect("it runs");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_signed_and_come_in_order() {
    let (psp, endpoint) = (Psp::start(&[]).await, Endpoint::start(&[]).await);
    let id = listen(&psp, &endpoint, &["*"]).await;
    let payment = psp.hold("w").await;
    psp.post(&format!("/v1/payment_intents/{payment}/capture"), &[]).await;
    psp.post("/v1/refunds", &[("payment_intent", &payment)]).await;
    endpoint.has(7).await;
    let wanted = [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.amount_capturable_updated",
        "charge.captured",
        "payment_intent.succeeded",
        "refund.created",
        "charge.refunded",
    ];
    assert_eq!(endpoint.kinds(), wanted);
    for (headers, body) in endpoint.got() {
        let signature = headers["stripe-signature"].to_str().expect("text");
        let (time, v1) = signature.split_once(",v1=").expect("both parts");
        assert_eq!(v1, hmac(SECRET, &format!("{}.{body}", &time[2..])));
    }
    assert!(!psp.log().contains(SECRET), "the secret is in the log");
    // Every event can be fetched, and says the same.
    for event in endpoint.events() {
        let path = format!("/v1/events/{}", event["id"].as_str().expect("an id"));
        assert_eq!(psp.get(&path).await.body["data"], event["data"]);
    }
    let listed = psp.get("/v1/events?type=payment_intent.succeeded").await.body;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["data"][0]["data"]["object"]["amount_received"], 1000);

    let endpoint_path = format!("/v1/webhook_endpoints/{id}");
    let shown = psp.get(&endpoint_path).await.body;
    assert!(shown["secret"].is_null() && shown["url"] == endpoint.url.as_str(), "{shown}");
    let deleted = psp.send(psp.request(reqwest::Method::DELETE, &endpoint_path)).await;
    assert_eq!(deleted.body["deleted"], true);
    psp.hold("unheard").await;
    assert_eq!(psp.get("/_sim/webhooks").await.body["undelivered"], 0);
    assert_eq!(endpoint.got().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_again_until_they_arrive_even_after_a_kill() {
    let flags = ["--webhook-backoff-ms", "20"];
    let psp = Psp::start_on(Folder::new(), &flags).await;
    let endpoint = Endpoint::start(&[500, 302, 404]).await;
    listen(&psp, &endpoint, &["payment_intent.created"]).await;
    psp.hold("again").await;
    endpoint.has(4).await;
    let (ids, signatures): (std::collections::BTreeSet<_>, Vec<_>) = (
        endpoint.events().iter().map(|event| event["id"].to_string()).collect(),
        endpoint.got().iter().map(|(headers, _)| headers["stripe-signature"].clone()).collect(),
    );
    assert_eq!((ids.len(), signatures.len()), (1, 4), "one event, four times");
    let delivery = eventually("it's noted", async || {
        let delivery = psp.get("/_sim/webhooks").await.body["data"][0].clone();
        (delivery["delivered"] == true).then_some(delivery)
    })
    .await;
    let outcomes: Vec<_> =
        delivery["tried"].as_array().expect("attempts").iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["500", "302", "404", "200"]);

    // Nobody listens; the simulator dies; its clock goes on.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("http://127.0.0.1:{port}/hooks");
    psp.control("/_sim/settings", json!({"webhooks": {"backoff_ms": 3_600_000}})).await;
    let form = [("url", url.as_str()), ("secret", SECRET), ("enabled_events[]", "payment_intent.canceled")];
    psp.post("/v1/webhook_endpoints", &form).await;
    drop(listener);
    let payment = psp.hold("later").await;
    psp.post(&format!("/v1/payment_intents/{payment}/cancel"), &[]).await;
    let attempts = async |psp: &Psp| {
        let all = psp.get("/_sim/webhooks").await.body["data"].as_array().expect("a list").clone();
        let of_it = all.iter().find(|delivery| delivery["type"] == "payment_intent.canceled").cloned();
        of_it.map(|delivery| (delivery["attempts"].as_u64(), delivery["delivered"] == true))
    };
    eventually("it was tried", async || (attempts(&psp).await == Some((Some(1), false))).then_some(())).await;
    let folder = psp.kill();
    let psp = Psp::start_on(folder, &flags).await;
    assert_eq!(attempts(&psp).await, Some((Some(1), false)), "it remembers");
    psp.advance_s(3_601).await;
    eventually("it was tried again", async || (attempts(&psp).await? > (Some(1), false)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_twice_and_out_of_order_if_they_are_told_to() {
    let flags = ["--webhook-duplicates-percent", "100"];
    let (psp, endpoint) = (Psp::start(&flags).await, Endpoint::start(&[]).await);
    listen(&psp, &endpoint, &["payment_intent.created"]).await;
    psp.hold("twice").await;
    endpoint.has(2).await;
    let events = endpoint.events();
    assert_eq!(events[0]["id"], events[1]["id"]);
    eventually("that's all", async || {
        (psp.get("/_sim/webhooks").await.body["undelivered"] == 0).then_some(())
    })
    .await;
    assert_eq!(endpoint.got().len(), 2);

    let mut orders = Vec::new();
    for seed in ["3", "4"] {
        let flags = ["--seed", seed, "--webhook-reorder-percent", "50", "--webhook-reorder-ms", "60000"];
        let (psp, endpoint) = (Psp::start(&flags).await, Endpoint::start(&[]).await);
        listen(&psp, &endpoint, &["*"]).await;
        for number in 0..3 {
            psp.hold(&format!("o{number}")).await;
        }
        // Those at the end have nobody to wait for, once their time is over.
        psp.advance_s(60).await;
        endpoint.has(9).await;
        let events = endpoint.events();
        let ids: Vec<_> =
            events.iter().map(|event| event["id"].as_str().expect("an id")[..16].to_owned()).collect();
        let mut sorted = ids.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 9, "each of them once");
        orders.push((ids != sorted, ids));
    }
    assert!(orders.iter().any(|(reordered, _)| *reordered), "{orders:?}");
}
