//! What operators ask about sagas.

use chrono::{DateTime, Utc};
use domain::commit::RecordedEvent;
use domain::payment::Payment;
use domain::{Aggregate, Commit, OrderId, StreamId};
use infra::log::{EventLog, ReadError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::calls;
pub use crate::work::Kind;

/// After this time in one stage without a timer, a saga is looked at.
const LONG_S: f64 = 15.0 * 60.0;

/// How late a timer may be.
const LATE_S: f64 = 60.0;

/// After so many look-ups, an unknown outcome is looked at.
pub(crate) const LOOK_UPS: u32 = 5;

/// Sagas that are under way, by stage.
#[derive(Debug, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Stage {
    /// `checkout` or `payment`; `order`, where something can't be read and all that happens to the order waits.
    pub saga: String,
    /// What they wait for.
    pub stage: String,
    pub sagas: i64,
    /// Since when the oldest one is in this stage.
    pub oldest_since: DateTime<Utc>,
    /// Those which something is wrong with.
    pub stuck: i64,
}

/// A saga that is under way.
#[derive(Debug, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Open {
    /// `checkout` or `payment`; `order`, where something can't be read and all that happens to the order waits.
    pub saga: String,
    /// The order's id; or one that stands for a stream, where nobody can say which order it is about.
    pub id: Uuid,
    pub stage: String,
    /// Why it goes backwards, if it does.
    pub reason: Option<String>,
    /// In this stage since then.
    pub since: DateTime<Utc>,
    /// When it goes on, whatever else happens.
    pub deadline: Option<DateTime<Utc>>,
    /// Attempts at what it can't get done, or at an outcome that is unknown.
    pub attempts: Option<i64>,
    /// What went wrong the last time.
    pub error: Option<String>,
}

/// An order's sagas, as the log has them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Story {
    pub id: Uuid,
    /// Those of the order's sagas that are known here, and how they are doing.
    pub sagas: Vec<Open>,
    /// All that they recorded, in the log's order.
    pub steps: Vec<Step>,
}

/// Something that a saga recorded.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub position: u64,
    /// Nothing, where it can't be read.
    pub at: Option<DateTime<Utc>>,
    /// `checkout`, `payment` or `order`.
    pub stream: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// It takes back what was done.
    pub is_undo: bool,
    #[schema(value_type = Object)]
    pub data: Value,
    /// Who it was: `saga:checkout`, `saga:payment`, `reconciliation`, `operator` with a name behind it, if one was given.
    pub actor: String,
    /// The event or command that led to it.
    pub causation: Option<Uuid>,
}

/// What is true of a saga that is stuck; `t` is its trouble. Two stages only a person ends.
const STUCK: &str = "(t.id is not null
    or s.stage in ('capture_stuck', 'shipment_overdue')
    or s.deadline < statement_timestamp() - make_interval(secs => $1)
    or s.deadline is null and s.since < statement_timestamp() - make_interval(secs => $2)
    or s.saga = 'payment' and s.generation >= $3)";

const FROM: &str =
    "cartulary.sagas as s left join cartulary.saga_troubles as t on t.saga = s.saga and t.id = s.id";

const OPEN: &str = "s.saga, s.id, s.stage, s.reason, s.since, s.deadline,
    coalesce(t.attempts, nullif(s.generation, 0)::bigint) as attempts, t.error";

/// What is set aside, in the form of the above.
const ASIDE: &str = "select 'order', id, 'set_aside', null, min(at), null::timestamptz, null::bigint,
    format('%s at position %s: %s; %s wait behind it', (array_agg(stream order by position))[1], min(position),
           coalesce((array_agg(reason order by position))[1], 'it can be read now'), count(*) - 1)
    from cartulary.saga_letters";

/// How many sagas are under way, and where.
///
/// # Errors
/// Postgres does not answer.
pub async fn stages(pool: &PgPool) -> Result<Vec<Stage>, sqlx::Error> {
    let query = format!(
        "select s.saga, s.stage, count(*) as sagas, min(s.since) as oldest_since,
                count(*) filter (where {STUCK}) as stuck
         from {FROM} where not s.is_over group by 1, 2
         union all
         select 'order', 'set_aside', count(distinct id), min(at), count(distinct id)
         from cartulary.saga_letters having count(*) > 0
         order by 1, 2"
    );
    stuck_if(sqlx::query_as(sqlx::AssertSqlSafe(query))).fetch_all(pool).await
}

/// Sagas that something is wrong with, those that have waited longest first, at most so many.
///
/// # Errors
/// Postgres does not answer.
pub async fn stuck(pool: &PgPool, most: u32) -> Result<Vec<Open>, sqlx::Error> {
    let query = format!(
        "select {OPEN} from {FROM} where not s.is_over and {STUCK} union all {ASIDE} group by id order by since, id limit $4"
    );
    stuck_if(sqlx::query_as(sqlx::AssertSqlSafe(query))).bind(i64::from(most)).fetch_all(pool).await
}

type QueryAs<T> = sqlx::query::QueryAs<'static, sqlx::Postgres, T, sqlx::postgres::PgArguments>;

