//! What analysts ask for.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::quotes::{shop_with_terms, terms};
use crate::support::shop::{Shop, shared};
use crate::support::{Folder, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn sales_count_when_they_happen_and_what_is_given_back_does_too() {
    let shop = Shop::start(Folder::new()).await;
    let skus = [shop.product("a", 10).await, shop.product("b", 10).await];
    for (sku, token) in [(&skus[0], "tok_approve"), (&skus[0], "tok_approve"), (&skus[1], "tok_decline")] {
        let cart = shop.cart(sku, 2).await;
        let order = shop.check_out(&cart, token).await;
        shop.settled(&order).await;
    }
    let sold = eventually("two orders are sold", async || {
        let body = shop.get("/v1/reports/sales?by=country").await.body;
        (body["data"][0]["orders"] == 2).then_some(body)
    });
    let line = json!({"key": "GB", "currency": "GBP", "orders": 2, "units": 4, "gross": 5000, "shipping": 0, "tax": 0, "refunded": 0, "net": 5000});
    assert_eq!(sold.await, json!({"data": [line], "next": null}));

    let cart = shop.cart(&skus[1], 1).await;
    let order = shop.check_out(&cart, "tok_approve").await;
    shop.settled(&order).await;
    shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
    let by_product = eventually("what was cancelled is given back", async || {
        let body = shop.get("/v1/reports/sales?by=product").await.body;
        (body["data"][1]["refunded"] == 1250).then_some(body)
    });
    let by_product = by_product.await;
    assert_eq!(
        (&by_product["data"][0]["key"], &by_product["data"][0]["net"]),
        (&json!(skus[0]), &json!(5000))
    );
    assert_eq!((&by_product["data"][1]["gross"], &by_product["data"][1]["net"]), (&json!(1250), &json!(0)));

    let page = shop.get("/v1/reports/sales?by=product&limit=1").await.body;
    let next = page["next"].as_str().expect("another page");
    let rest = shop.get(&format!("/v1/reports/sales?by=product&limit=1&after={next}")).await.body;
    let keys: BTreeSet<&str> =
        [&page, &rest].iter().filter_map(|page| page["data"][0]["key"].as_str()).collect();
    assert_eq!((keys.len(), &rest["next"]), (2, &Value::Null));
    let today =
        shop.get("/v1/reports/sales?by=day").await.body["data"][0]["key"].as_str().expect("a day").to_owned();
    assert_eq!(shop.get("/v1/reports/sales?by=month").await.body["data"][0]["key"], today[..7]);
    let none = shop.get("/v1/reports/sales?by=day&to=2011-12").await.body;
    assert_eq!(none, json!({"data": [], "next": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn shipping_and_tax_on_top_are_sales_of_the_country_and_of_no_product() {
    let shop = shop_with_terms(Folder::new(), &terms(1800, 500)).await;
    let sku = shop.product("taxed", 10).await;
    let order = shop.check_out(&shop.cart(&sku, 2).await, "tok_approve").await;
    shop.settled(&order).await;
    let report = async |by: &str, refunded: i64| {
        let path = format!("/v1/reports/sales?by={by}");
        eventually("it is counted", async || {
            let line = shop.get(&path).await.body["data"][0].clone();
            (line["orders"] == 1 && line["refunded"] == refunded).then_some(line)
        })
        .await
    };
    let sums =
        |line: &Value| ["gross", "shipping", "tax", "net"].map(|field| line[field].as_i64().unwrap_or(-1));
    for by in ["country", "day", "month"] {
        assert_eq!(sums(&report(by, 0).await), [2500, 500, 600, 3600], "{by}");
    }
    assert_eq!(sums(&report("product", 0).await), [2500, 0, 0, 2500]);
    shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
    assert_eq!(sums(&report("country", 3600).await), [2500, 500, 600, 0]);
    assert_eq!(sums(&report("product", 2500).await), [2500, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_not_there_is_refused() {
    let shop = shared().await;
    for query in
        ["", "by=year", "by=day&from=yesterday", "by=day&limit=0", "by=day&limit=1001", "by=day&to=2011-13"]
    {
        let answer = shop.get(&format!("/v1/reports/sales?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter", ""), "{query}");
    }
    let with_nul: String = r#"["\u0000","GBP"]"#.bytes().map(|byte| format!("{byte:02x}")).collect();
    for cursor in ["zz", "5b", &with_nul] {
        let answer = shop.get(&format!("/v1/reports/sales?by=product&after={cursor}")).await;
        assert_eq!(answer.problem().1, "invalid_cursor", "{cursor}");
    }
}
