//! What goes wrong with the simulated provider when it is told to: each fault, and what it leaves.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::psp::{Endpoint, Psp, hold};

const INTENTS: &str = "/v1/payment_intents";

#[tokio::test(flavor = "multi_thread")]
async fn answers_get_lost_before_and_after_the_fact() {
    let psp = Psp::start(&[]).await;
    for (fault, done) in [
        (json!({"kind": "timeout_before", "ms": 50}), 0),
        (json!({"kind": "timeout_after", "ms": 50}), 1),
        (json!({"kind": "reset"}), 1),
    ] {
        let name = fault["kind"].as_str().expect("a kind").to_owned();
        psp.fault(fault).await;
        let form = hold(&name);
        let request = psp.form(INTENTS, &form).header("Idempotency-Key", &name);
        let lost = psp.try_send(request).await;
        assert!(lost.is_err(), "{name}: {lost:?}");
        let ledger = psp.ledger(&name).await;
        assert_eq!(ledger.iter().filter(|line| line["what"] == "authorised").count(), done, "{name}");
        if done > 0 {
            assert_eq!((&ledger[0]["answered"], &ledger[0]["faults"]), (&json!(false), &json!([name])));
        }
        // With the same key, all is well, and money is held once.
        assert_eq!(psp.post_as(&name, INTENTS, &form).await.status, 200, "{name}");
        assert_eq!(psp.moves(&name).await, ["authorised"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_come_before_and_after_the_fact() {
    let psp = Psp::start(&["--idempotency", "only-2xx"]).await;
    for (kind, status, done) in [("error_before", 503, 0), ("error_after", 500, 1)] {
        psp.fault(json!({"kind": kind, "status": status})).await;
        let failed = psp.post_as(kind, INTENTS, &hold(kind)).await;
        assert_eq!((failed.status.as_u16(), &failed.body["error"]["type"]), (status, &json!("api_error")));
        assert_eq!(psp.moves(kind).await.len(), done, "{kind}");
        assert_eq!(psp.post_as(kind, INTENTS, &hold(kind)).await.status, 200, "{kind}");
    }
    // What is refused before it's executed burns no key.
    psp.fault(json!({"kind": "rate_limit", "retry_after_s": 7})).await;
    psp.fault(json!({"kind": "conflict", "nth": 2})).await;
    let limited = psp.post_as("k", INTENTS, &hold("k")).await;
    assert_eq!((limited.status.as_u16(), limited.header("retry-after")), (429, "7"));
    let conflict = psp.post_as("k", INTENTS, &hold("k")).await;
    assert_eq!(
        (conflict.status.as_u16(), &conflict.body["error"]["code"]),
        (409, &json!("idempotency_key_in_use"))
    );
    assert_eq!(psp.moves("k").await, [""; 0]);
    assert_eq!(psp.post_as("k", INTENTS, &hold("k")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_slow_and_the_fact_is_early_or_late() {
    let psp = Psp::start(&[]).await;
    for kind in ["slow", "slow_answer"] {
        psp.fault(json!({"kind": kind, "ms": 300})).await;
        let started = Instant::now();
        assert_eq!(psp.post(INTENTS, &hold(kind)).await.status, 200);
        assert!(started.elapsed() >= Duration::from_millis(300), "{kind}");
    }
    // Who does not wait for it changes nothing: it's done later, and nobody is told.
    psp.fault(json!({"kind": "slow", "ms": 1_500})).await;
    let form = hold("gone");
    let impatient = psp.form(INTENTS, &form).timeout(Duration::from_millis(50));
    assert!(psp.try_send(impatient).await.is_err_and(|error| error.is_timeout()));
    assert_eq!(psp.moves("gone").await, [""; 0], "not yet");
    crate::support::eventually("it's done late", async || {
        let ledger = psp.ledger("gone").await;
        ledger.last().filter(|line| line["answered"] == false).map(|_| ())
    })
    .await;
    assert_eq!(psp.moves("gone").await, ["authorised"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn success_comes_late_or_not_at_all() {
    let psp = Psp::start(&[]).await;
    let three_hours = 3 * 60 * 60;
    for (kind, last, moved) in
        [("late", "requires_capture", "authorised"), ("late_decline", "requires_payment_method", "declined")]
    {
        psp.fault(json!({"kind": kind, "ms": three_hours * 1000, "attempt_ref": kind})).await;
        let begun = psp.post(INTENTS, &hold(kind)).await.body;
        assert_eq!(begun["status"], "processing");
        let path = format!("{INTENTS}/{}", begun["id"].as_str().expect("an id"));
        psp.advance_s(three_hours - 60).await;
        assert_eq!(psp.get(&path).await.body["status"], "processing");
        psp.advance_s(61).await;
        assert_eq!(psp.get(&path).await.body["status"], last);
        assert_eq!(psp.moves(kind).await, ["processing", moved]);
    }
    // Without the clock's help too.
    psp.fault(json!({"kind": "late", "ms": 200})).await;
    psp.post(INTENTS, &hold("soon")).await;
    crate::support::eventually("it's authorised", async || {
        (psp.moves("soon").await == ["processing", "authorised"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_can_lag_behind_in_all_that_is_shown() {
    let psp = Psp::start(&[]).await;
    psp.fault(json!({"kind": "lag", "ms": 600_000, "operation": "payment_intents.create"})).await;
    psp.fault(json!({"kind": "timeout_after", "ms": 1})).await;
    let form = hold("lost");
    assert!(psp.try_send(psp.form(INTENTS, &form)).await.is_err(), "two faults at once");
    let id = psp.ledger("lost").await[0]["payment_intent"].as_str().expect("an id").to_owned();
    let shown = async || {
        let search = psp.search("metadata['attempt_ref']:'lost'").await.body;
        let list = psp.get(INTENTS).await.body;
        let read = psp.get(&format!("{INTENTS}/{id}")).await.status == 200;
        let count = |body: &serde_json::Value| body["data"].as_array().expect("a list").len();
        (count(&search), count(&list), read)
    };
    assert_eq!(shown().await, (0, 0, false));
    psp.advance_s(601).await;
    assert_eq!(shown().await, (1, 1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_are_not_what_was_asked_for() {
    let psp = Psp::start(&[]).await;
    psp.fault(json!({"kind": "amount", "amount": 999, "operation": "payment_intents.create"})).await;
    psp.fault(json!({"kind": "amount", "amount": 5_000, "operation": "payment_intents.capture"})).await;
    psp.fault(json!({"kind": "amount", "amount": 98, "operation": "refunds.create"})).await;
    let id = psp.hold("odd").await;
    let captured = psp.post(&format!("{INTENTS}/{id}/capture"), &[("amount_to_capture", "900")]).await.body;
    assert_eq!(captured["amount_received"], 999, "never more than is held");
    let refund = psp.post("/v1/refunds", &[("payment_intent", &id), ("amount", "99")]).await.body;
    assert_eq!(refund["amount"], 98);
    let ledger = psp.ledger("odd").await;
    let asked: Vec<_> = ledger.iter().map(|line| (&line["asked"], &line["amount"])).collect();
    assert_eq!(asked[0], (&json!(1000), &json!(999)));
    assert_eq!(asked[2..], [(&json!(900), &json!(999)), (&json!(99), &json!(98))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_overtake_the_answer() {
    let (psp, endpoint) = (Psp::start(&[]).await, Endpoint::start(&[]).await);
    let form = [("url", endpoint.url.as_str()), ("enabled_events[]", "*")];
    assert_eq!(psp.post("/v1/webhook_endpoints", &form).await.status, 200);
    psp.fault(json!({"kind": "webhook_first"})).await;
    psp.fault(json!({"kind": "slow_answer", "ms": 300, "nth": 2})).await;
    psp.hold("first").await;
    assert_eq!(endpoint.kinds().len(), 3, "all of them, before the answer");
    let form = hold("second");
    let answer = psp.post(INTENTS, &form);
    tokio::pin!(answer);
    // Otherwise they wait for the answer, however long it takes.
    let early = tokio::time::timeout(Duration::from_millis(200), &mut answer).await;
    assert!(early.is_err() && endpoint.kinds().len() == 3, "{:?}", endpoint.kinds());
    answer.await;
    endpoint.has(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_by_chance_are_the_same_for_the_same_seed() {
    let flags = ["--seed", "7", "--fault-rate", "0.5", "--hold-ms", "1"];
    let mut runs = Vec::new();
    for _ in 0..2 {
        let psp = Psp::start(&flags).await;
        let mut run = Vec::new();
        for number in 0..30 {
            let name = format!("c{number}");
            let form = hold(&name);
            let answer = psp.try_send(psp.form(INTENTS, &form)).await;
            let faults = psp.ledger(&name).await.first().map(|line| line["faults"].clone());
            run.push((answer.ok().map(|answer| answer.status.as_u16()), faults));
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    let hit = runs[0].iter().filter(|(status, faults)| *status != Some(200) || *faults != Some(json!(null)));
    assert!((8..24).contains(&hit.count()), "{:?}", runs[0]);
}
