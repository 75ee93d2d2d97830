//! Webhooks, over the admin API.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use infra::http::{JsonBody, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use webhooks::deliveries::{self, Delivery};
use webhooks::endpoints::{Endpoint, OVERLAP_DEFAULT, WithSecret};
use webhooks::replays::{From, Replay};
use webhooks::{Endpoints, Error};

use super::dead_letters::Asked;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EndpointList {
    /// The oldest first.
    pub data: Vec<Endpoint>,
}

/// A new endpoint.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointBody {
    /// At most 2000 bytes, with https.
    #[schema(example = "https://erp.example.com/hooks")]
    pub url: String,
    /// Types of events; a `*` at the end stands for anything.
    #[schema(example = json!(["order.*", "payment.captured"]))]
    pub types: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotateBody {
    /// Seconds for which the old secret is valid too; a day without, 30 days at most.
    pub overlap_s: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deliveries {
    /// By position in the log, the last first.
    pub data: Vec<Delivery>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct DeliveriesQuery {
    #[param(inline)]
    state: Option<deliveries::State>,
    /// 1 to 1000; 100 without.
    limit: Option<u32>,
}

/// What is to be tried again.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBody {
    /// One of them; without it, all that were given up, 10,000 at a time.
    pub id: Option<String>,
}

/// From where on, either way.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayBody {
    /// A position in the log.
    pub from: Option<u64>,
    /// A time at which events were recorded.
    pub since: Option<DateTime<Utc>>,
}

pub fn routes() -> OpenApiRouter<Endpoints> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(dead_letters))
        .routes(routes!(one, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(rotate))
        .routes(routes!(deliveries))
        .routes(routes!(retry))
        .routes(routes!(replay))
}

fn problem(error: Error) -> Problem {
    match error {
        Error::NotFound => Problem::new(StatusCode::NOT_FOUND, "endpoint_not_found", error.to_string()),
        Error::Invalid(found) => Problem::invalid(found),
        Error::Refused(detail) => Problem::new(StatusCode::CONFLICT, "refused", detail),
        Error::Database(_) | Error::Log(_) => {
            tracing::warn!(%error, "webhooks can't be looked after");
            Problem::unavailable("unavailable", error.to_string(), 1)
        }
    }
}

fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    match (1..=LIMIT_MAX).contains(&limit) {
        true => Ok(limit),
        false => Err(Problem::bad_parameter(format!("limit is 1 to {LIMIT_MAX}"))),
    }
}

/// All endpoints
#[utoipa::path(get, path = "/admin/webhooks", tag = "webhooks", responses(
    (status = 200, description = "How each is doing, without secrets", body = EndpointList),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn list(State(endpoints): State<Endpoints>) -> Result<Json<EndpointList>, Problem> {
    Ok(Json(EndpointList { data: endpoints.list().await.map_err(problem)? }))
}

