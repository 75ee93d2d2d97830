//! Who buys in a shop and works for it, over HTTP.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::eventually;
use super::shop::{checkout_by, name, product};

/// A client of a shop's HTTP APIs.
pub struct Client {
    http: reqwest::Client,
    url: String,
    /// Where the read models are.
    postgres: String,
}

/// An answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn position(&self) -> u64 {
        self.header("log-position").parse().expect("a Log-Position")
    }

    /// Status and code of a problem, and the pointer of its first error.
    pub fn problem(&self) -> (u16, &str, &str) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let text = |value: &'static str| self.body[value].as_str().unwrap_or_default();
        assert_eq!(self.body["status"], self.status.as_u16());
        let pointer = self.body["errors"][0]["pointer"].as_str().unwrap_or_default();
        (self.status.as_u16(), text("code"), pointer)
    }
}

impl Client {
    pub fn new(url: &str, postgres: &str) -> Self {
        // Without a pool of connections, it serves tests with runtimes of their own.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        Self { http, url: url.to_owned(), postgres: postgres.to_owned() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.expect("a body");
        Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// What the read models say once they have come to the position.
    pub async fn get_at(&self, path: &str, position: u64) -> Answer {
        self.send(self.request(Method::GET, path).header("Min-Log-Position", position)).await
    }

    /// With a key of its own.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_as(path, body, &Uuid::now_v7().to_string()).await
    }

    pub async fn post_as(&self, path: &str, body: &Value, key: &str) -> Answer {
        self.send(self.request(Method::POST, path).header("Idempotency-Key", key).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// A product with so many units on the shelf; its SKU.
    pub async fn product(&self, prefix: &str, units: u32) -> String {
        let sku = name(prefix);
        let created = self.post("/v1/products", &product(&sku)).await;
        assert_eq!(created.status, 201, "{created:?}");
        if units > 0 {
            let received = self.post(&format!("/v1/stock/{sku}/receipts"), &json!({"quantity": units})).await;
            assert_eq!(received.status, 201, "{received:?}");
        }
        sku
    }

    /// A cart with one line; its id.
    pub async fn cart(&self, sku: &str, quantity: u32) -> String {
        let created = self.post("/v1/carts", &json!({})).await;
        let id = created.body["id"].as_str().expect("an id").to_owned();
        let set = self.put(&format!("/v1/carts/{id}/lines/{sku}"), &json!({"quantity": quantity})).await;
        assert_eq!(set.status, 200, "{set:?}");
        id
    }

    /// The product costs so much from now on.
    pub async fn set_price(&self, sku: &str, amount: i64) {
        let request =
            self.request(Method::POST, &format!("/v1/products/{sku}/price")).header("If-Match", "*");
        let set = self.send(request.json(&json!({"amount": amount, "currency": "GBP"}))).await;
        assert_eq!(set.status, 200, "{set:?}");
    }

    /// A quote for the cart, shipped to Britain by this method.
    pub async fn quote(&self, cart: &str, method: &str) -> Value {
        let wanted = json!({"country": "GB", "shipping_method": method});
        let quoted = self.post(&format!("/v1/carts/{cart}/quote"), &wanted).await;
        assert_eq!(quoted.status, 201, "{quoted:?}");
        quoted.body
    }

    /// Checks the cart out; the order's id.
    pub async fn check_out(&self, cart: &str, token: &str) -> String {
        self.check_out_by(cart, "sandbox", token).await
    }

    /// The same, paid for in another way.
    pub async fn check_out_by(&self, cart: &str, method: &str, token: &str) -> String {
        let accepted = self.post(&format!("/v1/carts/{cart}/checkout"), &checkout_by(method, token)).await;
        assert_eq!(accepted.status, 202, "{accepted:?}");
        accepted.body["order_id"].as_str().expect("an id").to_owned()
    }

    /// The order, once it's confirmed or cancelled.
    pub async fn settled(&self, order: &str) -> Value {
        eventually("the order is settled", async || {
            let shown = self.get(&format!("/v1/orders/{order}")).await.body;
            (shown["status"].is_string() && shown["status"] != "pending").then_some(shown)
        })
        .await
    }

    /// On hand and held, from the catalogue's own table, once the stock is there.
    pub async fn stock(&self, sku: &str) -> (i64, i64) {
        let pool = sqlx::PgPool::connect(&self.postgres).await.expect("Postgres answers");
        let query = "select on_hand, held from catalog.products where sku = $1 and stock_version > 0";
        let row = eventually("the product has stock", async || {
            sqlx::query_as(query).bind(sku).fetch_optional(&pool).await.expect("rows")
        });
        let row = row.await;
        pool.close().await;
        row
    }
}
