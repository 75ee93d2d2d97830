//! Bad input: each its clear 4xx, and nothing recorded.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::shop::{self, checkout, product, shared};

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_is_not_valid_is_pointed_at() {
    let shop = shared().await;
    let with = |pointer: &str, value: Value| {
        let mut body = product(&shop::name("bad"));
        match body.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => body[&pointer[1..]] = value,
        }
        body
    };
    for (pointer, value) in [
        ("/title", json!("Mug\u{0}")),
        ("/title", json!("")),
        ("/title", json!(7)),
        ("/sku", json!("a b")),
        ("/sku", json!("a>b")),
        ("/sku", json!("x".repeat(65))),
        ("/price/amount", json!(-1)),
        ("/price/amount", json!(1.5)),
        ("/price/amount", json!(10_000_000_001_u64)),
        ("/price/amount", json!(9_223_372_036_854_775_808_u64)),
        ("/price/currency", json!("XXX")),
        ("/category", json!([])),
        ("/images/0", json!("javascript:alert(1)")),
        ("/gtins/0", json!("4006381333932")),
        ("/colour", json!("unknown fields are refused")),
    ] {
        let answer = shop.post("/v1/products", &with(pointer, value.clone())).await;
        let (status, code, at) = answer.problem();
        assert_eq!((status, code), (422, "invalid"), "{pointer} {value}");
        // An unknown field is reported with its name, at the object that has it.
        assert!(
            at == pointer
                || answer.body["errors"][0]["detail"].as_str().unwrap_or_default().contains("colour"),
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quantities_are_whole_and_bounded() {
    let shop = shared().await;
    let sku = shop.product("bounds", 5).await;
    let cart = shop.cart(&sku, 1).await;
    for quantity in ["-1", "1.5", "9223372036854775808", "10001", "\"2\"", "null", "1e400"] {
        let body = format!(r#"{{"quantity": {quantity}}}"#);
        for (method, path, key) in [
            (Method::PUT, format!("/v1/carts/{cart}/lines/{sku}"), false),
            (Method::POST, format!("/v1/stock/{sku}/receipts"), true),
        ] {
            if key && quantity == "10001" {
                continue;
            }
            let mut request =
                shop.request(method, &path).header(CONTENT_TYPE, "application/json").body(body.clone());
            if key {
                request = request.header("Idempotency-Key", Uuid::now_v7().to_string());
            }
            let answer = shop.send(request).await;
            let (status, code, pointer) = answer.problem();
            match quantity {
                "1e400" => {
                    assert!(matches!((status, code), (400, "invalid_json") | (422, "invalid")), "{answer:?}")
                }
                _ => assert_eq!((status, code, pointer), (422, "invalid", "/quantity"), "{path} {quantity}"),
            }
        }
    }
    for quantity in [0, 1_000_001] {
        let answer = shop.post(&format!("/v1/stock/{sku}/receipts"), &json!({"quantity": quantity})).await;
        assert_eq!(answer.problem(), (422, "invalid", "/quantity"), "{quantity}");
    }
    for delta in [json!(0), json!(i64::MIN), json!(2_000_000)] {
        let body = json!({"delta": delta, "reason": "count"});
        assert_eq!(
            shop.post(&format!("/v1/stock/{sku}/adjustments"), &body).await.problem(),
            (422, "invalid", "/delta")
        );
    }
    assert_eq!(shop.stock(&sku).await, (5, 0), "nothing of it was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_found() {
    let shop = shared().await;
    let sku = shop.product("known", 1).await;
    let cart = shop.cart(&sku, 1).await;
    let nobody = Uuid::now_v7();
    let quantity = json!({"quantity": 1});
    assert_eq!(
        shop.post("/v1/stock/nothing-here/receipts", &quantity).await.problem().1,
        "product_not_found"
    );
    assert_eq!(
        shop.put(&format!("/v1/carts/{cart}/lines/nothing-here"), &quantity).await.problem().1,
        "product_not_found"
    );
    assert_eq!(
        shop.put(&format!("/v1/carts/{nobody}/lines/{sku}"), &quantity).await.problem().1,
        "cart_not_found"
    );
    assert_eq!(
        shop.post(&format!("/v1/carts/{nobody}/checkout"), &checkout("tok_approve")).await.problem().1,
        "cart_not_found"
    );
    assert_eq!(
        shop.post(&format!("/v1/orders/{nobody}/cancel"), &json!({})).await.problem().1,
        "order_not_found"
    );
    for path in [
        format!("/v1/carts/{nobody}"),
        format!("/v1/orders/{nobody}"),
        "/v1/products/nothing-here".to_owned(),
    ] {
        assert_eq!(shop.get(&path).await.status, 404, "{path}");
    }
    for path in [
        "/v1/carts/7",
        "/v1/orders/x",
        "/v1/products/a%20b",
        "/v1/products/%FF",
        "/v1/products/%00",
        "/v1/products/a%2Fb",
    ] {
        assert_eq!(shop.get(path).await.problem().0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_bodies() {
    let shop = shared().await;
    let send = async |content_type: &str, body: Vec<u8>| {
        let request =
            shop.request(Method::POST, "/v1/products").header("Idempotency-Key", Uuid::now_v7().to_string());
        shop.send(request.header(CONTENT_TYPE, content_type).body(body)).await
    };
    let json = "application/json";
    assert_eq!(send(json, b"{".to_vec()).await.problem(), (400, "invalid_json", ""));
    assert_eq!(send(json, Vec::new()).await.problem(), (400, "invalid_json", ""));
    assert_eq!(send(json, b"{\"sku\": \"\xff\"}".to_vec()).await.problem().0, 400);
    assert_eq!(send(json, "[".repeat(100_000).into_bytes()).await.problem().0, 422);
    assert_eq!(send("text/plain", b"{}".to_vec()).await.problem(), (415, "unsupported_media_type", ""));
    let huge = json!({"sku": "huge", "title": "x".repeat(10 << 20)}).to_string().into_bytes();
    assert_eq!(send(json, huge).await.problem(), (413, "body_too_large", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_wanted_where_something_is_created() {
    let shop = shared().await;
    let sku = shop.product("keyless", 1).await;
    let cart = shop.cart(&sku, 1).await;
    for (path, body) in [
        ("/v1/products".to_owned(), product(&shop::name("keyless"))),
        ("/v1/carts".to_owned(), json!({})),
        (format!("/v1/stock/{sku}/receipts"), json!({"quantity": 1})),
        (format!("/v1/stock/{sku}/adjustments"), json!({"delta": 1, "reason": "count"})),
        (format!("/v1/carts/{cart}/checkout"), checkout("tok_approve")),
        (format!("/v1/orders/{}/cancel", Uuid::now_v7()), json!({})),
    ] {
        let answer = shop.send(shop.request(Method::POST, &path).json(&body)).await;
        assert_eq!(answer.problem(), (400, "idempotency_key_missing", ""), "{path}");
        let answer = shop.post_as(&path, &body, &"k".repeat(256)).await;
        assert_eq!(answer.problem(), (400, "idempotency_key_invalid", ""), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn currencies_do_not_mix_in_a_cart() {
    let shop = shared().await;
    let sku = shop.product("pound", 1).await;
    let mut euro = product(&shop::name("euro"));
    euro["price"]["currency"] = json!("EUR");
    shop.post("/v1/products", &euro).await;
    let cart = shop.cart(&sku, 1).await;
    let path = format!("/v1/carts/{cart}/lines/{}", euro["sku"].as_str().expect("a SKU"));
    assert_eq!(shop.put(&path, &json!({"quantity": 1})).await.problem(), (409, "mixed_currencies", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_is_checked_before_anything_moves() {
    let shop = shared().await;
    let sku = shop.product("checked", 5).await;
    let cart = shop.cart(&sku, 2).await;
    let path = format!("/v1/carts/{cart}/checkout");
    for (pointer, value) in [
        ("/email", json!("nobody")),
        ("/shipping_address/country", json!("England")),
        ("/shipping_address/name", json!("A\u{0}")),
        ("/payment/method", json!("barter")),
        ("/payment/token", json!("")),
    ] {
        let mut body = checkout("tok_approve");
        *body.pointer_mut(pointer).expect("a field") = value;
        assert_eq!(shop.post(&path, &body).await.problem(), (422, "invalid", pointer));
    }
    let mut body = checkout("tok_approve");
    body["expected_total"] = json!({"amount": 2400, "currency": "GBP"});
    let answer = shop.post(&path, &body).await;
    assert_eq!(answer.problem(), (409, "cart_changed", ""));
    assert_eq!(answer.body["total"], json!({"amount": 2500, "currency": "GBP"}), "with the new total");
    assert_eq!(answer.body["lines"][0]["quantity"], 2);
    body["expected_total"] = json!({"amount": 2500, "currency": "EUR"});
    assert_eq!(shop.post(&path, &body).await.problem(), (409, "cart_changed", ""));
    let empty = shop.post("/v1/carts", &json!({})).await;
    let path = format!("/v1/carts/{}/checkout", empty.body["id"].as_str().expect("an id"));
    assert_eq!(shop.post(&path, &checkout("tok_approve")).await.problem(), (409, "cart_empty", ""));
    assert_eq!(shop.stock(&sku).await, (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_none() {
    let shop = shared().await;
    for path in [
        "/v1/products?limit=0",
        "/v1/products?limit=101",
        "/v1/products?limit=x",
        "/v1/products?after=zz",
        "/v1/search?min_price=1.5",
        "/v1/search?after=7b7d",
        "/v1/products?brand=%00",
    ] {
        assert_eq!(shop.get(path).await.problem().0, 400, "{path}");
    }
    let long = format!("/v1/search?q={}", "x".repeat(201));
    assert_eq!(shop.get(&long).await.problem(), (400, "invalid_parameter", ""));
    for query in ["", "%00", "'", "%27%20%7C%7C%20%27", "%26%7C!:*()%5C", "the", "%F0%9F%92%A9", "%E2%80%AE"]
    {
        assert_eq!(shop.get(&format!("/v1/search?q={query}")).await.status, 200, "{query}");
    }
    let request = shop.request(Method::GET, "/v1/categories").header("Min-Log-Position", "soon");
    assert_eq!(shop.send(request).await.problem(), (400, "invalid_parameter", ""));
}
