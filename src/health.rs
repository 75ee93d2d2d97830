//! Whether the process lives, and whether it can do its work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use infra::http::Problem;
use infra::lanes::Status;
use infra::log::EventLog;
use infra::writer::Writer;
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;

/// How long the log or the database may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A reader that needs no longer to where the log's end was has caught up: while commands come, its very end is out of
/// reach.
const CLOSE: Duration = Duration::from_secs(15);

/// What readiness depends on.
pub struct Health {
    log: Arc<dyn EventLog>,
    pool: PgPool,
    readers: Vec<Box<dyn Fn() -> Vec<Reader> + Send + Sync>>,
    progress: Mutex<BTreeMap<String, Progress>>,
    writer: Writer,
    /// Why the log is not safe to work on, if it isn't.
    unsafe_log: Vec<String>,
    /// How long a reader of the log may stand still while there is more to read.
    standstill_limit: Duration,
}

/// Somebody who follows the log: how far, and why no farther.
struct Reader {
    name: &'static str,
    /// Which share of its work it is.
    lane: String,
    status: Status,
}

impl Reader {
    fn not_known_yet(name: &'static str) -> Self {
        let stopped = Some("it is not known yet which lanes are this process's".to_owned());
        Self { name, lane: name.to_owned(), status: Status { position: 0, stopped } }
    }
}

/// When it was last seen to move, and whether it ever came close to the end.
struct Progress {
    position: u64,
    moved_at: Instant,
    /// An end of the log that it is on its way to, and when that was the end.
    goal: u64,
    goal_at: Instant,
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
    pub fn new(pool: PgPool, writer: Writer, unsafe_log: Vec<String>, standstill_limit: Duration) -> Self {
        let (log, progress) = (writer.log().clone(), Mutex::default());
        Self { log, pool, readers: Vec::new(), progress, writer, unsafe_log, standstill_limit }
    }

    /// Looks at the lanes of the live read models that this process works on.
    pub fn watch_projections(&mut self, worker: Arc<projections::Worker>) {
        self.readers.push(Box::new(move || {
            let Some(statuses) = worker.statuses() else { return vec![Reader::not_known_yet("projections")] };
            statuses.into_iter().map(|(name, lane, status)| Reader { name, lane, status }).collect()
        }));
    }

    /// Looks at the lanes of another reader that this process works on.
    pub fn watch(
        &mut self,
        name: &'static str,
        statuses: impl Fn() -> Option<Vec<(i32, Status)>> + Send + Sync + 'static,
    ) {
        self.readers.push(Box::new(move || {
            let Some(statuses) = statuses() else { return vec![Reader::not_known_yet(name)] };
            let reader = |(lane, status)| Reader { name, lane: format!("{name}/{lane}"), status };
            statuses.into_iter().map(reader).collect()
        }));
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
        let readers: Vec<Reader> = self.readers.iter().flat_map(|look| look()).collect();
        if let Some(end) = end {
            reasons.extend(self.troubles(&readers, end));
        }
        let mut positions = BTreeMap::new();
        for Reader { name, status, .. } in readers {
            let lowest = positions.entry(name).or_insert(status.position);
            *lowest = status.position.min(*lowest);
        }
        match (end, reasons.is_empty()) {
            (Some(log_position), true) => Ok(Ready { status: "ready", log_position, readers: positions }),
            _ => Err(reasons),
        }
    }

    fn troubles(&self, readers: &[Reader], end: u64) -> Vec<String> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        // A lane that went to another process and comes back begins anew.
        progress.retain(|lane, _| readers.iter().any(|reader| reader.lane == *lane));
        let troubles = readers.iter().filter_map(|reader| {
            progress.entry(reader.lane.clone()).or_insert_with(|| Progress::new(end)).trouble(
                reader,
                end,
                self.standstill_limit,
            )
        });
        troubles.collect()
    }
}

impl Progress {
    fn new(end: u64) -> Self {
        let now = Instant::now();
        Self { position: 0, moved_at: now, goal: end, goal_at: now, caught_up: false }
    }

    /// Why the reader does not follow the log, if it does not.
    fn trouble(&mut self, reader: &Reader, end: u64, standstill_limit: Duration) -> Option<String> {
        let Reader { lane: name, status: Status { position, stopped }, .. } = reader;
        if *position > self.position || *position >= end {
            self.position = *position;
            self.moved_at = Instant::now();
        }
        if *position >= self.goal {
            self.caught_up |= *position >= end || self.goal_at.elapsed() <= CLOSE;
            (self.goal, self.goal_at) = (end, Instant::now());
        }
        if let Some(reason) = stopped {
            return Some(format!("{name} stopped at position {position}: {reason}"));
        }
        if self.moved_at.elapsed() > standstill_limit {
            return Some(format!("{name} stands still at position {position} of {end}"));
        }
        (!self.caught_up).then(|| format!("{name} is catching up, at position {position} of {end}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(progress: &mut Progress, position: u64, end: u64) -> Option<String> {
        let status = Status { position, stopped: None };
        let reader = Reader { name: "sagas", lane: "sagas/0".to_owned(), status };
        progress.trouble(&reader, end, Duration::from_secs(60))
    }

    #[test]
    fn who_follows_closely_has_caught_up_though_it_never_sees_the_end() {
        let mut progress = Progress::new(100);
        assert!(trouble(&mut progress, 90, 110).is_some());
        assert_eq!(trouble(&mut progress, 100, 120), None);
        assert_eq!(trouble(&mut progress, 110, 1_000), None, "once is enough");
    }

    #[test]
    fn who_needed_long_is_on_its_way_to_the_next_end() {
        let mut progress = Progress::new(100);
        progress.goal_at = Instant::now().checked_sub(2 * CLOSE).expect("the machine runs for longer");
        assert!(trouble(&mut progress, 100, 10_000).is_some());
        assert!(trouble(&mut progress, 9_999, 10_100).is_some());
        assert_eq!(trouble(&mut progress, 10_000, 10_100), None);
    }
}
