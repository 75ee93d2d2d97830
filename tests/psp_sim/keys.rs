//! Idempotency keys of the simulated provider, profile by profile, and across kills.

use serde_json::{Value, json};

use crate::support::customer::Answer;
use crate::support::eventually;
use crate::support::psp::{Psp, hold};

const INTENTS: &str = "/v1/payment_intents";

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == "true"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_means_depends_on_the_profile() {
    // How often money is held if the first answer is 200 (or 500, which is after the fact), and the
    // request comes again: at once, with another amount, a day later.
    let table = [
        ("stripe", [(200, [1, 1, 2]), (500, [1, 1, 2])]),
        ("only-2xx", [(200, [1, 1, 1]), (500, [2, 2, 2])]),
        ("24h", [(200, [1, 1, 2]), (500, [2, 2, 3])]),
        ("none", [(200, [2, 3, 4]), (500, [2, 3, 4])]),
    ];
    let psp = Psp::start(&[]).await;
    for (profile, rows) in table {
        psp.control("/_sim/settings", json!({"idempotency": profile})).await;
        for (first, wanted) in rows {
            let name = format!("{profile}-{first}");
            if first == 500 {
                psp.fault(json!({"kind": "error_after", "attempt_ref": name})).await;
            }
            let ask = async |form: &[(&str, &str)]| psp.post_as(&name, INTENTS, form).await;
            let held = async || psp.moves(&name).await.len();
            assert_eq!(ask(&hold(&name)).await.status, first, "{name}");
            let again = ask(&hold(&name)).await;
            assert_eq!(held().await, wanted[0], "{name}, again");
            assert_eq!(replayed(&again), wanted[0] == 1, "{name}");
            if profile == "stripe" {
                assert_eq!(again.status, first, "the first answer, whatever it was");
            }
            let mut other = hold(&name);
            other[0].1 = "1001";
            let differs = ask(&other).await;
            assert_eq!(held().await, wanted[1], "{name}, with another amount");
            let refused = differs.body["error"]["type"] == "idempotency_error" && differs.status == 400;
            assert_eq!(refused, profile == "stripe", "{name}: {differs:?}");
            psp.advance_s(24 * 60 * 60).await;
            ask(&hold(&name)).await;
            assert_eq!(held().await, wanted[2], "{name}, a day later");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_use_is_refused_and_executed_once() {
    let psp = Psp::start(&[]).await;
    psp.fault(json!({"kind": "slow", "ms": 1_000, "operation": "payment_intents.create"})).await;
    let form = hold("slow");
    let first = tokio::spawn(psp.form(INTENTS, &form).header("Idempotency-Key", "k").send());
    eventually("it is under way", async || (psp.get("/_sim/faults").await.body[0]["met"] == 1).then_some(()))
        .await;
    let mut refused = 0;
    let again = eventually("it is done", async || {
        let answer = psp.post_as("k", INTENTS, &form).await;
        refused += usize::from(answer.body["error"]["code"] == "idempotency_key_in_use");
        (answer.status == 200).then_some(answer)
    });
    assert!(replayed(&again.await));
    assert_eq!(first.await.expect("no panic").expect("an answer").status(), 200);
    assert!(refused > 0, "nobody was refused");
    assert_eq!(psp.moves("slow").await, ["authorised"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_with_one_key_move_money_once() {
    let psp = Psp::start(&[]).await;
    let form = hold("crowd");
    let crowd = (0..100).map(|_| psp.post_as("crowd", INTENTS, &form));
    let answers = futures_util::future::join_all(crowd).await;
    assert!(answers.iter().all(|answer| [200, 409].contains(&answer.status.as_u16())), "{answers:?}");
    let ids: std::collections::BTreeSet<_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .map(|answer| answer.body["id"].as_str())
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(psp.moves("crowd").await, ["authorised"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_before_a_kill_is_found_and_replayed() {
    for (kind, answered) in [("timeout_after", json!(false)), ("slow_answer", json!(null))] {
        let psp = Psp::start(&[]).await;
        psp.fault(json!({"kind": kind, "ms": 600_000})).await;
        let form = hold("killed");
        let request = psp.form(INTENTS, &form).header("Idempotency-Key", "k");
        let waiting = tokio::spawn(request.send());
        eventually("it is in the ledger", async || {
            let lines = psp.ledger("killed").await;
            lines.last().filter(|line| line["answered"] == answered).map(|_| ())
        })
        .await;
        let folder = psp.kill();
        assert!(waiting.await.expect("no panic").is_err(), "there was no answer");
        let ledger = super::printed(folder.path(), &["--json"]).await;
        assert!(ledger.contains("authorised"), "{ledger}");

        let psp = Psp::start_on(folder, &[]).await;
        let again = psp.post_as("k", INTENTS, &form).await;
        assert_eq!((again.status.as_u16(), &again.body["status"]), (200, &json!("requires_capture")));
        assert!(replayed(&again), "{again:?}");
        assert_eq!(psp.moves("killed").await, ["authorised"], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_time_lose_nothing_that_was_answered() {
    let mut folder = crate::support::Folder::new();
    let mut told = Vec::new();
    for round in 0..5 {
        let psp = Psp::start_on(folder, &[]).await;
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..40 {
            let name = format!("r{round}-{number}");
            let request = psp.form(INTENTS, &hold(&name)).header("Idempotency-Key", &name);
            asked.spawn(async move {
                let answer = request.send().await.ok()?.json::<Value>().await.ok()?;
                Some((name, answer["id"].clone()))
            });
        }
        let mut answered = Vec::new();
        while answered.len() < 10 + 5 * round {
            answered.extend(asked.join_next().await.expect("more to come").expect("no panic"));
        }
        folder = psp.kill();
        answered.extend(asked.join_all().await.into_iter().flatten());
        told.extend(answered);
    }
    let psp = Psp::start_on(folder, &[]).await;
    assert!(told.len() >= 5 * 10, "{}", told.len());
    for (name, id) in told {
        let form = hold(&name);
        let again = psp.post_as(&name, INTENTS, &form).await;
        assert!(replayed(&again) && again.body["id"] == id, "{name}: {again:?}");
    }
}
