//! The admin HTTP API: for operators, on an address of its own.

pub mod client;
pub mod dead_letters;
pub mod reconciliations;
pub mod sagas;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use infra::http::{JsonBody, Path, Problem};
use projections::builds::{Error, KEEP_DEFAULT, Purpose};
use projections::status::ReadModelStatus;
use projections::verify::Comparison;
use projections::{Builds, status, verify};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Longest time that a replaced read model is kept.
const KEEP_MAX_S: u64 = 10 * 365 * 24 * 60 * 60;

/// Read models, by projection and version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReadModelStatuses {
    pub data: Vec<ReadModelStatus>,
}

/// How a read model is to be built anew.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RebuildBody {
    /// Compare it with the live one first; if they differ, it waits for `cut-over` or `cancel`.
    pub verify: bool,
    /// Seconds for which the old one is kept, and follows the log; a day without.
    pub keep_s: Option<u64>,
}

impl RebuildBody {
    fn purpose(&self) -> Purpose {
        let keep = self.keep_s.map_or(KEEP_DEFAULT, |seconds| Duration::from_secs(seconds.min(KEEP_MAX_S)));
        Purpose::Replace { verify: self.verify, keep }
    }
}

/// The read model that it's about.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub projection: String,
    pub version: i32,
}

/// The read models that it's about.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Versions {
    pub data: Vec<Version>,
}

/// The admin API's routes.
pub fn router(builds: Builds, endpoints: ::webhooks::Endpoints) -> Router {
    #[derive(OpenApi)]
    #[openapi(info(
        title = "Cartulary, for operators",
        description = "Read models: their state, rebuilds, verification, dead letters; sagas that are under way; and webhooks."
    ))]
    struct Admin;
    let routes = OpenApiRouter::with_openapi(Admin::openapi())
        .routes(routes!(all))
        .routes(routes!(one))
        .routes(routes!(rebuild))
        .routes(routes!(rebuild_all))
        .routes(routes!(begin_verification))
        .routes(routes!(verification))
        .routes(routes!(cancel))
        .routes(routes!(cut_over))
        .routes(routes!(roll_back))
        .merge(dead_letters::routes())
        .merge(sagas::routes())
        .merge(reconciliations::routes())
        .with_state(Arc::new(builds))
        .merge(webhooks::routes().with_state(endpoints));
    let (router, document) = routes.split_for_parts();
    let document = Arc::new(document);
    router.route("/openapi.json", get(async move || Json(document.as_ref().clone())))
}

fn problem(error: Error) -> Problem {
    match error {
        Error::UnknownProjection(_) => {
            Problem::new(StatusCode::NOT_FOUND, "projection_not_found", error.to_string())
        }
        Error::Refused(detail) => Problem::new(StatusCode::CONFLICT, "refused", detail),
        Error::Database(_) | Error::Log(_) => Problem::unavailable("unavailable", error.to_string(), 1),
    }
}

/// All read models
#[utoipa::path(get, path = "/admin/projections", tag = "projections", responses(
    (status = 200, description = "How far each is", body = ReadModelStatuses),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn all(State(builds): State<Arc<Builds>>) -> Result<Json<ReadModelStatuses>, Problem> {
    let data = status::all(builds.pool(), builds.log().as_ref(), None).await.map_err(problem)?;
    Ok(Json(ReadModelStatuses { data }))
}

/// A projection's read models
#[utoipa::path(get, path = "/admin/projections/{name}", tag = "projections", params(("name" = String, Path)), responses(
    (status = 200, description = "How far each is", body = ReadModelStatuses),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn one(
    State(builds): State<Arc<Builds>>,
    Path(name): Path<String>,
) -> Result<Json<ReadModelStatuses>, Problem> {
    builds.projection(&name).map_err(problem)?;
    let data = status::all(builds.pool(), builds.log().as_ref(), Some(&name)).await.map_err(problem)?;
    Ok(Json(ReadModelStatuses { data }))
}

