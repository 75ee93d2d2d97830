//! Comparisons of payments with the providers' books, over the admin API.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use infra::http::{JsonBody, Path, Problem};
use projections::Builds;
use sagas::reconcile::tables::{self, Reconciliation};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// What is to be compared.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileBody {
    /// What was made since then; without, since the last comparison, and a bit before.
    pub since: Option<DateTime<Utc>>,
}

/// A comparison that was asked for.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Asked {
    pub id: Uuid,
}

pub fn routes() -> OpenApiRouter<Arc<Builds>> {
    OpenApiRouter::new().routes(routes!(reconcile)).routes(routes!(show))
}

fn unavailable(error: impl std::fmt::Display) -> Problem {
    Problem::unavailable("unavailable", error.to_string(), 1)
}

/// Compare payments with the providers' books now, and repair what can be
#[utoipa::path(post, path = "/admin/reconciliations", tag = "sagas", request_body = ReconcileBody, responses(
    (status = 202, description = "A process with the role sagas does it in a moment", body = Asked),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn reconcile(
    State(builds): State<Arc<Builds>>,
    JsonBody(body): JsonBody<ReconcileBody>,
) -> Result<(StatusCode, Json<Asked>), Problem> {
    let id = tables::ask(body.since, builds.pool()).await.map_err(unavailable)?;
    Ok((StatusCode::ACCEPTED, Json(Asked { id })))
}

/// How a comparison goes, and what it found
#[utoipa::path(get, path = "/admin/reconciliations/{id}", tag = "sagas", params(("id" = Uuid, Path)), responses(
    (status = 200, description = "What differs, first of all what could not be repaired", body = Reconciliation),
    (status = 404, description = "`reconciliation_not_found`", body = Problem),
    (status = 503, description = "`unavailable`", body = Problem)))]
async fn show(
    State(builds): State<Arc<Builds>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Reconciliation>, Problem> {
    let missing =
        || Problem::new(StatusCode::NOT_FOUND, "reconciliation_not_found", "there is none with this id");
    tables::show(id, builds.pool()).await.map_err(unavailable)?.map(Json).ok_or_else(missing)
}
