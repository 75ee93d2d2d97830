//! The simulated payment provider: what it does, what it refuses, and what its ledger says about it.

mod contract;
mod faults;
mod judged;
mod keys;
mod webhooks;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::psp::{HOLD, Psp, hold};
use crate::support::shop::PROGRAM;

/// The ledger as its command prints it.
async fn printed(folder: &std::path::Path, more: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["psp-sim", "ledger", "--data-dir"]).arg(folder.join("psp")).args(more);
    let output = command.output().await.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn money_goes_there_and_back_and_the_ledger_tells_it() {
    let psp = Psp::start(&[]).await;
    let held = psp.post_as("key-1", "/v1/payment_intents", &hold("a-1")).await;
    assert_eq!((held.status.as_u16(), &held.body["status"]), (200, &json!("requires_capture")));
    assert!(held.header("request-id").starts_with("req_") && held.header("idempotent-replayed").is_empty());
    let id = held.body["id"].as_str().expect("an id");
    let captured =
        psp.post(&format!("/v1/payment_intents/{id}/capture"), &[("amount_to_capture", "800")]).await;
    assert_eq!(captured.body["amount_received"], 800, "{captured:?}");
    for (amount, status) in [("300", 200), ("501", 400), ("500", 200), ("1", 400)] {
        let form = [("payment_intent", id), ("amount", amount)];
        assert_eq!(psp.post("/v1/refunds", &form).await.status, status, "{amount}");
    }
    let refunds = psp.get(&format!("/v1/refunds?payment_intent={id}")).await.body;
    let amounts: Vec<_> =
        refunds["data"].as_array().expect("a list").iter().map(|refund| &refund["amount"]).collect();
    assert_eq!(amounts, [500, 300], "newest first");
    let charge = psp.get(&format!("/v1/charges?payment_intent={id}")).await.body["data"][0].clone();
    assert_eq!((&charge["amount_refunded"], &charge["refunded"]), (&json!(800), &json!(true)));

    let other = psp.hold("a-2").await;
    let cancelled = psp.post(&format!("/v1/payment_intents/{other}/cancel"), &[]).await;
    assert_eq!(cancelled.body["status"], "canceled");
    assert_eq!(psp.moves("a-1").await, ["authorised", "captured", "refunded", "refunded"]);
    assert_eq!(psp.moves("a-2").await, ["authorised", "canceled"]);

    let (folder, status) = psp.stop();
    assert!(status.success(), "{status}");
    let lines: Vec<Value> = printed(folder.path(), &["--json"])
        .await
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let authorised = lines.iter().find(|line| line["what"] == "authorised").expect("a line");
    assert_eq!(authorised["idempotency_key"], "key-1");
    assert_eq!((&authorised["amount"], &authorised["answered"]), (&json!(1000), &json!(true)));
    assert_eq!(authorised["metadata"]["attempt_ref"], "a-1");
    let text = printed(folder.path(), &[]).await;
    assert_eq!(text.lines().count(), lines.len());
    assert!(text.contains("key=key-1") && text.contains("attempt_ref=a-1"), "{text}");

    // All of it is there again after a start.
    let psp = Psp::start_on(folder, &[]).await;
    assert_eq!(psp.moves("a-1").await.len(), 4);
    assert_eq!(psp.get(&format!("/v1/payment_intents/{id}")).await.body["status"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_are_found_by_reference_and_by_time() {
    let psp = Psp::start(&[]).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(psp.hold(&format!("ref-{number}")).await);
        psp.advance_s(100).await;
    }
    let search = async |query: &str| psp.search(query).await;
    let found = search("metadata['attempt_ref']:'ref-3'").await.body;
    assert_eq!((found["data"][0]["id"].as_str(), &found["has_more"]), (Some(&*ids[3]), &json!(false)));
    assert_eq!(search("metadata['attempt_ref']:'ref-9'").await.body["data"], json!([]));
    assert_eq!(search("metadata[attempt_ref]").await.status, 400);

    let list = async |query: &str| {
        let body = psp.get(&format!("/v1/payment_intents?{query}")).await.body;
        let found = body["data"].as_array().expect("a list").clone();
        let place = |object: &Value| ids.iter().position(|id| object["id"] == **id).expect("one of them");
        (found.iter().map(place).collect::<Vec<_>>(), body["has_more"] == true)
    };
    assert_eq!(list("limit=2").await, (vec![4, 3], true));
    assert_eq!(list(&format!("limit=2&starting_after={}", ids[3])).await, (vec![2, 1], true));
    assert_eq!(list(&format!("limit=2&starting_after={}", ids[1])).await, (vec![0], false));
    assert_eq!(list(&format!("limit=2&ending_before={}", ids[1])).await, (vec![3, 2], true));
    let created = psp.get(&format!("/v1/payment_intents/{}", ids[2])).await.body["created"].clone();
    assert_eq!(list(&format!("created[gte]={created}")).await, (vec![4, 3, 2], false));
    assert_eq!(list(&format!("created[lte]={created}&limit=1")).await, (vec![2], true));
    assert_eq!(list(&format!("created[gt]={created}&created[lt]=9999999999")).await, (vec![4, 3], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_in_stripes_form_and_leaves_nothing() {
    let psp = Psp::start(&[]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stranger = client.get(format!("{}/v1/payment_intents", psp.url)).send().await.expect("an answer");
    assert_eq!(stranger.status(), 401);
    let basic = client.get(format!("{}/v1/payment_intents", psp.url)).basic_auth("sk_test_1", Some(""));
    assert_eq!(basic.send().await.expect("an answer").status(), 200);

    let with = |more: &[(&'static str, &'static str)]| [&HOLD[..], more].concat();
    let number = "4242424242424242";
    for form in [
        with(&[("payment_method_data[card][number]", number)]),
        with(&[("description", number)]),
        with(&[("metadata[note]", "card 4242424242424242, please")]),
        with(&[("amount", "9223372036854775808")]),
        with(&[("amount", "-1")]),
        with(&[("currency", "ÄÖÜ")]),
        with(&[("metadata[attempt_ref][x]", "1")]),
        with(&[("\0", "\0")]),
    ] {
        let refused = psp.post_as("bad", "/v1/payment_intents", &form).await;
        assert_eq!(refused.status, 400, "{form:?}");
        assert_eq!(refused.body["error"]["type"], "invalid_request_error", "{form:?}");
    }
    let json = psp.send(psp.request(Method::POST, "/v1/payment_intents").json(&json!({"amount": 1}))).await;
    assert_eq!(json.status, 400);
    let long = psp.send(psp.request(Method::POST, "/v1/payment_intents").body("x".repeat(70_000))).await;
    assert_eq!(long.status, 413);
    let many = "a=1&".repeat(1_000);
    assert_eq!(psp.get(&format!("/v1/events?{many}")).await.status, 400);
    for path in ["/v1/payment_intents/pi_%00", "/v1/refunds/re_1", "/v1/nothing", "/", "/v1/events/evt_1"] {
        assert_eq!(psp.get(path).await.status, 404, "{path}");
    }
    for path in ["/v1/payment_intents?limit=0", "/v1/events?limit=x", "/v1/refunds?starting_after=re_1"] {
        assert_eq!(psp.get(path).await.status, 400, "{path}");
    }
    let wrong = psp.request(Method::POST, "/_sim/faults").json(&json!({"kind": "slow", "colour": 1}));
    assert_eq!(psp.send(wrong).await.status, 400);
    let long_key = psp.form("/v1/payment_intents", &HOLD).header("Idempotency-Key", "k".repeat(256));
    assert_eq!(psp.send(long_key).await.status, 400);

    assert_eq!(psp.get("/v1/payment_intents").await.body["data"], json!([]));
    // A key of what was never executed is as good as new.
    assert_eq!(psp.post_as("bad", "/v1/payment_intents", &HOLD).await.status, 200);
    let ledger = std::fs::read_to_string(psp.folder.path().join("psp/ledger.jsonl")).expect("a ledger");
    for secret in [number, "sk_test_"] {
        assert!(!psp.log().contains(secret) && !ledger.contains(secret), "{secret} was kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_answered_by_the_buyer() {
    let psp = Psp::start(&[]).await;
    let mut form = hold("3ds").to_vec();
    form[4].1 = "pm_card_threeDSecure2Required";
    form.push(("return_url", "https://shop.example/back?order=1"));
    let asked = psp.post("/v1/payment_intents", &form).await.body;
    assert_eq!(asked["status"], "requires_action", "{asked}");
    let url = asked["next_action"]["redirect_to_url"]["url"].as_str().expect("a URL");
    let path = url.strip_prefix(&psp.url).expect("of the simulator");
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let client = client.build().expect("a client");
    let page = client.get(url).send().await.expect("an answer").text().await.expect("a page");
    assert!(page.contains(&format!("{path}/pass")) && page.contains("1000 GBP"), "{page}");
    let passed = client.post(format!("{url}/pass")).send().await.expect("an answer");
    let back = passed.headers()["location"].to_str().expect("text");
    assert!(back.starts_with("https://shop.example/back?order=1&payment_intent=pi_"), "{back}");
    assert!(passed.status() == 303 && back.ends_with("redirect_status=succeeded"), "{back}");
    assert_eq!(psp.moves("3ds").await, ["challenged", "authorised"]);
    assert_eq!(client.post(format!("{url}/fail")).send().await.expect("an answer").status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_has_one_simulator_and_damage_is_told() {
    let psp = Psp::start(&[]).await;
    psp.hold("one").await;
    let start = async |folder: &std::path::Path| {
        let mut command = Command::new(PROGRAM);
        command.args(["psp-sim", "--port", "0", "--data-dir"]).arg(folder.join("psp"));
        let output = command.output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(start(psp.folder.path()).await.contains("another simulator has"));
    let (folder, _) = psp.stop();
    let file = folder.path().join("psp/ledger.jsonl");
    let whole = std::fs::read_to_string(&file).expect("a ledger");
    std::fs::write(&file, whole.replacen("{\"number\":1", "{\"nummer\":1", 1)).expect("written");
    let told = start(folder.path()).await;
    assert!(told.contains("line 2 is damaged"), "{told}");
    std::fs::write(&file, format!("{whole}{{\"number\":")).expect("written");
    let psp = Psp::start_on(folder, &[]).await;
    assert!(psp.log().contains("in the middle of a line"), "{}", psp.log());
    assert_eq!(psp.moves("one").await, ["authorised"]);
    psp.hold("two").await;
}
