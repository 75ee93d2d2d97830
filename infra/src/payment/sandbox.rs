//! A payment provider for development, deterministic by token, with a durable ledger of its own.
//!
//! | token       | authorisation                                       |
//! |-------------|-----------------------------------------------------|
//! | tok_approve | approved                                            |
//! | tok_decline | declined                                            |
//! | tok_slow    | under way, approved after 5 s                       |
//! | tok_lost    | approved, and the answer is lost on its way         |
//! | any other   | declined as unknown                                 |
//!
//! Its ledger, the table `sandbox.operations`, plays the provider's own books: only this file
//! reads and writes it, and it survives the platform's crashes as a provider's books would.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::{Operation, Request};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::{Answer, NoAnswer, PaymentProvider};
use crate::clock::Clock;

/// How long `tok_slow` takes.
const SLOW: chrono::Duration = chrono::Duration::seconds(5);

/// The sandbox and its ledger.
#[derive(Debug, Clone)]
pub struct Sandbox {
    ledger: PgPool,
    clock: Clock,
}

/// One line of the ledger.
#[derive(Debug, FromRow)]
struct Entry {
    provider_reference: String,
    declined: Option<String>,
    settles_at: DateTime<Utc>,
}

impl Sandbox {
    /// Opens the sandbox, and makes its ledger where there is none yet.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn open(ledger: PgPool, clock: Clock) -> Result<Self, sqlx::Error> {
        sqlx::raw_sql(
            "create schema if not exists sandbox;
             create table if not exists sandbox.operations (
                 idempotency_key text primary key,
                 order_id uuid not null,
                 operation text not null,
                 provider_reference text not null,
                 amount bigint not null,
                 currency text not null,
                 declined text,
                 settles_at timestamptz not null,
                 asked_at timestamptz not null
             );",
        )
        .execute(&ledger)
        .await?;
        Ok(Self { ledger, clock })
    }

    async fn carry_out(&self, request: &Request) -> Result<Answer, NoAnswer> {
        let declined = match request.operation {
            Operation::Authorize => declined(&request.payment.token),
            Operation::Capture | Operation::Void | Operation::Refund => self.impossible(request).await?,
        };
        let first = self.enter(request, declined).await?;
        if first && request.operation == Operation::Authorize && request.payment.token == "tok_lost" {
            return Err(NoAnswer("the connection was cut".to_owned()));
        }
        let entry = self.entry(request).await?;
        entry.map(|entry| self.answer(entry)).ok_or_else(|| NoAnswer("the ledger lost a line".to_owned()))
    }

    /// Why the ledger does not allow the operation, if it does not.
    async fn impossible(&self, request: &Request) -> Result<Option<&'static str>, NoAnswer> {
        let done: Vec<String> = sqlx::query_scalar(
            "select operation from sandbox.operations
             where provider_reference = $1 and order_id = $2 and declined is null and idempotency_key <> $3",
        )
        .bind(request.provider_reference.as_deref())
        .bind(request.order_id.0)
        .bind(request.idempotency_key())
        .fetch_all(&self.ledger)
        .await
        .map_err(no_answer)?;
        let is = |operation: Operation| done.iter().any(|done| done == operation.code());
        Ok(match request.operation {
            _ if !is(Operation::Authorize) => Some("not_authorized"),
            Operation::Capture if is(Operation::Void) => Some("voided"),
            Operation::Void if is(Operation::Capture) => Some("captured"),
            Operation::Refund if !is(Operation::Capture) => Some("not_captured"),
            _ => None,
        })
    }

    /// Enters the request into the ledger; false if its key is there already.
    async fn enter(&self, request: &Request, declined: Option<&str>) -> Result<bool, NoAnswer> {
        let now = self.clock.now();
        let slow = request.operation == Operation::Authorize && request.payment.token == "tok_slow";
        let new_reference = || format!("sandbox-{}", Uuid::new_v5(&request.order_id.0, b"authorization"));
        let done = sqlx::query(
            "insert into sandbox.operations values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (idempotency_key) do nothing",
        )
        .bind(request.idempotency_key())
        .bind(request.order_id.0)
        .bind(request.operation.code())
        .bind(request.provider_reference.clone().unwrap_or_else(new_reference))
        .bind(request.amount.amount)
        .bind(request.amount.currency.code())
        .bind(declined)
        .bind(if slow { now + SLOW } else { now })
        .bind(now)
        .execute(&self.ledger)
        .await
        .map_err(no_answer)?;
        Ok(done.rows_affected() == 1)
    }

    async fn entry(&self, request: &Request) -> Result<Option<Entry>, NoAnswer> {
        sqlx::query_as(
            "select provider_reference, declined, settles_at
             from sandbox.operations where idempotency_key = $1",
        )
        .bind(request.idempotency_key())
        .fetch_optional(&self.ledger)
        .await
        .map_err(no_answer)
    }

    fn answer(&self, entry: Entry) -> Answer {
        let left = (entry.settles_at - self.clock.now()).to_std().unwrap_or(Duration::ZERO);
        match entry.declined {
            _ if !left.is_zero() => Answer::Processing { look_up_after: left },
            Some(reason) => Answer::Declined { reason },
            None => Answer::Done { provider_reference: entry.provider_reference },
        }
    }
}

fn declined(token: &str) -> Option<&'static str> {
    match token {
        "tok_approve" | "tok_slow" | "tok_lost" => None,
        "tok_decline" => Some("insufficient_funds"),
        _ => Some("unknown_token"),
    }
}

fn no_answer(error: sqlx::Error) -> NoAnswer {
    NoAnswer(error.to_string())
}

impl PaymentProvider for Sandbox {
    fn ask<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        self.carry_out(request).boxed()
    }

    fn look_up<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>> {
        async move { Ok(self.entry(request).await?.map(|entry| self.answer(entry))) }.boxed()
    }
}
