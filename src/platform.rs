//! The platform, put together: which role gets what, and in which order things start and end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use command_api::CommandApi;
use infra::clock::Clock;
use infra::execute::{Executor, Executors};
use infra::feed::Feed;
use infra::log::{EventLog, JetStreamLog, LogSettings};
use infra::nats::Connection;
use infra::payment::stripe::webhook::Webhooks;
use infra::payment::{Providers, Sandbox};
use infra::read_models::ReadModels;
use infra::snapshots::{JetStreamSnapshots, Snapshots};
use infra::timers::{JetStreamTimers, Timers};
use infra::writer::Writer;
use query_api::QueryApi;
use sagas::Sagas;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{self, Role};
use crate::health::Health;

const USUAL_PORT: u16 = 8080;
const USUAL_ADMIN_PORT: u16 = 8081;

/// Roles that operators look after.
const OPERATED: [Role; 3] = [Role::Projections, Role::Sagas, Role::Webhooks];

/// How long requests under way may take to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A running platform.
pub struct Platform {
    /// Where its HTTP APIs listen.
    pub address: SocketAddr,
    /// Where its admin API listens, if it has one.
    pub admin_address: Option<SocketAddr>,
    /// Whether the log had no commits when it started.
    pub log_was_empty: bool,
    /// Why the log is not safe to work on, if it isn't; then commands are refused, and nothing else
    /// is done with it.
    pub unsafe_log: Vec<String>,
    pool: PgPool,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    workers: JoinSet<()>,
    /// Those who have lanes, which they give back.
    sharing: JoinSet<()>,
}

/// What all roles share.
struct Shared {
    log: Arc<dyn EventLog>,
    feed: Arc<Feed>,
    timers: JetStreamTimers,
    sandbox: Option<Sandbox>,
    providers: Providers,
    stripe_webhooks: Option<Arc<Webhooks>>,
    pool: PgPool,
    clock: Clock,
    writer: Writer,
    snapshots: Arc<dyn Snapshots>,
    executors: Arc<Executors>,
    read_models: Arc<ReadModels>,
    builds: projections::Builds,
    projections: Option<Arc<projections::Worker>>,
    sagas: Option<Arc<sagas::Worker>>,
    webhooks: Option<Arc<webhooks::Worker>>,
    /// What the secrets of webhooks are sealed with.
    webhook_keys: webhooks::Keys,
    unsafe_log: Vec<String>,
    /// Becomes true when the platform is to stop.
    stopped: watch::Receiver<bool>,
}

impl Platform {
    /// Starts the roles on servers that run already.
    ///
    /// # Errors
    /// The log or the database does not answer, or the port is taken.
    pub async fn start(
        options: &config::Platform,
        nats_url: &str,
        database_url: &str,
        roles: &[Role],
    ) -> anyhow::Result<Self> {
        crate::limits::raise_open_files();
        let (stop, stopped) = watch::channel(false);
        crate::metrics::begin();
        let mut shared = Shared::open(options, nats_url, database_url, stopped.clone()).await?;
        let log_was_empty = shared.log.end().await? == 0;
        let mut health = Health::new(
            shared.pool.clone(),
            shared.writer.clone(),
            shared.unsafe_log.clone(),
            Duration::from_secs(options.standstill_limit_s),
        );
        let mut workers = JoinSet::new();
        let mut router = utoipa_axum::router::OpenApiRouter::with_openapi(crate::serve::description());
        for role in [Role::CommandApi, Role::QueryApi, Role::Projections, Role::Sagas, Role::Webhooks] {
            if roles.contains(&role) {
                router = shared.start_role(role, options, router, &mut workers, &mut health).await?;
            }
        }
        let mut sharing = JoinSet::new();
        if let Some(worker) = shared.projections.take() {
            let stopped = stopped.clone();
            sharing.spawn(async move { worker.run(stopped).await });
        }
        if let Some(worker) = shared.sagas.take() {
            let stopped = stopped.clone();
            sharing.spawn(async move { worker.run(stopped).await });
        }
        if let Some(worker) = shared.webhooks.take() {
            let stopped = stopped.clone();
            sharing.spawn(async move { worker.run(stopped).await });
        }
        let read_models = shared.read_models.clone();
        workers.spawn(async move { read_models.run().await });
        workers.spawn(crate::metrics::run());
        let admin = match roles.iter().any(|role| OPERATED.contains(role)) {
            true => Some(listen(options.admin_host, options.admin_port, USUAL_ADMIN_PORT).await?),
            false => None,
        };
        let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose()?;
        if let Some(listener) = admin {
            let (pool, log, rules) = (shared.pool.clone(), shared.log.clone(), options.webhooks.rules());
            let endpoints = webhooks::Endpoints::new(pool, log, rules, shared.webhook_keys.clone());
            let app = crate::serve::admin_app(shared.builds.clone(), endpoints);
            workers.spawn(async move {
                if let Err(error) = axum::serve(listener, app).await {
                    tracing::error!(%error, "the admin API ended");
                }
            });
        }
        let listener = listen(options.host, options.port, USUAL_PORT).await?;
        let address = listener.local_addr()?;
        let app = crate::serve::app(router, Arc::new(health));
        let server = tokio::spawn(async move {
            let stopped = async move {
                let mut stopped = stopped;
                // If the sender is gone, so is the platform.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            axum::serve(listener, app).with_graceful_shutdown(stopped).await
        });
        let Shared { pool, unsafe_log, .. } = shared;
        Ok(Self { address, admin_address, log_was_empty, unsafe_log, pool, stop, server, workers, sharing })
    }

    /// `http://127.0.0.1:8080`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://127.0.0.1:8081`, if it has an admin API.
    pub fn admin_url(&self) -> Option<String> {
        self.admin_address.map(|address| format!("http://{address}"))
    }

    /// Ends what's under way, then the workers. What they had not finished is done again later:
    /// the log and the checkpoints say what it is.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(DRAIN_LIMIT, self.server).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        // Lanes are given back, so that nobody waits for them.
        let given_back = async { while self.sharing.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_LIMIT, given_back).await.is_err() {
            tracing::warn!("the projections, the sagas or the webhooks did not end in time");
        }
        self.sharing.shutdown().await;
        self.workers.shutdown().await;
        self.pool.close().await;
    }
}

