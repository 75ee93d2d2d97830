//! The sandbox's page, on which a buyer approves a payment or does not: in place of their bank's.

use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::Html;
use infra::http::{Path, Problem};
use infra::payment::{ChallengeError, PaymentProvider, Sandbox};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the buyer says.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Said {
    approve: bool,
}

type Page = ([(HeaderName, &'static str); 2], Html<String>);

/// The page and what its buttons do.
pub fn router(sandbox: Sandbox) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(show, answer)).with_state(Arc::new(sandbox))
}

/// Show a payment to its buyer
///
/// Only of the sandbox, in place of the page of a buyer's bank.
#[utoipa::path(get, path = "/v1/sandbox/challenges/{reference}", tag = "sandbox",
    params(("reference" = String, Path)),
    responses(
        (status = 200, description = "A page with two buttons", content_type = "text/html", body = String),
        (status = 404, description = "`no_challenge`", body = Problem),
        (status = 503, description = "`payment_provider_unavailable`", body = Problem),
    ))]
async fn show(State(sandbox): State<Arc<Sandbox>>, Path(reference): Path<String>) -> Result<Page, Problem> {
    match sandbox.challenge(&reference).await {
        Ok(Some(_)) => Ok(page(
            "Your bank asks: is this you?",
            "<form method=post><button name=approve value=true>Yes, approve the payment</button> \
             <button name=approve value=false>No, decline it</button></form>",
        )),
        Ok(None) => Err(no_challenge()),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Approve a payment, or don't
///
/// Only of the sandbox, in place of a buyer's bank.
#[utoipa::path(post, path = "/v1/sandbox/challenges/{reference}", tag = "sandbox",
    params(("reference" = String, Path)),
    request_body(content = Said, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "It is taken down", content_type = "text/html", body = String),
        (status = 404, description = "`no_challenge`", body = Problem),
        (status = 422, description = "`invalid`", body = Problem),
        (status = 503, description = "`payment_provider_unavailable`", body = Problem),
    ))]
async fn answer(
    State(sandbox): State<Arc<Sandbox>>,
    Path(reference): Path<String>,
    said: Result<Form<Said>, FormRejection>,
) -> Result<Page, Problem> {
    let Form(said) = said.map_err(|rejection| Problem::invalid_field("/approve", rejection.body_text()))?;
    match sandbox.answer_challenge(&reference, said.approve).await {
        Ok(()) if said.approve => Ok(page("The payment is approved.", "You can go back to the shop.")),
        Ok(()) => Ok(page("The payment is declined.", "You can go back to the shop.")),
        Err(ChallengeError::NotAsked) => Err(no_challenge()),
        Err(ChallengeError::NoAnswer(error)) => Err(unavailable(&error)),
    }
}

fn page(title: &str, rest: &str) -> Page {
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Sandbox</title><style>body{{font:1.1rem/1.5 system-ui;margin:4rem auto;max-width:32rem;padding:0 1rem}}\
         button{{font:inherit;padding:.5rem 1rem}}</style><h1>{title}</h1><div>{rest}</div>"
    );
    ([(header::CACHE_CONTROL, "no-store"), (header::X_FRAME_OPTIONS, "DENY")], Html(html))
}

fn no_challenge() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_challenge", "no payment with this reference waits for its buyer")
}

fn unavailable(error: &dyn std::error::Error) -> Problem {
    tracing::warn!(%error, "the sandbox does not answer");
    Problem::unavailable("payment_provider_unavailable", "the sandbox does not answer; please ask again", 1)
}
