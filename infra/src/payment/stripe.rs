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

mod api;
mod objects;
pub mod webhook;

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{Operation, Request, State, Statement};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Answer, NoAnswer, Page, PaymentProvider, Wanted};
use crate::secret::Secret;
use api::{Api, Failure};
use objects::{Intent, List, RefundObject};

pub use api::SetupError;

pub const NAME: &str = "stripe";

/// Most objects of a page.
const PAGE_MAX: &str = "100";

/// Most pages that are read in search of an order's payment.
const PAGES_MAX: usize = 100;

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
            Operation::Capture => {
                let amount = request.amount.amount.to_string();
                self.move_on(request, "capture", &[("amount_to_capture", &amount)]).await
            }
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
        let amount = request.amount.amount.to_string();
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
        Ok(intent.statement(&[])?)
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
        Ok(intent.statement(&[])?)
    }

    async fn refund(&self, request: &Request) -> Result<Statement, Failure> {
        let id = reference(request)?;
        let (key, order_id) = (request.idempotency_key(), request.order_id.to_string());
        let amount = request.amount.amount.to_string();
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
            statement.refunds.push(made.refund(Some(request.order_id)));
        }
        Ok(statement)
    }

    /// A payment with its refunds, if it is this order's.
    async fn retrieve(&self, id: &str, order_id: OrderId) -> Result<Option<Statement>, NoAnswer> {
        let Some(intent) = self.intent(id).await? else { return Ok(None) };
        if intent.order_id() != Some(order_id) {
            tracing::warn!(order = %order_id, reference = id, "a payment was taken for this order's, and is not");
            return Ok(None);
        }
        let refunds = match intent.is_captured() {
            true => self.refunds(&intent.id).await?,
            false => Vec::new(),
        };
        intent.statement(&refunds).map(Some)
    }

    async fn intent(&self, id: &str) -> Result<Option<Intent>, NoAnswer> {
        let path = format!("/v1/payment_intents/{}", checked(id)?);
        self.api.get(&path, &[("expand[]", "latest_charge")]).await
    }

    async fn refunds(&self, id: &str) -> Result<Vec<RefundObject>, NoAnswer> {
        let mut all: Vec<RefundObject> = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut query = vec![("payment_intent", id), ("limit", PAGE_MAX)];
            let last = all.last().map(|refund| refund.id.clone());
            query.extend(last.as_deref().map(|last| ("starting_after", last)));
            let page: Option<List<RefundObject>> = self.api.get("/v1/refunds", &query).await?;
            let List { data, has_more } = page.ok_or_else(no_list)?;
            let is_last = !has_more || data.is_empty();
            all.extend(data);
            if is_last {
                return Ok(all);
            }
        }
        Err(NoAnswer("a payment with more refunds than can be read".to_owned()))
    }

    /// A page of the payments made in this time, newest first.
    async fn made(
        &self,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        after: Option<&str>,
    ) -> Result<List<Intent>, NoAnswer> {
        let seconds = |at: DateTime<Utc>| at.timestamp().to_string();
        let (since, until) = (since.map(seconds), until.map(seconds));
        let mut query = vec![("limit", PAGE_MAX), ("expand[]", "data.latest_charge")];
        query.extend(since.as_deref().map(|since| ("created[gte]", since)));
        query.extend(until.as_deref().map(|until| ("created[lte]", until)));
        query.extend(after.map(|after| ("starting_after", after)));
        self.api.get("/v1/payment_intents", &query).await?.ok_or_else(no_list)
    }

    async fn find(&self, wanted: Wanted<'_>) -> Result<Vec<Statement>, NoAnswer> {
        if let Some(id) = wanted.reference {
            return Ok(self.retrieve(id, wanted.order_id).await?.into_iter().collect());
        }
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let List { data, has_more } = self.made(wanted.since, None, after.as_deref()).await?;
            for intent in data.iter().filter(|intent| intent.order_id() == Some(wanted.order_id)) {
                let refunds = match intent.may_have_refunds() {
                    true => self.refunds(&intent.id).await?,
                    false => Vec::new(),
                };
                found.push(intent.statement(&refunds)?);
            }
            after = data.last().map(|last| last.id.clone());
            if !has_more || after.is_none() {
                return Ok(found);
            }
        }
        // Who has not seen all of it does not know that something is not there.
        Err(NoAnswer("there are more payments than can be looked through".to_owned()))
    }

    async fn page(
        &self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&str>,
    ) -> Result<Page, NoAnswer> {
        let List { data, has_more } = self.made(Some(since), Some(until), cursor).await?;
        let mut payments = Vec::new();
        for intent in &data {
            let refunds = match intent.may_have_refunds() {
                true => self.refunds(&intent.id).await?,
                false => Vec::new(),
            };
            match intent.booked(&refunds) {
                Ok(booked) => payments.push(booked),
                // One that no order here can have.
                Err(error) => tracing::warn!(reference = intent.id, %error, "a payment was passed over"),
            }
        }
        let next = data.last().filter(|_| has_more).map(|last| last.id.clone());
        Ok(Page { payments, next })
    }
}

fn no_list() -> NoAnswer {
    NoAnswer("there is no list where one should be".to_owned())
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
            let intent =
                intent.filter(|intent| intent.statement(&[]).is_ok_and(|s| s.state == State::ActionRequired));
            Ok(intent.and_then(|intent| intent.next_action?.redirect_to_url?.url))
        }
        .boxed()
    }

    fn order_of<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<OrderId>, NoAnswer>> {
        async move { Ok(self.intent(reference).await?.and_then(|intent| intent.order_id())) }.boxed()
    }
}
