//! A provider that hangs: everything else stays quick, checkouts wait, and are done when it is back.

use std::time::{Duration, Instant};

use super::Scene;
use crate::support::eventually;
use crate::support::metrics::metric;

/// How long anything that has nothing to do with payments may take meanwhile, on a busy machine.
const QUICK: Duration = Duration::from_secs(2);

const CHECKOUTS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn f06_a_dead_provider_slows_nothing_else_down() {
    let scene = Scene::start(&[], &["--payment-pause-ms", "1000"]).await;
    let log = || std::fs::read_to_string(scene.shop.folder.path().join("platform.log")).expect("a log");
    let admin = &scene.shop.addresses.admin;
    let breaker = async |provider: &str| {
        metric(admin, &format!("cartulary_payment_breaker{{provider=\"{provider}\"}}")).await
    };
    let product = format!("/v1/products/{}", scene.sku);
    eventually("the product shows", async || (scene.shop.get(&product).await.status == 200).then_some(()))
        .await;
    assert_eq!(breaker("stripe").await, Some(0));
    scene.psp.pause(true);
    let (mut orders, mut slowest) = (Vec::new(), Duration::ZERO);
    for _ in 0..CHECKOUTS {
        let began = Instant::now();
        orders.push(scene.buy("visa").await);
        let shown = scene.shop.get(&product).await;
        assert_eq!(shown.status, 200, "{shown:?}");
        slowest = slowest.max(began.elapsed());
    }
    eventually("the provider counts as dead", async || {
        log().contains("is not called for a while").then_some(())
    })
    .await;
    eventually("its breaker shows", async || (breaker("stripe").await == Some(2)).then_some(())).await;
    assert_eq!(breaker("sandbox").await, Some(0), "the other one's has nothing to do with it");
    for order in &orders {
        let began = Instant::now();
        eventually("it is pending", async || {
            (scene.shop.get(&format!("/v1/orders/{order}")).await.body["status"] == "pending").then_some(())
        })
        .await;
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < QUICK, "{slowest:?}");
    // What is paid for through another provider goes on, too.
    let cart = scene.shop.cart(&scene.sku, 1).await;
    let other = scene.shop.check_out(&cart, "tok_approve").await;
    assert_eq!(scene.settled(&other).await["status"], "confirmed");
    let not_called =
        r#"cartulary_payment_calls_total{provider="stripe",operation="look_up",outcome="not_called"}"#;
    eventually("nobody calls it", async || metric(admin, not_called).await.filter(|calls| *calls > 0)).await;
    scene.psp.pause(false);
    for order in &orders {
        assert_eq!(scene.settled(order).await["status"], "confirmed");
    }
    assert!(log().contains("answers again"), "the breaker never closed");
    assert_eq!(breaker("stripe").await, Some(0));
    scene.books_agree(&orders).await;
    eprintln!("{CHECKOUTS} checkouts waited; the slowest of everything else took {slowest:?}");
}
