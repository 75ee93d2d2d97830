//! Dead letters, over the admin API.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use infra::http::{JsonBody, Path, Problem};
use projections::Builds;
use projections::dead_letters::{self, DeadLetter, DeadLetterDetails};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem;

const REASON_CHARS_MAX: usize = 500;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetters {
    /// The oldest first; of many, the first 1000.
    pub data: Vec<DeadLetter>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterInAll {
    /// One for each read model of the projection that has set the key aside.
    pub data: Vec<DeadLetterDetails>,
}

/// Why an event is to be done without.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipBody {
    /// 1 to 500 characters.
    pub reason: String,
}

/// What was asked for.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Asked {
    /// Keys, counted in each read model.
    pub asked: u64,
}

pub fn routes() -> OpenApiRouter<Arc<Builds>> {
    OpenApiRouter::new()
        .routes(routes!(all))
        .routes(routes!(of_projection))
        .routes(routes!(one))
        .routes(routes!(retry_all))
        .routes(routes!(retry))
        .routes(routes!(skip))
}

/// What is set aside, of all projections
#[utoipa::path(get, path = "/admin/dead-letters", tag = "dead letters", responses(
    (status = 200, description = "A line for each key", body = DeadLetters),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn all(State(builds): State<Arc<Builds>>) -> Result<Json<DeadLetters>, Problem> {
    let data = dead_letters::list(builds.pool(), None).await.map_err(|error| problem(error.into()))?;
    Ok(Json(DeadLetters { data }))
}

/// What is set aside, of one projection
#[utoipa::path(get, path = "/admin/projections/{name}/dead-letters", tag = "dead letters",
    params(("name" = String, Path)), responses(
    (status = 200, description = "A line for each key", body = DeadLetters),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn of_projection(
    State(builds): State<Arc<Builds>>,
    Path(name): Path<String>,
) -> Result<Json<DeadLetters>, Problem> {
    builds.projection(&name).map_err(problem)?;
    let data = dead_letters::list(builds.pool(), Some(&name)).await;
    Ok(Json(DeadLetters { data: data.map_err(|error| problem(error.into()))? }))
}

/// What is set aside of one key, and what was done about it
#[utoipa::path(get, path = "/admin/projections/{name}/dead-letters/{key}", tag = "dead letters",
    params(("name" = String, Path), ("key" = String, Path)), responses(
    (status = 200, description = "Its events, and its history", body = DeadLetterInAll),
    (status = 404, description = "`projection_not_found`; `nothing_set_aside`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn one(
    State(builds): State<Arc<Builds>>,
    Path((name, key)): Path<(String, String)>,
) -> Result<Json<DeadLetterInAll>, Problem> {
    builds.projection(&name).map_err(problem)?;
    let data = dead_letters::show(builds.pool(), builds.log().as_ref(), &name, &key).await;
    let data = data.map_err(problem)?;
    match data.is_empty() {
        true => Err(nothing(&name, &key)),
        false => Ok(Json(DeadLetterInAll { data })),
    }
}

/// Try everything again that a projection has set aside
#[utoipa::path(post, path = "/admin/projections/{name}/dead-letters/retry", tag = "dead letters",
    params(("name" = String, Path)), responses(
    (status = 202, description = "It is tried in a moment, in order", body = Asked),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn retry_all(
    State(builds): State<Arc<Builds>>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    builds.projection(&name).map_err(problem)?;
    let asked = dead_letters::retry(builds.pool(), &name, None).await;
    let asked = asked.map_err(|error| problem(error.into()))?;
    Ok((StatusCode::ACCEPTED, Json(Asked { asked })))
}

/// Try one key again
#[utoipa::path(post, path = "/admin/projections/{name}/dead-letters/{key}/retry", tag = "dead letters",
    params(("name" = String, Path), ("key" = String, Path)), responses(
    (status = 202, description = "It is tried in a moment, in order", body = Asked),
    (status = 404, description = "`projection_not_found`; `nothing_set_aside`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn retry(
    State(builds): State<Arc<Builds>>,
    Path((name, key)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    builds.projection(&name).map_err(problem)?;
    let asked = dead_letters::retry(builds.pool(), &name, Some(&key)).await;
    match asked.map_err(|error| problem(error.into()))? {
        0 => Err(nothing(&name, &key)),
        asked => Ok((StatusCode::ACCEPTED, Json(Asked { asked }))),
    }
}

/// Do without the first event that is set aside of a key, for good
#[utoipa::path(post, path = "/admin/projections/{name}/dead-letters/{key}/skip", tag = "dead letters",
    params(("name" = String, Path), ("key" = String, Path)), request_body = SkipBody, responses(
    (status = 202, description = "Recorded; what waits behind it is tried in a moment", body = Asked),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 409, description = "`refused`: nothing of the key is set aside", body = Problem),
    (status = 422, description = "`invalid`: no reason is given", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn skip(
    State(builds): State<Arc<Builds>>,
    Path((name, key)): Path<(String, String)>,
    JsonBody(SkipBody { reason }): JsonBody<SkipBody>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    builds.projection(&name).map_err(problem)?;
    let mut checks = domain::text::Checks::default();
    checks.line("/reason", &reason, REASON_CHARS_MAX);
    checks.finish().map_err(Problem::invalid)?;
    let asked = dead_letters::skip(builds.pool(), &name, &key, &reason).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(Asked { asked })))
}

fn nothing(name: &str, key: &str) -> Problem {
    let detail = format!("nothing of `{key}` is set aside in {name}");
    Problem::new(StatusCode::NOT_FOUND, "nothing_set_aside", detail)
}
