//! Whether it is safe to work on this log: its stream's config, its server's, and its past.

use std::time::Duration;

use anyhow::Context;
use infra::log::{JetStreamLog, LogSettings};
use serde_json::Value;
use sqlx::PgPool;

use crate::config;

/// How long the server's monitoring may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Why nothing may be appended or projected; empty if all is well, or accepted.
///
/// # Errors
/// The log or the database does not answer.
pub async fn reasons(
    options: &config::Platform,
    settings: &LogSettings,
    log: &JetStreamLog,
    pool: &PgPool,
) -> anyhow::Result<Vec<String>> {
    let mut unsafe_config = config_reasons(options.nats_monitoring_url.as_deref(), settings, log).await?;
    let mut reasons = infra::fence::check(pool, log).await?;
    if options.accept_unsafe_log {
        unsafe_config.iter().for_each(|reason| tracing::warn!(reason, "accepted, as the settings say"));
    } else {
        reasons.append(&mut unsafe_config);
    }
    reasons.iter().for_each(|reason| tracing::error!(reason, "the log is not safe to work on"));
    Ok(reasons)
}

/// Why the log may lose what it has acknowledged: what its stream's config says, and its server's if there is
/// a monitoring URL.
///
/// # Errors
/// The log does not answer.
pub async fn config_reasons(
    monitoring_url: Option<&str>,
    settings: &LogSettings,
    log: &JetStreamLog,
) -> anyhow::Result<Vec<String>> {
    let mut reasons = log.drift(settings).await?;
    if let Some(url) = monitoring_url {
        reasons.extend(unsafe_sync(url).await);
    }
    Ok(reasons)
}

/// Why the server may lose what it has acknowledged, if it may.
async fn unsafe_sync(url: &str) -> Option<String> {
    match sync_always(url).await {
        Ok(true) => None,
        Ok(false) => {
            Some("nats-server acknowledges before the disk has it; set `sync_interval: always`".to_owned())
        }
        Err(error) => Some(format!("nats-server's monitoring does not tell how it syncs: {error:#}")),
    }
}

async fn sync_always(url: &str) -> anyhow::Result<bool> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build()?;
    let answer: Value =
        client.get(format!("{}/varz", url.trim_end_matches('/'))).send().await?.json().await?;
    let config = answer.pointer("/jetstream/config").context("it has no JetStream")?;
    Ok(config["sync_always"].as_bool().unwrap_or(false))
}