/// Register an endpoint: it is sent what happens from now on
#[utoipa::path(post, path = "/admin/webhooks", tag = "webhooks", request_body = EndpointBody, responses(
    (status = 201, description = "With its secret, which is shown this once", body = WithSecret),
    (status = 409, description = "`refused`: there are 100, or this process has no key to seal its secret with", body = Problem),
    (status = 422, description = "`invalid`: the URL, or a type", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn add(
    State(endpoints): State<Endpoints>,
    JsonBody(EndpointBody { url, types }): JsonBody<EndpointBody>,
) -> Result<(StatusCode, Json<WithSecret>), Problem> {
    let added = endpoints.add(&url, &types).await.map_err(problem)?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// One endpoint
#[utoipa::path(get, path = "/admin/webhooks/{id}", tag = "webhooks", params(("id" = Uuid, Path)), responses(
    (status = 200, description = "How it is doing", body = Endpoint),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn one(State(endpoints): State<Endpoints>, Path(id): Path<Uuid>) -> Result<Json<Endpoint>, Problem> {
    endpoints.get(id).await.map(Json).map_err(problem)
}

/// Remove an endpoint, with all that waits for it
#[utoipa::path(delete, path = "/admin/webhooks/{id}", tag = "webhooks", params(("id" = Uuid, Path)), responses(
    (status = 204, description = "It is sent nothing more"),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn remove(State(endpoints): State<Endpoints>, Path(id): Path<Uuid>) -> Result<StatusCode, Problem> {
    endpoints.remove(id).await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send an endpoint nothing for now
#[utoipa::path(post, path = "/admin/webhooks/{id}/pause", tag = "webhooks", params(("id" = Uuid, Path)), responses(
    (status = 200, description = "What happens meanwhile is made up for when it's resumed", body = Endpoint),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn pause(State(endpoints): State<Endpoints>, Path(id): Path<Uuid>) -> Result<Json<Endpoint>, Problem> {
    endpoints.pause(id, "by an operator").await.map(Json).map_err(problem)
}

/// Go on with an endpoint that is paused
#[utoipa::path(post, path = "/admin/webhooks/{id}/resume", tag = "webhooks", params(("id" = Uuid, Path)), responses(
    (status = 200, description = "It is sent all that it missed", body = Endpoint),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn resume(State(endpoints): State<Endpoints>, Path(id): Path<Uuid>) -> Result<Json<Endpoint>, Problem> {
    endpoints.resume(id).await.map(Json).map_err(problem)
}

/// Give an endpoint a new secret
#[utoipa::path(post, path = "/admin/webhooks/{id}/rotate-secret", tag = "webhooks", params(("id" = Uuid, Path)),
    request_body = RotateBody, responses(
    (status = 200, description = "The new secret, which is shown this once", body = WithSecret),
    (status = 409, description = "`refused`: this process has no key to seal it with", body = Problem),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn rotate(
    State(endpoints): State<Endpoints>,
    Path(id): Path<Uuid>,
    JsonBody(RotateBody { overlap_s }): JsonBody<RotateBody>,
) -> Result<Json<WithSecret>, Problem> {
    let overlap = overlap_s.map_or(OVERLAP_DEFAULT, Duration::from_secs);
    endpoints.rotate(id, overlap).await.map(Json).map_err(problem)
}

/// What an endpoint was sent, and what waits for it
#[utoipa::path(get, path = "/admin/webhooks/{id}/deliveries", tag = "webhooks",
    params(("id" = Uuid, Path), DeliveriesQuery), responses(
    (status = 200, description = "The last ones", body = Deliveries),
    (status = 400, description = "`invalid_parameter`", body = Problem),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn deliveries(
    State(endpoints): State<Endpoints>,
    Path(id): Path<Uuid>,
    Query(DeliveriesQuery { state, limit: asked }): Query<DeliveriesQuery>,
) -> Result<Json<Deliveries>, Problem> {
    let data = endpoints.deliveries(Some(id), state, limit(asked)?).await.map_err(problem)?;
    Ok(Json(Deliveries { data }))
}

/// What was given up, of all endpoints
#[utoipa::path(get, path = "/admin/webhooks/dead-letters", tag = "webhooks", params(DeliveriesQuery), responses(
    (status = 200, description = "The last ones, with the last reason", body = Deliveries),
    (status = 400, description = "`invalid_parameter`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn dead_letters(
    State(endpoints): State<Endpoints>,
    Query(DeliveriesQuery { limit: asked, .. }): Query<DeliveriesQuery>,
) -> Result<Json<Deliveries>, Problem> {
    let dead = endpoints.deliveries(None, Some(deliveries::State::Dead), limit(asked)?).await;
    Ok(Json(Deliveries { data: dead.map_err(problem)? }))
}

/// Try what was given up again
#[utoipa::path(post, path = "/admin/webhooks/{id}/retry", tag = "webhooks", params(("id" = Uuid, Path)),
    request_body = RetryBody, responses(
    (status = 202, description = "It is sent in a moment", body = Asked),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn retry(
    State(endpoints): State<Endpoints>,
    Path(endpoint): Path<Uuid>,
    JsonBody(RetryBody { id }): JsonBody<RetryBody>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let asked = endpoints.retry(endpoint, id.as_deref()).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(Asked { asked })))
}

/// Send an endpoint a stretch of the log again, by the ids that its events had
#[utoipa::path(post, path = "/admin/webhooks/{id}/replay", tag = "webhooks", params(("id" = Uuid, Path)),
    request_body = ReplayBody, responses(
    (status = 202, description = "Up to what is there now", body = Replay),
    (status = 404, description = "`endpoint_not_found`", body = Problem),
    (status = 409, description = "`refused`: ten are under way", body = Problem),
    (status = 422, description = "`invalid`: neither or both are given", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn replay(
    State(endpoints): State<Endpoints>,
    Path(id): Path<Uuid>,
    JsonBody(ReplayBody { from, since }): JsonBody<ReplayBody>,
) -> Result<(StatusCode, Json<Replay>), Problem> {
    let from = match (from, since) {
        (Some(position), None) if i64::try_from(position).is_ok() => From::Position(position),
        (None, Some(time)) => From::Time(time),
        _ => return Err(Problem::invalid_field("/from", "either a position as from, or a time as since")),
    };
    let replay = endpoints.replay(id, from).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(replay)))
}
