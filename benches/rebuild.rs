//! Rebuilds over a real history, beside what bounds them: bringing the same rows in, and reading the log.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull};
use futures_util::{StreamExt, TryStreamExt};
use projections::projection::Projection;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::history;
use crate::load::{self, Connection as Http};
use crate::report::{Figure, Plan, Report, Target};
use crate::servers::{Instance, Servers};

const GROUP: &str = "read";

const POLL: Duration = Duration::from_millis(50);

const READS_PER_S: u64 = 500;

pub async fn measure(plan: &Plan, report: &mut Report) {
    let over_history = ["rebuild-orders", "rebuild-all", "cut-over"];
    if over_history.iter().any(|figure| plan.wants(GROUP, figure)) && history::file().is_some() {
        let servers = Servers::start().await;
        history::import(&servers).await;
        if plan.wants(GROUP, "rebuild-orders") {
            rebuild_orders(plan, report, &servers).await;
        }
        if plan.wants(GROUP, "rebuild-all") {
            rebuild_all(plan, report, &servers).await;
        }
        if plan.wants(GROUP, "cut-over") {
            cut_over(plan, report, &servers).await;
        }
        servers.stop().await;
    }
    if plan.wants(GROUP, "rebuild-memory") && history::file().is_some() {
        memory(plan, report).await;
    }
}

/// A process with the projections, whose read models are all up to date.
struct Projections {
    instance: Instance,
    admin: String,
    http: reqwest::Client,
    /// Asks the database how far they are: asking the admin API often would cost more.
    connection: tokio::sync::Mutex<PgConnection>,
}

