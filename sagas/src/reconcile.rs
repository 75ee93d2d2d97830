//! Reconciliation: the payment providers' books, held against the log.
//!
//! | what differs                                         | kind         | what is done                            |
//! |------------------------------------------------------|--------------|-----------------------------------------|
//! | the provider did something that the log doesn't have | `missed`     | recorded; the payment takes it from there |
//! | a second payment for an order                        | `stray`      | recorded; the payment has it undone      |
//! | a payment that holds money, for no order of ours     | `orphan`     | reported; undone, if the settings say so |
//! | a payment of ours which the provider does not have   | `absent`     | reported                                |
//! | a request without an outcome for long                | `unresolved` | reported; it is looked up all the while  |
//! | money that was to be given back, and a person gave that up | `given_up` | reported, as long as the provider has it |
//!
//! Compared is what was made at the provider in a time, and what happened to payments in the log in the same.
//! The next time begins before the end of the last one, for what shows late. How far it has come is kept only
//! when everything up to there is dealt with, so whoever dies in the middle has it done again by another.

mod ours;
pub mod tables;
mod theirs;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::commit::Hash;
use domain::payment::{Command, Event, Payment, Statement};
use domain::{Aggregate, CommandId, OrderId};
use futures_util::future::BoxFuture;
use infra::execute::{Loaded, Request};
use infra::payment::{NoAnswer, PaymentProvider};
use infra::writer::Priority;
use metrics::counter;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, PgPool};
use uuid::Uuid;

use crate::work::Sagas;
use tables::{Recorded, Run};

pub use tables::{Difference, Kind};

/// Differences by kind, as a metric.
const DIFFERENCES: &str = "cartulary_payment_differences_total";

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How far the first comparison goes back.
const FIRST: chrono::Duration = chrono::Duration::hours(48);

#[derive(Debug, Clone)]
pub struct Settings {
    /// Between two comparisons.
    pub interval: Duration,
    /// How far each goes back behind the end of the one before.
    pub overlap: chrono::Duration,
    /// What is younger is about to be recorded by whoever asked for it, unless an operator wants to know now.
    pub leave: chrono::Duration,
    /// Payments that name an order which is none of ours are undone.
    pub undo_orphans: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (overlap, leave) = (chrono::Duration::hours(2), chrono::Duration::minutes(2));
        Self { interval: Duration::from_secs(60 * 60), overlap, leave, undo_orphans: false }
    }
}

/// Why a comparison ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("the log does not answer: {0}")]
    Log(String),
}

impl Error {
    fn log(error: impl std::fmt::Display) -> Self {
        Self::Log(error.to_string())
    }
}

/// Where it is told how a comparison goes, and what it finds.
pub trait Report: Send + Sync {
    /// So many more of the provider's payments were compared.
    fn progress(&mut self, payments: usize) -> BoxFuture<'_, Result<(), Error>>;

    fn difference<'a>(
        &'a mut self,
        provider: &'static str,
        found: &'a Difference,
    ) -> BoxFuture<'a, Result<(), Error>>;
}

/// One comparison with one provider.
struct Comparison<'a> {
    sagas: &'a Sagas,
    provider: &'a dyn PaymentProvider,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    /// Orders whose payments were in the provider's list.
    seen: BTreeSet<OrderId>,
    report: &'a mut dyn Report,
}

