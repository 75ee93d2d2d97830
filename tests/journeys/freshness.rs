//! Search, as fresh as its position says: under load, every time.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Folder;
use crate::support::load::Load;
use crate::support::shop::{Shop, name, product};

const CLIENTS: usize = 4;
const ROUNDS: usize = 15;

/// A word that nothing else is like.
fn word() -> String {
    let letters = uuid::Uuid::new_v4().simple().to_string();
    letters
        .chars()
        .map(|digit| char::from(b'a' + u8::try_from(digit.to_digit(16).expect("a digit")).expect("small")))
        .collect()
}

/// Whether the product is found by the word at this position.
async fn is_found(shop: &Shop, sku: &str, word: &str, position: u64) -> bool {
    let found = shop.get_at(&format!("/v1/search?q={word}"), position).await;
    assert_eq!(found.status, 200, "{found:?}");
    assert!(found.position() >= position, "{found:?}");
    found.body["data"].as_array().expect("a list").iter().any(|product| product["sku"] == sku)
}

/// A product's life, and what the search says at each step of it.
async fn live(shop: &Shop, prefix: &str) {
    let (sku, first, second) = (name(prefix), word(), word());
    let titled = |title: &str| -> Value {
        let mut product = product(&sku);
        product["title"] = json!(title);
        product["description"] = json!("");
        product
    };
    let act = async |method: Method, what: &str, body: Value| {
        let request = shop.request(method, &format!("/v1/products/{sku}{what}")).header("If-Match", "*");
        let done = shop.send(request.json(&body)).await;
        assert!(done.status.is_success(), "{done:?}");
        done.position()
    };
    let made = shop.post("/v1/products", &titled(&first)).await;
    assert!(is_found(shop, &sku, &first, made.position()).await, "it lacks what is new");
    let renamed = act(Method::PATCH, "", json!({"title": second})).await;
    assert!(is_found(shop, &sku, &second, renamed).await, "it lacks what has changed");
    assert!(!is_found(shop, &sku, &first, renamed).await, "it has what was before");
    let gone = act(Method::POST, "/withdraw", json!({})).await;
    assert!(!is_found(shop, &sku, &second, gone).await, "it has what is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_search_has_what_is_new_and_lacks_what_is_gone_at_the_answered_position() {
    let shop = Shop::start(Folder::new()).await;
    let mut load = Load::start(&[&shop.addresses.http], 16).await;
    load.go_on(50).await;
    let before = load.acknowledged();
    let lives = (0..CLIENTS).map(async |_| {
        for _ in 0..ROUNDS {
            live(&shop, "fresh").await;
        }
    });
    join_all(lives).await;
    let meanwhile = load.acknowledged() - before;
    load.finish().await;
    assert!(meanwhile > CLIENTS * ROUNDS, "there was no load: {meanwhile}");
}
