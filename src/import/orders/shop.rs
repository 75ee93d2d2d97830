//! The shop that is imported into: its log, and its read models if it runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domain::StreamId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::clock::Clock;
use infra::execute::{self, Executors};
use infra::log::{EventLog, JetStreamLog, LogSettings, Unavailable};
use infra::snapshots::Snapshots;
use infra::writer;
use reqwest::Method;

use crate::config::ImportOrders;
use crate::import::client::Client;

/// One path for each read model: an answer tells how far it is, also that there is no such thing.
pub const PATHS: [&str; 5] = [
    "/v1/products?limit=1",
    "/v1/search?limit=1",
    "/v1/reports/sales?by=month&limit=1",
    "/v1/orders/00000000-0000-0000-0000-000000000000",
    "/v1/carts/00000000-0000-0000-0000-000000000000",
];

/// The commands of an import are recognised for ever, however long ago it was.
const IDEMPOTENCY_KEEP: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

const CACHED_AGGREGATES_MAX: u64 = 50_000;

pub struct Shop {
    pub log: Arc<dyn EventLog>,
    pub executors: Arc<Executors>,
    /// If an instance is known.
    pub client: Option<Client>,
}

impl Shop {
    /// Opens the log that is there already.
    ///
    /// # Errors
    /// There is none, or it's not safe to write to.
    pub async fn open(options: &ImportOrders) -> anyhow::Result<Self> {
        let (nats_url, http_url) = urls(options)?;
        let connection = crate::platform::connect_nats(&nats_url).await?;
        let log = JetStreamLog::existing(connection).await.context("there is no log")?;
        let client = http_url.map(Client::new).transpose()?;
        check(options, &log, client.as_ref()).await?;
        let log: Arc<dyn EventLog> = Arc::new(log);
        let snapshots: Arc<dyn Snapshots> = Arc::new(NoSnapshots);
        let settings = execute::Settings {
            idempotency_keep: IDEMPOTENCY_KEEP,
            cached_aggregates_max: CACHED_AGGREGATES_MAX,
        };
        let clock = Clock::system();
        let writer = writer::Settings::default();
        let (_, executors) = crate::platform::execute_on(&log, &snapshots, &clock, writer, &settings);
        Ok(Self { log, executors, client })
    }
}

/// Of the log's server, and of the instance. Whoever names one of them does not mean the folder's other one.
fn urls(options: &ImportOrders) -> anyhow::Result<(String, Option<String>)> {
    let of_folder = || crate::addresses::of_data_dir(&options.instance.data.data_dir);
    match (&options.nats_url, &options.instance.url) {
        (Some(nats), http) => Ok((nats.clone(), http.clone())),
        (None, Some(http)) => {
            let of_folder = of_folder().context("with --url, the log has to be named, too: --nats-url")?;
            Ok((of_folder.nats, Some(http.clone())))
        }
        (None, None) => of_folder().map(|of_folder| (of_folder.nats, Some(of_folder.http))),
    }
}

/// The same checks that the platform makes at its start; what only it can see, a running one is asked.
async fn check(options: &ImportOrders, log: &JetStreamLog, client: Option<&Client>) -> anyhow::Result<()> {
    let settings = LogSettings { replicas: options.log_replicas, bytes_max: -1 };
    let monitoring_url = options.nats_monitoring_url.as_deref();
    let reasons = crate::safety::config_reasons(monitoring_url, &settings, log).await?;
    anyhow::ensure!(
        reasons.is_empty() || options.accept_unsafe_log,
        "the log is not safe to write to: {}",
        reasons.join("; ")
    );
    if let Some(client) = client {
        // Without a key, it's refused; but where nothing may be appended, it says so.
        let answer = client.ask(Method::POST, "/v1/carts").await?;
        anyhow::ensure!(
            answer.body["code"] != "log_unsafe",
            "the shop takes no commands: {}",
            answer.problem()
        );
    }
    Ok(())
}

/// No snapshots. The shop's forget old commands, and an import may come again after years; its own would be
/// read by nobody.
struct NoSnapshots;

impl Snapshots for NoSnapshots {
    fn load<'a>(&'a self, _: &'a StreamId) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn save<'a>(&'a self, _: &'a StreamId, _: Bytes) -> BoxFuture<'a, Result<(), Unavailable>> {
        std::future::ready(Ok(())).boxed()
    }
}
