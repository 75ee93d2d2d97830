//! The admin API from the other side.

use std::time::Duration;

use anyhow::Context;
use projections::status::ReadModelStatus;
use projections::verify::Comparison;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::{ReadModelStatuses, Version};

pub struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}/admin{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request
            .send()
            .await
            .with_context(|| format!("the admin API at {} can't be reached", self.url))?;
        let status = answer.status();
        let body = answer.bytes().await.context("the answer did not arrive whole")?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        let (status, body) = self.send(method, path, body).await?;
        anyhow::ensure!(status.is_success(), "{}", words(status, &body));
        serde_json::from_value(body).context("the answer is not as it should be")
    }

    pub async fn status(&self, name: Option<&str>) -> anyhow::Result<Vec<ReadModelStatus>> {
        let path = name.map_or_else(String::new, |name| format!("/{}", segment(name)));
        let path = format!("/projections{path}");
        let ReadModelStatuses { data } = self.ask(Method::GET, &path, None).await?;
        Ok(data)
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<Value>) -> anyhow::Result<T> {
        self.ask(Method::POST, path, body).await
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn cancel(&self, name: &str) -> anyhow::Result<()> {
        self.act(Method::POST, &format!("/projections/{}/cancel", segment(name))).await
    }

    /// Where there is nothing to be answered.
    pub async fn act(&self, method: Method, path: &str) -> anyhow::Result<()> {
        let (status, body) = self.send(method, path, None).await?;
        anyhow::ensure!(status.is_success(), "{}", words(status, &body));
        Ok(())
    }

    /// What the comparison of a build found, if it was made.
    pub async fn comparison(&self, build: &Version) -> anyhow::Result<Option<Comparison>> {
        let path = format!("/projections/{}/verifications/{}", build.projection, build.version);
        let (status, body) = self.send(Method::GET, &path, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        anyhow::ensure!(status.is_success(), "{}", words(status, &body));
        Ok(Some(serde_json::from_value(body)?))
    }
}

/// Text as one segment of a path.
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let encoded = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn words(status: StatusCode, problem: &Value) -> String {
    let Some(detail) = problem["detail"].as_str() else { return format!("the admin API answers {status}") };
    let errors = problem["errors"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    errors.fold(detail.to_owned(), |words, error| {
        format!("{words}: {} {}", text(&error["pointer"]), text(&error["detail"]))
    })
}
