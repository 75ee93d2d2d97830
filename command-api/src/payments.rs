//! Payments: what their buyers have to do themselves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use domain::OrderId;
use domain::payment::Status;
use infra::http::{Path, Problem};
use serde::Serialize;
use utoipa::ToSchema;

use crate::CommandApi;
use crate::error::unreadable;

/// Where the buyer goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Challenge {
    /// To be opened in the buyer's browser; good for one payment and a short time.
    url: String,
}

/// Get the address at which the buyer approves the payment
///
/// While an order's payment is `action_required`, its provider wants something of the buyer, such as 3-D
/// Secure. The address is the provider's, and asked for each time: it is kept nowhere.
#[utoipa::path(post, path = "/v1/orders/{id}/payment/challenge", tag = "orders",
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "There the buyer goes on", body = Challenge),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`no_action_required` with the payment's `status`", body = Problem),
        (status = 503, description = "`log_unavailable`, `payment_provider_unavailable`", body = Problem),
    ))]
pub(crate) async fn challenge(
    State(api): State<Arc<CommandApi>>,
    Path(order_id): Path<OrderId>,
) -> Result<([(HeaderName, &'static str); 1], Json<Challenge>), Problem> {
    let payment = api.executors.payments.load(order_id).await.map_err(unreadable)?.state;
    let method = payment.method().ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "order_not_found", "there is no payment of an order with this id")
    })?;
    let status = payment.status();
    let nothing_to_do = || {
        let detail = "the payment does not wait for its buyer";
        Problem::new(StatusCode::CONFLICT, "no_action_required", detail).with("status", status.code())
    };
    let reference = payment.provider_reference().filter(|_| status == Status::ActionRequired);
    let reference = reference.ok_or_else(nothing_to_do)?;
    let challenge = async { api.providers.named(&method.method)?.challenge(reference).await };
    match challenge.await {
        Ok(Some(url)) => Ok(([(header::CACHE_CONTROL, "private, no-store")], Json(Challenge { url }))),
        Ok(None) => Err(nothing_to_do()),
        Err(error) => {
            tracing::warn!(order = %order_id, %error, "what is required of a buyer could not be asked for");
            let detail = "the payment provider does not answer; please ask again";
            Err(Problem::unavailable("payment_provider_unavailable", detail, 1))
        }
    }
}
