//! All settings, each as a flag, an environment variable, and the text that explains both.

mod checkout;
mod operate;
mod payments;
mod psp_sim;
mod webhooks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::terms::Terms;

use crate::history::filter::Moment;
pub use checkout::Checkout;
pub use operate::{DeadLettersWhat, Projections, ProjectionsWhat, Sagas, SagasWhat, Webhooks, WebhooksWhat};
pub use payments::Payments;
pub use psp_sim::{PspSim, PspSimLedger, PspSimWhat};
pub use webhooks::WebhookSettings;

/// An event-sourced commerce platform: commands append to a NATS JetStream log, projections build
/// read models in Postgres, sagas drive checkout and payment.
#[derive(Debug, Parser)]
#[command(name = "cartulary", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the whole platform in one process, with its own nats-server and Postgres.
    Dev(Dev),
    /// Run one or more roles in one process, on a nats-server and a Postgres that run already.
    Serve(Serve),
    /// Look after the read models: status, rebuild, verify, rollback.
    Projections(Projections),
    /// Look after checkouts and payments that are under way.
    Sagas(Sagas),
    /// Look after the shop's own systems that are told what happens.
    Webhooks(Webhooks),
    /// Bring data in, through commands.
    Import(Import),
    /// Read the log.
    History(History),
    /// Walk through a purchase and a declined one, and show what they leave behind.
    Demo(Demo),
    /// Be a payment service provider, as far as Stripe's API goes that payments need: with a ledger of
    /// its own, and with all that can go wrong.
    PspSim(PspSim),
}

/// What a process can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    CommandApi,
    Projections,
    QueryApi,
    Sagas,
    Webhooks,
}

#[derive(Debug, Clone, Args)]
pub struct Dev {
    #[command(flatten)]
    pub data: DataDir,
    #[command(flatten)]
    pub platform: Platform,
    /// Leave an empty shop empty, instead of filling it with the starter catalogue.
    #[arg(long, env = "CARTULARY_NO_SEED", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_seed: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// The roles to run.
    #[arg(required = true, value_enum)]
    pub roles: Vec<Role>,
    #[command(flatten)]
    pub platform: Platform,
}

#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// Folder that keeps everything: the log, the read models, and the addresses of what runs.
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
}