impl Projections {
    async fn start(servers: &Servers) -> Self {
        let instance = Instance::start(servers, &["query-api", "projections"]).await;
        let admin = instance.admin.clone().expect("an admin API");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let connection = PgConnection::connect(servers.postgres.local_url()).await.expect("Postgres answers");
        let projections = Self { instance, admin, http, connection: connection.into() };
        while projections.status().await.iter().any(|model| model["lag"] != 0) {
            tokio::time::sleep(POLL).await;
        }
        projections
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}/admin/projections{path}", self.admin));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.json().await.expect("JSON")
    }

    async fn status(&self) -> Vec<Value> {
        self.ask(Method::GET, "", None).await["data"].as_array().expect("read models").clone()
    }

    /// Waits until there are no read models in this state.
    async fn none(&self, state: &str) {
        let query = "select exists (select from cartulary.read_models where state = $1)";
        let mut connection = self.connection.lock().await;
        while sqlx::query_scalar(query).bind(state).fetch_one(&mut *connection).await.expect("a row") {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Builds one anew, or all at a time, until they are live; how long that took, and past how many events.
    async fn rebuild(&self, name: Option<&str>) -> (Duration, f64) {
        let began = Instant::now();
        let path = name.map_or_else(|| "/rebuild".to_owned(), |name| format!("/{name}/rebuild"));
        self.ask(Method::POST, &path, Some(json!({"keep_s": 0}))).await;
        self.none("building").await;
        let took = began.elapsed();
        let models = self.status().await;
        let events = models.iter().filter(|model| model["state"] == "live");
        (took, events.filter_map(|model| model["events"].as_f64()).fold(0.0, f64::max))
    }

    /// Until nothing is left of earlier builds, so that nobody follows the log for them.
    async fn settled(&self) {
        for state in ["standby", "retired"] {
            self.none(state).await;
        }
    }
}

async fn rebuild_orders(plan: &Plan, report: &mut Report, servers: &Servers) {
    let figure =
        Figure { group: GROUP, name: "rebuild-orders", unit: "events/s", target: Target::RatioAtLeast(0.4) };
    let projections = Projections::start(servers).await;
    let rows = Rows::of(&projections::orders::Orders, servers).await;
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds().min(3) {
        let copied = rows.copy().await;
        let (took, events) = projections.rebuild(Some("orders")).await;
        projections.settled().await;
        println!(
            "      rebuilt in {:.2} s, rows copied in {:.2} s",
            took.as_secs_f64(),
            copied.as_secs_f64()
        );
        rounds.push((events / took.as_secs_f64(), Some(events / copied.as_secs_f64())));
    }
    report.note(&figure, &rounds);
    projections.instance.stop().await;
}

/// The rows of a projection's live read model, in memory.
struct Rows {
    connection: tokio::sync::Mutex<PgConnection>,
    definition: String,
    indexes: String,
    tables: Vec<(String, Vec<bytes::Bytes>)>,
}

impl Rows {
    async fn of(projection: &dyn Projection, servers: &Servers) -> Self {
        let mut connection =
            PgConnection::connect(servers.postgres.local_url()).await.expect("Postgres answers");
        let live = "select projection || '_v' || version from cartulary.read_models where projection = $1 and state = 'live'";
        let schema: String = sqlx::query_scalar(live)
            .bind(projection.name())
            .fetch_one(&mut connection)
            .await
            .expect("a live one");
        let mut tables = Vec::new();
        for (table, _) in projection.tables() {
            let out = format!("copy {schema}.{table} to stdout (format binary)");
            let rows = connection.copy_out_raw(&out).await.expect("rows").try_collect().await.expect("rows");
            tables.push(((*table).to_owned(), rows));
        }
        let (definition, indexes) = (projection.definition().to_owned(), projection.indexes().join("; "));
        Self { connection: connection.into(), definition, indexes, tables }
    }

    /// Brings them into tables like those they are from; how long that takes.
    async fn copy(&self) -> Duration {
        let mut connection = self.connection.lock().await;
        let begin = format!(
            "drop schema if exists bench cascade; create schema bench; set search_path = bench, public;
             set synchronous_commit = off; {}",
            self.definition
        );
        connection.execute(AssertSqlSafe(begin)).await.expect("tables");
        let began = Instant::now();
        for (table, rows) in &self.tables {
            let statement = format!("copy {table} from stdin (format binary)");
            let mut copying = connection.copy_in_raw(&statement).await.expect("it begins");
            for chunk in rows {
                copying.send(chunk.as_ref()).await.expect("it goes on");
            }
            copying.finish().await.expect("it ends");
        }
        connection.execute(AssertSqlSafe(self.indexes.clone())).await.expect("indexes");
        let took = began.elapsed();
        connection.execute("drop schema bench cascade").await.expect("dropped");
        took
    }
}

async fn rebuild_all(plan: &Plan, report: &mut Report, servers: &Servers) {
    let figure =
        Figure { group: GROUP, name: "rebuild-all", unit: "events/s", target: Target::RatioAtLeast(0.25) };
    let projections = Projections::start(servers).await;
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds().min(3) {
        let read = read_only(servers).await;
        let (took, events) = projections.rebuild(None).await;
        projections.settled().await;
        println!(
            "      all rebuilt in {:.2} s, the log read in {:.2} s",
            took.as_secs_f64(),
            read.as_secs_f64()
        );
        rounds.push((events / took.as_secs_f64(), Some(events / read.as_secs_f64())));
    }
    report.note(&figure, &rounds);
    projections.instance.stop().await;
}

/// Reads the whole log through an ordered consumer without a filter, and does nothing with it.
async fn read_only(servers: &Servers) -> Duration {
    let connection = infra::nats::connect(&servers.nats_url).await.expect("nats-server answers");
    let stream = jetstream::new(connection.client).get_stream("EVENTS").await.expect("the log");
    let messages = stream.cached_info().state.messages;
    let began = Instant::now();
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.expect("a consumer");
    let mut read = consumer.messages().await.expect("messages");
    for _ in 0..messages {
        std::hint::black_box(read.next().await.expect("a message").expect("a message"));
    }
    began.elapsed()
}

/// The longest read around the switch to another read model, and the longest of the minute before.
async fn cut_over(plan: &Plan, report: &mut Report, servers: &Servers) {
    let figure = Figure { group: GROUP, name: "cut-over", unit: "ms", target: Target::MoreAtMost(100.0) };
    let projections = Projections::start(servers).await;
    let before = Duration::from_secs(if plan.quick { 10 } else { 60 });
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds().min(3) {
        let began = Instant::now();
        let address = projections.instance.address.clone();
        let enough = std::cell::Cell::new(None::<Instant>);
        let reads = std::cell::RefCell::new(Vec::new());
        let reading = futures_util::future::join_all((0..10).map(|client| {
            let (address, enough, reads) = (&address, &enough, &reads);
            async move {
                let mut http = Http::open(address).await;
                for number in (client..).step_by(10) {
                    let due = began + Duration::from_secs_f64(number as f64 / READS_PER_S as f64);
                    if enough.get().is_some_and(|enough| due > enough) {
                        return;
                    }
                    tokio::time::sleep_until(due.into()).await;
                    let path = if number % 2 == 0 {
                        "/v1/products?limit=20"
                    } else {
                        "/v1/search?q=holder&limit=10"
                    };
                    let sent = Instant::now();
                    http.send(&load::get(path)).await;
                    reads.borrow_mut().push((sent, sent.elapsed()));
                }
            }
        }));
        let switching = async {
            tokio::time::sleep(before).await;
            projections.rebuild(None).await;
            let switched = Instant::now();
            enough.set(Some(switched + Duration::from_secs(2)));
            switched
        };
        let (_, switched) = tokio::join!(reading, switching);
        let near = switched - Duration::from_secs(1);
        let longest = |wanted: &dyn Fn(Instant) -> bool| {
            let reads = reads.borrow();
            let wanted = reads.iter().filter(|(sent, took)| wanted(*sent + *took));
            wanted.map(|(_, took)| took.as_secs_f64() * 1e3).fold(0.0, f64::max)
        };
        rounds.push((longest(&|at| at >= near), Some(longest(&|at| at < near))));
        projections.settled().await;
    }
    report.note(&figure, &rounds);
    projections.instance.stop().await;
}

/// The most memory that a process has had which builds everything, over a history and over a longer one.
async fn memory(plan: &Plan, report: &mut Report) {
    let figure =
        Figure { group: GROUP, name: "rebuild-memory", unit: "MB", target: Target::RatioAtMost(1.1) };
    let times = if plan.quick { 3 } else { 10 };
    let mut most = Vec::new();
    for times in [1, times] {
        let servers = Servers::start().await;
        history::import(&servers).await;
        history::repeat(&servers, times).await;
        // Everything is built from the log's beginning when it starts, and again after that.
        let projections = Projections::start(&servers).await;
        let (took, events) = projections.rebuild(None).await;
        println!("      {events:.0} events in {:.1} s", took.as_secs_f64());
        most.push(projections.instance.memory_most_mb());
        projections.instance.stop().await;
        servers.stop().await;
    }
    report.note(&figure, &[(most[1], Some(most[0]))]);
}
