//! Counters: whichever of them drifts from what it counts is found.

use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::shop::{Shop, operate};
use crate::support::{Folder, eventually};

/// A number in the tables of a read model.
#[derive(Debug, sqlx::FromRow)]
struct Counter {
    projection: String,
    table: String,
    column: String,
}

/// All numbers in read models, those that are in JSON among them as the whole of it.
async fn counters(pool: &PgPool) -> Vec<Counter> {
    sqlx::query_as(
        "select projection, table_schema || '.' || table_name as table, column_name::text as column
         from information_schema.columns
         join cartulary.read_models on table_schema = projection || '_v' || version
         where data_type in ('bigint', 'integer') order by 1, 2, 3",
    )
    .fetch_all(pool)
    .await
    .expect("columns")
}

/// An order of which some was shipped, sent back and paid back, so that every counter has counted something.
async fn history(shop: &Shop) {
    let sku = shop.product("counted", 9).await;
    let order = shop.check_out(&shop.cart(&sku, 3).await, "tok_approve").await;
    let is = async |status: &str| {
        eventually(status, async || {
            let shown = shop.get(&format!("/v1/orders/{order}")).await.body;
            (shown["payment"]["status"] == status).then_some(())
        })
        .await;
    };
    is("captured").await;
    let parts = json!({"lines": [{"sku": sku, "quantity": 2}]});
    assert_eq!(shop.post(&format!("/v1/orders/{order}/shipments"), &parts).await.status, 201);
    let back = json!({"lines": [{"sku": sku, "quantity": 1}], "reason": "too small"});
    assert_eq!(shop.post(&format!("/v1/orders/{order}/returns"), &back).await.status, 201);
    is("partially_refunded").await;
    shop.cart(&sku, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_whichever_counter_drifts_is_found() {
    let shop = Shop::start(Folder::new()).await;
    history(&shop).await;
    let admin = &shop.addresses.admin;
    let pool = PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
    let (mut drifted, mut empty) = (0, Vec::new());
    for counter in counters(&pool).await {
        let Counter { projection, table, column } = &counter;
        let change = |by: &str, row: &str| {
            AssertSqlSafe(format!(
                "update {table} set {column} = {column} {by} where ctid = {row} returning ctid::text"
            ))
        };
        let any = format!("(select ctid from {table} where {column} is not null limit 1)");
        let changed: Option<String> =
            sqlx::query_scalar(change("+ 1000", &any)).fetch_optional(&pool).await.expect("changed");
        let Some(row) = changed else {
            empty.push(format!("{table}.{column}"));
            continue;
        };
        let (same, printed) = operate(admin, &["verify", projection]).await;
        assert!(
            !same && printed.contains("NOT the same"),
            "{counter:?} drifted, and nobody noticed: {printed}"
        );
        let back = change("- 1000", &format!("'{row}'::tid"));
        sqlx::query(back).execute(&pool).await.expect("changed back");
        drifted += 1;
    }
    println!("{drifted} counters; nothing was counted in {empty:?}");
    assert!(drifted > 15, "{drifted}");
    for projection in ["catalog", "search", "orders", "carts", "sales"] {
        let (same, printed) = operate(admin, &["verify", projection]).await;
        assert!(same, "{projection}: {printed}");
    }
}
