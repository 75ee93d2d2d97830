//! What a buyer was shown is what is charged, or the buyer is asked again.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::checkout::{ledger, order_with_payment};
use crate::support::customer::{Answer, Client};
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{PROGRAM, Roles, Shop, checkout, shared};
use crate::support::{Folder, eventually, within};

fn gbp(amount: i64) -> Value {
    json!({"amount": amount, "currency": "GBP"})
}

/// Checks the cart out with what else the checkout has.
async fn check_out(shop: &Client, cart: &str, more: Value) -> Answer {
    let mut body = checkout("tok_approve");
    for (name, value) in more.as_object().expect("an object") {
        match body.pointer_mut(name) {
            Some(place) => *place = value.clone(),
            None => body[name] = value.clone(),
        }
    }
    shop.post(&format!("/v1/carts/{cart}/checkout"), &body).await
}

/// It is refused for this reason, and the new total is told; the answer's body.
#[track_caller]
fn changed(answer: Answer, reason: &str, total: i64) -> Value {
    assert_eq!(answer.problem(), (409, "cart_changed", ""), "{answer:?}");
    assert_eq!((&answer.body["reason"], &answer.body["total"]), (&json!(reason), &gbp(total)), "{answer:?}");
    assert_eq!(answer.body["totals"]["total"], answer.body["total"]);
    answer.body
}

/// The order of an accepted checkout, once it's paid; that is what was authorised and captured.
async fn paid(shop: &Shop, answer: &Answer, total: i64) -> Value {
    assert_eq!(answer.status, 202, "{answer:?}");
    let order = answer.body["order_id"].as_str().expect("an id");
    let shown = order_with_payment(shop, order, "captured").await;
    let booked = ledger(shop, order).await;
    assert_eq!(booked, [("authorize".into(), total, false), ("capture".into(), total, false)]);
    assert_eq!(shown["total"], gbp(total));
    shown
}

pub(super) fn terms(quote_holds_s: u32, express: u32) -> String {
    format!(
        "quote_holds_s = {quote_holds_s}
         tax = [{{ country = 'GB', name = 'VAT', rate = '20', included = false, on_shipping = true }}]
         [[shipping]]
         code = 'express'
         name = 'Express'
         countries = ['GB', 'FR']
         prices = {{ GBP = {express} }}"
    )
}

