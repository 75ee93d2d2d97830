//! Products into the catalogue, so that doing it twice changes nothing.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Currency;
use domain::commit::Hash;
use futures_util::StreamExt;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::client::{Answer, Client};
use super::forms::{self, Product};
use super::lines;
use super::progress::Progress;
use super::visible::visible;

/// Bad lines that are shown one by one; the rest is counted.
const BAD_LINES_SHOWN: u64 = 100;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Of prices that come without one.
    pub currency: Currency,
    /// Of products that come without a figure of their own and have none yet.
    pub stock: u32,
    /// Products on their way at a time.
    pub concurrency: usize,
}

/// What an import came to.
#[derive(Debug, Default)]
pub struct Summary {
    pub created: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub bad: u64,
    pub took: Duration,
    log_position: u64,
}

/// What became of one line.
enum Outcome {
    Created,
    Updated,
    Unchanged,
    Bad(String),
}

/// Imports every line of the file, and returns once all of it can be read and searched.
///
/// # Errors
/// The shop can't be reached. What was imported until then stays; the same again goes on.
pub async fn import(
    client: &Client,
    file: Box<dyn Read + Send>,
    settings: &Settings,
    progress: &Arc<Progress>,
) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let mut summary = Summary::default();
    let mut received = lines::read(file, progress);
    let lines = stream::poll_fn(move |context| received.poll_recv(context));
    let outcomes = lines.map(|(number, line)| async move {
        let outcome = match line {
            Ok(line) if line.iter().all(u8::is_ascii_whitespace) => return Ok(None),
            Ok(line) => import_line(client, &line, settings).await?,
            Err(reason) => (Outcome::Bad(reason), 0),
        };
        anyhow::Ok(Some((number, outcome)))
    });
    let mut outcomes = outcomes.buffer_unordered(settings.concurrency);
    while let Some(outcome) = outcomes.next().await {
        let Some((number, (outcome, log_position))) = outcome? else { continue };
        summary.log_position = summary.log_position.max(log_position);
        summary.count(number, outcome, progress);
        progress.done();
    }
    drop(outcomes);
    let paths = ["/v1/products?limit=1", "/v1/search?limit=1"];
    visible(client, &paths, summary.log_position, &Progress::quiet()).await?;
    summary.took = started.elapsed();
    Ok(summary)
}

/// Imports one product, and its stock; with the last position in the log that it led to.
async fn import_line(client: &Client, line: &[u8], settings: &Settings) -> anyhow::Result<(Outcome, u64)> {
    let (product, stock) = match forms::parse(line, settings.currency) {
        Ok(parsed) => parsed,
        Err(reason) => return Ok((Outcome::Bad(reason), 0)),
    };
    let body = serde_json::to_value(&product)?;
    let hash = Hash::of(body.to_string().as_bytes());
    let key = format!("import/catalogue/{}/{hash}", product.sku);
    let created =
        client.send(Method::POST, "/v1/products", &[("Idempotency-Key", &key)], Some(&body)).await?;
    let (outcome, current) = match created.status {
        StatusCode::CREATED if created.repeated => catch_up(client, &product, created).await?,
        StatusCode::CREATED => (Outcome::Created, created),
        StatusCode::CONFLICT if created.body["code"] == "product_exists" => {
            catch_up(client, &product, created).await?
        }
        _ => return Ok((Outcome::Bad(created.problem()), 0)),
    };
    if matches!(outcome, Outcome::Bad(_)) {
        return Ok((outcome, current.log_position));
    }
    let stocked = open_stock(client, &product, stock.unwrap_or(settings.stock), &current).await?;
    Ok(match stocked {
        Ok(log_position) => (outcome, current.log_position.max(log_position)),
        Err(reason) => (Outcome::Bad(reason), current.log_position),
    })
}

