//! The HTTP API from the other side: what the importer sends, and what it makes of the answers.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

/// Times that a request is sent again when the shop is unavailable.
const ATTEMPTS_MAX: u32 = 8;

/// A shop at a URL.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// An answer that the shop stands by: not a 503.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub log_position: u64,
    /// The command had been done before under this key.
    pub repeated: bool,
    pub body: Value,
}

impl Answer {
    /// What a problem says, with its pointers.
    pub fn problem(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let errors = self.body["errors"].as_array().into_iter().flatten();
        let errors: Vec<_> =
            errors.map(|error| format!("{} {}", text(&error["pointer"]), text(&error["detail"]))).collect();
        let detail = text(&self.body["detail"]);
        match errors.is_empty() {
            true => format!("{}: {detail}", self.status),
            false => format!("{}: {detail}: {}", self.status, errors.join("; ")),
        }
    }

    /// The stock's version, the second part of a product's ETag.
    pub fn stock_version(&self) -> Option<u64> {
        let etag = self.etag.as_deref()?.trim_matches('"');
        etag.split('-').nth(1)?.parse().ok()
    }
}

impl Client {
    pub fn new(url: impl Into<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build()?;
        Ok(Self { http, url: url.into().trim_end_matches('/').to_owned() })
    }

    /// Sends a request once, whatever the answer is.
    ///
    /// # Errors
    /// The shop can't be reached.
    pub async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let request = self.http.request(method, format!("{}{path}", self.url));
        answer(request.send().await.with_context(|| format!("the shop at {} can't be reached", self.url))?)
            .await
    }

    /// Sends a request until the shop has an answer to it.
    ///
    /// # Errors
    /// The shop can't be reached, or stays unavailable.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut trouble = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    trouble = response.text().await.unwrap_or_default();
                }
                Ok(response) => return answer(response).await,
                Err(error) => trouble = format!("{:#}", anyhow::Error::from(error)),
            }
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
        }
        anyhow::bail!("the shop at {} is unavailable: {trouble}", self.url)
    }
}

async fn answer(response: Response) -> anyhow::Result<Answer> {
    let status = response.status();
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let etag = header("etag");
    let log_position = header("log-position").and_then(|position| position.parse().ok()).unwrap_or(0);
    let repeated = header("idempotent-replayed").is_some();
    let body = response.bytes().await.context("the answer did not arrive whole")?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Answer { status, etag, log_position, repeated, body })
}