impl Shared {
    async fn open(
        options: &config::Platform,
        nats_url: &str,
        database_url: &str,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let webhook_keys = options.webhooks.keys().context("CARTULARY_WEBHOOKS_KEY is not of its form")?;
        let connection = connect_nats(nats_url).await?;
        let settings =
            LogSettings { replicas: options.log_replicas, bytes_max: options.log_bytes_max.unwrap_or(-1) };
        let jetstream = JetStreamLog::open(connection, &settings).await?;
        let timers = JetStreamTimers::open(jetstream.connection().clone(), options.log_replicas).await?;
        let snapshots = JetStreamSnapshots::open(jetstream.context(), options.log_replicas).await?;
        let snapshots: Arc<dyn Snapshots> = Arc::new(snapshots);
        let pool = connect_postgres(database_url, options.database_connections_max).await?;
        let all = projections::all();
        projections::set_up(&all, &pool).await.context("the read models' tables can't be made")?;
        webhooks::set_up(&pool).await.context("the webhooks' tables can't be made")?;
        let unsafe_log = crate::safety::reasons(options, &settings, &jetstream, &pool).await?;
        let (log, clock): (Arc<dyn EventLog>, _) = (Arc::new(jetstream), Clock::system());
        let shared_timers: Arc<dyn Timers> = Arc::new(timers.clone());
        let sandbox = match options.payments.sandbox.unwrap_or(false) {
            true => Some(Sandbox::open(pool.clone(), clock.clone(), shared_timers.clone()).await?),
            false => None,
        };
        let (providers, stripe_webhooks) =
            crate::providers::open(&options.payments, sandbox.clone(), &shared_timers, &clock)?;
        let (writer, executors) =
            execute_on(&log, &snapshots, &clock, options.writer_settings(), &options.execute_settings());
        let feed = Feed::new(log.clone());
        let read_models = Arc::new(ReadModels::new(pool.clone(), projections::codes()));
        let builds = projections::Builds::new(all, feed.clone(), pool.clone());
        Ok(Self {
            log,
            feed,
            timers,
            sandbox,
            providers,
            stripe_webhooks,
            pool,
            clock,
            writer,
            snapshots,
            executors,
            read_models,
            builds,
            projections: None,
            sagas: None,
            webhooks: None,
            webhook_keys,
            unsafe_log,
            stopped,
        })
    }

