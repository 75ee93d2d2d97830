//! Orders: cancelled by who placed them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::OrderId;
use domain::order::{Command, Error, Order, Status};
use infra::execute::{self, Executed, Request};
use infra::http::{Path, Problem};
use tokio::time::Instant;

use crate::CommandApi;
use crate::carts::AcceptedOrder;
use crate::error::{problem, unreadable};
use crate::request::{Answer, Asked};
use crate::settled::{Until, Waiting};

/// How long a cancellation waits for an order whose checkout was accepted a moment ago.
const PLACED_LIMIT: Duration = Duration::from_secs(1);

/// Name of the projection that shows orders.
const ORDERS: &str = "orders";

/// Cancel an order
///
/// What is held is released, what is paid is given back, and then the order is cancelled.
#[utoipa::path(post, path = "/v1/orders/{id}/cancel", tag = "orders",
    params(("id" = uuid::Uuid, Path), ("Idempotency-Key" = String, Header), ("If-Match" = Option<String>, Header),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when it's cancelled, or after N seconds")),
    responses(
        (status = 202, description = "It is on its way", body = AcceptedOrder,
            headers(("Location" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`", body = Problem),
        (status = 404, description = "`order_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`order_cancelled` with `reason`, `order_shipped`, `command_in_progress`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn cancel(
    State(api): State<Arc<CommandApi>>,
    Path(order_id): Path<OrderId>,
    asked: Asked,
) -> Result<Response, Problem> {
    let asked = asked.with_key()?;
    let request = asked.request(&());
    let cancelled = match asked.wait {
        Some(_) => Some(api.settled.expect(order_id, Until::Cancelled).await),
        None => None,
    };
    let executed = api.execute_cancel(order_id, &request).await?;
    let accepted = AcceptedOrder { order_id, status: None, reason: None };
    let mut answer = Answer::new(StatusCode::ACCEPTED, executed.sequence, executed.repeated, accepted);
    if let (Some(limit), Some(cancelled)) = (asked.wait, cancelled) {
        api.wait_for(cancelled, limit, &mut answer).await?;
    }
    Ok(answer.location(format!("/v1/orders/{order_id}")).into_response())
}

impl CommandApi {
    async fn execute_cancel(&self, order_id: OrderId, request: &Request) -> Result<Executed<Order>, Problem> {
        let _turn = self.in_progress.turn(request.command_id).await?;
        let mut placed = self.settled.expect(order_id, Until::Placed).await;
        let execute = || self.executors.orders.execute(order_id, request, Command::RequestCancellation);
        match execute().await {
            // The saga places the order shortly after its checkout was accepted.
            Err(execute::Error::Refused(Error::Unknown)) => {
                placed.reached(PLACED_LIMIT).await;
                execute().await.map_err(problem)
            }
            outcome => outcome.map_err(problem),
        }
    }

    /// Waits until the order has come so far and the read model shows it, and says so in the
    /// answer.
    pub(crate) async fn wait_for(
        &self,
        mut waiting: Waiting<'_>,
        limit: Duration,
        answer: &mut Answer<AcceptedOrder>,
    ) -> Result<(), Problem> {
        let deadline = Instant::now() + limit;
        let order_id = answer.body.order_id;
        let orders = &self.executors.orders;
        // What was asked for now has led to nothing before anybody waited; what was asked for before may have.
        let is_new = waiting.is_followed() && !answer.repeated;
        let order = if is_new { orders.load_since(order_id, 0).await } else { orders.load(order_id).await };
        let order = order.map_err(unreadable)?;
        let order = if waiting.until().is_reached_by(order.state.status()) {
            order
        } else {
            let order = match waiting.reached(limit).await {
                Some(position) => orders.load_since(order_id, position).await,
                None => orders.load(order_id).await,
            };
            order.map_err(unreadable)?
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let position = order.sequence.max(answer.log_position);
        if self.read_models.wait(ORDERS, position, left).await {
            answer.log_position = position;
        }
        let (status, reason) = match order.state.status() {
            None | Some(Status::Pending) => ("pending", None),
            Some(Status::Confirmed) => ("confirmed", None),
            Some(Status::Cancelled(reason)) => ("cancelled", Some(reason.code())),
            Some(Status::Imported) => ("imported", None),
        };
        (answer.body.status, answer.body.reason) = (Some(status), reason);
        answer.waited = Some(limit);
        Ok(())
    }
}
