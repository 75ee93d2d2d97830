//! `GET /metrics` of the admin API: what the process counts, in Prometheus's text form.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Bounds of what takes time, in seconds: from what a commit takes to what a provider may.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// How often what was recorded is put into its place, if nobody asks.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Begins to count; what happened before is not counted.
pub fn begin() {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS);
        match builder.map(PrometheusBuilder::install_recorder) {
            Ok(Ok(recorder)) => Some(recorder),
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(%error, "there are no metrics");
                None
            }
        }
    });
}

/// Keeps what is recorded small. Runs until it's dropped.
pub async fn run() {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        if let Some(recorder) = RECORDER.get().and_then(Option::as_ref) {
            recorder.run_upkeep();
        }
    }
}

pub fn router() -> Router {
    let page = async || {
        let recorder = RECORDER.get().and_then(Option::as_ref);
        let text = recorder.map(PrometheusHandle::render).unwrap_or_default();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
    };
    Router::new().route("/metrics", get(page))
}
