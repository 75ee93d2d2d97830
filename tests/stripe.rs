//! Payments through Stripe's adapter: the real platform, and the simulated provider that judges it.
//!
//! What counts is the provider's own ledger: what it took and kept for each order is what the order came to,
//! and for an order that was cancelled it is nothing.

mod disputes;
mod faults;
mod localstripe;
mod outage;
mod reconcile;
mod webhooks;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::psp::Psp;
use crate::support::shop::{Shop, operate_sagas};
use crate::support::{Folder, eventually, within};

const SECRET: &str = "whsec_of_the_tests_alone";

/// The price of what is bought.
const PRICE: i64 = 1250;

/// How long it may take until an order is settled, whatever the provider does.
const SETTLED_LIMIT: Duration = Duration::from_secs(240);

/// A shop, and a provider that tells it of what happens.
struct Scene {
    psp: Psp,
    shop: Shop,
    sku: String,
}

/// What became of the money of one payment at the provider.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Money {
    held: i64,
    kept: i64,
}

fn flags(psp: &Psp, more: &[&str]) -> Vec<String> {
    let flags = [
        "--no-seed",
        "--stripe-api-key",
        "sk_test_of_the_tests",
        "--stripe-url",
        &psp.url,
        "--stripe-webhook-secret",
        SECRET,
        "--payment-answer-limit-ms",
        "1500",
        "--payment-return-url",
        "https://shop.example/back",
    ];
    [&flags[..], more].concat().into_iter().map(str::to_owned).collect()
}

async fn start(psp: &Psp, folder: Folder, more: &[&str]) -> Shop {
    let flags = flags(psp, more);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Shop::start_with(folder, &flags).await
}

impl Scene {
    async fn start(psp_flags: &[&str], shop_flags: &[&str]) -> Self {
        let psp = Psp::start(psp_flags).await;
        let shop = start(&psp, Folder::new(), shop_flags).await;
        let sku = shop.product("stripe", 10_000).await;
        Self { psp, shop, sku }
    }

    /// Has the provider send its webhooks to the shop.
    async fn listen(&self) {
        let url = format!("{}/v1/webhooks/stripe", self.shop.addresses.http);
        let form = [("url", url.as_str()), ("enabled_events[]", "*"), ("secret", SECRET)];
        let made = self.psp.post("/v1/webhook_endpoints", &form).await;
        assert_eq!(made.status, 200, "{made:?}");
    }

    async fn buy(&self, card: &str) -> String {
        let cart = self.shop.cart(&self.sku, 1).await;
        self.shop.check_out_by(&cart, "stripe", &format!("pm_card_{card}")).await
    }

    async fn settled(&self, order: &str) -> Value {
        within(SETTLED_LIMIT, "the order is settled", async || {
            let shown = self.shop.get(&format!("/v1/orders/{order}")).await.body;
            (shown["status"].is_string() && shown["status"] != "pending").then_some(shown)
        })
        .await
    }

    async fn cancel(&self, order: &str) {
        eventually("the order is placed, and can be cancelled", async || {
            let asked = self.shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
            assert!([202, 404, 409].contains(&asked.status.as_u16()), "{asked:?}");
            (asked.status != 404).then_some(())
        })
        .await;
    }

