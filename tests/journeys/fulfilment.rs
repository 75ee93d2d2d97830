//! Orders after they are confirmed: shipped, sent back, refunded.

use reqwest::Method;
use serde_json::{Value, json};

use super::checkout::{ledger, operations};
use crate::support::eventually;
use crate::support::metrics::alarms;
use crate::support::shop::{Shop, shared};

/// Somebody is, who looks at such alarms.
async fn is_told_of(shop: &Shop, kind: &str) {
    let is_told = async || (alarms(&shop.addresses.admin, kind).await > 0).then_some(());
    eventually(&format!("somebody is told of {kind}"), is_told).await;
}

async fn confirmed(shop: &Shop, name: &str, units: u32) -> (String, String) {
    let sku = shop.product(name, 10).await;
    let order = shop.check_out(&shop.cart(&sku, units).await, "tok_approve").await;
    eventually("it is paid", async || {
        let shown = shop.get(&format!("/v1/orders/{order}")).await.body;
        (shown["payment"]["status"] == "captured").then_some(())
    })
    .await;
    (sku, order)
}

async fn shown(shop: &Shop, order: &str, position: u64) -> Value {
    shop.get_at(&format!("/v1/orders/{order}"), position).await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shipped_in_parts_and_completed() {
    let shop = shared().await;
    let (sku, order) = confirmed(shop, "parcels", 3).await;
    let path = format!("/v1/orders/{order}/shipments");
    let parcel = json!({
        "lines": [{ "sku": sku, "quantity": 2 }],
        "carrier": "Royal Mail", "tracking_number": "RM1", "tracking_url": "https://example.com/RM1",
    });
    let first = shop.post(&path, &parcel).await;
    assert_eq!(first.status, 201, "{first:?}");
    let partly = shown(shop, &order, first.position()).await;
    assert_eq!(partly["fulfilment"]["status"], "partially_shipped", "{partly}");
    let shipment = &partly["fulfilment"]["shipments"][0];
    assert_eq!((&shipment["id"], &shipment["tracking_number"]), (&first.body["id"], &json!("RM1")));
    let too_many = shop.post(&path, &parcel).await;
    assert_eq!(
        (too_many.status.as_u16(), &too_many.body["code"], &too_many.body["left"]),
        (409, &json!("nothing_to_ship"), &json!(1)),
        "{too_many:?}"
    );
    let cancelled = shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.body["code"]), (409, &json!("order_shipped")));
    let last = shop.post(&path, &json!({})).await;
    let whole = shown(shop, &order, last.position()).await;
    assert_eq!(
        (&whole["status"], &whole["fulfilment"]["status"]),
        (&json!("completed"), &json!("shipped")),
        "{whole}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_back_is_on_the_shelf_and_paid_back() {
    let shop = shared().await;
    let (sku, order) = confirmed(shop, "too-small", 2).await;
    let price = shown(shop, &order, 0).await["lines"][0]["unit_price"]["amount"].as_i64().expect("a price");
    let path = format!("/v1/orders/{order}/returns");
    let body = json!({ "lines": [{ "sku": sku, "quantity": 1 }], "reason": "too small" });
    let early = shop.post(&path, &body).await;
    assert_eq!((early.status.as_u16(), &early.body["code"]), (409, &json!("nothing_to_return")), "{early:?}");
    assert_eq!(shop.post(&format!("/v1/orders/{order}/shipments"), &json!({})).await.status, 201);
    let request = |key: &str| shop.request(Method::POST, &path).header("Idempotency-Key", key).json(&body);
    let key = format!("return {order}");
    let back = shop.send(request(&key)).await;
    assert_eq!(back.status, 201, "{back:?}");
    assert_eq!(shop.send(request(&key)).await.body["id"], back.body["id"], "it is the same return");
    let shown = eventually("the money is back", async || {
        let shown = shown(shop, &order, back.position()).await;
        (shown["payment"]["status"] == "partially_refunded").then_some(shown)
    })
    .await;
    assert_eq!(shown["payment"]["refunded"], price, "{shown}");
    assert_eq!(shown["refunds"][0]["reference"], back.body["id"]);
    assert_eq!(shown["fulfilment"]["status"], "partially_returned");
    assert_eq!(shown["fulfilment"]["returns"][0]["reason"], "too small");
    eventually("it is on the shelf", async || (shop.stock(&sku).await == (9, 0)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_paid_back_than_was_paid() {
    let shop = shared().await;
    let (_, order) = confirmed(shop, "a-scratch", 1).await;
    let total = shown(shop, &order, 0).await["total"].clone();
    let path = format!("/v1/orders/{order}/refunds");
    let refund =
        |amount: i64| json!({ "amount": { "amount": amount, "currency": "GBP" }, "reason": "a scratch" });
    let first = shop.post(&path, &refund(100)).await;
    assert_eq!(first.status, 201, "{first:?}");
    let too_much = shop.post(&path, &refund(total["amount"].as_i64().expect("a total"))).await;
    assert_eq!((too_much.status.as_u16(), &too_much.body["code"]), (409, &json!("more_than_paid")));
    let wrong =
        shop.post(&path, &json!({ "amount": { "amount": 1, "currency": "EUR" }, "reason": "" })).await;
    let pointers: Vec<_> =
        wrong.body["errors"].as_array().expect("errors").iter().map(|e| &e["pointer"]).collect();
    assert_eq!(
        (wrong.status.as_u16(), pointers),
        (422, vec![&json!("/reason"), &json!("/amount")]),
        "{wrong:?}"
    );
    let rest = shop.post(&path, &json!({ "reason": "all of it" })).await;
    assert_eq!(rest.status, 201, "{rest:?}");
    let shown = eventually("all is paid back", async || {
        let shown = shown(shop, &order, rest.position()).await;
        (shown["payment"]["status"] == "refunded").then_some(shown)
    })
    .await;
    assert_eq!(shown["payment"]["refunded"], total["amount"]);
    assert_eq!(shown["refunds"].as_array().expect("refunds").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_the_provider_refuses_can_be_asked_for_again() {
    let shop = shared().await;
    let sku = shop.product("refused", 10).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_refund_refused").await;
    eventually("it is paid", async || {
        (shown(shop, &order, 0).await["payment"]["status"] == "captured").then_some(())
    })
    .await;
    let path = format!("/v1/orders/{order}/refunds");
    let body = json!({ "amount": { "amount": 1250, "currency": "GBP" }, "reason": "a scratch" });
    assert_eq!(shop.post(&path, &body).await.status, 201);
    eventually("it is refused", async || {
        let shown = shown(shop, &order, 0).await;
        let mut steps = shown["timeline"].as_array().expect("steps").iter();
        steps.any(|step| step["type"] == "order.refund_failed").then_some(())
    })
    .await;
    is_told_of(shop, "refund_failed").await;
    let again = shop.post(&path, &body).await;
    assert_eq!(again.status, 201, "what was refused is left to be paid back: {again:?}");
    eventually("it is paid back", async || {
        (shown(shop, &order, 0).await["payment"]["status"] == "refunded").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_tokens_do_what_they_say() {
    let shop = shared().await;
    let sku = shop.product("odd", 100).await;
    for (token, status, payment) in [
        ("tok_twice", "confirmed", "captured"),
        ("tok_less", "cancelled", "voided"),
        ("tok_capture_declined", "cancelled", "voided"),
        ("tok_capture_less", "confirmed", "partially_captured"),
        ("tok_charge_back", "confirmed", "charged_back"),
        ("tok_nobody_knows", "cancelled", "declined"),
    ] {
        let order = shop.check_out(&shop.cart(&sku, 1).await, token).await;
        eventually(token, async || {
            let shown = shown(shop, &order, 0).await;
            (shown["status"] == status && shown["payment"]["status"] == payment).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_takes_its_time_is_done_once_and_what_was_taken_wrong_raises_an_alarm() {
    let shop = shared().await;
    let sku = shop.product("slow", 10).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_refund_slow").await;
    eventually("it is paid", async || {
        (shown(shop, &order, 0).await["payment"]["status"] == "captured").then_some(())
    })
    .await;
    let path = format!("/v1/orders/{order}/refunds");
    assert_eq!(shop.post(&path, &json!({ "reason": "all of it" })).await.status, 201);
    eventually("it is paid back", async || {
        (shown(shop, &order, 0).await["payment"]["status"] == "refunded").then_some(())
    })
    .await;
    assert_eq!(operations(&ledger(shop, &order).await), ["authorize", "capture", "refund"]);

    let less = shop.check_out(&shop.cart(&sku, 1).await, "tok_capture_less").await;
    eventually("half of it is taken", async || {
        (shown(shop, &less, 0).await["payment"]["status"] == "partially_captured").then_some(())
    })
    .await;
    is_told_of(shop, "captured_less").await;
}

/// What the page of the sandbox sends.
async fn say(shop: &Shop, url: &str, approves: &str) -> u16 {
    let form = "application/x-www-form-urlencoded";
    let request = shop.request(Method::POST, url).header("Content-Type", form);
    request.body(format!("approve={approves}")).send().await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_approves_where_the_provider_sends_them_or_does_not() {
    let shop = shared().await;
    let sku = shop.product("challenged", 100).await;
    for (approves, status, payment) in [("true", "confirmed", "captured"), ("false", "cancelled", "declined")]
    {
        let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_challenge").await;
        eventually("the buyer is asked", async || {
            (shown(shop, &order, 0).await["payment"]["status"] == "action_required").then_some(())
        })
        .await;
        let challenge = shop.post(&format!("/v1/orders/{order}/payment/challenge"), &json!({})).await;
        let url = challenge.body["url"].as_str().expect("an address").to_owned();
        let page = shop.request(Method::GET, &url).send().await.expect("an answer");
        assert!(page.text().await.expect("a page").contains("approve the payment"));
        let said = say(shop, &url, approves).await;
        assert_eq!(said, 200);
        eventually("it goes on", async || {
            let shown = shown(shop, &order, 0).await;
            (shown["status"] == status && shown["payment"]["status"] == payment).then_some(())
        })
        .await;
        let again = say(shop, &url, "true").await;
        assert_eq!(again, 404, "it is asked once");
        assert_eq!(say(shop, &url, "perhaps").await, 422);
        let over = shop.post(&format!("/v1/orders/{order}/payment/challenge"), &json!({})).await;
        assert_eq!((over.status.as_u16(), &over.body["code"]), (409, &json!("no_action_required")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_is_not_answered_can_be_cancelled() {
    let shop = shared().await;
    let sku = shop.product("unanswered", 5).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_challenge").await;
    eventually("the buyer is asked", async || {
        (shown(shop, &order, 0).await["payment"]["status"] == "action_required").then_some(())
    })
    .await;
    assert_eq!(shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await.status, 202);
    eventually("nothing is left of it", async || {
        let shown = shown(shop, &order, 0).await;
        (shown["status"] == "cancelled" && shown["payment"]["status"] == "voided").then_some(())
    })
    .await;
    assert_eq!(shop.stock(&sku).await, (5, 0));
}
