//! Crashes: what was accepted is finished, and nothing is charged twice.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::shop::{Shop, checkout};
use crate::support::{Folder, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn f02_every_accepted_checkout_survives_a_kill() {
    let shop = Shop::start(Folder::new()).await;
    let sku = shop.product("crash", 60).await;
    let carts = join_all((0..100).map(|_| shop.cart(&sku, 1))).await;
    let tokens = ["tok_approve", "tok_decline", "tok_lost", "tok_approve"];
    let sent = carts.iter().zip(tokens.iter().cycle()).map(async |(cart, token)| {
        let path = format!("{}/v1/carts/{cart}/checkout", shop.addresses.http);
        let request =
            reqwest::Client::new().post(path).header("Idempotency-Key", cart).json(&checkout(token));
        // Whoever gets no answer does not know, and asks again after the restart.
        let answer = request.send().await.ok()?;
        (answer.status() == 202).then_some(())
    });
    let kill = eventually("some orders are under way", async || {
        let ready = shop.get("/readyz").await;
        (ready.body["log_position"].as_u64() > Some(450)).then_some(())
    });
    let (answers, ()) = tokio::join!(join_all(sent), kill);
    let accepted = answers.iter().flatten().count();
    let folder = shop.kill();

    let shop = Shop::start(folder).await;
    let again = carts.iter().zip(tokens.iter().cycle()).map(async |(cart, token)| {
        let answer = shop.post_as(&format!("/v1/carts/{cart}/checkout"), &checkout(token), cart).await;
        assert_eq!(answer.status, 202, "the same key tells: {answer:?}");
        (
            answer.body["order_id"].as_str().expect("an id").to_owned(),
            answer.header("idempotent-replayed") == "true",
        )
    });
    let orders = join_all(again).await;
    let replayed = orders.iter().filter(|(_, replayed)| *replayed).count();
    assert!(replayed >= accepted, "{accepted} were accepted, {replayed} are known");
    let settled = join_all(orders.iter().map(|(order, _)| shop.settled(order))).await;
    let confirmed = settled.iter().filter(|order| order["status"] == "confirmed").count();
    eventually("what is not sold is free again", async || {
        let free = i64::try_from(60 - confirmed).expect("not more than there are");
        (shop.stock(&sku).await == (free, 0)).then_some(())
    })
    .await;
    let pool = sqlx::PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
    let twice: Vec<(uuid::Uuid, String)> = sqlx::query_as(
        "select order_id, operation from sandbox.operations group by 1, 2 having count(*) > 1",
    )
    .fetch_all(&pool)
    .await
    .expect("the ledger");
    assert!(twice.is_empty(), "charged twice: {twice:?}");
    let captured = eventually("all confirmed orders are captured", async || {
        let query =
            "select count(*) from sandbox.operations where operation = 'capture' and declined is null";
        let captured: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.expect("the ledger");
        (usize::try_from(captured) == Ok(confirmed)).then_some(captured)
    });
    captured.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_again_after_a_clean_stop() {
    let shop = Shop::start(Folder::new()).await;
    let sku = shop.product("kept", 7).await;
    let cart = shop.cart(&sku, 2).await;
    let (folder, status) = shop.stop();
    assert!(status.success(), "{status}");
    assert!(!folder.path().join("data/addresses.json").exists(), "nobody is told to come");
    let shop = Shop::start(folder).await;
    let shown = shop.get(&format!("/v1/carts/{cart}")).await.body;
    assert_eq!((&shown["lines"][0]["quantity"], &shown["total"]["amount"]), (&json!(2), &json!(2500)));
    let found = shop.get(&format!("/v1/search?q={sku}")).await.body;
    assert_eq!((&found["total"], &found["data"][0]["available"]), (&json!(1), &json!(7)));
    shop.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_starter_catalogue_comes_once_and_whole() {
    let shop = Shop::start_with(Folder::new(), &[]).await;
    let position = |answer: &crate::support::customer::Answer| answer.position();
    let products = shop.get("/v1/search?limit=1").await;
    assert!(products.body["total"].as_u64() >= Some(60));
    let categories = shop.get("/v1/categories").await.body;
    assert_eq!(categories["data"].as_array().map(Vec::len), Some(8));
    let (folder, _) = shop.stop();
    let shop = Shop::start_with(folder, &[]).await;
    let again = shop.get("/v1/search?limit=1").await;
    assert_eq!((&again.body["total"], position(&again)), (&products.body["total"], position(&products)));
    shop.stop();
}