    async fn start_role(
        &mut self,
        role: Role,
        options: &config::Platform,
        router: utoipa_axum::router::OpenApiRouter,
        workers: &mut JoinSet<()>,
        health: &mut Health,
    ) -> anyhow::Result<utoipa_axum::router::OpenApiRouter> {
        Ok(match role {
            Role::CommandApi => {
                let (feed, executors) = (self.feed.clone(), self.executors.clone());
                let providers = self.providers.clone();
                if providers.names().is_empty() {
                    tracing::warn!(
                        "nobody can pay here: set CARTULARY_STRIPE_API_KEY, or, to try things out, CARTULARY_SANDBOX=true"
                    );
                }
                let (read_models, clock) = (self.read_models.clone(), self.clock.clone());
                let api = CommandApi::new(feed, executors, read_models, providers, options.terms(), clock);
                let api = Arc::new(api.with_webhooks(self.stripe_webhooks.clone()));
                let worker = api.clone();
                workers.spawn(async move { worker.run().await });
                let mut commands = command_api::router(api);
                if let Some(sandbox) = self.sandbox.clone() {
                    commands = commands.merge(crate::sandbox::router(sandbox));
                }
                router.merge(match self.unsafe_log.is_empty() {
                    true => commands,
                    false => crate::serve::refuse(commands),
                })
            }
            Role::QueryApi => {
                let api = Arc::new(QueryApi::new(
                    self.pool.clone(),
                    self.read_models.clone(),
                    self.feed.clone(),
                    &options.query_settings(),
                    options.terms(),
                    self.clock.clone(),
                    self.stopped.clone(),
                ));
                let looking = api.clone();
                workers.spawn(async move { looking.run().await });
                router.merge(query_api::router(api))
            }
            // Over another log, they would skip what is in it, or do again what was done.
            Role::Projections | Role::Sagas | Role::Webhooks if !self.unsafe_log.is_empty() => router,
            Role::Projections => {
                let worker =
                    Arc::new(projections::Worker::new(self.builds.clone()).telling(self.read_models.clone()));
                health.watch_projections(worker.clone());
                self.projections = Some(worker);
                router
            }
            Role::Sagas => {
                self.start_sagas(options, health).await?;
                router
            }
            Role::Webhooks => {
                let keys = self.webhook_keys.clone();
                webhooks::seal_all(&keys, &self.pool).await.context("no webhook can be signed")?;
                let (feed, pool, clock) = (self.feed.clone(), self.pool.clone(), self.clock.clone());
                let worker = webhooks::Worker::new(feed, pool, clock, options.webhooks.settings(keys));
                let worker = Arc::new(worker);
                let watched = worker.clone();
                health.watch(webhooks::worker::READER, move || watched.statuses());
                self.webhooks = Some(worker);
                router
            }
        })
    }

    async fn start_sagas(&mut self, options: &config::Platform, health: &mut Health) -> anyhow::Result<()> {
        let checkouts =
            Executor::new(&self.writer, &self.snapshots, &self.clock, &options.execute_settings());
        let sagas = Sagas {
            feed: self.feed.clone(),
            clock: self.clock.clone(),
            executors: self.executors.clone(),
            checkouts,
            providers: self.providers.clone(),
            timers: Arc::new(self.timers.clone()),
            settings: options.saga_settings(),
            index: sagas::Index::default(),
        };
        let worker = Arc::new(sagas::Worker::new(sagas, self.pool.clone(), self.timers.clone()));
        let watched = worker.clone();
        health.watch(sagas::worker::READER, move || watched.statuses());
        self.sagas = Some(worker);
        Ok(())
    }
}

/// Execute on a log: one writer, and the executors that share it.
pub fn execute_on(
    log: &Arc<dyn EventLog>,
    snapshots: &Arc<dyn Snapshots>,
    clock: &Clock,
    writer: infra::writer::Settings,
    settings: &infra::execute::Settings,
) -> (Writer, Arc<Executors>) {
    let writer = Writer::new(log.clone(), writer);
    let executors = Arc::new(Executors::new(&writer, snapshots, clock, settings));
    (writer, executors)
}

/// Connects to nats-server; later outages are waited out.
///
/// # Errors
/// It can't be reached now.
pub async fn connect_nats(url: &str) -> anyhow::Result<Connection> {
    let connection = infra::nats::connect(url).await;
    connection.with_context(|| format!("nats-server can't be reached at {}", without_password(url)))
}

async fn connect_postgres(url: &str, connections_max: u32) -> anyhow::Result<PgPool> {
    let options: PgConnectOptions = url.parse().context("DATABASE_URL is not of its form")?;
    let options = options.application_name("cartulary");
    let pool = PgPoolOptions::new()
        .max_connections(connections_max)
        // A connection that broke shows at its first query; a ping before each costs a tenth.
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await;
    pool.with_context(|| format!("Postgres can't be reached at {}", without_password(url)))
}

/// `nats://user:password@host:port` → `nats://host:port`
pub fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
        }
        None => url.to_owned(),
    }
}

/// On the port asked for, or on the usual one, or on any that's free.
async fn listen(host: IpAddr, asked: Option<u16>, usual: u16) -> anyhow::Result<TcpListener> {
    let port = asked.unwrap_or(usual);
    match (TcpListener::bind((host, port)).await, asked) {
        (Ok(listener), _) => Ok(listener),
        (Err(_), None) => {
            tracing::info!("port {usual} is taken, taking another");
            Ok(TcpListener::bind((host, 0)).await?)
        }
        (Err(error), Some(_)) => Err(error).with_context(|| format!("port {port} of {host} can't be taken")),
    }
}
