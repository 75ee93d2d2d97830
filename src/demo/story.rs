//! The story that the demo tells, and checks at every step.

use std::time::Duration;

use anyhow::{Context, ensure};
use domain::StreamId;
use infra::log::{EventLog, JetStreamLog};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::import::{Answer, Client};

/// How long an order may take to be settled.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

const UNITS: i64 = 2;

/// Both purchases.
///
/// # Errors
/// The first thing that is not as it should be.
pub async fn tell(url: &str, nats_url: Option<&str>) -> anyhow::Result<()> {
    let shop = Shop { client: Client::new(url)?, log: open_log(nats_url).await? };
    println!("Shop: {url}");
    let product = shop.pick_product().await?;
    shop.good_purchase(&product).await?;
    shop.declined_purchase(&product).await
}

async fn open_log(nats_url: Option<&str>) -> anyhow::Result<Option<JetStreamLog>> {
    let Some(url) = nats_url else {
        println!("(The log is not shown: set NATS_URL or --data-dir to see it.)");
        return Ok(None);
    };
    Ok(Some(JetStreamLog::existing(crate::platform::connect_nats(url).await?).await?))
}

struct Shop {
    client: Client,
    log: Option<JetStreamLog>,
}

impl Shop {
    /// A product that search finds and of which there is enough.
    async fn pick_product(&self) -> anyhow::Result<Value> {
        step("A shopper searches");
        let found = self.get("/v1/search?q=mug&limit=5", 0).await?;
        let hits = found.body["data"].as_array().cloned().unwrap_or_default();
        for hit in &hits {
            say(&format!("{}  {}  {} available", text(&hit["sku"]), text(&hit["title"]), hit["available"]));
        }
        let enough = |hit: &&Value| hit["available"].as_i64() >= Some(UNITS);
        hits.iter().find(enough).cloned().context("no mug of which there is enough")
    }

    async fn good_purchase(&self, product: &Value) -> anyhow::Result<()> {
        let (cart, total) = self.filled_cart(product).await?;
        step("Checks out, with a token that the sandbox provider approves");
        let order = self.check_out(&cart, &total, "tok_approve").await?;
        let shown = self.settled(&order, "confirmed", "captured").await?;
        ensure!(shown["total"] == total, "the order's total is {}, not {total}", shown["total"]);
        self.ship(&order).await?;
        self.show_log(&order, &["checkout.completed"]).await?;
        let available = self.available(product).await?;
        say(&format!("read model of the product: {available} available"));
        let before = product["available"].as_i64().unwrap_or(0);
        ensure!(available == before - UNITS, "{available} available, not {}", before - UNITS);
        Ok(())
    }

    async fn ship(&self, order: &str) -> anyhow::Result<()> {
        step("The shop ships it");
        let parcel = json!({ "carrier": "Royal Mail", "tracking_number": "RM123456785GB" });
        let shipped = self.post(&format!("/v1/orders/{order}/shipments"), &parcel).await?;
        ensure!(shipped.status == StatusCode::CREATED, "{}", shipped.problem());
        let shown = self.get(&format!("/v1/orders/{order}"), shipped.log_position).await?.body;
        let (status, goods) = (text(&shown["status"]), text(&shown["fulfilment"]["status"]));
        say(&format!("read model of the order: {status}, goods {goods}"));
        ensure!(status == "completed" && goods == "shipped", "the order is {status}, its goods are {goods}");
        Ok(())
    }

    async fn declined_purchase(&self, product: &Value) -> anyhow::Result<()> {
        let before = self.available(product).await?;
        let (cart, total) = self.filled_cart(product).await?;
        step("Checks out, with a token that the sandbox provider declines");
        let order = self.check_out(&cart, &total, "tok_decline").await?;
        let shown = self.settled(&order, "cancelled", "declined").await?;
        ensure!(shown["reason"] == "payment_declined", "the reason is {}", shown["reason"]);
        self.show_log(&order, &["payment.declined", "checkout.cancelled"]).await?;
        let available = self.available(product).await?;
        say(&format!("read model of the product: {available} available, nothing is held any more"));
        ensure!(available == before, "{available} available, not {before}");
        let cart = self.get(&format!("/v1/carts/{cart}"), 0).await?;
        say(&format!("read model of the cart: {}, to try again", text(&cart.body["status"])));
        ensure!(cart.body["status"] == "open", "the cart is {}", cart.body["status"]);
        Ok(())
    }

