//! Payments that a person gives up: nobody asks the provider any more, and what it states later counts as ever.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::Folder;
use crate::support::eventually;
use crate::support::shop::{Shop, operate_sagas};

struct Scene {
    shop: Shop,
    pool: PgPool,
}

impl Scene {
    async fn start() -> Self {
        let shop = Shop::start(Folder::new()).await;
        let pool = PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
        Self { shop, pool }
    }

    /// The provider's books, out of its reach or not.
    async fn provider_is_down(&self, is_down: bool) {
        let rename = match is_down {
            true => "alter table sandbox.operations rename to out_of_reach",
            false => "alter table sandbox.out_of_reach rename to operations",
        };
        sqlx::query(rename).execute(&self.pool).await.expect("renamed");
    }

    /// What became of a call, and what was printed.
    async fn operate(&self, arguments: &[&str]) -> (bool, String) {
        operate_sagas(&self.shop.addresses.admin, arguments).await
    }

    async fn give_up(&self, order: &str) -> (bool, String) {
        self.operate(&["abandon", order, "--payment", "--reason", "they are bankrupt", "--by", "ann"]).await
    }

    async fn steps(&self, order: &str) -> Vec<String> {
        let (_, printed) = self.operate(&["show", order, "--json"]).await;
        let story: Value = serde_json::from_str(&printed).unwrap_or_default();
        let steps = story["steps"].as_array().into_iter().flatten();
        steps.map(|step| step["type"].as_str().expect("a type").to_owned()).collect()
    }

    async fn has_step(&self, order: &str, step: &str) {
        eventually(step, async || self.steps(order).await.iter().any(|known| known == step).then_some(()))
            .await;
    }

    /// The kinds of differences about the order.
    async fn differences(&self, order: &str) -> Vec<String> {
        let (_, printed) = self.operate(&["reconcile", "--since", "1h", "--json"]).await;
        let found: Value = printed.lines().find_map(|line| serde_json::from_str(line).ok()).expect(&printed);
        let all = found["differences"].as_array().expect("a list").iter();
        let ours = all.filter(|found| found["order_id"] == order);
        ours.map(|found| found["kind"].as_str().expect("a kind").to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_was_given_up_ends_the_checkout_and_is_released_if_it_shows() {
    let scene = Scene::start().await;
    let sku = scene.shop.product("bankrupt", 5).await;
    scene.provider_is_down(true).await;
    let order = scene.shop.check_out(&scene.shop.cart(&sku, 2).await, "tok_approve").await;
    scene.has_step(&order, "payment.outcome_unknown").await;
    let (given_up, printed) = scene.give_up(&order).await;
    assert!(
        given_up && printed.contains("operator:ann") && printed.contains("they are bankrupt"),
        "{printed}"
    );
    let settled = scene.shop.settled(&order).await;
    assert_eq!((&settled["status"], &settled["reason"]), (&json!("cancelled"), &json!("abandoned")));
    assert_eq!(settled["payment"]["status"], "pending", "nobody knows what became of it: {settled}");
    assert_eq!(scene.shop.stock(&sku).await, (5, 0));
    eventually("nothing is stuck", async || scene.operate(&["stuck"]).await.0.then_some(())).await;
    let (given_up, printed) = scene.give_up(&order).await;
    assert!(!given_up && printed.contains("waits for nothing"), "{printed}");

    // It had come to the provider all the while.
    scene.provider_is_down(false).await;
    sqlx::query(
        "insert into sandbox.operations values ($1 || ':authorize', $2, 'authorize', 'p-late', 2500, 'GBP', null, now(), now())",
    )
    .bind(&order)
    .bind(order.parse::<Uuid>().expect("an id"))
    .execute(&scene.pool)
    .await
    .expect("inserted");
    assert_eq!(scene.differences(&order).await, ["missed"]);
    scene.has_step(&order, "payment.voided").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_was_given_up_is_not_asked_for_and_is_reported() {
    let scene = Scene::start().await;
    let sku = scene.shop.product("unrefunded", 5).await;
    let order = scene.shop.check_out(&scene.shop.cart(&sku, 1).await, "tok_approve").await;
    scene.has_step(&order, "payment.captured").await;
    scene.provider_is_down(true).await;
    let cancel = scene.shop.request(Method::POST, &format!("/v1/orders/{order}/cancel"));
    let cancelled = scene.shop.send(cancel.header("Idempotency-Key", Uuid::now_v7().to_string())).await;
    assert!(cancelled.status.is_success(), "{cancelled:?}");
    scene.has_step(&order, "payment.outcome_unknown").await;
    let (given_up, printed) = scene.give_up(&order).await;
    assert!(given_up, "{printed}");
    scene.provider_is_down(false).await;
    let (retried, printed) = scene.operate(&["retry", &order]).await;
    assert!(retried, "{printed}");
    assert_eq!(scene.differences(&order).await, ["given_up"]);
    let steps = scene.steps(&order).await;
    let times = |kind: &str| steps.iter().filter(|step| *step == kind).count();
    assert_eq!((times("payment.refund_requested"), times("payment.refunded")), (1, 0), "{steps:?}");

    // Somebody gives it back by hand, at the provider.
    sqlx::query(
        "insert into sandbox.operations select 'by hand', order_id, 'refund', provider_reference, amount, currency, null, now(), now()
         from sandbox.operations where order_id = $1 and operation = 'capture'",
    )
    .bind(order.parse::<Uuid>().expect("an id"))
    .execute(&scene.pool)
    .await
    .expect("inserted");
    assert_eq!(scene.differences(&order).await, ["missed"]);
    assert_eq!(scene.differences(&order).await, [""; 0]);
    scene.has_step(&order, "payment.refunded").await;
}
