//! `cartulary serve`: one or more roles on servers that run already; and the HTTP app around them.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use infra::http::Problem;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Serve;
use crate::health::{self, Health};
use crate::platform::Platform;

pub async fn run(options: Serve) -> anyhow::Result<ExitCode> {
    crate::telemetry::begin(options.platform.log_json);
    let nats_url = options.platform.nats_url.clone().context("set NATS_URL to the log's nats-server")?;
    let database_url =
        options.platform.database_url.clone().context("set DATABASE_URL to the read models' Postgres")?;
    let platform = Platform::start(&options.platform, &nats_url, &database_url, &options.roles).await?;
    println!("listening on {}", platform.url());
    if let Some(url) = platform.admin_url() {
        println!("admin API on {url}");
    }
    crate::shutdown::requested().await?;
    platform.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// What the OpenAPI document says of the whole.
pub fn description() -> Description {
    #[derive(OpenApi)]
    #[openapi(info(
        title = "Cartulary",
        description = "An event-sourced commerce platform. GET and HEAD are queries, all others commands.\n\n\
            A command answers with `Log-Position`; a query that brings it as `Min-Log-Position` sees what the \
            command did. Problems are RFC 9457, with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ))]
    struct Cartulary;
    Cartulary::openapi()
}

/// The app: the roles' routes, health, the document that describes them, and problems for the rest.
pub fn app(roles: OpenApiRouter, health: Arc<Health>) -> Router {
    let operating = OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .with_state(health);
    let (router, document) = roles.merge(operating).split_for_parts();
    let document = Arc::new(document);
    with_problems(router.route("/openapi.json", get(async move || Json(document.as_ref().clone()))))
}

/// The operators' app.
pub fn admin_app(builds: projections::Builds, endpoints: webhooks::Endpoints) -> Router {
    with_problems(crate::metrics::router().merge(crate::admin::router(builds, endpoints)))
}

/// Whatever else is asked, or goes wrong, is answered as a problem.
fn with_problems(router: Router) -> Router {
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
}

/// The same routes, which all say that nothing may be appended to this log.
pub fn refuse(commands: OpenApiRouter) -> OpenApiRouter {
    commands.layer(axum::middleware::from_fn(async |_: Request, _: Next| {
        let detail = "the log is not safe to append to; /readyz tells why";
        Problem::unavailable("log_unsafe", detail, 60)
    }))
}

async fn not_found(request: Request) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", request.uri().path()))
}

async fn method_not_allowed(method: Method, request: Request) -> Problem {
    let detail = format!("{} does not take {method}", request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a request ended in a panic");
    let detail = "something went wrong here, not with the request";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail).into_response()
}