    /// The cart's id, and its total as the shopper sees it.
    async fn filled_cart(&self, product: &Value) -> anyhow::Result<(String, Value)> {
        step("Takes a cart");
        let created = self.post("/v1/carts", &json!({})).await?;
        ensure!(created.status == StatusCode::CREATED, "{}", created.problem());
        let cart = text(&created.body["id"]);
        say(&format!("cart {cart}, at log position {}", created.log_position));
        step(&format!("Puts {UNITS} × {} into it", text(&product["title"])));
        let path = format!("/v1/carts/{cart}/lines/{}", text(&product["sku"]));
        let set = self.client.send(Method::PUT, &path, &[], Some(&json!({ "quantity": UNITS }))).await?;
        ensure!(set.status.is_success(), "{}", set.problem());
        let shown = self.get(&format!("/v1/carts/{cart}"), set.log_position).await?;
        say(&format!(
            "read model of the cart: {} line, total {}",
            count(&shown.body["lines"]),
            money(&shown.body["total"])
        ));
        Ok((cart, shown.body["total"].clone()))
    }

    async fn check_out(&self, cart: &str, total: &Value, token: &str) -> anyhow::Result<String> {
        let body = json!({
            "email": "ann@example.com",
            "shipping_address": {
                "name": "Ann Example", "line1": "1 High Street", "city": "Leeds", "postal_code": "LS1 1AA", "country": "GB",
            },
            "payment": { "method": "sandbox", "token": token },
            "expected_total": total,
        });
        let accepted = self.post(&format!("/v1/carts/{cart}/checkout"), &body).await?;
        ensure!(accepted.status == StatusCode::ACCEPTED, "{}", accepted.problem());
        let order = text(&accepted.body["order_id"]);
        say(&format!("accepted as order {order}, at log position {}", accepted.log_position));
        let pending = self.get(&format!("/v1/orders/{order}"), accepted.log_position).await?;
        say(&format!("read model of the order: {}", text(&pending.body["status"])));
        Ok(order)
    }

    /// Watches the order until it's settled, and checks that all came out as expected.
    async fn settled(&self, order: &str, status: &str, payment: &str) -> anyhow::Result<Value> {
        let watched = async {
            loop {
                let shown = self.get(&format!("/v1/orders/{order}"), 0).await?.body;
                if shown["status"] != "pending" && shown["payment"]["status"] == payment {
                    return anyhow::Ok(shown);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let shown = tokio::time::timeout(SETTLE_LIMIT, watched)
            .await
            .context("the order is not settled in time")??;
        let reason = shown["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
        say(&format!("read model of the order: {}{reason}, payment {payment}", text(&shown["status"])));
        ensure!(shown["status"] == status, "the order is {}, not {status}", shown["status"]);
        Ok(shown)
    }

    /// Prints what is in the log about the order; waits for its last events, which may take a
    /// moment longer than what the buyer sees.
    async fn show_log(&self, order: &str, expected: &[&str]) -> anyhow::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let events = tokio::time::timeout(SETTLE_LIMIT, async {
            loop {
                let events = events_of(log, order).await?;
                let there = |kind: &&str| events.iter().any(|(_, found, _)| found == *kind);
                if expected.iter().all(there) {
                    return anyhow::Ok(events);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let events = events.await.with_context(|| format!("the log lacks one of {expected:?}"))??;
        say("events in the log:");
        for (position, kind, stream) in events {
            println!("      {position:>6}  {kind:<32}  {stream}");
        }
        Ok(())
    }

    async fn available(&self, product: &Value) -> anyhow::Result<i64> {
        let position = match &self.log {
            Some(log) => log.end().await?,
            None => 0,
        };
        let shown = self.get(&format!("/v1/products/{}", text(&product["sku"])), position).await?;
        shown.body["available"].as_i64().context("the product has no figure")
    }

    async fn get(&self, path: &str, position: u64) -> anyhow::Result<Answer> {
        let position = position.to_string();
        let answer = self.client.send(Method::GET, path, &[("Min-Log-Position", &position)], None).await?;
        ensure!(answer.status.is_success(), "{path}: {}", answer.problem());
        Ok(answer)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let key = Uuid::now_v7().to_string();
        self.client.send(Method::POST, path, &[("Idempotency-Key", &key)], Some(body)).await
    }
}

/// All events of the order's streams, in the order of the log.
async fn events_of(log: &JetStreamLog, order: &str) -> anyhow::Result<Vec<(u64, String, String)>> {
    let mut events = Vec::new();
    for category in ["order", "payment", "checkout"] {
        let stream: StreamId = format!("{category}/{order}").parse()?;
        for stored in log.load(&stream, 0).await? {
            let of_commit = |event: domain::RecordedEvent| (stored.sequence, event.kind, stream.to_string());
            events.extend(stored.commit.events.clone().into_iter().map(of_commit));
        }
    }
    events.sort_by_key(|(position, ..)| *position);
    Ok(events)
}

fn step(text: &str) {
    println!("\n  {text}");
}

fn say(text: &str) {
    println!("    {text}");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn count(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

fn money(value: &Value) -> String {
    serde_json::from_value::<domain::Money>(value.clone())
        .map_or_else(|_| value.to_string(), |money| money.to_string())
}
