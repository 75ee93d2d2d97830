//! Stripe as a payment provider: payment intents, which are captured by a request of their own.
//!
//! | operation | request                                | key                                |
//! |-----------|----------------------------------------|------------------------------------|
//! | authorize | `POST payment_intents`, with `confirm` | the request's, until its outcome is known |
//! | capture   | `POST payment_intents/{id}/capture`    | another for each attempt           |
//! | void      | `POST payment_intents/{id}/cancel`     | another for each attempt           |
//! | refund    | `POST refunds`                         | the request's, until its outcome is known |
//!
//! Captures and cancellations are done once, whatever their key: after the first, the intent's status does
//! not allow another. And with the key of one that failed, Stripe would say for a day that it failed.
//!
//! Each payment carries the order's id and its key in its metadata, each refund as well: that is how they are
//! found when an answer is lost. Lists show what was made as soon as it is made, Stripe's search does not.

mod amounts;
mod api;
mod books;
mod moves;
mod objects;
pub mod webhook;

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{Operation, Request, Statement};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Answer, NoAnswer, Page, PaymentProvider, Wanted};
use crate::secret::Secret;
use api::{Api, Failure};
use moves::{Moves, RefundObject};
use objects::Intent;

pub use api::SetupError;

pub const NAME: &str = "stripe";

#[derive(Debug, Clone)]
pub struct Settings {
    pub api_key: Secret,
    /// `https://api.stripe.com`, or where else its API is spoken.
    pub url: String,
    /// Where buyers come back to after they have proved who they are.
    pub return_url: Option<String>,
    /// For each request.
    pub answer_limit: Duration,
}

pub struct Stripe {
    api: Api,
    return_url: Option<String>,
}

