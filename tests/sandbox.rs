//! The sandbox's books: each request is entered once, however many come at a time and through how many processes.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::cart::PaymentMethod;
use domain::payment::{OpenRequest, Request, State};
use domain::{Money, OrderId};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use infra::clock::Clock;
use infra::log::Unavailable;
use infra::payment::{Answer, PaymentProvider, Sandbox};
use infra::timers::{Timer, Timers};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::servers::database_url;

/// None of these payments is told of.
struct NoTimers;

impl Timers for NoTimers {
    fn set<'a>(&'a self, _: &'a Timer) -> BoxFuture<'a, Result<(), Unavailable>> {
        async { Ok(()) }.boxed()
    }

    fn cancel<'a>(&'a self, _: &'a str, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), Unavailable>> {
        async { Ok(()) }.boxed()
    }
}

fn request(order_id: OrderId, operation: &str, reference: Option<&str>) -> Request {
    let open: OpenRequest = serde_json::from_value(json!({
        "operation": operation, "amount": 1_250, "refund": null, "stray": null, "attempt": 0, "round": 0,
        "asked_at": DateTime::<Utc>::UNIX_EPOCH, "is_under_review": false,
    }))
    .expect("a request");
    Request {
        order_id,
        amount: Money::new(1_250, "GBP".parse().expect("a currency")),
        payment: PaymentMethod { method: "sandbox".to_owned(), token: "tok_approve".to_owned() },
        open,
        provider_reference: reference.map(str::to_owned),
    }
}

async fn ask(sandbox: &Sandbox, request: Request) -> (State, String, i64) {
    match sandbox.ask(&request).await.expect("an answer") {
        Answer::Stated(statement) => (statement.state, statement.reference, statement.captured),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_entered_once_however_many_come_at_a_time() {
    const ORDERS: usize = 300;
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    let open = || Sandbox::open(pool.clone(), Clock::system(), Arc::new(NoTimers));
    let (one, other) = (open().await.expect("a sandbox"), open().await.expect("a sandbox"));
    let orders: Vec<OrderId> = (0..ORDERS).map(|_| OrderId(Uuid::now_v7())).collect();

    // The same through both, in opposite orders, so that each waits for what the other holds.
    let authorize = |sandbox: &Sandbox, order: &OrderId| {
        let (sandbox, request) = (sandbox.clone(), request(*order, "authorize", None));
        async move { ask(&sandbox, request).await }
    };
    let first = join_all(orders.iter().map(|order| authorize(&one, order)));
    let second = join_all(orders.iter().rev().map(|order| authorize(&other, order)));
    let (first, mut second) = tokio::join!(first, second);
    second.reverse();
    let differ = first.iter().zip(&second).find(|(one, other)| one != other);
    assert_eq!(differ, None, "both are told the same");
    assert!(first.iter().all(|(state, _, captured)| (state, *captured) == (&State::Authorized, 0)));

    // Each capture is asked for twice at a time.
    let capture = |(order, (_, reference, _)): (&OrderId, &(State, String, i64))| {
        let (sandbox, request) = (one.clone(), request(*order, "capture", Some(reference)));
        async move { ask(&sandbox, request).await }
    };
    let pairs = || orders.iter().zip(&first);
    let captured = join_all(pairs().chain(pairs()).map(capture)).await;
    assert!(captured.iter().all(|(state, _, captured)| (state, *captured) == (&State::Captured, 1_250)));
    let entered: i64 = sqlx::query_scalar("select count(*) from sandbox.operations")
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(usize::try_from(entered), Ok(2 * ORDERS), "one line for each authorisation and each capture");
}
