//! The conventions of the HTTP APIs, seen from outside.

use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::shop::{self, product, shared};

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_created_shown_and_changed() {
    let shop = shared().await;
    let sku = shop::name("life");
    let created = shop.post("/v1/products", &product(&sku)).await;
    assert_eq!(
        (created.status.as_u16(), created.header("location")),
        (201, format!("/v1/products/{sku}").as_str())
    );
    assert_eq!(created.header("etag"), "\"1-0\"");
    let path = format!("/v1/products/{sku}");
    let shown = shop.get_at(&path, created.position()).await;
    assert_eq!(shown.header("etag"), created.header("etag"));
    assert_eq!((&shown.body["title"], &shown.body["available"]), (&product(&sku)["title"], &json!(0)));
    assert!(shown.position() >= created.position());

    let change = |etag: &str| {
        shop.request(Method::PATCH, &path).header("If-Match", etag).json(&json!({"title": "New"}))
    };
    let changed = shop.send(change(created.header("etag"))).await;
    assert_eq!((changed.status.as_u16(), changed.header("etag")), (200, "\"2-0\""));
    assert_eq!(shop.send(change(created.header("etag"))).await.problem(), (412, "stale", ""));
    let price =
        |request: reqwest::RequestBuilder| shop.send(request.json(&json!({"amount": 1, "currency": "GBP"})));
    let price_path = format!("{path}/price");
    assert_eq!(
        price(shop.request(Method::POST, &price_path)).await.problem(),
        (428, "precondition_required", "")
    );
    let priced = price(shop.request(Method::POST, &price_path).header("If-Match", "\"2-7\"")).await;
    assert_eq!(priced.status, 200, "of the ETag, the product's part counts: {priced:?}");

    let shown = shop.get_at(&path, priced.position()).await;
    assert_eq!((&shown.body["title"], &shown.body["price"]["amount"]), (&json!("New"), &json!(1)));
    let etag = shown.header("etag");
    let same = shop.send(shop.request(Method::GET, &path).header("If-None-Match", etag)).await;
    assert_eq!(same.status, 304);

    let withdrawn = shop.post(&format!("{path}/withdraw"), &json!({})).await;
    assert_eq!(withdrawn.status, 200);
    assert_eq!(shop.get_at(&path, withdrawn.position()).await.problem(), (404, "product_not_found", ""));
    let found = shop.get_at(&format!("/v1/search?q={sku}"), withdrawn.position()).await;
    assert_eq!(found.body["total"], 0, "{}", found.body);
}

/// What a cart shows is not all its own: a price may change without a word to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cart_that_shows_something_else_has_another_etag() {
    let shop = shared().await;
    let sku = shop.product("etag", 1).await;
    let path = format!("/v1/carts/{}", shop.cart(&sku, 1).await);
    let before = eventually("the line is there", async || {
        let cart = shop.get(&path).await;
        (!cart.body["lines"].as_array()?.is_empty()).then_some(cart)
    })
    .await;
    let product = eventually("the product is there", async || {
        let product = shop.get(&format!("/v1/products/{sku}")).await;
        (product.status == 200).then_some(product)
    })
    .await;
    let price = shop.request(Method::POST, &format!("/v1/products/{sku}/price"));
    let price = price.header("If-Match", product.header("etag"));
    let priced = shop.send(price.json(&json!({"amount": 1, "currency": "GBP"}))).await;
    assert_eq!(priced.status, 200, "{priced:?}");
    let after = shop.get_at(&path, priced.position()).await;
    assert_eq!(after.body["total"]["amount"], 1);
    assert_ne!(after.header("etag"), before.header("etag"));
    let version = |answer: &crate::support::customer::Answer| {
        answer.header("etag").split('-').next().map(str::to_owned)
    };
    assert_eq!(version(&after), version(&before), "If-Match compares what is the cart's own");
}

