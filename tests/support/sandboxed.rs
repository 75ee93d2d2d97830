//! A shop that is paid through the sandbox, and what befalls the sandbox and its books.

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::shop::{Shop, operate_sagas};
use super::{Folder, eventually};

pub struct Scene {
    pub shop: Shop,
    pub pool: PgPool,
}

impl Scene {
    pub async fn start(flags: &[&str]) -> Self {
        let shop = Shop::start_with(Folder::new(), &[&["--no-seed"], flags].concat()).await;
        let pool = PgPool::connect(&shop.addresses.postgres).await.expect("Postgres answers");
        Self { shop, pool }
    }

    pub fn admin(&self) -> &str {
        &self.shop.addresses.admin
    }

    /// The provider's books, out of its reach or not.
    pub async fn provider_is_down(&self, is_down: bool) {
        let rename = match is_down {
            true => "alter table sandbox.operations rename to out_of_reach",
            false => "alter table sandbox.out_of_reach rename to operations",
        };
        sqlx::query(rename).execute(&self.pool).await.expect("renamed");
    }

    /// What the provider was asked for about the order, the oldest first, and why it did not do it.
    pub async fn ledger(&self, order: &str) -> Vec<(String, Option<String>)> {
        let query =
            "select operation, declined from sandbox.operations where order_id = $1 order by asked_at";
        let order: Uuid = order.parse().expect("an id");
        sqlx::query_as(query).bind(order).fetch_all(&self.pool).await.expect("the ledger")
    }

    /// What became of a call, and what was printed.
    pub async fn operate(&self, arguments: &[&str]) -> (bool, String) {
        operate_sagas(self.admin(), arguments).await
    }

    pub async fn buy(&self, sku: &str, token: &str) -> String {
        self.shop.check_out(&self.shop.cart(sku, 1).await, token).await
    }

    pub async fn cancel(&self, order: &str) {
        let cancelled = self.shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
        assert!(cancelled.status.is_success(), "{cancelled:?}");
    }

    /// The order, once it has come to this status, and its payment to that.
    pub async fn shows(&self, order: &str, status: &str, payment: &str) -> Value {
        eventually(&format!("the order is {status}, its payment {payment}"), async || {
            let shown = self.shop.get(&format!("/v1/orders/{order}")).await.body;
            (shown["status"] == status && shown["payment"]["status"] == payment).then_some(shown)
        })
        .await
    }

    /// What the order's sagas recorded.
    pub async fn story(&self, order: &str) -> Vec<Value> {
        let (_, printed) = self.operate(&["show", order, "--json"]).await;
        let mut story: Value = serde_json::from_str(&printed).unwrap_or_default();
        serde_json::from_value(story["steps"].take()).unwrap_or_default()
    }

    /// The same, as event types.
    pub async fn steps(&self, order: &str) -> Vec<String> {
        let steps = self.story(order).await.into_iter();
        steps.map(|step| step["type"].as_str().expect("a type").to_owned()).collect()
    }

    pub async fn has_step(&self, order: &str, step: &str) {
        eventually(step, async || self.steps(order).await.iter().any(|known| known == step).then_some(()))
            .await;
    }

    /// The kinds of differences about the order.
    pub async fn differences(&self, order: &str) -> Vec<String> {
        let (_, printed) = self.operate(&["reconcile", "--since", "1h", "--json"]).await;
        let found: Value = printed.lines().find_map(|line| serde_json::from_str(line).ok()).expect(&printed);
        let all = found["differences"].as_array().expect("a list").iter();
        let ours = all.filter(|found| found["order_id"] == order);
        ours.map(|found| found["kind"].as_str().expect("a kind").to_owned()).collect()
    }
}
