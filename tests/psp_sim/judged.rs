//! Two clients and a provider that fails at every third request: one client is careful, the other is not,
//! and the ledger tells them apart.

use serde_json::Value;

use crate::support::psp::{Psp, hold};

const INTENTS: &str = "/v1/payment_intents";
const PAYMENTS: usize = 30;

/// Whether money was held, as far as one request tells.
async fn ask(psp: &Psp, key: &str, attempt_ref: &str) -> Option<Value> {
    let form = hold(attempt_ref);
    let request = psp.form(INTENTS, &form).header("Idempotency-Key", key);
    let answer = psp.try_send(request).await.ok()?;
    [200, 402].contains(&answer.status.as_u16()).then_some(answer.body)
}

/// The same key until there is an answer, and a look whether it is done already.
async fn careful(psp: &Psp, attempt_ref: &str) {
    for _ in 0..10 {
        if ask(psp, attempt_ref, attempt_ref).await.is_some() {
            return;
        }
        let path = format!("{INTENTS}/search?query=metadata%5B'attempt_ref'%5D:'{attempt_ref}'");
        let found = psp.try_send(psp.request(reqwest::Method::GET, &path)).await;
        if found.is_ok_and(|found| found.body["data"][0].is_object()) {
            return;
        }
    }
}

/// A new key each time.
async fn careless(psp: &Psp, attempt_ref: &str) {
    for attempt in 0..10 {
        if ask(psp, &format!("{attempt_ref}/{attempt}"), attempt_ref).await.is_some() {
            return;
        }
    }
}

/// Payments that are in the ledger more than once.
async fn doubled(psp: &Psp, client: &str) -> usize {
    let mut doubled = 0;
    for number in 0..PAYMENTS {
        let ledger = psp.ledger(&format!("{client}-{number}")).await;
        doubled += usize::from(ledger.iter().filter(|line| line["what"] == "created").count() > 1);
    }
    doubled
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_convicts_the_careless_client_alone() {
    for profile in ["stripe", "only-2xx"] {
        let flags = ["--idempotency", profile, "--seed", "11", "--fault-rate", "0.33", "--hold-ms", "5"];
        let psp = Psp::start(&flags).await;
        for number in 0..PAYMENTS {
            careful(&psp, &format!("careful-{number}")).await;
            careless(&psp, &format!("careless-{number}")).await;
        }
        let careless = doubled(&psp, "careless").await;
        assert!(careless > 0, "{profile}: nobody was charged twice");
        // Where failures are executed again, a failure after the fact is enough, if the look-up lags or fails.
        let careful = doubled(&psp, "careful").await;
        assert!(if profile == "stripe" { careful == 0 } else { careful < careless }, "{profile}: {careful}");
    }
}