/// Build a projection's read model anew, beside the live one
#[utoipa::path(post, path = "/admin/projections/{name}/rebuild", tag = "projections",
    params(("name" = String, Path)), request_body = RebuildBody, responses(
    (status = 202, description = "Begun; it takes the live one's place by itself", body = Version),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 409, description = "`refused`: one is under way", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn rebuild(
    State(builds): State<Arc<Builds>>,
    Path(projection): Path<String>,
    JsonBody(body): JsonBody<RebuildBody>,
) -> Result<(StatusCode, Json<Version>), Problem> {
    let version = builds.begin(&projection, body.purpose()).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(Version { projection, version })))
}

/// Build all read models anew, beside the live ones, over one reading of the log
#[utoipa::path(post, path = "/admin/projections/rebuild", tag = "projections", request_body = RebuildBody,
    responses(
    (status = 202, description = "Begun, each", body = Versions),
    (status = 409, description = "`refused`: one is under way, and none was begun", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn rebuild_all(
    State(builds): State<Arc<Builds>>,
    JsonBody(body): JsonBody<RebuildBody>,
) -> Result<(StatusCode, Json<Versions>), Problem> {
    let begun = builds.begin_all(body.purpose()).await.map_err(problem)?.into_iter();
    let data = begun.map(|(name, version)| Version { projection: name.to_owned(), version }).collect();
    Ok((StatusCode::ACCEPTED, Json(Versions { data })))
}

/// Compare the live read model with one that is built anew for it
#[utoipa::path(post, path = "/admin/projections/{name}/verify", tag = "projections",
    params(("name" = String, Path)), responses(
    (status = 202, description = "Begun", body = Version),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 409, description = "`refused`: one is under way", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn begin_verification(
    State(builds): State<Arc<Builds>>,
    Path(projection): Path<String>,
) -> Result<(StatusCode, Json<Version>), Problem> {
    let version = builds.begin(&projection, Purpose::Verify).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(Version { projection, version })))
}

/// What a comparison found
#[utoipa::path(get, path = "/admin/projections/{name}/verifications/{version}", tag = "projections",
    params(("name" = String, Path), ("version" = i32, Path)), responses(
    (status = 200, description = "Tables, rows and the first differences", body = Comparison),
    (status = 404, description = "`projection_not_found`; `not_compared` yet", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn verification(
    State(builds): State<Arc<Builds>>,
    Path((name, version)): Path<(String, i32)>,
) -> Result<Json<Comparison>, Problem> {
    builds.projection(&name).map_err(problem)?;
    let found = verify::result(builds.pool(), &name, version).await.map_err(|error| problem(error.into()))?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "not_compared", "it was not compared yet");
    found.map(Json).ok_or_else(missing)
}

/// End a build or a verification that is under way
#[utoipa::path(post, path = "/admin/projections/{name}/cancel", tag = "projections",
    params(("name" = String, Path)), responses(
    (status = 204, description = "What there is of it is dropped"),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 409, description = "`refused`: none is under way", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn cancel(State(builds): State<Arc<Builds>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    builds.cancel(&name).await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a build into use that differs from the live read model
#[utoipa::path(post, path = "/admin/projections/{name}/cut-over", tag = "projections",
    params(("name" = String, Path)), responses(
    (status = 200, description = "It is live", body = Version),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 409, description = "`refused`: none has caught up", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn cut_over(
    State(builds): State<Arc<Builds>>,
    Path(projection): Path<String>,
) -> Result<Json<Version>, Problem> {
    let version = builds.cut_over(&projection).await.map_err(problem)?;
    Ok(Json(Version { projection, version }))
}

/// Put the last live read model back
#[utoipa::path(post, path = "/admin/projections/{name}/rollback", tag = "projections",
    params(("name" = String, Path)), responses(
    (status = 200, description = "It is live again", body = Version),
    (status = 404, description = "`projection_not_found`", body = Problem),
    (status = 409, description = "`refused`: none is kept, or it does not follow the log", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn roll_back(
    State(builds): State<Arc<Builds>>,
    Path(projection): Path<String>,
) -> Result<Json<Version>, Problem> {
    let version = builds.roll_back(&projection).await.map_err(problem)?;
    Ok(Json(Version { projection, version }))
}
