//! Whether the process lives, and whether it can do its work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use infra::http::Problem;
use infra::log::EventLog;
use infra::writer::Writer;
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::watch;
use utoipa::ToSchema;

/// How long the log or the database may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long a reader of the log may stand still while there is more to read: longer than a saga waits
/// for a provider that doesn't answer.
const STANDSTILL_LIMIT: Duration = Duration::from_secs(30);

/// What readiness depends on.
pub struct Health {
    log: Arc<dyn EventLog>,
    pool: PgPool,
    readers: Vec<Reader>,
    writer: Writer,
    /// Why the log is not safe to work on, if it isn't.
    unsafe_log: Vec<String>,
}

/// Somebody who follows the log.
struct Reader {
    name: &'static str,
    look: Box<dyn Fn() -> (u64, Option<String>) + Send + Sync>,
    progress: Mutex<Progress>,
}

/// When it was last seen to move, and whether it ever came to the end.
struct Progress {
    position: u64,
    moved_at: Instant,
    caught_up: bool,
}

/// That it lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    status: &'static str,
}

/// That it can do its work, and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    status: &'static str,
    /// Last position of the log.
    log_position: u64,
    /// Position of each reader of the log in this process.
    readers: BTreeMap<&'static str, u64>,
}

impl Health {
    pub fn new(pool: PgPool, writer: Writer, unsafe_log: Vec<String>) -> Self {
        Self { log: writer.log().clone(), pool, readers: Vec::new(), writer, unsafe_log }
    }

    pub fn watch_projection(&mut self, name: &'static str, status: watch::Receiver<projections::Status>) {
        self.watch(name, move || {
            let status = status.borrow();
            (status.position, status.stopped.clone())
        });
    }

    pub fn watch_sagas(&mut self, status: watch::Receiver<sagas::runner::Status>) {
        self.watch(sagas::runner::READER, move || {
            let status = status.borrow();
            (status.position, status.stopped.clone())
        });
    }

    fn watch(
        &mut self,
        name: &'static str,
        look: impl Fn() -> (u64, Option<String>) + Send + Sync + 'static,
    ) {
        let progress = Mutex::new(Progress { position: 0, moved_at: Instant::now(), caught_up: false });
        self.readers.push(Reader { name, look: Box::new(look), progress });
    }

    async fn check(&self) -> Result<Ready, Vec<String>> {
        let end = tokio::time::timeout(ANSWER_LIMIT, self.log.end());
        let database = tokio::time::timeout(ANSWER_LIMIT, sqlx::query("select 1").execute(&self.pool));
        let (end, database) = tokio::join!(end, database);
        let mut reasons = self.unsafe_log.clone();
        reasons.extend(self.writer.trouble());
        let end = match end {
            Ok(Ok(end)) => Some(end),
            Ok(Err(error)) => {
                reasons.push(error.to_string());
                None
            }
            Err(_) => {
                reasons.push("the log does not answer".to_owned());
                None
            }
        };
        match database {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => reasons.push(format!("the database does not answer: {error}")),
            Err(_) => reasons.push("the database does not answer".to_owned()),
        }
        let positions: BTreeMap<_, _> =
            self.readers.iter().map(|reader| (reader.name, (reader.look)().0)).collect();
        if let Some(end) = end {
            reasons.extend(self.readers.iter().filter_map(|reader| reader.trouble(end)));
        }
        match (end, reasons.is_empty()) {
            (Some(log_position), true) => Ok(Ready { status: "ready", log_position, readers: positions }),
            _ => Err(reasons),
        }
    }
}

impl Reader {
    /// Why it does not follow the log, if it does not.
    fn trouble(&self, end: u64) -> Option<String> {
        let (position, stopped) = (self.look)();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if position > progress.position || position >= end {
            progress.position = position;
            progress.moved_at = Instant::now();
        }
        progress.caught_up |= position >= end;
        let name = self.name;
        if let Some(reason) = stopped {
            return Some(format!("{name} stopped at position {position}: {reason}"));
        }
        if progress.moved_at.elapsed() > STANDSTILL_LIMIT {
            return Some(format!("{name} stands still at position {position} of {end}"));
        }
        (!progress.caught_up).then(|| format!("{name} is catching up, at position {position} of {end}"))
    }
}

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "operating",
    responses((status = 200, description = "It is", body = Alive)))]
pub async fn healthz() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Can it do its work?
#[utoipa::path(get, path = "/readyz", tag = "operating",
    responses((status = 200, description = "It can", body = Ready),
        (status = 503, description = "`not_ready` with `reasons`", body = Problem)))]
pub async fn readyz(State(health): State<Arc<Health>>) -> Response {
    match health.check().await {
        Ok(ready) => Json(ready).into_response(),
        Err(reasons) => {
            let detail = reasons.join("; ");
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail);
            problem.retry_after(1).with("reasons", reasons).into_response()
        }
    }
}

/// Waits until the instance says that it's ready.
///
/// # Errors
/// It does not within two minutes.
pub async fn wait_until_ready(url: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = client.get(format!("{url}/readyz")).send().await;
        let trouble = match answer {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(Instant::now() < deadline, "the shop does not become ready: {trouble}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
