//! The provider's books, held against the log: what was missed is repaired, and the rest reported.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{PRICE, Scene, start};
use crate::support::eventually;
use crate::support::metrics::differences;
use crate::support::psp::{Psp, hold};
use crate::support::shop::operate_sagas;

/// Whether nothing is left to look at; and what was found, as kind, payment and whether it was repaired.
pub(super) async fn reconcile(scene: &Scene, more: &[&str]) -> (bool, Vec<(String, String, bool)>) {
    let arguments = [&["reconcile", "--json"], more].concat();
    let (is_fine, printed) = operate_sagas(&scene.shop.addresses.admin, &arguments).await;
    let found: Value = printed.lines().find_map(|line| serde_json::from_str(line).ok()).expect(&printed);
    assert_eq!(found["error"], json!(null), "{printed}");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let differences = found["differences"].as_array().expect("a list").iter().map(|found| {
        (text(&found["kind"]), text(&found["reference"]), found["is_repaired"].as_bool().expect("a flag"))
    });
    let differences = differences.filter(|(kind, _, _)| kind != "unresolved");
    (is_fine, differences.collect())
}

/// How many differences somebody was told of: missed, second payments, of nobody's orders, absent.
async fn counted(scene: &Scene) -> [u64; 4] {
    let admin = &scene.shop.addresses.admin;
    let [missed, stray, orphan, absent] =
        ["missed", "stray", "orphan", "absent"].map(|kind| differences(admin, "stripe", kind));
    [missed.await, stray.await, orphan.await, absent.await]
}

/// A payment at the provider that nobody here asked for.
async fn made_elsewhere(psp: &Psp, name: &str, order: Option<&str>) -> String {
    let mut form = hold(name);
    form.extend(order.map(|order| ("metadata[order_id]", order)));
    let made = psp.post("/v1/payment_intents", &form).await;
    made.body["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_repaired_and_what_nobody_knows_is_reported() {
    let scene = Scene::start(&[], &["--undo-orphans"]).await;
    let order = scene.buy("visa").await;
    assert_eq!(scene.settled(&order).await["status"], "confirmed");
    scene.has_step(&order, "payment.captured").await;
    assert_eq!(reconcile(&scene, &["--since", "1h"]).await, (true, Vec::new()));
    assert_eq!(counted(&scene).await, [0; 4]);

    let stray = made_elsewhere(&scene.psp, "stray", Some(&order)).await;
    let forgotten = made_elsewhere(&scene.psp, "forgotten", Some(&Uuid::now_v7().to_string())).await;
    let nobodys = made_elsewhere(&scene.psp, "nobodys", None).await;
    let (is_fine, mut found) = reconcile(&scene, &["--since", "1h"]).await;
    found.sort();
    let mut wanted =
        [("stray", stray, true), ("orphan", forgotten, true), ("orphan", nobodys.clone(), false)]
            .map(|(kind, payment, is_repaired)| (kind.to_owned(), payment, is_repaired));
    wanted.sort();
    assert_eq!((is_fine, found), (false, wanted.to_vec()), "an orphan that names no order is left alone");
    assert_eq!(counted(&scene).await, [0, 1, 2, 0]);
    eventually("the stray is undone", async || {
        (scene.psp.moves("stray").await == ["authorised", "canceled"]).then_some(())
    })
    .await;
    scene.has_step(&order, "payment.stray_undone").await;
    assert_eq!(scene.psp.moves("forgotten").await, ["authorised", "canceled"]);
    assert_eq!(scene.psp.moves("nobodys").await, ["authorised"]);
    let again = reconcile(&scene, &["--since", "1h"]).await;
    assert_eq!(again, (false, vec![("orphan".to_owned(), nobodys, false)]));
    assert_eq!(counted(&scene).await, [0, 1, 3, 0], "as long as it differs, somebody is told");
    assert_eq!(scene.ledger().await[&order].values().map(|money| money.kept).sum::<i64>(), PRICE);

    // Another provider has never heard of it: as after a mistake in the settings.
    let Scene { psp, shop, sku } = scene;
    let other = Psp::start(&[]).await;
    let (folder, _) = shop.stop();
    let scene = Scene { shop: start(&other, folder, &[]).await, psp: other, sku };
    let (is_fine, found) = reconcile(&scene, &["--since", "1h"]).await;
    let absent: Vec<_> = found.iter().filter(|(kind, _, _)| kind == "absent").collect();
    assert!(!is_fine && absent.len() == 1 && !absent[0].2, "{found:?}");
    assert_eq!(counted(&scene).await[3], 1);
    // What a build can't read, and is about something else, is in nobody's way.
    let connection = infra::nats::connect(&scene.shop.addresses.nats).await.expect("nats-server answers");
    let context = async_nats::jetstream::new(connection.client);
    let unread = context.publish("ev.0.product.unreadable", "no commit".into()).await.expect("sent");
    unread.await.expect("in the log");
    scene.shop.product("later", 0).await;
    assert_eq!(reconcile(&scene, &["--since", "1h"]).await, (is_fine, found));
    drop(psp);
}

#[tokio::test(flavor = "multi_thread")]
async fn books_are_compared_again_and_again_by_themselves() {
    let settings = ["--undo-orphans", "--reconcile-interval-s", "1", "--reconcile-leave-s", "0"];
    let scene = Scene::start(&[], &settings).await;
    for name in ["first", "second"] {
        made_elsewhere(&scene.psp, name, Some(&Uuid::now_v7().to_string())).await;
        eventually(name, async || (scene.psp.moves(name).await == ["authorised", "canceled"]).then_some(()))
            .await;
    }
}

/// The answer is lost, the key brings the same failure ever after, and the books don't show it for long: so
/// the order is given up. When it shows at last, it is given back.
#[tokio::test(flavor = "multi_thread")]
async fn f08_a_late_success_after_the_end_is_found_and_given_back() {
    let scene = Scene::start(&[], &[]).await;
    for fault in [
        json!({"kind": "error_after", "operation": "payment_intents.create"}),
        json!({"kind": "lag", "ms": 86_400_000, "operation": "payment_intents.create"}),
    ] {
        scene.psp.fault(fault).await;
    }
    let order = scene.buy("visa").await;
    let key = format!("{order}:authorize");
    assert_eq!(scene.settled(&order).await["status"], "cancelled");
    assert_eq!(scene.psp.moves(&key).await, ["authorised"], "one request made one payment");
    assert_eq!(reconcile(&scene, &["--since", "1h"]).await, (true, Vec::new()), "it does not show yet");
    scene.psp.advance_s(86_400).await;
    let payment = scene.psp.ledger(&key).await[0]["payment_intent"].as_str().expect("an id").to_owned();
    let found = reconcile(&scene, &["--since", "1h"]).await;
    assert_eq!(found, (true, vec![("missed".to_owned(), payment, true)]));
    assert_eq!(counted(&scene).await, [1, 0, 0, 0]);
    scene.books_agree(&[order]).await;
    assert_eq!(scene.psp.moves(&key).await, ["authorised", "canceled"]);
}