/// Compares when it is time to, or when an operator asks for it; in one process at a time. Runs until it is
/// dropped.
pub(crate) async fn run(sagas: &Sagas, pool: &PgPool) {
    loop {
        if let Err(error) = work(sagas, &sagas.settings.reconciliation, pool).await {
            tracing::warn!(%error, "the reconciliation of payments waits for the database");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Works for as long as the connection lasts, for with it goes the right to.
async fn work(sagas: &Sagas, settings: &Settings, pool: &PgPool) -> Result<(), sqlx::Error> {
    let options = pool.connect_options().as_ref().clone();
    let mut connection = options.application_name("cartulary reconciliation").connect().await?;
    while !tables::is_alone(&mut connection).await? {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    loop {
        let run = match tables::asked_for(&mut connection).await? {
            Some(run) => Some(run),
            None => tables::due(settings.interval, &mut connection).await?,
        };
        match run {
            Some(run) => reconcile(sagas, settings, &run, &mut connection).await?,
            None => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// All providers, one after the other; one that does not answer is left for the next time.
async fn reconcile(
    sagas: &Sagas,
    settings: &Settings,
    run: &Run,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    tracing::info!(run = %run.id, "payments are compared with the providers' books");
    let mut errors = Vec::new();
    for provider in sagas.providers.all() {
        let now = sagas.clock.now();
        let known = tables::reconciled_until(provider.name(), connection).await?;
        let next = known.map_or(now - FIRST, |until| until - settings.overlap);
        let until = if run.is_by_operator { now } else { now - settings.leave };
        let since = run.since.unwrap_or(next).min(until);
        let mut report = Recorded { run, connection: &mut *connection };
        match sagas.compare(provider.as_ref(), since, until, &mut report).await {
            Ok(()) if known.is_none_or(|known| since <= known) => {
                tables::reconciled(provider.name(), until, connection).await?;
            }
            Ok(()) => {}
            Err(Error::Database(error)) => return Err(error),
            Err(error) => {
                tracing::error!(provider = provider.name(), %error, "a provider's books were not compared; they are the next time");
                errors.push(format!("{}: {error}", provider.name()));
            }
        }
    }
    tables::ended(run, &errors.join("; "), connection).await
}

impl Sagas {
    /// Compares what was made at the provider in this time, and what happened to payments in the log in the same.
    ///
    /// # Errors
    /// Somebody does not answer. What was found until then is reported; the rest is the next time, if it begins
    /// no later.
    pub async fn compare(
        &self,
        provider: &dyn PaymentProvider,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        report: &mut dyn Report,
    ) -> Result<(), Error> {
        let seen = BTreeSet::new();
        Comparison { sagas: self, provider, since, until, seen, report }.compare().await
    }
}

impl Comparison<'_> {
    async fn compare(mut self) -> Result<(), Error> {
        let mut cursor = None;
        loop {
            let page = self.provider.list(self.since, self.until, cursor.as_deref()).await?;
            for booked in &page.payments {
                self.theirs(booked).await?;
            }
            self.report.progress(page.payments.len()).await?;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        for order_id in self.sagas.with_news(self.since, self.until).await? {
            if !self.seen.contains(&order_id) {
                self.ours(order_id).await?;
            }
        }
        Ok(())
    }

    /// Records what is news to the payment in what the provider states; says what that was.
    async fn observe(
        &self,
        order_id: OrderId,
        payment: &Loaded<Payment>,
        statement: &Statement,
    ) -> Result<Vec<String>, Error> {
        let at = self.sagas.clock.now();
        let command = Command::Observe { statement: statement.clone(), at };
        let Ok(news) = payment.state.decide(command.clone());
        if news.is_empty() {
            return Ok(Vec::new());
        }
        let request = request(order_id, payment.version, statement);
        let executed = self.sagas.executors.payments.execute(order_id, &request, command).await;
        let recorded = executed.map_err(Error::log)?.events;
        Ok(recorded.iter().map(name).collect())
    }

    async fn report(&mut self, difference: Difference) -> Result<(), Error> {
        let kind = difference.kind.code();
        counter!(DIFFERENCES, "provider" => self.provider.name(), "kind" => kind).increment(1);
        let (provider, order) = (self.provider.name(), difference.order_id);
        let (reference, what) = (&difference.reference, &difference.what);
        match difference.is_repaired {
            true => tracing::warn!(
                provider,
                kind,
                ?order,
                reference,
                what,
                "payments differed, and do not any more"
            ),
            false => tracing::error!(
                provider,
                kind,
                ?order,
                reference,
                what,
                "payments differ, and somebody has to look"
            ),
        }
        self.report.difference(provider, &difference).await
    }

    fn difference(&self, kind: Kind, order_id: Option<OrderId>, statement: &Statement) -> Difference {
        Difference {
            kind,
            order_id: order_id.map(|id| id.0),
            reference: statement.reference.clone(),
            amount: statement.authorized.max(statement.captured),
            currency: statement.currency.code().to_owned(),
            what: String::new(),
            is_repaired: false,
        }
    }
}

/// As the log has it: `payment.voided`.
fn name(event: &Event) -> String {
    let written = serde_json::to_value(event).unwrap_or_default();
    written["type"].as_str().unwrap_or_default().to_owned()
}

/// What news a statement has depends on what the log had by then.
fn request(order_id: OrderId, version: u64, statement: &Statement) -> Request {
    let hash = Hash::of(format!("{statement:?}").as_bytes());
    let id = CommandId(Uuid::new_v5(&order_id.0, format!("reconciliation/{version}/{hash}").as_bytes()));
    Request {
        command_id: id,
        hash,
        actor: "reconciliation".to_owned(),
        correlation: id,
        causation: None,
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
        priority: Priority::Normal,
    }
}
