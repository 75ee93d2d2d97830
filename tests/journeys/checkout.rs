//! From a cart to an order that is confirmed, or undone without a trace.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::eventually;
use crate::support::shop::{Shop, checkout, shared};

/// The sandbox's own books about an order: operation, amount, whether it was declined.
pub async fn ledger(shop: &Shop, order: &str) -> Vec<(String, i64, bool)> {
    let pool = sqlx::PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
    let query = "select operation, amount, declined is not null from sandbox.operations where order_id = $1 order by asked_at";
    let id: Uuid = order.parse().expect("an id");
    let rows = sqlx::query_as(query).bind(id).fetch_all(&pool).await.expect("the ledger");
    pool.close().await;
    rows
}

pub fn operations(ledger: &[(String, i64, bool)]) -> Vec<&str> {
    ledger.iter().map(|(operation, ..)| operation.as_str()).collect()
}

pub async fn order_with_payment(shop: &Shop, order: &str, payment: &str) -> Value {
    eventually(&format!("the payment is {payment}"), async || {
        let shown = shop.get(&format!("/v1/orders/{order}")).await.body;
        (shown["payment"]["status"] == payment).then_some(shown)
    })
    .await
}

fn kinds(order: &Value) -> Vec<&str> {
    let timeline = order["timeline"].as_array().expect("a timeline");
    timeline.iter().map(|step| step["type"].as_str().expect("a type")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_is_confirmed() {
    let shop = shared().await;
    let sku = shop.product("good", 5).await;
    let cart = shop.cart(&sku, 2).await;
    let accepted = shop.post(&format!("/v1/carts/{cart}/checkout"), &checkout("tok_approve")).await;
    let order = accepted.body["order_id"].as_str().expect("an id").to_owned();
    assert_eq!(accepted.header("location"), format!("/v1/orders/{order}"));
    let pending = shop.get_at(&format!("/v1/orders/{order}"), accepted.position()).await;
    assert_eq!(pending.status, 200, "it can be read at once");
    assert_eq!(pending.header("cache-control"), "private, no-store");
    let shown = eventually("the money is taken and the goods are sold", async || {
        let shown = order_with_payment(shop, &order, "captured").await;
        kinds(&shown).contains(&"stock.sold").then_some(shown)
    })
    .await;
    assert_eq!((&shown["status"], &shown["total"]["amount"]), (&json!("confirmed"), &json!(2500)));
    let mut kinds = kinds(&shown);
    // These two are done side by side.
    kinds[1..3].sort_unstable();
    let (until_confirmed, side_by_side) = kinds.split_at(6);
    assert_eq!(
        until_confirmed,
        [
            "cart.checked_out",
            "order.placed",
            "stock.reserved",
            "payment.authorization_requested",
            "payment.authorized",
            "order.confirmed",
        ]
    );
    let side_by_side = BTreeSet::from_iter(side_by_side.iter().copied());
    assert_eq!(side_by_side, ["payment.capture_requested", "payment.captured", "stock.sold"].into());
    assert_eq!(
        ledger(shop, &order).await,
        [("authorize".into(), 2500, false), ("capture".into(), 2500, false)]
    );
    eventually("the goods are gone", async || (shop.stock(&sku).await == (3, 0)).then_some(())).await;
    let again = shop.post(&format!("/v1/carts/{cart}/checkout"), &checkout("tok_approve")).await;
    assert_eq!(again.problem(), (409, "cart_checked_out", ""));
    assert_eq!(again.body["order_id"], order.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_payment_leaves_nothing_behind() {
    let shop = shared().await;
    let sku = shop.product("declined", 5).await;
    let cart = shop.cart(&sku, 2).await;
    let order = shop.check_out(&cart, "tok_decline").await;
    let shown = shop.settled(&order).await;
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("cancelled"), &json!("payment_declined")));
    // Who sees it cancelled finds nothing held, and the cart open.
    assert_eq!(kinds(&shown).last(), Some(&"order.cancelled"));
    let position =
        shown["timeline"].as_array().and_then(|timeline| timeline.last()).expect("steps")["position"]
            .as_u64();
    let product = shop.get_at(&format!("/v1/products/{sku}"), position.expect("a position")).await;
    assert_eq!(product.body["available"], 5);
    let cart_shown = shop.get_at(&format!("/v1/carts/{cart}"), position.expect("a position")).await;
    assert_eq!(cart_shown.body["status"], "open");
    let second = shop.check_out(&cart, "tok_approve").await;
    assert_ne!(second, order, "the buyer can try again");
    assert_eq!(shop.settled(&second).await["status"], "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sold_out_line_is_refused_before_any_money_moves() {
    let shop = shared().await;
    let (there, scarce) = (shop.product("there", 5).await, shop.product("scarce", 1).await);
    let cart = shop.cart(&there, 1).await;
    shop.put(&format!("/v1/carts/{cart}/lines/{scarce}"), &json!({"quantity": 2})).await;
    let order = shop.check_out(&cart, "tok_approve").await;
    let shown = shop.settled(&order).await;
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("cancelled"), &json!("out_of_stock")));
    assert_eq!(shown["payment"]["status"], "none");
    assert!(ledger(shop, &order).await.is_empty(), "the provider was never asked");
    assert_eq!((shop.stock(&there).await, shop.stock(&scarce).await), ((5, 0), (1, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_looked_up_and_charged_once() {
    let shop = shared().await;
    let sku = shop.product("lost", 5).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_lost").await;
    let shown = order_with_payment(shop, &order, "captured").await;
    assert_eq!(shown["status"], "confirmed");
    assert!(kinds(&shown).contains(&"payment.outcome_unknown"), "{:?}", kinds(&shown));
    assert_eq!(operations(&ledger(shop, &order).await), ["authorize", "capture"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_approval_is_waited_for() {
    let shop = shared().await;
    let sku = shop.product("slow", 5).await;
    let cart = shop.cart(&sku, 1).await;
    let request = shop.request(Method::POST, &format!("/v1/carts/{cart}/checkout"));
    let request =
        request.header("Idempotency-Key", &cart).header("Prefer", "wait=20").json(&checkout("tok_slow"));
    let answer = shop.send(request).await;
    assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (202, "wait=20"));
    assert_eq!(answer.body["status"], "confirmed");
    let order = answer.body["order_id"].as_str().expect("an id");
    let shown = shop.get(&format!("/v1/orders/{order}")).await.body;
    assert_eq!(shown["status"], "confirmed", "it is projected, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_order_can_be_taken_back() {
    let shop = shared().await;
    let sku = shop.product("back", 5).await;
    let order = shop.check_out(&shop.cart(&sku, 2).await, "tok_approve").await;
    order_with_payment(shop, &order, "captured").await;
    let cancel = format!("/v1/orders/{order}/cancel");
    let request =
        shop.request(Method::POST, &cancel).header("Idempotency-Key", &order).header("Prefer", "wait=20");
    let answer = shop.send(request).await;
    assert_eq!((answer.status.as_u16(), &answer.body["status"]), (202, &json!("cancelled")), "{answer:?}");
    assert_eq!(answer.body["reason"], "cancelled_by_buyer");
    let shown = shop.get_at(&format!("/v1/orders/{order}"), answer.position()).await.body;
    assert_eq!((&shown["status"], &shown["payment"]["status"]), (&json!("cancelled"), &json!("refunded")));
    assert_eq!(operations(&ledger(shop, &order).await), ["authorize", "capture", "refund"]);
    assert_eq!(shop.stock(&sku).await, (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_the_provider_decides_is_voided() {
    let shop = shared().await;
    let sku = shop.product("regret", 5).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_slow").await;
    order_with_payment(shop, &order, "pending").await;
    let answer = shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let shown = shop.settled(&order).await;
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("cancelled"), &json!("cancelled_by_buyer")));
    eventually("the late approval is voided", async || {
        (operations(&ledger(shop, &order).await) == ["authorize", "void"]).then_some(())
    })
    .await;
    assert_eq!(shop.stock(&sku).await, (5, 0));
    let late = shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
    assert_eq!(late.status, 202, "it is as asked already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_right_after_the_checkout_is_accepted() {
    let shop = shared().await;
    let sku = shop.product("at-once", 50).await;
    for _ in 0..10 {
        let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_approve").await;
        let answer = shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        eventually("it is cancelled", async || {
            let shown = shop.get(&format!("/v1/orders/{order}")).await.body;
            (shown["status"] == "cancelled").then_some(())
        })
        .await;
        eventually("no money is kept", async || {
            let ledger = ledger(shop, &order).await;
            let is = |operation| operations(&ledger).contains(&operation);
            (!is("authorize") || is("void") || is("refund")).then_some(())
        })
        .await;
    }
    assert_eq!(shop.stock(&sku).await, (50, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_hundred_times_the_same_checkout_is_one_order() {
    let shop = shared().await;
    let sku = shop.product("hundred", 100).await;
    let cart = shop.cart(&sku, 1).await;
    let path = format!("/v1/carts/{cart}/checkout");
    let body = checkout("tok_approve");
    let answers = join_all((0..100).map(|_| shop.post_as(&path, &body, &cart))).await;
    let orders: BTreeSet<_> = answers.iter().map(|answer| answer.body["order_id"].as_str()).collect();
    assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    assert_eq!(orders.len(), 1);
    let order = answers[0].body["order_id"].as_str().expect("an id");
    order_with_payment(shop, order, "captured").await;
    assert_eq!(operations(&ledger(shop, order).await), ["authorize", "capture"]);
    eventually("one is sold", async || (shop.stock(&sku).await == (99, 0)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_two_hundred_buyers_for_ten_units() {
    let shop = shared().await;
    let sku = shop.product("rush", 10).await;
    let carts = join_all((0..200).map(|_| shop.cart(&sku, 1))).await;
    let orders = join_all(carts.iter().map(|cart| shop.check_out(cart, "tok_approve"))).await;
    let settled = join_all(orders.iter().map(|order| shop.settled(order))).await;
    let confirmed = settled.iter().filter(|order| order["status"] == "confirmed").count();
    let refused = settled.iter().filter(|order| order["reason"] == "out_of_stock").count();
    assert_eq!((confirmed, refused), (10, 190));
    eventually("ten are sold and none is held", async || (shop.stock(&sku).await == (0, 0)).then_some(()))
        .await;
    let pool = sqlx::PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
    let ids: Vec<Uuid> = orders.iter().map(|order| order.parse().expect("an id")).collect();
    let charged: Vec<Uuid> =
        sqlx::query_scalar("select distinct order_id from sandbox.operations where order_id = any($1)")
            .bind(ids)
            .fetch_all(&pool)
            .await
            .expect("the ledger");
    assert_eq!(charged.len(), 10, "nothing was charged to the losers");
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_two_lines_of_one_cart_compete_fairly() {
    let shop = shared().await;
    let (a, b) = (shop.product("pair-a", 3).await, shop.product("pair-b", 3).await);
    let carts = join_all((0..6).map(async |index| {
        // In opposite orders, as deadlocks like it.
        let (first, second) = if index % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let cart = shop.cart(first, 1).await;
        shop.put(&format!("/v1/carts/{cart}/lines/{second}"), &json!({"quantity": 1})).await;
        cart
    }))
    .await;
    let orders = join_all(carts.iter().map(|cart| shop.check_out(cart, "tok_approve"))).await;
    let settled = join_all(orders.iter().map(|order| shop.settled(order))).await;
    let confirmed = settled.iter().filter(|order| order["status"] == "confirmed").count();
    let left = i64::try_from(3 - confirmed).expect("at most 3 can be confirmed");
    for sku in [&a, &b] {
        eventually("what is not sold is free", async || (shop.stock(sku).await == (left, 0)).then_some(()))
            .await;
    }
}