/// Brings a product that exists to what the file says.
async fn catch_up(client: &Client, product: &Product, created: Answer) -> anyhow::Result<(Outcome, Answer)> {
    let path = format!("/v1/products/{}", product.sku);
    let position = created.log_position.to_string();
    let current = client.send(Method::GET, &path, &[("Min-Log-Position", &position)], None).await?;
    if current.status == StatusCode::NOT_FOUND {
        return Ok((Outcome::Bad("the product was withdrawn".to_owned()), current));
    }
    let wanted = serde_json::to_value(product)?;
    let changes = changes(&current.body, &wanted);
    let price_differs = current.body["price"] != wanted["price"];
    if changes.is_empty() && !price_differs {
        return Ok((Outcome::Unchanged, current));
    }
    let mut answer = current;
    for (differs, method, path, body) in [
        (!changes.is_empty(), Method::PATCH, path.clone(), Value::Object(changes)),
        (price_differs, Method::POST, format!("{path}/price"), wanted["price"].clone()),
    ] {
        if differs {
            let etag = answer.etag.clone().unwrap_or_default();
            answer = client.send(method, &path, &[("If-Match", &etag)], Some(&body)).await?;
            if !answer.status.is_success() {
                return Ok((Outcome::Bad(answer.problem()), answer));
            }
        }
    }
    Ok((Outcome::Updated, answer))
}

/// A merge patch (RFC 7396) that makes the wanted details of the current ones.
fn changes(current: &Value, wanted: &Value) -> Map<String, Value> {
    let mut changes = Map::new();
    for name in ["title", "description", "brand", "category", "images", "gtins"] {
        if current[name] != wanted[name] {
            changes.insert(name.to_owned(), wanted[name].clone());
        }
    }
    if current["attributes"] != wanted["attributes"] {
        let gone = current["attributes"].as_object().into_iter().flat_map(Map::keys);
        let mut attributes: Map<String, Value> = gone.map(|name| (name.clone(), Value::Null)).collect();
        attributes.extend(wanted["attributes"].as_object().cloned().unwrap_or_default());
        changes.insert("attributes".to_owned(), Value::Object(attributes));
    }
    changes
}

/// Receives the opening stock, unless there was stock before; with the position in the log.
async fn open_stock(
    client: &Client,
    product: &Product,
    quantity: u32,
    current: &Answer,
) -> anyhow::Result<Result<u64, String>> {
    if quantity == 0 || current.stock_version().is_some_and(|version| version > 0) {
        return Ok(Ok(0));
    }
    let path = format!("/v1/stock/{}/receipts", product.sku);
    let key = format!("import/catalogue/{}/opening-stock", product.sku);
    let body = json!({ "quantity": quantity });
    let answer = client.send(Method::POST, &path, &[("Idempotency-Key", &key)], Some(&body)).await?;
    Ok(match answer.status {
        // The key was used with another quantity: the stock was opened by an earlier import.
        StatusCode::UNPROCESSABLE_ENTITY if answer.body["code"] == "idempotency_key_reused" => Ok(0),
        status if status.is_success() => Ok(answer.log_position),
        _ => Err(answer.problem()),
    })
}

impl Summary {
    fn count(&mut self, number: u64, outcome: Outcome, progress: &Progress) {
        match outcome {
            Outcome::Created => self.created += 1,
            Outcome::Updated => self.updated += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Bad(reason) => {
                self.bad += 1;
                match self.bad {
                    ..=BAD_LINES_SHOWN => progress.say(&format!("line {number}: {reason}")),
                    _ if self.bad == BAD_LINES_SHOWN + 1 => progress.say("more bad lines are only counted"),
                    _ => {}
                }
            }
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, updated, unchanged, bad, took, .. } = self;
        let good = created + updated + unchanged;
        let seconds = took.as_secs_f64();
        write!(
            f,
            "{good} products: {created} created, {updated} updated, {unchanged} unchanged; {bad} bad lines; \
             {seconds:.1} s, {:.0} products/s, all of it visible and searchable",
            (good + bad) as f64 / seconds.max(0.001),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_only_what_differs() {
        let current = json!({"title": "Mug", "brand": "B", "attributes": {"Colour": "red", "Weight": "1"}});
        let wanted = json!({"title": "Cup", "brand": "B", "attributes": {"Colour": "blue"}});
        let expected = json!({"title": "Cup", "attributes": {"Colour": "blue", "Weight": null}});
        assert_eq!(Value::Object(changes(&current, &wanted)), expected);
        assert!(changes(&current, &current).is_empty());
    }
}