fn stuck_if<T>(query: QueryAs<T>) -> QueryAs<T> {
    query.bind(LATE_S).bind(LONG_S).bind(i64::from(LOOK_UPS))
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Postgres does not answer: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Log(#[from] ReadError),
}

/// All that an order's sagas have done; nothing, if there is no such order.
///
/// # Errors
/// Postgres or the log does not answer.
pub async fn show(pool: &PgPool, log: &dyn EventLog, id: OrderId) -> Result<Option<Story>, Error> {
    let query = format!(
        "select {OPEN} from {FROM} where s.id = $1 union all {ASIDE} where id = $1 group by id order by saga"
    );
    let sagas = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(id.0).fetch_all(pool).await?;
    let mut steps = Vec::new();
    for category in [crate::checkout::NAME, domain::payment::CATEGORY, domain::order::CATEGORY] {
        let stream: StreamId = format!("{category}/{id}").parse().map_err(|error| {
            sqlx::Error::Decode(format!("{category}/{id} names no stream: {error}").into())
        })?;
        steps.extend(steps_in(log, &stream, category).await?);
    }
    steps.sort_by_key(|step| step.position);
    mark_undo(&mut steps);
    let is_known = !steps.is_empty() || !sagas.is_empty();
    Ok(is_known.then_some(Story { id: id.0, sagas, steps }))
}

/// What is in the stream, up to what can't be read.
async fn steps_in(log: &dyn EventLog, stream: &StreamId, name: &str) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let mut after = 0;
    loop {
        match log.load_page(stream, after, 1).await {
            Ok(page) => {
                for stored in &page.commits {
                    after = stored.sequence;
                    steps.extend(steps_of(stored.sequence, name, &stored.commit));
                }
                if !page.more {
                    return Ok(steps);
                }
            }
            Err(ReadError::Unreadable { sequence, source, .. }) => {
                steps.push(Step {
                    position: sequence,
                    at: None,
                    stream: name.to_owned(),
                    kind: format!("(not readable: {source})"),
                    is_undo: false,
                    data: Value::Null,
                    actor: String::new(),
                    causation: None,
                });
                return Ok(steps);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn steps_of<'c>(position: u64, stream: &'c str, commit: &'c Commit) -> impl Iterator<Item = Step> + 'c {
    commit.events.iter().map(move |RecordedEvent { kind, occurred_at, data, .. }| Step {
        position,
        at: Some(*occurred_at),
        stream: stream.to_owned(),
        kind: kind.clone(),
        is_undo: false,
        data: serde_json::from_str(data.get()).unwrap_or(Value::Null),
        actor: commit.actor.clone(),
        causation: commit.causation,
    })
}

/// What a checkout does after it has failed takes back what it did before.
fn mark_undo(steps: &mut [Step]) {
    let mut has_failed = false;
    for step in steps {
        step.is_undo = has_failed && step.stream != domain::order::CATEGORY;
        has_failed |= step.kind == "checkout.failed";
    }
}

/// Whether the order's payment has asked the provider for something that it was not answered yet.
///
/// # Errors
/// The log does not answer, or holds what this build can't read.
pub async fn is_owed(log: &dyn EventLog, id: OrderId) -> Result<bool, ReadError> {
    let mut payment = Payment::default();
    for stored in log.load(&StreamId::of::<Payment>(id), 0).await? {
        for recorded in &stored.commit.events {
            let event = recorded.decode().map_err(|source| ReadError::Unreadable {
                sequence: stored.sequence,
                stream: Some(stored.commit.stream.clone()),
                body: stored.body.clone(),
                source,
            })?;
            payment.evolve(&event);
        }
    }
    Ok(payment.open_request(id).is_some())
}

/// What an operator wants done with a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// What it waits for, now.
    Retry,
    /// Whatever the checkout has done so far, taken back; or what is asked of the payment's provider, given up.
    Abandon { saga: Kind, reason: String, by: Option<String> },
}

impl Call {
    /// As the table and the API have it: `retry`, `abandon` or `abandon_payment`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Retry => calls::RETRY_NOW,
            Self::Abandon { saga: Kind::Checkout, .. } => calls::ABANDON,
            Self::Abandon { saga: Kind::Payment, .. } => calls::ABANDON_PAYMENT,
        }
    }
}

/// Asks for it; whichever process has the saga's lane does it in a moment. What was called for before, and is not
/// done, stays as it was called for: it may be half done, and only the same call gets the rest done.
///
/// # Errors
/// Postgres does not answer.
pub async fn call(pool: &PgPool, id: OrderId, call: &Call) -> Result<(), sqlx::Error> {
    let (reason, by) = match call {
        Call::Retry => (None, None),
        Call::Abandon { reason, by, .. } => (Some(reason), by.as_ref()),
    };
    let actor = by.map(|by| format!("{}:{by}", calls::OPERATOR));
    sqlx::query(
        "insert into cartulary.operator_calls (id, partition, call, reason, actor) values ($1, $2, $3, $4, $5)
         on conflict (id, call) do update set at = excluded.at, actor = excluded.actor where excluded.call = $6",
    )
    .bind(id.0)
    .bind(id.partition().cast_signed())
    .bind(call.name())
    .bind(reason)
    .bind(actor)
    .bind(calls::RETRY_NOW)
    .execute(pool)
    .await?;
    Ok(())
}

/// The names of the calls that wait to be taken up, the oldest first.
///
/// # Errors
/// Postgres does not answer.
pub async fn calls(pool: &PgPool, id: OrderId) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select call from cartulary.operator_calls where id = $1 order by at")
        .bind(id.0)
        .fetch_all(pool)
        .await
}
