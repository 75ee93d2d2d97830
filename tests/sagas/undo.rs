//! Money that has to be given back, and a provider that won't, can't, or comes too late: nobody has to ask for it
//! again, it's given back once, and who looks at alarms hears of it meanwhile.

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use crate::support::sandboxed::Scene;
use crate::support::{eventually, metrics, within};

/// How often somebody was told that an undo is refused, and that a request has no outcome for long.
async fn alarms(scene: &Scene) -> (u64, u64) {
    let admin = scene.admin();
    (metrics::alarms(admin, "undo_refused").await, metrics::alarms(admin, "review_required").await)
}

/// An order that is paid.
async fn paid(scene: &Scene, token: &str) -> (String, String) {
    let sku = scene.shop.product("undone", 5).await;
    let order = scene.buy(&sku, token).await;
    scene.shows(&order, "confirmed", "captured").await;
    assert_eq!(alarms(scene).await, (0, 0));
    (sku, order)
}

/// Nothing is sold, and nothing held.
async fn is_on_the_shelf(scene: &Scene, sku: &str) {
    eventually("it is on the shelf", async || (scene.shop.stock(sku).await == (5, 0)).then_some(())).await;
}

/// What was taken is given back, and all books say so.
async fn is_undone(scene: &Scene, sku: &str, order: &str) {
    scene.shows(order, "cancelled", "refunded").await;
    let ledger = scene.ledger(order).await;
    let done = ledger.iter().filter(|(_, declined)| declined.is_none());
    let done: Vec<&str> = done.map(|(operation, _)| operation.as_str()).collect();
    assert_eq!(done, ["authorize", "capture", "refund"]);
    assert_eq!(scene.differences(order).await, [""; 0]);
    is_on_the_shelf(scene, sku).await;
    eventually("nothing is stuck", async || scene.operate(&["stuck"]).await.0.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_an_undo_that_is_refused_is_told_and_asked_for_again_until_it_is_done() {
    let scene = Scene::start(&[]).await;
    let (sku, order) = paid(&scene, "tok_refund_refused").await;
    scene.cancel(&order).await;
    eventually("somebody is told", async || (alarms(&scene).await == (1, 0)).then_some(())).await;
    is_undone(&scene, &sku, &order).await;
    let refused = scene.ledger(&order).await.into_iter().filter(|(_, declined)| declined.is_some()).count();
    assert_eq!(refused, 1);
    assert_eq!(alarms(&scene).await, (1, 0), "what is done raises none any more");
}

/// Each time, the payment is looked up later than the time before.
fn are_growing(story: &[Value]) -> bool {
    let time = |value: &Value| -> DateTime<Utc> { value.as_str().expect("a time").parse().expect("a time") };
    let unknown = story.iter().filter(|step| step["type"] == "payment.outcome_unknown");
    let pauses: Vec<Duration> =
        unknown.map(|step| time(&step["data"]["look_up_at"]) - time(&step["at"])).collect();
    pauses.len() > 2 && pauses.is_sorted_by(|earlier, later| earlier < later)
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_an_undo_whose_provider_is_down_is_told_and_done_when_it_is_back() {
    let scene = Scene::start(&["--payment-review-after-s", "2"]).await;
    let (sku, order) = paid(&scene, "tok_approve").await;
    scene.provider_is_down(true).await;
    scene.cancel(&order).await;
    // Nobody waits for a provider that doesn't answer, but for the money.
    scene.shows(&order, "cancelled", "captured").await;
    eventually("somebody is told", async || (alarms(&scene).await == (0, 1)).then_some(())).await;
    let story = eventually("it is tried again and again", async || {
        Some(scene.story(&order).await).filter(|story| are_growing(story))
    })
    .await;
    assert!(story.iter().all(|step| step["type"] != "payment.refunded"), "{story:?}");
    scene.provider_is_down(false).await;
    is_undone(&scene, &sku, &order).await;
    assert_eq!(alarms(&scene).await, (0, 1), "what is done raises none any more");
}

/// Whether the provider was asked for the money, before there was no time left to.
async fn is_asked(scene: &Scene, order: &str) -> bool {
    eventually("the provider is asked, or time is up", async || {
        let steps = scene.steps(order).await;
        let has = |kind: &str| steps.iter().any(|step| step == kind);
        (has("payment.outcome_unknown") || has("checkout.failed")).then(|| has("payment.outcome_unknown"))
    })
    .await
}

/// `tok_late`: the answer is lost, and what was asked for is done when nobody waits for it any more.
#[tokio::test(flavor = "multi_thread")]
async fn f08_a_success_that_comes_after_the_deadline_is_released() {
    let scene = Scene::start(&["--time-to-pay-s", "2"]).await;
    let sku = scene.shop.product("late", 5).await;
    let order = within(std::time::Duration::from_secs(60), "the provider is asked in time", async || {
        let order = scene.buy(&sku, "tok_late").await;
        is_asked(&scene, &order).await.then_some(order)
    })
    .await;
    let cancelled = scene.shows(&order, "cancelled", "pending").await;
    assert_eq!(cancelled["reason"], json!("payment_timed_out"), "{cancelled}");
    is_on_the_shelf(&scene, &sku).await;
    assert_eq!(scene.ledger(&order).await, [("authorize".to_owned(), None)], "nothing to release yet");

    // The provider's minute is over.
    let late = "update sandbox.operations set settles_at = now() where order_id = $1::uuid";
    sqlx::query(late).bind(&order).execute(&scene.pool).await.expect("updated");
    let shown = scene.shows(&order, "cancelled", "voided").await;
    assert_eq!(shown["reason"], json!("payment_timed_out"), "{shown}");
    let ledger = [("authorize".to_owned(), None), ("void".to_owned(), None)];
    assert_eq!(scene.ledger(&order).await, ledger, "it is released, once");
    let steps = scene.steps(&order).await;
    let end: Vec<&str> =
        steps.iter().map(String::as_str).filter(|step| !step.starts_with("checkout.")).collect();
    let end = &end[end.len() - 3..];
    assert_eq!(end, ["payment.authorized", "payment.void_requested", "payment.voided"], "{steps:?}");
    assert_eq!(scene.differences(&order).await, [""; 0]);
    is_on_the_shelf(&scene, &sku).await;
}