/// The settings of the platform itself, whoever starts it.
#[derive(Debug, Clone, Args)]
pub struct Platform {
    /// Port of the HTTP APIs; 0 takes any free one [default: 8080, or a free one if it's taken]
    #[arg(long, env = "CARTULARY_PORT")]
    pub port: Option<u16>,
    /// Address that the HTTP APIs listen on.
    #[arg(long, env = "CARTULARY_HOST", default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,
    /// Port of the admin API, which the roles projections, sagas and webhooks have; 0 takes any free one
    /// [default: 8081, or a free one if it's taken]
    #[arg(long, env = "CARTULARY_ADMIN_PORT")]
    pub admin_port: Option<u16>,
    /// Address that the admin API listens on. It asks nobody who they are: keep it to those who operate.
    #[arg(long, env = "CARTULARY_ADMIN_HOST", default_value = "127.0.0.1")]
    pub admin_host: std::net::IpAddr,
    /// The log's nats-server, such as nats://user:password@host:4222; `dev` starts its own without.
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,
    /// The read models' Postgres, such as postgres://user:password@host/database; `dev` starts its
    /// own without.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Where the log's nats-server tells about itself, such as http://host:8222, to check how it
    /// syncs; `dev` knows that of its own.
    #[arg(long, env = "NATS_MONITORING_URL")]
    pub nats_monitoring_url: Option<String>,
    /// Work on a log whose stream or server is configured so that what is acknowledged may get lost.
    #[arg(long, env = "CARTULARY_ACCEPT_UNSAFE_LOG", value_parser = clap::builder::FalseyValueParser::new())]
    pub accept_unsafe_log: bool,
    /// Copies of each message of the log: 1 on a single server, 3 in a cluster.
    #[arg(long, env = "CARTULARY_LOG_REPLICAS", default_value_t = 1)]
    pub log_replicas: usize,
    /// Size in bytes at which the log refuses appends, to be below the disk's; it's fixed when the
    /// log is made [default: half of the free disk in `dev`, else unlimited]
    #[arg(long, env = "CARTULARY_LOG_BYTES_MAX")]
    pub log_bytes_max: Option<i64>,
    /// Most connections to Postgres.
    #[arg(long, env = "CARTULARY_DATABASE_CONNECTIONS_MAX", default_value_t = 24)]
    pub database_connections_max: u32,
    /// For how many days an Idempotency-Key is recognised.
    #[arg(long, env = "CARTULARY_IDEMPOTENCY_KEEP_DAYS", default_value_t = 30)]
    pub idempotency_keep_days: u64,
    /// Most aggregates of each kind in memory.
    #[arg(long, env = "CARTULARY_CACHED_AGGREGATES_MAX", default_value_t = 50_000)]
    pub cached_aggregates_max: u64,
    /// Most commits in one batch to the log.
    #[arg(long, env = "CARTULARY_BATCH_COMMITS_MAX", default_value_t = 1_000, value_parser = whole(1..=1_000))]
    pub batch_commits_max: usize,
    /// Most batches on their way to the log at a time.
    #[arg(long, env = "CARTULARY_BATCHES_IN_FLIGHT_MAX", default_value_t = 2, value_parser = whole(1..=16))]
    pub batches_in_flight_max: usize,
    /// Most commits that wait for the log; beyond, commands are answered 503.
    #[arg(long, env = "CARTULARY_QUEUED_COMMITS_MAX", default_value_t = 10_000, value_parser = whole(1..=1_000_000))]
    pub queued_commits_max: usize,
    #[command(flatten)]
    pub checkout: Checkout,
    /// TOML file of the shop's terms: shipping methods, taxes by country, seconds that a quote holds. All
    /// processes with the roles command-api and query-api need the same [default: the built-in ones, which are
    /// infra/local/terms.toml in the sources: tax included, standard delivery free, quotes hold 1800 seconds]
    #[arg(long, env = "CARTULARY_TERMS", value_name = "FILE", value_parser = crate::terms::read)]
    terms: Option<Arc<Terms>>,
    /// Milliseconds that a query waits for its Min-Log-Position.
    #[arg(long, env = "CARTULARY_FRESHNESS_LIMIT_MS", default_value_t = 5_000)]
    pub freshness_limit_ms: u64,
    /// Most streams of orders' events that are open at a time; beyond, they are answered 503. Each takes a
    /// connection, and some 40 kB.
    #[arg(long, env = "CARTULARY_ORDER_STREAMS_MAX", default_value_t = 5_000, value_parser = whole(0..=1_000_000))]
    pub order_streams_max: usize,
    /// Seconds after which a stream of events on which nothing happens says that it's alive: less than what
    /// stands in between allows a connection to be silent.
    #[arg(long, env = "CARTULARY_HEARTBEAT_S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub heartbeat_s: u64,
    /// Seconds that a reader of the log may stand still while there is more to read, before /readyz says
    /// so; longer than a saga waits for a provider that doesn't answer.
    #[arg(long, env = "CARTULARY_STANDSTILL_LIMIT_S", default_value_t = 30)]
    pub standstill_limit_s: u64,
    #[command(flatten)]
    pub webhooks: WebhookSettings,
    /// Log lines as JSON, one object a line.
    #[arg(long, env = "CARTULARY_LOG_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub log_json: bool,
    #[command(flatten)]
    pub payments: Payments,
}

impl Platform {
    pub fn execute_settings(&self) -> infra::execute::Settings {
        infra::execute::Settings {
            idempotency_keep: Duration::from_secs(self.idempotency_keep_days * 24 * 60 * 60),
            cached_aggregates_max: self.cached_aggregates_max,
        }
    }

    pub fn writer_settings(&self) -> infra::writer::Settings {
        infra::writer::Settings {
            queue_max: self.queued_commits_max,
            batch_max: self.batch_commits_max,
            batches_max: self.batches_in_flight_max,
            ..infra::writer::Settings::default()
        }
    }

    pub fn query_settings(&self) -> query_api::Settings {
        query_api::Settings {
            freshness_limit: Duration::from_millis(self.freshness_limit_ms),
            order_streams_max: self.order_streams_max,
            heartbeat: Duration::from_secs(self.heartbeat_s),
        }
    }

    pub fn terms(&self) -> Arc<Terms> {
        self.terms.clone().unwrap_or_else(crate::terms::built_in)
    }

    pub fn saga_settings(&self) -> sagas::Settings {
        let (limits, patience) = (self.checkout.limits(), self.payments.patience());
        sagas::Settings { limits, patience, reconciliation: self.payments.reconciliation() }
    }
}

/// A whole number within these bounds.
fn whole(bounds: std::ops::RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| format!("expected {} to {}", bounds.start(), bounds.end()))
    }
}

