//! Sagas shared by processes that die: whatever happens to them, every checkout comes to its end, once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Signal, kill_process};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::customer::Client;
use crate::support::eventually;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::Roles;

/// How soon a worker's lanes are to be somebody else's, whatever happened to it.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);

/// How soon who comes new is to have its share; it may have to start first, on a busy machine.
const SHARE_LIMIT: Duration = Duration::from_secs(30);

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
    const UNITS: u32 = 100_000;
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
    let mut confirmed = 0;
    for order in &orders {
        confirmed += usize::from(client.settled(order).await["status"] == "confirmed");
    }
    assert!(confirmed > 20 && confirmed < orders.len(), "{confirmed} of {}", orders.len());
    books_agree(&pool, confirmed).await;
    eventually("what is not sold is free", async || {
        let sold = i64::try_from(confirmed).expect("not more than there are");
        (client.stock(&sku).await == (i64::from(UNITS) - sold, 0)).then_some(())
    })
    .await;
}