impl Stripe {
    /// # Errors
    /// The address is none, or not an encrypted one.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let Settings { api_key, url, return_url, answer_limit } = settings;
        Ok(Self { api: Api::new(&url, &api_key, answer_limit)?, return_url })
    }

    async fn carry_out(&self, request: &Request) -> Result<Answer, NoAnswer> {
        let done = match request.open.operation {
            Operation::Authorize => self.authorize(request).await,
            Operation::Capture => self.capture(request).await,
            Operation::Void => self.move_on(request, "cancel", &[]).await,
            Operation::Refund => self.refund(request).await,
        };
        match done {
            Ok(statement) => Ok(Answer::Stated(statement)),
            Err(Failure::Refused { reason, .. }) => Ok(Answer::Refused { reason }),
            Err(Failure::Failed { reason }) => Ok(Answer::Failed { reason }),
            Err(Failure::NoAnswer(error)) => Err(error),
        }
    }

    async fn authorize(&self, request: &Request) -> Result<Statement, Failure> {
        let (key, order_id) = (request.idempotency_key(), request.order_id.to_string());
        let amount = amount(request)?;
        let currency = request.amount.currency.code().to_ascii_lowercase();
        let mut form = vec![
            ("amount", amount.as_str()),
            ("currency", &currency),
            ("capture_method", "manual"),
            ("confirm", "true"),
            ("payment_method", &request.payment.token),
            ("payment_method_types[]", "card"),
            ("metadata[order_id]", &order_id),
            ("metadata[attempt_ref]", &key),
            ("expand[]", "latest_charge"),
        ];
        form.extend(self.return_url.as_deref().map(|url| ("return_url", url)));
        let intent: Intent = self.api.post("/v1/payment_intents", &form, &key).await?;
        if intent.order_id() != Some(request.order_id) {
            return Err(NoAnswer("the answer is about another order".to_owned()).into());
        }
        Ok(intent.statement(&Moves::default())?)
    }

    async fn capture(&self, request: &Request) -> Result<Statement, Failure> {
        self.move_on(request, "capture", &[("amount_to_capture", &amount(request)?)]).await
    }

    /// Captures or cancels. Where the payment is at its end already, that is the answer.
    async fn move_on(
        &self,
        request: &Request,
        verb: &str,
        form: &[(&str, &str)],
    ) -> Result<Statement, Failure> {
        let id = reference(request)?;
        let key = format!("{}#{}", request.idempotency_key(), request.open.attempt);
        let form = [form, &[("expand[]", "latest_charge")]].concat();
        let path = format!("/v1/payment_intents/{id}/{verb}");
        let intent: Intent = match self.api.post(&path, &form, &key).await {
            Err(Failure::Refused { reason, intent: Some(shown) }) => {
                match serde_json::from_value::<Intent>(shown) {
                    Ok(intent) if matches!(intent.status.as_str(), "succeeded" | "canceled") => intent,
                    _ => return Err(Failure::Refused { reason, intent: None }),
                }
            }
            answered => answered?,
        };
        if intent.id != id {
            return Err(NoAnswer("the answer is about another payment".to_owned()).into());
        }
        Ok(intent.statement(&Moves::default())?)
    }

    async fn refund(&self, request: &Request) -> Result<Statement, Failure> {
        let id = reference(request)?;
        let (key, order_id) = (request.idempotency_key(), request.order_id.to_string());
        let amount = amount(request)?;
        let form = [
            ("payment_intent", id),
            ("amount", amount.as_str()),
            ("metadata[order_id]", &order_id),
            ("metadata[attempt_ref]", &key),
        ];
        let made: RefundObject = match self.api.post("/v1/refunds", &form, &key).await {
            // What was given back by somebody else is in the books.
            Err(Failure::Refused { reason, .. }) if reason == "charge_already_refunded" => {
                let found = self.retrieve(id, request.order_id).await?;
                return found.ok_or(Failure::Refused { reason, intent: None });
            }
            answered => answered?,
        };
        let found = self.retrieve(id, request.order_id).await?;
        let mut statement = found.ok_or_else(|| NoAnswer("the payment is not in its books".to_owned()))?;
        // It may not be listed yet.
        if !statement.refunds.iter().any(|refund| refund.reference == made.id) {
            statement.refunds.push(made.refund(Some(request.order_id), request.amount.currency));
        }
        Ok(statement)
    }
}

/// As Stripe writes it. What it has no amount for was not done, and can't be.
fn amount(request: &Request) -> Result<String, Failure> {
    let amount = amounts::theirs(request.amount).map(|amount| amount.to_string());
    amount.ok_or_else(|| Failure::Refused { reason: "amount_not_possible".to_owned(), intent: None })
}

/// The provider's own name for the payment, which all but the first request are about.
fn reference(request: &Request) -> Result<&str, NoAnswer> {
    let reference = request.provider_reference.as_deref();
    checked(reference.ok_or_else(|| NoAnswer("the payment has no name at the provider".to_owned()))?)
}

/// Ids become parts of addresses.
fn checked(id: &str) -> Result<&str, NoAnswer> {
    match webhook::is_id(id) {
        true => Ok(id),
        false => Err(NoAnswer("this is no name that the provider gives".to_owned())),
    }
}

impl PaymentProvider for Stripe {
    fn name(&self) -> &'static str {
        NAME
    }

    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        self.carry_out(request).boxed()
    }

    fn look_up<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Statement>, NoAnswer>> {
        self.find(wanted).boxed()
    }

    fn list<'a>(
        &'a self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, NoAnswer>> {
        self.page(since, until, cursor).boxed()
    }

    fn challenge<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, NoAnswer>> {
        async move {
            let intent = self.intent(reference).await?;
            let intent = intent.filter(|intent| intent.is_waiting_for_its_buyer());
            Ok(intent.and_then(|intent| intent.next_action?.redirect_to_url?.url))
        }
        .boxed()
    }

    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        async move { Ok(self.intent(reference).await?.and_then(|intent| intent.order_id())) }.boxed()
    }
}
