//! Disputes: the buyer's bank takes the money back, and may give it back; and refunds that fail later.

use serde_json::{Value, json};

use super::reconcile::reconcile;
use super::{PRICE, Scene};
use crate::support::customer::Answer;
use crate::support::metrics::alarms;
use crate::support::{eventually, within};

impl Scene {
    /// An order that is paid, and its payment's name at the provider.
    pub(super) async fn paid(&self, card: &str) -> (String, String) {
        let order = self.buy(card).await;
        assert_eq!(self.settled(&order).await["status"], "confirmed");
        self.has_step(&order, "payment.captured").await;
        let lines = self.psp.ledger(&format!("{order}:authorize")).await;
        let payment = lines[0]["payment_intent"].as_str().expect("an id").to_owned();
        (order, payment)
    }

    /// Of the order, when the payment has come to this status.
    async fn payment(&self, order: &str, status: &str) -> Value {
        within(super::SETTLED_LIMIT, &format!("the payment is {status}"), async || {
            let shown = self.shop.get(&format!("/v1/orders/{order}")).await.body["payment"].take();
            (shown["status"] == status).then_some(shown)
        })
        .await
    }

    async fn dispute(&self, payment: &str, amount: i64) -> String {
        let dispute = json!({"payment_intent": payment, "amount": amount});
        let opened = self.psp.control("/_sim/disputes", dispute).await;
        opened["id"].as_str().expect("an id").to_owned()
    }

    async fn times(&self, order: &str, kind: &str) -> usize {
        self.steps(order).await.iter().filter(|step| *step == kind).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bank_takes_back_is_charged_back_and_what_is_won_is_here_again() {
    let psp = ["--webhook-duplicates-percent", "60", "--webhook-reorder-percent", "40", "--seed", "5"];
    let scene = Scene::start(&psp, &[]).await;
    scene.listen().await;
    let (order, payment) = scene.paid("visa").await;
    let dispute = scene.dispute(&payment, PRICE).await;
    assert_eq!(scene.payment(&order, "charged_back").await["charged_back"], PRICE);
    scene.psp.control(&format!("/_sim/disputes/{dispute}/won"), json!({})).await;
    assert_eq!(scene.payment(&order, "captured").await["charged_back"], 0);

    let (lost, payment) = scene.paid("visa").await;
    let dispute = scene.dispute(&payment, 500).await;
    assert_eq!(scene.payment(&lost, "charged_back").await["charged_back"], 500);
    scene.psp.control(&format!("/_sim/disputes/{dispute}/lost"), json!({})).await;
    eventually("all webhooks are delivered", async || {
        (scene.psp.get("/_sim/webhooks").await.body["undelivered"] == 0).then_some(())
    })
    .await;
    assert_eq!(scene.payment(&lost, "charged_back").await["charged_back"], 500);
    for (of, kind, times) in [
        (&order, "payment.charged_back", 1),
        (&order, "payment.charge_back_reversed", 1),
        (&lost, "payment.charged_back", 1),
        (&lost, "payment.charge_back_reversed", 0),
    ] {
        assert_eq!(scene.times(of, kind).await, times, "{of}: {kind}");
    }
    eventually("somebody is told of both", async || {
        (alarms(&scene.shop.addresses.admin, "charged_back").await == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_about_an_old_payment_is_found_by_comparing_alone() {
    let scene = Scene::start(&[], &[]).await;
    let (order, payment) = scene.paid("visa").await;
    // Until neither the payment nor what the log has of it is in the time that is compared.
    let made = scene.psp.get("/_sim/clock").await.body["now_ms"].as_i64().expect("a time");
    eventually("it is a while ago", async || {
        let now = scene.psp.get("/_sim/clock").await.body["now_ms"].as_i64().expect("a time");
        (now - made > 5_000).then_some(())
    })
    .await;
    scene.dispute(&payment, PRICE).await;
    let found = reconcile(&scene, &["--since", "2s"]).await;
    assert_eq!(found, (true, vec![("missed".to_owned(), payment, true)]));
    scene.payment(&order, "charged_back").await;
    assert_eq!(reconcile(&scene, &["--since", "1h"]).await, (true, Vec::new()), "it is known now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_fails_later_is_found_by_comparing() {
    let scene = Scene::start(&[], &[]).await;
    let (order, payment) = scene.paid("refundFail").await;
    scene.cancel(&order).await;
    scene.has_step(&order, "payment.refunded").await;
    assert_eq!(reconcile(&scene, &["--since", "1h"]).await, (true, Vec::new()));
    scene.psp.advance_s(61).await;
    // By the provider's list alone, nothing was ever given back of it.
    let listed = scene.psp.get("/v1/payment_intents?expand[]=data.latest_charge").await.body;
    assert_eq!(listed["data"][0]["latest_charge"]["amount_refunded"], 0);
    let found = reconcile(&scene, &["--since", "1h"]).await;
    assert_eq!(found, (true, vec![("missed".to_owned(), payment, true)]));
    scene.has_step(&order, "payment.refund_reversed").await;
    eventually("it is given back again", async || {
        (scene.times(&order, "payment.refunded").await == 2).then_some(())
    })
    .await;
}

/// A page with many refunds has to be read in the time that a call may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_refunded_payments_is_read_in_time() {
    let scene = Scene::start(&[], &[]).await;
    for _ in 0..12 {
        let (order, _) = scene.paid("visa").await;
        scene.cancel(&order).await;
        scene.has_step(&order, "payment.refunded").await;
    }
    let slow = json!({"kind": "slow_answer", "ms": 250, "operation": "refunds.list", "times": 1000});
    scene.psp.fault(slow).await;
    assert_eq!(reconcile(&scene, &["--since", "1h"]).await, (true, Vec::new()));
}

/// Stripe has some currencies in other units than ISO 4217.
#[tokio::test(flavor = "multi_thread")]
async fn amounts_are_in_the_providers_units() {
    let scene = Scene::start(&[], &[]).await;
    for (currency, amount, stripes) in [("ISK", 4990, 499_000), ("MGA", 4_990_000, 49_900)] {
        let sku = crate::support::shop::name("units");
        let mut product = crate::support::shop::product(&sku);
        product["price"] = json!({"amount": amount, "currency": currency});
        let made: Answer = scene.shop.post("/v1/products", &product).await;
        assert_eq!(made.status, 201, "{made:?}");
        let stock = format!("/v1/stock/{sku}/receipts");
        assert_eq!(scene.shop.post(&stock, &json!({"quantity": 9})).await.status, 201);
        let cart = scene.shop.cart(&sku, 1).await;
        let order = scene.shop.check_out_by(&cart, "stripe", "pm_card_visa").await;
        assert_eq!(scene.settled(&order).await["status"], "confirmed", "{currency}");
        scene.has_step(&order, "payment.captured").await;
        scene.cancel(&order).await;
        scene.has_step(&order, "payment.refunded").await;
        let lines = scene.psp.ledger(&format!("{order}:authorize")).await;
        for what in ["authorised", "captured", "refunded"] {
            let line = lines.iter().find(|line| line["what"] == what).expect(what);
            assert_eq!(line["amount"], stripes, "{currency}: {line}");
        }
        let shown = scene.payment(&order, "refunded").await;
        assert_eq!((&shown["captured"], &shown["refunded"]), (&json!(amount), &json!(amount)), "{currency}");
    }
}