    /// What the order's sagas recorded, as event types.
    async fn steps(&self, order: &str) -> Vec<String> {
        let (_, printed) = operate_sagas(&self.shop.addresses.admin, &["show", order, "--json"]).await;
        let story: Value = serde_json::from_str(&printed).unwrap_or_default();
        let steps = story["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().map(|step| step["type"].as_str().expect("a type").to_owned()).collect()
    }

    async fn has_step(&self, order: &str, kind: &str) {
        within(SETTLED_LIMIT, &format!("{order} has {kind}"), async || {
            self.steps(order).await.iter().any(|step| step == kind).then_some(())
        })
        .await;
    }

    /// Payments in the ledger, by order.
    async fn ledger(&self) -> BTreeMap<String, BTreeMap<String, Money>> {
        let ledger = self.psp.get("/_sim/ledger").await.body;
        let (mut owners, mut all) = (BTreeMap::new(), BTreeMap::<String, BTreeMap<String, Money>>::new());
        for line in ledger["data"].as_array().expect("lines") {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let (intent, amount) = (text("payment_intent"), line["amount"].as_i64().expect("an amount"));
            if text("what") == "created" {
                let order = line["metadata"]["order_id"].as_str().unwrap_or_default();
                owners.insert(intent.clone(), order.to_owned());
            }
            let money = all.entry(owners[&intent].clone()).or_default().entry(intent).or_default();
            match text("what").as_str() {
                "authorised" => money.held += amount,
                "captured" => (money.held, money.kept) = (0, money.kept + amount),
                "canceled" => money.held = 0,
                "refunded" => money.kept -= amount,
                "refund_failed" => money.kept += amount,
                _ => {}
            }
        }
        all
    }

    /// Whether the ledger has for each order what the shop says of it; else what differs.
    async fn differences(&self, orders: &[String]) -> Vec<String> {
        let (ledger, mut differences) = (self.ledger().await, Vec::new());
        for order in orders {
            let shown = self.shop.get(&format!("/v1/orders/{order}")).await.body;
            let wanted = if shown["status"] == "confirmed" { PRICE } else { 0 };
            let payments = ledger.get(order).cloned().unwrap_or_default();
            let kept: Vec<i64> =
                payments.values().map(|money| money.kept).filter(|kept| *kept != 0).collect();
            let held: i64 = payments.values().map(|money| money.held).sum();
            let is_kept = if wanted > 0 { kept == [wanted] } else { kept.is_empty() };
            if !is_kept || held != 0 {
                differences.push(format!("{order} is {}: {payments:?}", shown["status"]));
            }
        }
        differences
    }

    async fn books_agree(&self, orders: &[String]) {
        let mut last = Vec::new();
        let deadline = tokio::time::Instant::now() + SETTLED_LIMIT;
        while tokio::time::Instant::now() < deadline {
            last = self.differences(orders).await;
            if last.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for difference in &last {
            let order = difference.split(' ').next().expect("an order");
            eprintln!("{difference}: {:?}", self.steps(order).await);
        }
        panic!("{} of {} orders differ: {last:#?}", last.len(), orders.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_held_and_then_captured() {
    let scene = Scene::start(&[], &[]).await;
    let order = scene.buy("visa").await;
    assert_eq!(scene.settled(&order).await["status"], "confirmed");
    scene.books_agree(std::slice::from_ref(&order)).await;
    let key = format!("{order}:authorize");
    assert_eq!(scene.psp.moves(&key).await, ["authorised", "captured"]);
    let lines = scene.psp.ledger(&key).await;
    assert_eq!(lines[0]["idempotency_key"], key, "{lines:?}");
    assert_eq!((&lines[0]["amount"], &lines[0]["currency"]), (&json!(PRICE), &json!("gbp")));
    scene.has_step(&order, "payment.captured").await;

    let declined = scene.buy("chargeDeclinedInsufficientFunds").await;
    let settled = scene.settled(&declined).await;
    assert_eq!((&settled["status"], &settled["reason"]), (&json!("cancelled"), &json!("payment_declined")));
    let unknown = scene.buy("of_nobody").await;
    assert_eq!(scene.settled(&unknown).await["status"], "cancelled");
    scene.books_agree(&[order, declined, unknown]).await;

    let log = std::fs::read_to_string(scene.shop.folder.path().join("platform.log")).expect("a log");
    for secret in ["sk_test_of", SECRET, "client_secret"] {
        assert!(!log.contains(secret), "{secret} was logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_gets_the_money_back() {
    let scene = Scene::start(&[], &[]).await;
    scene.listen().await;
    // Captured first, and then refunded.
    let order = scene.buy("visa").await;
    scene.settled(&order).await;
    scene.has_step(&order, "payment.captured").await;
    scene.cancel(&order).await;
    eventually("it is cancelled", async || {
        (scene.shop.get(&format!("/v1/orders/{order}")).await.body["status"] == "cancelled").then_some(())
    })
    .await;
    let key = format!("{order}:authorize");
    assert_eq!(scene.psp.moves(&key).await, ["authorised", "captured", "refunded"]);
    // Released before it is captured, because the outcome is known only when it is to be undone.
    scene.psp.fault(json!({"kind": "late", "ms": 3000, "operation": "payment_intents.create"})).await;
    let early = scene.buy("visa").await;
    scene.has_step(&early, "payment.authorization_requested").await;
    scene.cancel(&early).await;
    assert_eq!(scene.settled(&early).await["status"], "cancelled");
    let key = format!("{early}:authorize");
    eventually("it is released", async || {
        (scene.psp.moves(&key).await == ["processing", "authorised", "canceled"]).then_some(())
    })
    .await;
    scene.books_agree(&[order, early]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_is_asked_who_they_are() {
    let scene = Scene::start(&[], &[]).await;
    scene.listen().await;
    for (verdict, status) in [("pass", "confirmed"), ("fail", "cancelled")] {
        let order = scene.buy("threeDSecure2Required").await;
        scene.has_step(&order, "payment.action_required").await;
        let path = format!("/v1/orders/{order}/payment/challenge");
        let asked = scene.shop.send(scene.shop.request(reqwest::Method::POST, &path)).await;
        let url = asked.body["url"].as_str().expect("an address");
        assert!(url.starts_with(&scene.psp.url), "{asked:?}");
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let answered = client.build().expect("a client").post(format!("{url}/{verdict}")).send();
        let answered = answered.await.expect("an answer");
        let back = answered.headers()["location"].to_str().expect("text").to_owned();
        assert!(back.starts_with("https://shop.example/back?payment_intent="), "{back}");
        assert_eq!(scene.settled(&order).await["status"], status, "{verdict}");
        scene.books_agree(&[order]).await;
    }
    // Who never comes back pays nothing.
    let scene = Scene::start(&[], &["--time-for-challenge-s", "2"]).await;
    let order = scene.buy("threeDSecure2Required").await;
    assert_eq!(scene.settled(&order).await["status"], "cancelled");
    scene.books_agree(&[order]).await;
}

/// Whoever can choose the sandbox pays nothing.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_for_real_money_the_sandbox_takes_no_payments() {
    let psp = Psp::start(&[]).await;
    let live = ["--no-seed", "--stripe-api-key", "sk_live_of_the_tests", "--stripe-url", &psp.url];
    for (more, status) in [(&[][..], 422), (&["--sandbox", "true"], 202)] {
        let shop = Shop::start_with(Folder::new(), &[&live[..], more].concat()).await;
        let sku = shop.product("real", 5).await;
        let path = format!("/v1/carts/{}/checkout", shop.cart(&sku, 1).await);
        let free = shop.post(&path, &crate::support::shop::checkout("tok_approve")).await;
        assert_eq!(free.status, status, "{free:?}");
        if status == 422 {
            assert_eq!(free.problem(), (422, "invalid", "/payment/method"));
            assert_eq!(free.body["errors"][0]["detail"], "must be one of: stripe");
        }
    }
}

/// F3, F18: however often a checkout comes, there is one order and one payment intent.
#[tokio::test(flavor = "multi_thread")]
async fn f18_one_checkout_makes_one_payment_intent() {
    let scene = Scene::start(&["--idempotency", "none"], &[]).await;
    scene.listen().await;
    let cart = scene.shop.cart(&scene.sku, 1).await;
    let (path, body) =
        (format!("/v1/carts/{cart}/checkout"), crate::support::shop::checkout_by("stripe", "pm_card_visa"));
    let crowd = (0..100).map(|_| scene.shop.post_as(&path, &body, "one-key-for-all-of-them"));
    let answers = futures_util::future::join_all(crowd).await;
    let orders: std::collections::BTreeSet<String> = answers
        .iter()
        .filter(|answer| answer.status == 202)
        .map(|answer| answer.body["order_id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(orders.len(), 1, "{answers:?}");
    let order = orders.into_iter().next().expect("one");
    assert_eq!(scene.settled(&order).await["status"], "confirmed");
    scene.has_step(&order, "payment.captured").await;
    let ledger = scene.ledger().await;
    assert_eq!(ledger.len(), 1, "{ledger:?}");
    assert_eq!(ledger[&order].values().collect::<Vec<_>>(), [&Money { held: 0, kept: PRICE }]);
}
