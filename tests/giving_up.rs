//! Payments that a person gives up: nobody asks the provider any more, and what it states later counts as ever.

use serde_json::json;
use uuid::Uuid;

use crate::support::sandboxed::Scene;
use crate::support::{eventually, metrics};

impl Scene {
    async fn give_up(&self, order: &str) -> (bool, String) {
        self.operate(&["abandon", order, "--payment", "--reason", "they are bankrupt", "--by", "ann"]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_was_given_up_ends_the_checkout_and_is_released_if_it_shows() {
    let scene = Scene::start(&[]).await;
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
    let scene = Scene::start(&[]).await;
    let sku = scene.shop.product("unrefunded", 5).await;
    let order = scene.buy(&sku, "tok_approve").await;
    scene.has_step(&order, "payment.captured").await;
    scene.provider_is_down(true).await;
    scene.cancel(&order).await;
    scene.has_step(&order, "payment.outcome_unknown").await;
    let (given_up, printed) = scene.give_up(&order).await;
    assert!(given_up, "{printed}");
    scene.provider_is_down(false).await;
    let (retried, printed) = scene.operate(&["retry", &order]).await;
    assert!(retried, "{printed}");
    assert_eq!(metrics::differences(scene.admin(), "sandbox", "given_up").await, 0);
    assert_eq!(scene.differences(&order).await, ["given_up"]);
    assert_eq!(metrics::differences(scene.admin(), "sandbox", "given_up").await, 1);
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
