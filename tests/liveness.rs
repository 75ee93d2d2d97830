//! Outages of any length are survived without a restart, and who does not get on says so.

use std::time::Duration;

use reqwest::Method;
use sqlx::{Connection, PgConnection};

use crate::support::eventually;
use crate::support::load::Load;
use crate::support::servers::{MortalPostgres, Nats, database_url};
use crate::support::shop::{Roles, operate};

const ALL: [&str; 4] = ["command-api", "query-api", "projections", "sagas"];

/// Longer than whatever gives up after a while gives up after.
const OUTAGE: Duration = Duration::from_secs(8);

async fn ready(roles: &Roles) {
    eventually("it's ready", async || (roles.send(Method::GET, "/readyz").await.0 == 200).then_some(()))
        .await;
}

/// What it says that it lacks.
async fn lacks(roles: &Roles, what: &str) {
    eventually(what, async || {
        let (status, problem) = roles.send(Method::GET, "/readyz").await;
        let reasons = problem["reasons"].to_string();
        (status == 503 && reasons.contains(what)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_of_the_database_and_of_the_log_are_waited_out() {
    let (mut nats, mut postgres) = (Nats::start().await, MortalPostgres::start().await);
    let mut roles = Roles::start(nats.url(), &postgres.url, &ALL).await;
    let load = Load::start(&[&roles.url], 2).await;
    ready(&roles).await;

    // Commands go on without the database; what they did shows when it's back.
    postgres.kill().await;
    lacks(&roles, "the database does not answer").await;
    let before = load.acknowledged();
    tokio::time::sleep(OUTAGE).await;
    assert!(load.acknowledged() > before, "commands need only the log");
    assert_eq!(roles.send(Method::GET, "/v1/products").await.0, 503);
    postgres.restart().await;
    ready(&roles).await;

    nats.kill().await;
    lacks(&roles, "log").await;
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(roles.send(Method::GET, "/v1/products").await.0, 200, "queries need only the database");
    nats.restart().await;
    ready(&roles).await;
    let before = load.acknowledged();
    eventually("commands go on", async || (load.acknowledged() > before + 20).then_some(())).await;
    load.finish().await;

    assert!(!roles.ended(), "it's the same process all the time");
    for name in ["catalog", "search", "orders", "carts", "sales"] {
        let (same, printed) = operate(&roles.admin, &["verify", name]).await;
        assert!(same, "{name}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_while_there_is_more_says_so() {
    let (nats, database) = (Nats::start().await, database_url().await);
    let roles =
        Roles::start(nats.url(), &database, &["command-api", "projections", "--standstill-limit-s", "2"])
            .await;
    let load = Load::start(&[&roles.url], 1).await;
    ready(&roles).await;
    // Somebody has locked its rows, and forgotten them.
    let mut forgetful = PgConnection::connect(&database).await.expect("Postgres answers");
    let mut transaction = forgetful.begin().await.expect("begun");
    let lock = "lock table catalog_v1.products in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *transaction).await.expect("locked");
    lacks(&roles, "catalog_v1/0 stands still at position").await;
    let (_, status) = operate(&roles.admin, &["status", "catalog", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let model = &status["data"][0];
    assert!(model["lag"].as_u64() > Some(0) && model["lag_s"].as_f64() > Some(1.0), "{model}");
    transaction.rollback().await.expect("let go");
    ready(&roles).await;
    load.finish().await;
}