/// How the tools find the instance that they work with.
#[derive(Debug, Clone, Args)]
pub struct Instance {
    /// URL of a running instance [default: the one whose data folder this is]
    #[arg(long, env = "CARTULARY_URL")]
    pub url: Option<String>,
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Debug, Clone, Args)]
pub struct Import {
    #[command(subcommand)]
    pub what: ImportWhat,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ImportWhat {
    /// Products from a file of JSON lines, plain or gzip: in the project's own form (as POST
    /// /v1/products takes it, and `stock`), or in that of Icecat/Chorus. Running it again changes
    /// nothing but what has changed in the file; an interrupted run goes on.
    Catalogue(ImportCatalogue),
    /// Orders, stock movements and products from a CSV file in the form of the UCI Online Retail data set,
    /// plain or gzip, with the times at which they happened. Its commands go straight to the log. Running it
    /// again changes nothing; an interrupted run goes on. Exits with 1 if some rows could not be mapped.
    Orders(ImportOrders),
}

#[derive(Debug, Clone, Args)]
pub struct ImportCatalogue {
    /// The file.
    pub file: PathBuf,
    /// Currency of prices that come without one (Icecat's, in minor units).
    #[arg(long, default_value = "EUR")]
    pub currency: domain::Currency,
    /// Opening stock of products that come without a figure of their own and have no stock yet.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub stock: u32,
    /// Products on their way at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub concurrency: u16,
    #[command(flatten)]
    pub instance: Instance,
}

#[derive(Debug, Clone, Args)]
pub struct ImportOrders {
    /// The file: InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country, with
    /// times in UTC. All of it is kept in memory, some 300 bytes a row; 20 million rows at most.
    pub file: PathBuf,
    /// Currency of all prices.
    #[arg(long, default_value = "GBP")]
    pub currency: domain::Currency,
    /// Commands on their way at a time.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub concurrency: u16,
    /// Leave stock alone: products and orders only.
    #[arg(long)]
    pub no_stock: bool,
    /// Where to list what could not be mapped, as CSV: row, reason, and the row itself [default: the first
    /// 100 in the terminal]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Only read the file, and print as JSON what it would come to, with revenue by country and month.
    #[arg(long)]
    pub dry_run: bool,
    /// The log's nats-server [default: that of the instance whose data folder this is]
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,
    /// Where the log's nats-server tells about itself, such as http://host:8222, to check how it syncs.
    #[arg(long, env = "NATS_MONITORING_URL")]
    pub nats_monitoring_url: Option<String>,
    /// Copies of each message that the log is to have.
    #[arg(long, env = "CARTULARY_LOG_REPLICAS", default_value_t = 1)]
    pub log_replicas: usize,
    /// Write to a log that may lose what is acknowledged.
    #[arg(long, env = "CARTULARY_ACCEPT_UNSAFE_LOG", value_parser = clap::builder::FalseyValueParser::new())]
    pub accept_unsafe_log: bool,
    #[command(flatten)]
    pub instance: Instance,
}

#[derive(Debug, Clone, Args)]
pub struct History {
    #[command(subcommand)]
    pub what: HistoryWhat,
}

#[derive(Debug, Clone, Subcommand)]
pub enum HistoryWhat {
    /// Print events, oldest first.
    Tail(HistoryTail),
}

#[derive(Debug, Clone, Args)]
pub struct HistoryTail {
    /// Only events of this type; `*` stands for anything, as in `order.*`. May be given again.
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Only the events of this stream, such as `order/6f1c0e0a-…` or `stock/KET-01`.
    #[arg(long, value_name = "CATEGORY/ID")]
    pub id: Option<domain::StreamId>,
    /// From this moment on: a log position, a time (2026-11-23, 2026-11-23T10:00:00Z), or how long
    /// ago (90s, 15m, 2h, 7d).
    #[arg(long, value_name = "MOMENT")]
    pub since: Option<Moment>,
    /// Up to this moment, in the same forms.
    #[arg(long, value_name = "MOMENT", conflicts_with = "follow")]
    pub until: Option<Moment>,
    /// Only the last so many of them.
    #[arg(long, value_name = "EVENTS", conflicts_with = "follow")]
    pub last: Option<usize>,
    /// Go on printing as events come, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
    /// One CloudEvents 1.0 object a line.
    #[arg(long)]
    pub json: bool,
    /// With the buyers' personal data, which is left out otherwise.
    #[arg(long)]
    pub personal: bool,
    /// The log's nats-server [default: that of the instance whose data folder this is]
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// URL of a running instance [default: one of its own, in a temporary folder]
    #[arg(long, env = "CARTULARY_URL")]
    pub url: Option<String>,
    /// Data folder of the instance at that URL, where its log's address is found.
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
}
