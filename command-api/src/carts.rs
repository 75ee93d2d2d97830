//! Carts: filled, and checked out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::cart::{Cart, CheckOut, Command, Error, Offer, PaymentMethod};
use domain::order::{Address, Buyer};
use domain::{CartId, OrderId, QuoteId, Sku};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use infra::execute::{self, Executed, Request};
use infra::http::{JsonBody, MoneyBody, Path, Problem, whole_number};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::CommandApi;
use crate::error::{no_product, problem, unreadable};
use crate::request::{Answer, Asked};
use crate::settled::Until;

/// Products read at a time for a quote or a checkout.
const OFFERS_AT_A_TIME: usize = 32;

/// Times that a quote or a checkout is tried, because the cart was changed while its offers were read.
const ATTEMPTS_MAX: u32 = 5;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewCart {
    #[schema(value_type = uuid::Uuid)]
    id: CartId,
}

/// How many of it are wanted; 0 removes the line.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineQuantity {
    /// 0 to 10,000
    #[serde(deserialize_with = "whole_number")]
    quantity: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CartVersion {
    #[schema(value_type = uuid::Uuid)]
    id: CartId,
    version: u64,
}

/// Who buys, where it goes, and how it's paid.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checkout {
    #[schema(example = "alice@example.com")]
    email: String,
    shipping_address: ShippingAddress,
    payment: Payment,
    /// The total that the buyer was shown; if it's another one by now, the checkout is refused.
    expected_total: Option<MoneyBody>,
    /// The quote that the buyer agreed to, which is charged exactly; if it does not hold, the checkout is
    /// refused.
    // Absent from the request's hash where it is absent: keys of before there were quotes stand for the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    quote_id: Option<QuoteId>,
    /// That of the quote, or else the first one that goes there, if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "express")]
    shipping_method: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShippingAddress {
    name: String,
    line1: String,
    line2: Option<String>,
    city: String,
    region: Option<String>,
    postal_code: String,
    /// ISO 3166-1 alpha-2
    #[schema(example = "GB")]
    country: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payment {
    #[schema(example = "sandbox")]
    method: String,
    /// The provider's token; the sandbox knows tok_approve, tok_decline, tok_challenge and more (README).
    #[schema(example = "tok_approve")]
    token: String,
}

/// An order that was accepted; with `Prefer: wait`, also what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedOrder {
    #[schema(value_type = uuid::Uuid)]
    pub order_id: OrderId,
    /// pending, confirmed or cancelled; only with `Prefer: wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// Begin a cart
#[utoipa::path(post, path = "/v1/carts", tag = "carts",
    params(("Idempotency-Key" = String, Header)),
    responses(
        (status = 201, description = "It is empty", body = NewCart,
            headers(("Location" = String), ("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn create(State(api): State<Arc<CommandApi>>, asked: Asked) -> Result<Response, Problem> {
    let request = asked.with_key()?.request(&());
    let id = CartId::created_by(request.command_id);
    let executed = api.cart(id, &request, Command::Create).await?;
    let answer = Answer::new(StatusCode::CREATED, executed.sequence, executed.repeated, NewCart { id });
    Ok(answer.etag(executed.version).location(format!("/v1/carts/{id}")).into_response())
}

/// Set the quantity of one product in a cart
#[utoipa::path(put, path = "/v1/carts/{id}/lines/{sku}", tag = "carts", request_body = LineQuantity,
    params(("id" = uuid::Uuid, Path), ("sku" = String, Path), ("If-Match" = Option<String>, Header),
        ("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 200, description = "It is as asked", body = CartVersion,
            headers(("ETag" = String), ("Log-Position" = u64))),
        (status = 400, description = "`invalid_json`, `invalid_parameter`", body = Problem),
        (status = 404, description = "`cart_not_found`, `product_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`cart_checked_out`, `not_for_sale`, `mixed_currencies`, `cart_full`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn set_line(
    State(api): State<Arc<CommandApi>>,
    Path((id, sku)): Path<(CartId, Sku)>,
    asked: Asked,
    JsonBody(body): JsonBody<LineQuantity>,
) -> Result<Response, Problem> {
    let request = asked.request(&body);
    let product = api.offers.of(&sku, 0, &api.executors.products).await.map_err(unreadable)?;
    if !product.answer.exists && body.quantity > 0 {
        return Err(no_product());
    }
    let offer = product.answer.offer.clone();
    let executed = api.cart(id, &request, Command::SetLine { sku, quantity: body.quantity, offer }).await?;
    let body = CartVersion { id, version: executed.version };
    let answer = Answer::new(StatusCode::OK, executed.sequence, executed.repeated, body);
    Ok(answer.etag(executed.version).into_response())
}

/// Check out a cart
///
/// The order is readable at once, as pending. It becomes confirmed once its stock is held and
/// its payment is authorised, else cancelled, and the cart is open again.
#[utoipa::path(post, path = "/v1/carts/{id}/checkout", tag = "carts", request_body = Checkout,
    params(("id" = uuid::Uuid, Path), ("Idempotency-Key" = String, Header), ("If-Match" = Option<String>, Header),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when it's settled, or after N seconds")),
    responses(
        (status = 202, description = "It is on its way", body = AcceptedOrder,
            headers(("Location" = String), ("Log-Position" = u64))),
        (status = 400, description = "`idempotency_key_missing`, `invalid_json`", body = Problem),
        (status = 404, description = "`cart_not_found`, `not_found`", body = Problem),
        (status = 409, description = "`cart_changed` with `reason`, `total`, `totals` and `lines` (the reason is \
            `quote_expired`, `quote_unknown` if it is not the cart's last one, `lines_changed`, \
            `destination_changed`, `shipping_method_changed` or `total_changed`), `cart_checked_out` with \
            `order_id`, `cart_empty`, `not_for_sale`, `mixed_currencies`, `total_too_large`, \
            `command_in_progress`", body = Problem),
        (status = 412, description = "`stale`", body = Problem),
        (status = 422, description = "`invalid`: of a way to pay that the shop does not have (`/payment/method`), of a \
            shipping method that does not go there, too, and of a country that \
            nothing is shipped to; `idempotency_key_reused`", body = Problem),
        (status = 503, description = "`log_unavailable`, `log_full`, `overloaded`, `outcome_unknown`", body = Problem),
    ))]
pub(crate) async fn check_out(
    State(api): State<Arc<CommandApi>>,
    Path(cart_id): Path<CartId>,
    asked: Asked,
    JsonBody(body): JsonBody<Checkout>,
) -> Result<Response, Problem> {
    let asked = asked.with_key()?;
    let request = asked.request(&body);
    if api.providers.named(&body.payment.method).is_err() {
        let names = api.providers.names();
        let detail = match names.is_empty() {
            true => "there is no way to pay in this shop".to_owned(),
            false => format!("must be one of: {}", names.join(", ")),
        };
        return Err(Problem::invalid_field("/payment/method", detail));
    }
    let order_id = OrderId::created_by(request.command_id);
    let settled = match asked.wait {
        Some(_) => Some(api.settled.expect(order_id, Until::Settled).await),
        None => None,
    };
    let command = |offers, now| check_out_command(&api, order_id, &body, offers, now);
    let executed = api.execute_with_offers(cart_id, &request, command).await?;
    let accepted = AcceptedOrder { order_id, status: None, reason: None };
    let mut answer = Answer::new(StatusCode::ACCEPTED, executed.sequence, executed.repeated, accepted);
    if let (Some(limit), Some(settled)) = (asked.wait, settled) {
        api.wait_for(settled, limit, &mut answer).await?;
    }
    Ok(answer.location(format!("/v1/orders/{order_id}")).into_response())
}

fn check_out_command(
    api: &CommandApi,
    order_id: OrderId,
    body: &Checkout,
    offers: BTreeMap<Sku, Offer>,
    now: DateTime<Utc>,
) -> Command {
    Command::CheckOut(Box::new(CheckOut {
        order_id,
        quote_id: body.quote_id,
        shipping_method: body.shipping_method.clone(),
        offers,
        expected_total: body.expected_total.map(Into::into),
        payment: body.payment.clone().into(),
        buyer: body.clone().into(),
        terms: api.terms.clone(),
        now,
    }))
}

impl CommandApi {
    async fn cart(&self, id: CartId, request: &Request, command: Command) -> Result<Executed<Cart>, Problem> {
        let _turn = self.in_progress.turn(request.command_id).await?;
        self.executors.carts.execute(id, request, command).await.map_err(problem)
    }

    /// Executes a command that is decided on what the cart's products are offered for, as new as the cart at least.
    pub(crate) async fn execute_with_offers(
        &self,
        cart_id: CartId,
        request: &Request,
        command: impl Fn(BTreeMap<Sku, Offer>, DateTime<Utc>) -> Command,
    ) -> Result<Executed<Cart>, Problem> {
        let _turn = self.in_progress.turn(request.command_id).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let cart = self.executors.carts.load(cart_id).await.map_err(unreadable)?;
            let skus: Vec<Sku> = cart.state.lines().iter().map(|line| line.sku.clone()).collect();
            let offers = self.offers(skus.clone(), cart.sequence).await?;
            let command = command(offers, self.clock.now());
            match self.executors.carts.execute(cart_id, request, command).await {
                // A line that came in while the offers were read has none yet.
                Err(execute::Error::Refused(Error::NotForSale(sku)))
                    if !skus.contains(&sku) && attempt < ATTEMPTS_MAX => {}
                outcome => return outcome.map_err(problem),
            }
        }
    }

    /// What these products are offered for, at the position or later; without those that are not for sale.
    async fn offers(&self, skus: Vec<Sku>, position: u64) -> Result<BTreeMap<Sku, Offer>, Problem> {
        let offers = stream::iter(skus).map(|sku| async move {
            let product = self.offers.of(&sku, position, &self.executors.products).await;
            let offer = product.map_err(unreadable)?.answer.offer.clone();
            Ok::<_, Problem>(offer.map(|offer| (sku, offer)))
        });
        let found: Vec<_> = offers.buffer_unordered(OFFERS_AT_A_TIME).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}

impl From<Payment> for PaymentMethod {
    fn from(Payment { method, token }: Payment) -> Self {
        Self { method, token }
    }
}

impl From<Checkout> for Buyer {
    fn from(checkout: Checkout) -> Self {
        let ShippingAddress { name, line1, line2, city, region, postal_code, country } =
            checkout.shipping_address;
        let shipping_address = Address { name, line1, line2, city, region, postal_code, country };
        Self { email: checkout.email, shipping_address }
    }
}
