//! The life of an order as it happens, as server-sent events (html.spec.whatwg.org, 9.2).
//!
//! What is shown always comes from the log, read by the order's own streams: what a stream holds in memory is
//! where it has come to, however slow its reader is. The one follower of the process only says up to
//! where there is something to read, so there is no seam between what was and what comes at which
//! something could be missing or come twice.

mod life;
mod live;
mod message;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use domain::OrderId;
use infra::http::{Path, Problem, Query, log_position};
use projections::orders;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use utoipa::IntoParams;

use crate::QueryApi;
use crate::answer::{Asked, Missing, PRIVATE, unavailable};
use life::Life;
pub(crate) use live::Live;
use message::{OrderEvent, Place, Stream};

/// How soon to come again when there is no room for another stream.
const FULL_RETRY_S: u32 = 10;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx to hand on what comes as it comes.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The streams of a process.
#[derive(Debug)]
pub(crate) struct Streams {
    pub live: Arc<Live>,
    places: Arc<Semaphore>,
    heartbeat: Duration,
    stopped: watch::Receiver<bool>,
}

impl Streams {
    /// At most so many are open at a time; all end when the process is to stop.
    pub fn new(most: usize, heartbeat: Duration, stopped: watch::Receiver<bool>) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { live: Arc::default(), places, heartbeat, stopped }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamQuery {
    /// As the header `Last-Event-ID`, for clients that can't send it; the header counts if both are there.
    #[serde(rename = "lastEventId")]
    last_event_id: Option<String>,
}

/// Follow an order as things happen to it
///
/// Server-sent events: the id is `<position>.<index>`, the event's name its type, the data an
/// `OrderEvent`. Without `Last-Event-ID` they begin with the order's first. Comments keep the connection alive. The
/// last one is named `end`, with the reason `order_over` or `reconnect`; after `order_over`,
/// reconnecting is answered 204, on which an EventSource stops.
#[utoipa::path(get, path = "/v1/orders/{id}/events", tag = "orders",
    params(("id" = uuid::Uuid, Path), ("Last-Event-ID" = Option<String>, Header), StreamQuery,
        ("Min-Log-Position" = Option<u64>, Header)),
    responses(
        (status = 200, description = "Until nothing more can happen to the order", body = OrderEvent,
            content_type = "text/event-stream", headers(("Log-Position" = u64))),
        (status = 204, description = "Nothing more can happen to the order, and Last-Event-ID was the last"),
        (status = 400, description = "`invalid_parameter`, with a pointer: this is no Last-Event-ID", body = Problem),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 503, description = "`too_many_streams`, `not_yet_projected`, `read_models_unavailable`, `log_unavailable`",
            body = Problem),
    ))]
pub(crate) async fn stream(
    State(api): State<Arc<QueryApi>>,
    Path(id): Path<OrderId>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
    asked: Asked,
) -> Result<Response, Problem> {
    let resumed = resumed(&headers, query)?;
    let Ok(place) = api.streams.places.clone().try_acquire_owned() else {
        let detail = "as many streams of events are open as this process takes";
        return Err(Problem::unavailable("too_many_streams", detail, FULL_RETRY_S));
    };
    // From here on, nothing that happens to the order is missed.
    let watching = api.streams.live.watch(id).await.ok_or_else(|| log_unavailable("is not followed yet"))?;
    let end = api.feed.log().end().await.map_err(log_unavailable)?;
    // Whoever was told of the order before they asked is not told that there is none.
    let model = api.fresh(orders::NAME, &asked.exactly(end)).await?;
    let (extent, position) = orders::extent(&api.pool, &model, id.0).await.map_err(unavailable)?;
    if let Some((pointer, place)) = &resumed
        && place.position > position
    {
        return Err(Problem::bad_parameter_at(*pointer, "is not the id of an event of this log"));
    }
    let mut life = Life::new(api.feed.log().clone(), id, resumed.as_ref().map(|(_, place)| *place));
    let reach = extent.unwrap_or_default().into();
    life.take_in(reach, position).await.map_err(log_unavailable)?;
    if extent.is_none() && !life.is_known() {
        let detail = "there is no order with this id";
        return Ok(Missing { code: "order_not_found", detail, log_position: position }.into_response());
    }
    let private = (CACHE_CONTROL, HeaderValue::from_static(PRIVATE));
    if resumed.is_some() && life.is_over() && !life.has_news() {
        return Ok((StatusCode::NO_CONTENT, [log_position(position), private]).into_response());
    }
    let stream = Stream::new(life, watching, api.streams.stopped.clone(), place);
    let sse = Sse::new(stream.messages()).keep_alive(KeepAlive::new().interval(api.streams.heartbeat));
    let headers = [log_position(position), private, (ACCEL_BUFFERING, HeaderValue::from_static("no"))];
    let mut response = sse.into_response();
    headers.into_iter().for_each(|(name, value)| drop(response.headers_mut().insert(name, value)));
    Ok(response)
}

fn log_unavailable(error: impl std::fmt::Display) -> Problem {
    tracing::warn!(%error, "an order's events can't be read");
    Problem::unavailable("log_unavailable", "the log does not answer; please ask again", 1)
}

/// Where the client has come to, and a pointer to where it says so.
fn resumed(headers: &HeaderMap, query: StreamQuery) -> Result<Option<(&'static str, Place)>, Problem> {
    let (pointer, text) = match (headers.get(LAST_EVENT_ID), query.last_event_id) {
        (Some(value), _) => ("/Last-Event-ID", String::from_utf8_lossy(value.as_bytes()).into_owned()),
        (None, Some(value)) => ("/lastEventId", value),
        (None, None) => return Ok(None),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let place = text.parse().map_err(|detail: String| Problem::bad_parameter_at(pointer, detail))?;
    Ok(Some((pointer, place)))
}
