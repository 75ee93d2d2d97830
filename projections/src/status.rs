//! What operators want to know of read models: which there are, how far, how fast, and whose.

use chrono::{DateTime, Utc};
use infra::log::EventLog;
use infra::read_models::schema;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use utoipa::ToSchema;

use crate::builds::Error;

/// A read model and how far it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReadModelStatus {
    #[schema(example = "orders")]
    pub projection: String,
    /// Schema of its tables.
    #[schema(example = "orders_v7")]
    pub schema: String,
    pub version: i32,
    /// Version of the projection's code that fills it.
    pub code: i32,
    /// building, verifying, live, standby or retired
    pub state: String,
    pub state_since: DateTime<Utc>,
    pub started_at: DateTime<Utc>,
    /// When a standby is dropped.
    pub kept_until: Option<DateTime<Utc>>,
    /// inserting, indexing, catching up or following
    pub phase: String,
    /// Its rows are those of the log up to here.
    pub position: u64,
    /// Last position of the log.
    pub log_position: u64,
    /// Commits that it has not come to yet.
    pub lag: u64,
    /// How long the oldest of them has been in the log.
    pub lag_s: f64,
    /// Events that it has come by since it was begun.
    pub events: u64,
    /// While it is being built.
    pub events_per_s: Option<f64>,
    /// Seconds until it has caught up, if it goes on like this.
    pub eta_s: Option<f64>,
    pub lanes: Vec<LaneStatus>,
    /// Orders, SKUs and the like whose events are set aside, because one of them can't be applied.
    pub set_aside: i64,
    /// Events in forms that are newer than the code that applied them, by type.
    pub newer_events: Vec<String>,
    /// What came out of its comparison with the live one.
    pub note: Option<String>,
}

/// A share of the work on a read model.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LaneStatus {
    pub lane: i32,
    pub position: u64,
    /// Process that works on it; none, if nobody does.
    #[schema(example = "shop-1:4711")]
    pub holder: Option<String>,
    pub moved_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct Row {
    projection: String,
    version: i32,
    code: i32,
    state: String,
    state_since: DateTime<Utc>,
    started_at: DateTime<Utc>,
    kept_until: Option<DateTime<Utc>>,
    is_indexed: bool,
    note: Option<String>,
    now: DateTime<Utc>,
    lane: i32,
    position: i64,
    events: i64,
    holder: Option<String>,
    moved_at: DateTime<Utc>,
    set_aside: i64,
    newer_events: Vec<String>,
}

/// All read models, or those of one projection.
///
/// # Errors
/// The log or Postgres does not answer.
pub async fn all(
    pool: &PgPool,
    log: &dyn EventLog,
    projection: Option<&str>,
) -> Result<Vec<ReadModelStatus>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select projection, version, code, state, state_since, started_at, note, clock_timestamp() as now,
                case when state = 'standby' then state_since + make_interval(secs => keep_s) end as kept_until,
                indexed_at is not null as is_indexed, lane, position, events, moved_at,
                (select name from cartulary.workers where id = holder) as holder,
                (select count(*) from cartulary.parked as p where p.reader = lanes.reader) as set_aside,
                array(select kind || ' ' || schema from cartulary.newer_events as n
                      where n.reader = lanes.reader order by 1) as newer_events
         from cartulary.read_models join cartulary.lanes on reader = projection || '_v' || version
         where state <> 'retired' and ($1::text is null or projection = $1)
         order by projection, version, lane",
    )
    .bind(projection)
    .fetch_all(pool)
    .await?;
    // After the positions, or one of them might be beyond it.
    let end = log.end().await?;
    let mut all = Vec::new();
    for lanes in rows.chunk_by(|a, b| (&a.projection, a.version) == (&b.projection, b.version)) {
        all.extend(one(lanes, end, log).await);
    }
    Ok(all)
}

async fn one(lanes: &[Row], end: u64, log: &dyn EventLog) -> Option<ReadModelStatus> {
    let row = lanes.first()?;
    let position = lanes.iter().map(|lane| lane.position).min()?.cast_unsigned();
    let events = lanes.iter().map(|lane| lane.events).max()?.cast_unsigned();
    let lag = end.saturating_sub(position);
    let is_built = row.state == "building" || row.state == "verifying";
    let seconds = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).as_seconds_f64().max(0.001);
    let per_second = |count: u64| count as f64 / seconds(row.started_at, row.now);
    let phase = match (row.is_indexed, lag) {
        (false, _) if is_built => "inserting",
        (_, 0) => "following",
        _ => "catching up",
    };
    let lag_s = match lag {
        0 => 0.0,
        // An unreadable commit has no time; what there is of lag shows in positions.
        _ => match log.read(position + 1).await {
            Ok(Some(next)) => (row.now - next.commit.recorded_at).as_seconds_f64().max(0.0),
            _ => 0.0,
        },
    };
    let lane = |lane: &Row| LaneStatus {
        lane: lane.lane,
        position: lane.position.cast_unsigned(),
        holder: lane.holder.clone(),
        moved_at: lane.moved_at,
    };
    Some(ReadModelStatus {
        projection: row.projection.clone(),
        schema: schema(&row.projection, row.version),
        version: row.version,
        code: row.code,
        state: row.state.clone(),
        state_since: row.state_since,
        started_at: row.started_at,
        kept_until: row.kept_until,
        phase: phase.to_owned(),
        position,
        log_position: end,
        lag,
        lag_s,
        events,
        events_per_s: is_built.then(|| per_second(events)),
        eta_s: (is_built && position > 0).then(|| lag as f64 / per_second(position)),
        lanes: lanes.iter().map(lane).collect(),
        set_aside: row.set_aside,
        newer_events: row.newer_events.clone(),
        note: row.note.clone(),
    })
}
