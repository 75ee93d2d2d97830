//! Sagas, over the admin API.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use domain::OrderId;
use infra::http::{JsonBody, Path, Problem, Query};
use projections::Builds;
use sagas::status::{self, Call, Kind, Open, Stage, Story};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const REASON_CHARS_MAX: usize = 500;
const BY_CHARS_MAX: usize = 100;
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Stages {
    pub data: Vec<Stage>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Stuck {
    /// Those that have waited longest first.
    pub data: Vec<Open>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct StuckQuery {
    /// 1 to 1000; 100 without.
    limit: Option<u32>,
}

/// What is to be given up, and why.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AbandonBody {
    /// `checkout`, as without: whatever it has done so far is taken back. `payment`: what the provider is asked for
    /// and does not answer, or refuses for ever, is not asked for any more, and nothing else.
    #[serde(default)]
    pub saga: Kind,
    /// 1 to 500 characters; it is recorded in the log.
    pub reason: String,
    /// Who says so, in 1 to 100 characters; recorded with it. Nobody checks it.
    #[serde(default)]
    pub by: Option<String>,
}

/// What was called for and waits to be taken up.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Calling {
    /// `retry`, `abandon` or `abandon_payment`, the oldest first.
    pub calls: Vec<String>,
}

pub fn routes() -> OpenApiRouter<Arc<Builds>> {
    OpenApiRouter::new()
        .routes(routes!(stages))
        .routes(routes!(stuck))
        .routes(routes!(show))
        .routes(routes!(calling))
        .routes(routes!(retry))
        .routes(routes!(abandon))
}

fn unavailable(error: impl std::fmt::Display) -> Problem {
    Problem::unavailable("unavailable", error.to_string(), 1)
}

/// How many sagas are under way, and where
#[utoipa::path(get, path = "/admin/sagas", tag = "sagas", responses(
    (status = 200, description = "A line for each stage", body = Stages),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn stages(State(builds): State<Arc<Builds>>) -> Result<Json<Stages>, Problem> {
    let data = status::stages(builds.pool()).await.map_err(unavailable)?;
    Ok(Json(Stages { data }))
}

/// Sagas that something is wrong with, and orders that are set aside
#[utoipa::path(get, path = "/admin/sagas/stuck", tag = "sagas", params(StuckQuery), responses(
    (status = 200, description = "What each waits for, and what went wrong", body = Stuck),
    (status = 400, description = "`invalid_parameter`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn stuck(
    State(builds): State<Arc<Builds>>,
    Query(query): Query<StuckQuery>,
) -> Result<Json<Stuck>, Problem> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_parameter(format!("limit is 1 to {LIMIT_MAX}")));
    }
    let data = status::stuck(builds.pool(), limit).await.map_err(unavailable)?;
    Ok(Json(Stuck { data }))
}

/// All that an order's sagas have done, and what they wait for
#[utoipa::path(get, path = "/admin/sagas/{id}", tag = "sagas", params(("id" = uuid::Uuid, Path)), responses(
    (status = 200, description = "Their steps, in the log's order", body = Story),
    (status = 404, description = "`saga_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn show(State(builds): State<Arc<Builds>>, Path(id): Path<OrderId>) -> Result<Json<Story>, Problem> {
    story(&builds, id).await.map(Json)
}

async fn story(builds: &Builds, id: OrderId) -> Result<Story, Problem> {
    let story = status::show(builds.pool(), builds.log().as_ref(), id).await.map_err(unavailable)?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "saga_not_found", "there is no order with this id");
    story.ok_or_else(missing)
}

/// What was called for and waits to be taken up
#[utoipa::path(get, path = "/admin/sagas/{id}/call", tag = "sagas", params(("id" = uuid::Uuid, Path)), responses(
    (status = 200, description = "It takes a moment", body = Calling),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn calling(
    State(builds): State<Arc<Builds>>,
    Path(id): Path<OrderId>,
) -> Result<Json<Calling>, Problem> {
    let calls = status::calls(builds.pool(), id).await.map_err(unavailable)?;
    Ok(Json(Calling { calls }))
}

/// Do what an order's sagas wait for now: what was set aside, the last step again, and the look-up of an unknown outcome
#[utoipa::path(post, path = "/admin/sagas/{id}/retry", tag = "sagas", params(("id" = uuid::Uuid, Path)),
    responses(
    (status = 202, description = "It is done in a moment", body = Calling),
    (status = 404, description = "`saga_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn retry(
    State(builds): State<Arc<Builds>>,
    Path(id): Path<OrderId>,
) -> Result<(StatusCode, Json<Calling>), Problem> {
    call(&builds, id, &Call::Retry).await
}

/// Give a checkout up, or what is asked of its payment's provider
///
/// Giving a payment's request up says nothing of what became of it: what the provider states later is recorded as
/// ever. Money that it then holds, and that nobody wants any more, is given back.
#[utoipa::path(post, path = "/admin/sagas/{id}/abandon", tag = "sagas", params(("id" = uuid::Uuid, Path)),
    request_body = AbandonBody, responses(
    (status = 202, description = "It is begun in a moment", body = Calling),
    (status = 404, description = "`saga_not_found`", body = Problem),
    (status = 409, description = "`nothing_owed`: the payment waits for nothing that could be given up", body = Problem),
    (status = 422, description = "`invalid`: no reason is given", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn abandon(
    State(builds): State<Arc<Builds>>,
    Path(id): Path<OrderId>,
    JsonBody(AbandonBody { saga, reason, by }): JsonBody<AbandonBody>,
) -> Result<(StatusCode, Json<Calling>), Problem> {
    let mut checks = domain::text::Checks::default();
    checks.line("/reason", &reason, REASON_CHARS_MAX);
    by.iter().for_each(|by| checks.line("/by", by, BY_CHARS_MAX));
    checks.finish().map_err(Problem::invalid)?;
    story(&builds, id).await?;
    if saga == Kind::Payment && !status::is_owed(builds.log().as_ref(), id).await.map_err(unavailable)? {
        let detail = "the payment waits for nothing that could be given up";
        return Err(Problem::new(StatusCode::CONFLICT, "nothing_owed", detail));
    }
    call(&builds, id, &Call::Abandon { saga, reason, by }).await
}

async fn call(builds: &Builds, id: OrderId, call: &Call) -> Result<(StatusCode, Json<Calling>), Problem> {
    story(builds, id).await?;
    status::call(builds.pool(), id, call).await.map_err(unavailable)?;
    Ok((StatusCode::ACCEPTED, Json(Calling { calls: vec![call.name().to_owned()] })))
}
