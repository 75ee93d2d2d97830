//! Sagas shared by processes that die: whatever happens to them, every checkout comes to its end, once.

mod answers;
mod deaths;
mod downtime;
mod records;
mod stories;
mod table;
mod trouble;
mod undo;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use infra::fail_points;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::customer::Client;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, Shop, operate_sagas};
use crate::support::{Folder, eventually};

/// How soon a worker's lanes are to be somebody else's, whatever happened to it.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);

/// How soon who comes new is to have its share; it may have to start first, on a busy machine.
const SHARE_LIMIT: Duration = Duration::from_secs(30);

const UNITS: u32 = 100_000;

const TOKENS: [&str; 4] = ["tok_approve", "tok_decline", "tok_lost", "tok_approve"];

/// Waits until these processes have all lanes, each about as many.
async fn shared_by(pool: &PgPool, workers: &[&Roles], limit: Duration) {
    let mut wanted: Vec<u32> =
        workers.iter().map(|roles| roles.pid().as_raw_nonzero().get().cast_unsigned()).collect();
    wanted.sort_unstable();
    let deadline = Instant::now() + limit;
    loop {
        let holders: Vec<(Option<String>, i64)> = sqlx::query_as(
            "select name, count(*) from cartulary.lanes left join cartulary.workers on id = holder
             where reader = 'sagas' group by name",
        )
        .fetch_all(pool)
        .await
        .expect("lanes");
        let lanes: BTreeMap<u32, i64> = holders
            .iter()
            .filter_map(|(name, lanes)| Some((name.as_ref()?.rsplit(':').next()?.parse().ok()?, *lanes)))
            .collect();
        let fair =
            lanes.values().max().zip(lanes.values().min()).is_some_and(|(most, least)| most - least <= 1);
        if lanes.keys().copied().eq(wanted.iter().copied()) && fair && lanes.values().sum::<i64>() == 8 {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted:?} don't share all lanes: {holders:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Orders one cart after the other, each paid for in another way, until it's enough; the orders.
async fn buy(client: Arc<Client>, sku: String, enough: Arc<AtomicBool>) -> Vec<String> {
    let mut orders = Vec::new();
    for token in TOKENS.iter().cycle() {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let cart = client.cart(&sku, 1).await;
        orders.push(client.check_out(&cart, token).await);
    }
    orders
}

/// The provider's own books agree with what the orders say, and nothing was done twice.
async fn books_agree(pool: &PgPool, confirmed: usize) {
    let twice: Vec<(Uuid, String)> = sqlx::query_as(
        "select order_id, operation from sandbox.operations group by 1, 2 having count(*) > 1",
    )
    .fetch_all(pool)
    .await
    .expect("the ledger");
    assert!(twice.is_empty(), "done twice: {twice:?}");
    eventually("all confirmed orders are captured", async || {
        let query =
            "select count(*) from sandbox.operations where operation = 'capture' and declined is null";
        let captured: i64 = sqlx::query_scalar(query).fetch_one(pool).await.expect("the ledger");
        (usize::try_from(captured) == Ok(confirmed)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_the_sagas_and_replace_each_other() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let shop = Roles::start(nats.url(), &database, &["command-api", "query-api", "projections"]).await;
    let worker = async || Roles::start(nats.url(), &database, &["sagas"]).await;
    let (first, second) = (worker().await, worker().await);
    let pool = PgPool::connect(&database).await.expect("Postgres answers");
    let client = Arc::new(Client::new(&shop.url, &database));
    let sku = client.product("shared", UNITS).await;
    shared_by(&pool, &[&first, &second], SHARE_LIMIT).await;

    let enough = Arc::new(AtomicBool::new(false));
    let buyers = (0..4).map(|_| tokio::spawn(buy(client.clone(), sku.clone(), enough.clone())));
    let buyers: Vec<_> = buyers.collect();
    kill_process(first.pid(), Signal::KILL).expect("it runs");
    shared_by(&pool, &[&second], TAKEOVER_LIMIT).await;
    let third = worker().await;
    shared_by(&pool, &[&second, &third], SHARE_LIMIT).await;
    kill_process(second.pid(), Signal::STOP).expect("it runs");
    shared_by(&pool, &[&third], TAKEOVER_LIMIT).await;
    // What was paused wakes up, in the middle of whatever it was at.
    kill_process(second.pid(), Signal::CONT).expect("it runs");
    shared_by(&pool, &[&second, &third], SHARE_LIMIT).await;
    enough.store(true, Ordering::Relaxed);

    let orders: Vec<String> =
        join_all(buyers).await.into_iter().flat_map(|orders| orders.expect("no panic")).collect();
    all_is_settled(&client, &pool, &sku, &orders).await;
}

/// Each order came to its end, and log, shelf and provider say the same of them.
async fn all_is_settled(client: &Client, pool: &PgPool, sku: &str, orders: &[String]) {
    let mut confirmed = 0;
    for order in orders {
        confirmed += usize::from(client.settled(order).await["status"] == "confirmed");
    }
    assert!(confirmed > 20 && confirmed < orders.len(), "{confirmed} of {}", orders.len());
    books_agree(pool, confirmed).await;
    eventually("what is not sold is free", async || {
        let sold = i64::try_from(confirmed).expect("not more than there are");
        (client.stock(sku).await == (i64::from(UNITS) - sold, 0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_a_death_at_each_step_of_the_sagas_charges_nobody_for_nothing() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let shop = Roles::start(nats.url(), &database, &["command-api", "query-api", "projections"]).await;
    let pool = PgPool::connect(&database).await.expect("Postgres answers");
    let client = Arc::new(Client::new(&shop.url, &database));
    let sku = client.product("killed", UNITS).await;
    let enough = Arc::new(AtomicBool::new(false));
    let buyer = tokio::spawn(buy(client.clone(), sku.clone(), enough.clone()));
    for steps in [0, 3, 10] {
        let starts = fail_points::SAGAS.map(async |place| {
            let dies = format!("{place}={steps}*off->return");
            Roles::start_to_die(nats.url(), &database, &["sagas"], &dies).await
        });
        for (place, mut dying) in fail_points::SAGAS.into_iter().zip(join_all(starts).await) {
            eventually(place, async || dying.ended().then_some(())).await;
        }
    }
    enough.store(true, Ordering::Relaxed);
    let _last = Roles::start(nats.url(), &database, &["sagas"]).await;
    all_is_settled(&client, &pool, &sku, &buyer.await.expect("no panic")).await;
}

/// The provider's books, out of its reach for a while.
async fn provider_is_down(database: &str, is_down: bool) {
    let pool = PgPool::connect(database).await.expect("Postgres answers");
    // In their place stands a table that takes nothing, or who starts meanwhile would make an empty one.
    let rename = match is_down {
        true => {
            "alter table sandbox.operations rename to out_of_reach;
                 create table sandbox.operations (like sandbox.out_of_reach, check (false))"
        }
        false => {
            "drop table sandbox.operations;
                  alter table sandbox.out_of_reach rename to operations"
        }
    };
    sqlx::raw_sql(rename).execute(&pool).await.expect("renamed");
    pool.close().await;
}

/// What `cartulary sagas show` tells; nothing before the sagas have heard of the order.
async fn story(shop: &Shop, order: &str) -> Value {
    let (found, printed) = operate_sagas(&shop.addresses.admin, &["show", order, "--json"]).await;
    if !found {
        assert!(printed.contains("there is no order with this id"), "{printed}");
        return Value::Null;
    }
    serde_json::from_str(&printed).expect("JSON")
}

fn steps(story: &Value) -> Vec<&str> {
    let steps = story["steps"].as_array().into_iter().flatten();
    steps.map(|step| step["type"].as_str().expect("a type")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_is_stuck_and_get_it_going() {
    let shop = Shop::start(Folder::new()).await;
    let admin = &shop.addresses.admin;
    let sku = shop.product("stuck", 5).await;
    let (fine, printed) = operate_sagas(admin, &["stuck"]).await;
    assert!(fine && printed.contains("nothing is stuck"), "{printed}");
    provider_is_down(&shop.addresses.postgres, true).await;
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_approve").await;
    eventually("its outcome is unknown", async || {
        steps(&story(&shop, &order).await).contains(&"payment.outcome_unknown").then_some(())
    })
    .await;
    let printed = eventually("it is stuck", async || {
        let (retried, printed) = operate_sagas(admin, &["retry", &order]).await;
        assert!(retried, "{printed}");
        let (fine, printed) = operate_sagas(admin, &["stuck"]).await;
        (!fine).then_some(printed)
    })
    .await;
    assert!(printed.contains(&order) && printed.contains("authorize"), "{printed}");
    let (_, printed) = operate_sagas(admin, &["status"]).await;
    assert!(printed.contains("authorizing"), "{printed}");
    provider_is_down(&shop.addresses.postgres, false).await;
    let (retried, printed) = operate_sagas(admin, &["retry", &order]).await;
    assert!(retried, "{printed}");
    assert_eq!(shop.settled(&order).await["status"], "confirmed");
    eventually("nothing is stuck any more", async || operate_sagas(admin, &["stuck"]).await.0.then_some(()))
        .await;
    // Whatever is asked for once more is recognised.
    let (retried, printed) = operate_sagas(admin, &["retry", &order]).await;
    assert!(retried, "{printed}");
    let story = story(&shop, &order).await;
    let times = |kind: &str| steps(&story).iter().filter(|step| **step == kind).count();
    assert_eq!((times("payment.authorized"), times("order.confirmed"), times("payment.captured")), (1, 1, 1));
    let metrics =
        reqwest::get(format!("{admin}/metrics")).await.expect("an answer").text().await.expect("text");
    let of = |name: &str| metrics.lines().any(|line| line.starts_with(name));
    assert!(of("cartulary_payment_calls_total") && of("cartulary_writer_append_seconds"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_checkout_takes_everything_back() {
    let shop = Shop::start(Folder::new()).await;
    let admin = &shop.addresses.admin;
    let sku = shop.product("abandoned", 5).await;
    provider_is_down(&shop.addresses.postgres, true).await;
    let order = shop.check_out(&shop.cart(&sku, 2).await, "tok_approve").await;
    eventually("its outcome is unknown", async || {
        steps(&story(&shop, &order).await).contains(&"payment.outcome_unknown").then_some(())
    })
    .await;
    let (abandoned, printed) =
        operate_sagas(admin, &["abandon", &order, "--reason", "the buyer called"]).await;
    assert!(abandoned && printed.contains("the buyer called"), "{printed}");
    // Nobody waits for a provider that doesn't answer.
    let settled = shop.settled(&order).await;
    assert_eq!((&settled["status"], &settled["reason"]), (&json!("cancelled"), &json!("abandoned")));
    assert_eq!(shop.stock(&sku).await, (5, 0));
    let during = story(&shop, &order).await;
    assert!(steps(&during).contains(&"payment.cancellation_requested"), "{during}");
    // The payment sees to it alone, however long that takes.
    provider_is_down(&shop.addresses.postgres, false).await;
    let after = eventually("the money is back", async || {
        let (retried, printed) = operate_sagas(admin, &["retry", &order]).await;
        assert!(retried, "{printed}");
        let after = story(&shop, &order).await;
        steps(&after).contains(&"payment.voided").then_some(after)
    })
    .await;
    let undone: Vec<&str> = after["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter(|step| step["is_undo"] == true)
        .filter_map(|step| step["type"].as_str())
        .collect();
    assert!(
        undone.contains(&"checkout.line_released") && !undone.contains(&"checkout.line_held"),
        "{undone:?}"
    );

    let unknown = Uuid::now_v7().to_string();
    for arguments in
        [vec!["show", &unknown], vec!["retry", &unknown], vec!["abandon", &unknown, "--reason", "x"]]
    {
        let (succeeded, printed) = operate_sagas(admin, &arguments).await;
        assert!(!succeeded && printed.contains("there is no order with this id"), "{printed}");
    }
    let (succeeded, printed) = operate_sagas(admin, &["abandon", &order, "--reason", " "]).await;
    assert!(!succeeded && printed.contains("/reason"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_never_fires_is_made_up_for() {
    let shop = Shop::start(Folder::new()).await;
    let sku = shop.product("timer", 5).await;
    let connection = infra::nats::connect(&shop.addresses.nats).await.expect("nats-server answers");
    let timers = async_nats::jetstream::new(connection.client).get_stream("TIMERS").await.expect("timers");
    let lost = tokio::spawn(async move {
        loop {
            timers.purge().filter("timer.>").await.expect("purged");
            tokio::task::yield_now().await;
        }
    });
    let order = shop.check_out(&shop.cart(&sku, 1).await, "tok_lost").await;
    assert_eq!(shop.settled(&order).await["status"], "confirmed");
    assert!(!lost.is_finished());
    lost.abort();
}