/// Whoever can unpack gzip is sent a long page packed; it is the same page, and stands for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_page_is_packed_for_who_asks() {
    let shop = shared().await;
    let skus: [String; 10] = std::array::from_fn(|_| shop::name("packed"));
    for sku in &skus {
        shop.post("/v1/products", &product(sku)).await;
    }
    let path = format!("/v1/carts/{}", shop.cart(&skus[0], 1).await);
    let mut position = 0;
    for sku in &skus {
        position = shop.put(&format!("{path}/lines/{sku}"), &json!({"quantity": 2})).await.position();
    }
    let plain = shop.get_at(&path, position).await;
    assert_eq!(plain.header("content-encoding"), "");
    assert!(plain.headers.get_all("vary").iter().any(|name| name == "accept-encoding"), "{plain:?}");

    let packed = shop.request(Method::GET, &path).header("Accept-Encoding", "br, gzip;q=0.5");
    let packed = packed.send().await.expect("an answer");
    let header = |name: &str| packed.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(
        (header("content-encoding"), header("content-type")),
        ("gzip".into(), "application/json".into())
    );
    let etag = header("etag");
    assert_ne!(etag, plain.header("etag"), "a strong tag is of these bytes");
    let bytes = packed.bytes().await.expect("a body");
    let body: Value = serde_json::from_reader(GzDecoder::new(&bytes[..])).expect("packed JSON");
    assert_eq!((&body, body["lines"].as_array().map(Vec::len)), (&plain.body, Some(10)));

    for (takes, seen) in [("gzip", &*etag), ("identity", &etag), ("gzip", plain.header("etag"))] {
        let again = shop.request(Method::GET, &path).header("Accept-Encoding", takes);
        let again = again.header("If-None-Match", seen).send().await.expect("an answer");
        assert_eq!(
            (again.status().as_u16(), again.headers().get("content-encoding")),
            (304, None),
            "{takes}"
        );
    }
    let line = shop.request(Method::PUT, &format!("{path}/lines/{}", skus[0])).header("If-Match", &etag);
    let changed = shop.send(line.json(&json!({"quantity": 3}))).await;
    assert_eq!(changed.status, 200, "of whichever tag, the cart's version counts: {changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_one_answer() {
    let shop = shared().await;
    let sku = shop::name("once");
    let first = shop.post_as("/v1/products", &product(&sku), &sku).await;
    let again = shop.post_as("/v1/products", &product(&sku), &sku).await;
    assert_eq!((again.status, &again.body, again.position()), (first.status, &first.body, first.position()));
    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
    let other = shop.post_as("/v1/products", &product("other"), &sku).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused", ""));
    assert_eq!(shop.post("/v1/products", &product(&sku)).await.problem(), (409, "product_exists", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_refusal_does_not_burn_the_key() {
    let shop = shared().await;
    let sku = shop.product("burn", 1).await;
    let take = json!({"delta": -2, "reason": "count"});
    let path = format!("/v1/stock/{sku}/adjustments");
    assert_eq!(shop.post_as(&path, &take, &sku).await.problem(), (409, "not_enough_stock", ""));
    shop.post(&format!("/v1/stock/{sku}/receipts"), &json!({"quantity": 1})).await;
    let taken = shop.post_as(&path, &take, &sku).await;
    assert_eq!(taken.status, 201);
    let shown = shop.get_at(&format!("/v1/products/{sku}"), taken.position()).await;
    assert_eq!(shown.body["available"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_a_query_waits_for_the_position_that_it_wants() {
    let shop = shared().await;
    let sku = shop::name("fresh");
    for round in 0..20 {
        let created = shop.post("/v1/products", &product(&format!("{sku}-{round}"))).await;
        let shown = shop.get_at(&format!("/v1/products/{sku}-{round}"), created.position()).await;
        assert_eq!(shown.status, 200, "not there in round {round}");
    }
    let future = shop.request(Method::GET, "/v1/categories").header("Min-Log-Position", u64::from(u32::MAX));
    let stale = shop.send(future.try_clone().expect("no body").header("Prefer", "stale-ok")).await;
    assert_eq!((stale.status.as_u16(), stale.header("log-position-stale")), (200, "true"));
    let late = shop.send(future).await;
    assert_eq!((late.problem(), late.header("retry-after")), ((503, "not_yet_projected", ""), "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_add_up_to_the_whole() {
    let shop = shared().await;
    let brand = shop::name("Pager");
    let mut last = 0;
    for index in 0..7 {
        let mut product = product(&shop::name("page"));
        product["brand"] = json!(brand);
        product["price"]["amount"] = json!(100 + index);
        last = shop.post("/v1/products", &product).await.position();
    }
    for path in [format!("/v1/products?brand={brand}"), format!("/v1/search?q=mug&brand={brand}")] {
        let mut seen: Vec<String> = Vec::new();
        let mut after = String::new();
        loop {
            let page = shop.get_at(&format!("{path}&limit=3&after={after}"), last).await;
            assert_eq!(page.status, 200, "{page:?}");
            let data = page.body["data"].as_array().expect("a page");
            seen.extend(data.iter().map(|product| product["sku"].as_str().expect("a SKU").to_owned()));
            match page.body["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        assert_eq!((seen.len(), unique.len()), (7, 7), "{path}: {seen:?}");
    }
    let cheap =
        shop.get_at(&format!("/v1/search?q=mug&brand={brand}&max_price=102&min_price=101"), last).await;
    assert_eq!(cheap.body["total"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn search_forgives_and_counts() {
    let shop = shared().await;
    let word = "zanzibarine";
    let mut last = 0;
    for (brand, category, title) in [
        ("Ada", "Lamps", "Zanzibarine lamp"),
        ("Ada", "Bowls", "Bowl, zanzibarine"),
        ("Bob", "Lamps", "Two zanzibarines"),
    ] {
        let mut product = product(&shop::name("search"));
        product["brand"] = json!(brand);
        product["category"] = json!(["Search", category]);
        product["title"] = json!(title);
        last = shop.post("/v1/products", &product).await.position();
    }
    let search = async |query: &str| shop.get_at(&format!("/v1/search?{query}"), last).await.body;
    assert_eq!(search(&format!("q={word}")).await["total"], 3, "stems match the plural");
    for typo in ["zanzibraine", "zanzibrine", "zanzibarinne", "zansibarine"] {
        let found = search(&format!("q={typo}")).await;
        assert_eq!((&found["total"], &found["corrected"]), (&json!(3), &json!(word)), "{typo}");
    }
    let found = search(&format!("q={word}&brand=Ada")).await;
    assert_eq!(found["total"], 2);
    assert_eq!(found["facets"]["brand"], json!([{"value": "Ada", "count": 2}, {"value": "Bob", "count": 1}]));
    assert_eq!(
        found["facets"]["category"],
        json!([{"value": "Search>Bowls", "count": 1}, {"value": "Search>Lamps", "count": 1}])
    );
    let lamps = search(&format!("q={word}&category=Search%3ELamps")).await;
    assert_eq!(lamps["total"], 2);
    assert_eq!(search(&format!("q={word}&category=Search")).await["total"], 3);
    assert_eq!(search(&format!("q={word}%20lamp")).await["total"], 2, "all the words, wherever they stand");
    assert_eq!(search(&format!("q={word}%20lamp%20nothing-like-it")).await["total"], 3, "else any of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_describes_every_route() {
    let shop = shared().await;
    let document = shop.get("/openapi.json").await.body;
    assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    let mut routes: Vec<String> = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            routes.push(format!("{} {path}", method.to_uppercase()));
            assert!(
                operation["summary"].is_string() && operation["responses"].is_object(),
                "{method} {path}"
            );
        }
    }
    routes.sort();
    is_the_contract(&routes);
    let health = shop.get("/healthz").await;
    assert_eq!((health.status.as_u16(), &health.body), (200, &json!({"status": "ok"})));
    let ready = shop.get("/readyz").await;
    let readers: Vec<&String> = ready.body["readers"].as_object().expect("readers").keys().collect();
    assert_eq!(readers, ["carts", "catalog", "orders", "sagas", "sales", "search", "webhooks"]);
    let unknown: Value = shop.get("/v1/nothing").await.body;
    assert_eq!(unknown["code"], "not_found");
    assert_eq!(
        shop.send(shop.request(Method::DELETE, "/v1/products")).await.problem(),
        (405, "method_not_allowed", "")
    );
}

fn is_the_contract(routes: &[String]) {
    let expected = [
        "GET /healthz",
        "GET /readyz",
        "GET /v1/carts/{id}",
        "GET /v1/categories",
        "GET /v1/orders/{id}",
        "GET /v1/orders/{id}/events",
        "GET /v1/products",
        "GET /v1/products/{sku}",
        "GET /v1/reports/sales",
        "GET /v1/sandbox/challenges/{reference}",
        "GET /v1/search",
        "GET /v1/shipping-methods",
        "PATCH /v1/products/{sku}",
        "POST /v1/carts",
        "POST /v1/carts/{id}/checkout",
        "POST /v1/carts/{id}/quote",
        "POST /v1/orders/{id}/cancel",
        "POST /v1/orders/{id}/payment/challenge",
        "POST /v1/orders/{id}/refunds",
        "POST /v1/orders/{id}/returns",
        "POST /v1/orders/{id}/shipments",
        "POST /v1/products",
        "POST /v1/products/{sku}/price",
        "POST /v1/products/{sku}/withdraw",
        "POST /v1/sandbox/challenges/{reference}",
        "POST /v1/stock/{sku}/adjustments",
        "POST /v1/stock/{sku}/receipts",
        "POST /v1/webhooks/stripe",
        "PUT /v1/carts/{id}/lines/{sku}",
    ];
    assert_eq!(routes, expected);
}
