//! What a product's page costs without a platform: a handler that selects one row by key, as a process of
//! its own.

use std::process::Stdio;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Tells this program to be that process, and on which database.
pub const DATABASE: &str = "CARTULARY_BENCH_BASELINE";

pub async fn serve(database: &str) {
    let pool = PgPoolOptions::new().max_connections(24).test_before_acquire(false).connect(database).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let app = Router::new().route("/{sku}", get(product)).with_state(pool.expect("Postgres answers"));
    axum::serve(listener, app).await.expect("it serves");
}

async fn product(State(pool): State<PgPool>, Path(sku): Path<String>) -> Result<Json<Value>, StatusCode> {
    let row: Option<(String, Value, Value, i64)> =
        sqlx::query_as("select sku, details, price, on_hand - held from catalog_v1.products where sku = $1")
            .bind(sku)
            .fetch_optional(&pool)
            .await
            .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let (sku, details, price, available) = row.ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(serde_json::json!({"sku": sku, "details": details, "price": price, "available": available})))
}

pub struct Baseline {
    _process: Child,
    pub address: String,
}

impl Baseline {
    pub async fn start(database: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let mut process = command
            .env(DATABASE, database)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let address = lines.next_line().await.expect("its output").expect("its address");
        Self { _process: process, address }
    }
}