/// A shop with these terms, on what the folder holds.
pub(super) async fn shop_with_terms(folder: Folder, terms: &str) -> Shop {
    let path = folder.path().join("terms.toml");
    std::fs::write(&path, terms).expect("written");
    Shop::start_with(folder, &["--no-seed", "--terms", path.to_str().expect("UTF-8")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_quote_holds_its_price() {
    let shop = shared().await;
    let sku = shop.product("quoted", 5).await;
    let cart = shop.cart(&sku, 2).await;
    let quote = shop.quote(&cart, "express").await;
    assert_eq!(quote["totals"]["subtotal"], gbp(2500));
    assert_eq!(quote["totals"]["shipping"]["price"], gbp(595));
    let tax = json!({"name": "VAT", "rate": "20", "amount": gbp(516), "included": true});
    assert_eq!((&quote["totals"]["tax"], &quote["totals"]["total"]), (&tax, &gbp(3095)));
    let methods = quote["shipping_methods"].as_array().expect("methods");
    let methods: Vec<_> = methods.iter().map(|way| (&way["method"], &way["price"]["amount"])).collect();
    assert_eq!(methods, [(&json!("standard"), &json!(0)), (&json!("express"), &json!(595))]);

    shop.set_price(&sku, 2000).await;
    let bought = check_out(shop, &cart, json!({"quote_id": quote["quote_id"]})).await;
    let order = paid(shop, &bought, 3095).await;
    for part in ["subtotal", "shipping", "tax"] {
        assert_eq!(order[part], quote["totals"][part], "{part}");
    }
    assert_eq!(order["lines"], quote["lines"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_an_expired_quote_is_refused_and_the_new_total_accepted() {
    let shop = shop_with_terms(Folder::new(), &terms(0, 500)).await;
    let sku = shop.product("late", 5).await;
    let cart = shop.cart(&sku, 2).await;
    let quote = shop.quote(&cart, "express").await;
    assert_eq!(quote["totals"]["total"], gbp(3600), "25.00 and 5.00, and 20 % of both");
    let shown = eventually("the quote is shown", async || {
        let shown = shop.get(&format!("/v1/carts/{cart}")).await.body["quote"].clone();
        shown.is_object().then_some(shown)
    })
    .await;
    assert_eq!((&shown["holds"], &shown["reason"]), (&json!(false), &json!("quote_expired")));
    shop.set_price(&sku, 2000).await;
    let late = check_out(&shop, &cart, json!({"quote_id": quote["quote_id"]})).await;
    let problem = changed(late, "quote_expired", 5400);
    assert_eq!(problem["lines"][0]["unit_price"], gbp(2000));
    let bought = check_out(&shop, &cart, json!({"expected_total": problem["total"]})).await;
    let order = paid(&shop, &bought, 5400).await;
    assert_eq!(order["tax"], json!({"name": "VAT", "rate": "20", "amount": gbp(900), "included": false}));
}

/// Each process has products in its memory, and hears of what the other one changes.
#[tokio::test(flavor = "multi_thread")]
async fn f09_a_price_that_another_process_changed_is_the_one_that_is_quoted() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let roles = ["command-api", "query-api", "projections"];
    let start = async || Roles::start(nats.url(), &database, &roles).await;
    let (first, second) = (start().await, start().await);
    let (here, elsewhere) = (Client::new(&first.url, &database), Client::new(&second.url, &database));
    let sku = here.product("elsewhere", 5).await;
    let cart = here.cart(&sku, 2).await;
    let quoted = async || here.quote(&cart, "express").await["totals"]["total"].clone();
    assert_eq!(quoted().await, gbp(3095));
    elsewhere.set_price(&sku, 2000).await;
    // What is in memory is dropped after 15 s, whatever happens.
    within(Duration::from_secs(10), "the new price is quoted", async || {
        (quoted().await == gbp(4595)).then_some(())
    })
    .await;
    let late =
        check_out(&here, &cart, json!({"shipping_method": "express", "expected_total": gbp(3095)})).await;
    changed(late, "total_changed", 4595);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_shows_its_last_quote_and_whether_it_holds() {
    let shop = shared().await;
    let skus = [shop.product("shown", 5).await, shop.product("beside", 5).await];
    let cart = shop.cart(&skus[0], 2).await;
    let path = format!("/v1/carts/{cart}");
    assert_eq!(shop.get(&path).await.body["quote"], Value::Null);
    let shown = async |position| shop.get_at(&path, position).await.body["quote"].clone();
    let set = async |sku: &str, quantity: u32| {
        shop.put(&format!("{path}/lines/{sku}"), &json!({"quantity": quantity})).await.position()
    };
    let quoted = shop.post(&format!("{path}/quote"), &json!({"country": "GB"})).await;
    let holds = shown(quoted.position()).await;
    for field in ["quote_id", "expires_at", "country", "region", "totals"] {
        assert_eq!(holds[field], quoted.body[field], "{field}");
    }
    assert_eq!((&holds["holds"], &holds["reason"]), (&json!(true), &Value::Null));
    shop.set_price(&skus[0], 2000).await;
    assert_eq!(shown(set(&skus[0], 2).await).await, holds, "asked for again, nothing is another");
    for (sku, quantity) in [(&skus[0], 3), (&skus[0], 2)] {
        let changed = shown(set(sku, quantity).await).await;
        assert_eq!((&changed["holds"], &changed["reason"]), (&json!(false), &json!("lines_changed")));
    }
    for (sku, quantity) in [(&skus[1], 1), (&skus[1], 0)] {
        let quoted = shop.post(&format!("{path}/quote"), &json!({"country": "GB"})).await;
        assert_eq!(shown(quoted.position()).await["holds"], true);
        assert_eq!(shown(set(sku, quantity).await).await["reason"], "lines_changed");
    }
    shop.post(&format!("{path}/quote"), &json!({"country": "GB"})).await;
    let withdrawn = shop.post(&format!("/v1/products/{}/withdraw", skus[0]), &json!({})).await;
    assert_eq!(shown(withdrawn.position()).await["reason"], "not_for_sale");
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_shipping_that_costs_something_else_by_now_is_asked_about() {
    let shop = shop_with_terms(Folder::new(), &terms(1800, 500)).await;
    let sku = shop.product("moved", 5).await;
    let (quoted, shown) = (shop.cart(&sku, 2).await, shop.cart(&sku, 2).await);
    let quote = shop.quote(&quoted, "express").await;
    assert_eq!(shop.quote(&shown, "express").await["totals"]["total"], gbp(3600));
    let (folder, _) = shop.stop();

    let shop = shop_with_terms(folder, &terms(0, 700)).await;
    let stale = check_out(&shop, &shown, json!({"expected_total": gbp(3600)})).await;
    let problem = changed(stale, "total_changed", 3840);
    assert_eq!(problem["totals"]["shipping"]["price"], gbp(700));
    let agreed = check_out(&shop, &shown, json!({"expected_total": gbp(3840)})).await;
    paid(&shop, &agreed, 3840).await;
    // What was promised is kept, whatever the terms are by now.
    let promised = check_out(&shop, &quoted, json!({"quote_id": quote["quote_id"]})).await;
    let order = paid(&shop, &promised, 3600).await;
    assert_eq!(order["shipping"]["price"], gbp(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_price_that_has_changed_since_it_was_shown_is_asked_about() {
    let shop = shared().await;
    let sku = shop.product("dearer", 5).await;
    let cart = shop.cart(&sku, 2).await;
    shop.set_price(&sku, 1300).await;
    let stale = check_out(shop, &cart, json!({"expected_total": gbp(2500)})).await;
    changed(stale, "total_changed", 2600);
    let agreed = check_out(shop, &cart, json!({"expected_total": gbp(2600)})).await;
    let order = paid(shop, &agreed, 2600).await;
    assert_eq!((&order["shipping"]["price"], &order["subtotal"]), (&gbp(0), &gbp(2600)));
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_quote_for_another_purchase_is_refused() {
    let shop = shared().await;
    let sku = shop.product("else", 9).await;
    let cart = shop.cart(&sku, 2).await;
    let first = shop.quote(&cart, "standard").await;
    let quote = shop.quote(&cart, "express").await;
    let with = |quote: &Value, more: Value| {
        let mut all = more;
        all["quote_id"] = quote["quote_id"].clone();
        all
    };
    changed(check_out(shop, &cart, with(&first, json!({}))).await, "quote_unknown", 2500);
    let by_post = check_out(shop, &cart, with(&quote, json!({"shipping_method": "standard"}))).await;
    changed(by_post, "shipping_method_changed", 2500);
    let abroad = check_out(shop, &cart, with(&quote, json!({"/shipping_address/country": "FI"}))).await;
    let problem = changed(abroad, "destination_changed", 3095);
    assert_eq!(problem["totals"]["tax"]["rate"], "25.5");
    shop.put(&format!("/v1/carts/{cart}/lines/{sku}"), &json!({"quantity": 3})).await;
    let more = check_out(shop, &cart, with(&quote, json!({}))).await;
    let problem = changed(more, "lines_changed", 4345);
    assert_eq!(problem["lines"][0]["quantity"], 3);
    let again = shop.quote(&cart, "express").await;
    paid(shop, &check_out(shop, &cart, with(&again, json!({}))).await, 4345).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_that_is_asked_for_again_is_the_same_one() {
    let shop = shared().await;
    let cart = shop.cart(&shop.product("again", 5).await, 1).await;
    let path = format!("/v1/carts/{cart}/quote");
    let first = shop.post_as(&path, &json!({"country": "GB"}), &cart).await;
    assert_eq!(first.body["totals"]["shipping"]["method"], "standard", "{first:?}");
    let again = shop.post_as(&path, &json!({"country": "GB"}), &cart).await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, "true"));
    assert_eq!(again.body, first.body);
    let other = shop.post_as(&path, &json!({"country": "FR"}), &cart).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused", ""));
    let accepted = check_out(shop, &cart, json!({"quote_id": first.body["quote_id"]})).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let closed = shop.post(&path, &json!({"country": "GB"})).await;
    assert_eq!(closed.problem(), (409, "cart_checked_out", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn shipping_methods_are_those_that_go_there() {
    let shop = shop_with_terms(Folder::new(), &terms(60, 500)).await;
    let list = async |query: &str| shop.get(&format!("/v1/shipping-methods?{query}")).await;
    let there = list("country=GB&currency=GBP").await;
    assert_eq!((there.status.as_u16(), &there.body["next"]), (200, &Value::Null));
    let express = json!({"method": "express", "name": "Express", "price": gbp(500), "free_from": null, "delivery_days": null});
    assert_eq!(there.body["data"], json!([express]));
    for nowhere in ["country=GB&currency=EUR", "country=US&currency=GBP"] {
        assert_eq!(list(nowhere).await.body["data"], json!([]), "{nowhere}");
    }
    for wrong in
        ["", "country=GB", "country=UK&currency=GBP", "country=GB%00&currency=GBP", "country=GB&currency=gbp"]
    {
        assert_eq!(list(wrong).await.problem(), (400, "invalid_parameter", ""), "{wrong}");
    }
    let cart = shop.cart(&shop.product("far", 1).await, 1).await;
    let quote = shop.post(&format!("/v1/carts/{cart}/quote"), &json!({"country": "US"})).await;
    assert_eq!(quote.problem(), (422, "invalid", "/country"));
    let far = check_out(&shop, &cart, json!({"/shipping_address/country": "US"})).await;
    assert_eq!(far.problem(), (422, "invalid", "/shipping_address/country"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_that_makes_no_sense_is_pointed_at() {
    let shop = shared().await;
    let cart = shop.cart(&shop.product("odd", 1).await, 1).await;
    let path = format!("/v1/carts/{cart}/quote");
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"country": "gb"}), "/country"),
        (json!({"country": "ZZ"}), "/country"),
        (json!({"country": "G\u{0}"}), "/country"),
        (json!({"country": 7}), "/country"),
        (json!({"country": "GB", "region": "\u{0}"}), "/region"),
        (json!({"country": "GB", "region": "x".repeat(201)}), "/region"),
        (json!({"country": "GB", "shipping_method": "teleport\u{0}"}), "/shipping_method"),
        (json!({"country": "GB", "total": 0}), "/total"),
    ] {
        let answer = shop.post(&path, &body).await;
        let (status, code, at) = answer.problem();
        assert_eq!((status, code), (422, "invalid"), "{body}");
        assert!(
            at == pointer
                || answer.body["errors"][0]["detail"].as_str().unwrap_or_default().contains(&pointer[1..]),
            "{answer:?}"
        );
    }
    for (more, pointer) in [
        (json!({"quote_id": "mine"}), "/quote_id"),
        (json!({"shipping_method": "teleport"}), "/shipping_method"),
        (json!({"/shipping_address/country": "ZZ"}), "/shipping_address/country"),
    ] {
        let answer = check_out(shop, &cart, more.clone()).await;
        assert_eq!(answer.problem(), (422, "invalid", pointer), "{more}");
    }
    let keyless = shop.send(shop.request(Method::POST, &path).json(&json!({"country": "GB"}))).await;
    assert_eq!(keyless.problem(), (400, "idempotency_key_missing", ""));
    let nobody = shop.post(&format!("/v1/carts/{}/quote", Uuid::now_v7()), &json!({"country": "GB"})).await;
    assert_eq!(nobody.problem(), (404, "cart_not_found", ""));
    let unknown = check_out(shop, &cart, json!({"quote_id": Uuid::now_v7()})).await;
    changed(unknown, "quote_unknown", 1250);
}

#[test]
fn terms_that_are_wrong_are_said_before_anything_starts() {
    let folder = Folder::new();
    let path = folder.path().join("terms.toml");
    std::fs::write(&path, terms(60, 500).replace("'FR'", "'UK'")).expect("written");
    for (file, said) in [(path.as_path(), "`UK` is not an ISO 3166-1 code"), (folder.path(), "directory")] {
        let data = folder.path().join("data");
        let mut command = std::process::Command::new(PROGRAM);
        command.args(["dev", "--data-dir"]).arg(&data).arg("--terms").arg(file);
        let output = command.output().expect("it runs");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains(said), "{words}");
        assert!(!data.exists());
    }
}

/// As many as the largest basket of the UCI Online Retail history has.
#[tokio::test(flavor = "multi_thread")]
async fn f17_a_cart_of_a_thousand_lines_is_quoted_and_checked_out() {
    const LINES: usize = 1_114;
    let shop = shared().await;
    let created = shop.post("/v1/carts", &json!({})).await;
    let cart = created.body["id"].as_str().expect("an id").to_owned();
    let lines = stream::iter(0..LINES).map(async |_| {
        let sku = shop.product("thousand", 0).await;
        shop.put(&format!("/v1/carts/{cart}/lines/{sku}"), &json!({"quantity": 1})).await.status
    });
    let statuses: Vec<_> = lines.buffer_unordered(64).collect().await;
    assert!(statuses.iter().all(|status| *status == 200));
    let began = std::time::Instant::now();
    let quote = shop.quote(&cart, "express").await;
    let quoted_after = began.elapsed();
    assert_eq!(quote["lines"].as_array().map(Vec::len), Some(LINES));
    assert_eq!(quote["totals"]["total"], gbp(1_114 * 1250 + 595));
    let accepted = check_out(shop, &cart, json!({"quote_id": quote["quote_id"]})).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    eprintln!("quoted after {quoted_after:?}, checked out after {:?}", began.elapsed() - quoted_after);
}
