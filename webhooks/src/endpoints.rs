//! Endpoints: where webhooks go, and who may call themselves the sender.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::text::{Checks, Invalid};
use infra::log::{EventLog, ReadError, Unavailable};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::address::{Rules, Target};
use crate::sealing::{self, Keys};
use crate::tables::hold_checkpoints;
use crate::{replays, signature, types};

const ENDPOINTS_MAX: i64 = 100;

/// For how long the one before is valid too, unless something else is asked for.
pub const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Those that there are.
#[derive(Clone)]
pub struct Endpoints {
    pool: PgPool,
    log: Arc<dyn EventLog>,
    rules: Rules,
    keys: Keys,
}

/// An endpoint as operators see it: without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, FromRow)]
pub struct Endpoint {
    pub id: Uuid,
    pub url: String,
    pub types: Vec<String>,
    /// active or paused
    pub state: String,
    /// Why it is paused.
    pub reason: Option<String>,
    pub created_at: DateTime<Utc>,
    /// Failures in a row.
    pub failures: i32,
    pub failing_since: Option<DateTime<Utc>>,
    /// When it's tried again, if it's left alone until then.
    pub rest_until: Option<DateTime<Utc>>,
    /// Until when the secret before the present one is valid too.
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// Events that wait for it.
    pub pending: i64,
    /// Events that were given up.
    pub dead: i64,
    /// Commits that could not be read. What they tell it is sent by a build that can read them.
    pub unreadable: i64,
}

/// Shown once, and never again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WithSecret {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// `whsec_` and base64: the key of the signatures.
    pub secret: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no such endpoint")]
    NotFound,
    #[error("the data is not valid")]
    Invalid(Vec<Invalid>),
    #[error("{0}")]
    Refused(String),
    #[error("the database does not answer")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Log(#[from] ReadError),
}

impl From<sealing::Error> for Error {
    fn from(error: sealing::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        Self::Log(error.into())
    }
}

const COLUMNS: &str = "select id, url, types, state, reason, created_at, failures, failing_since, rest_until,
        case when previous_until > statement_timestamp() then previous_until end as previous_secret_until,
        (select count(*) from cartulary.webhook_deliveries as d where d.endpoint = e.id and d.state = 'pending') as pending,
        (select count(*) from cartulary.webhook_deliveries as d where d.endpoint = e.id and d.state = 'dead') as dead,
        (select count(*) from cartulary.webhook_unreadable as u where u.endpoint = e.id) as unreadable
     from cartulary.webhook_endpoints as e where state <> 'removed' and ($1::uuid is null or id = $1) order by created_at, id";

impl Endpoints {
    #[must_use]
    pub fn new(pool: PgPool, log: Arc<dyn EventLog>, rules: Rules, keys: Keys) -> Self {
        Self { pool, log, rules, keys }
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(crate) fn log(&self) -> &dyn EventLog {
        self.log.as_ref()
    }

    /// All of them, the oldest first.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn list(&self) -> Result<Vec<Endpoint>, Error> {
        Ok(sqlx::query_as(COLUMNS).bind(None::<Uuid>).fetch_all(&self.pool).await?)
    }

    /// # Errors
    /// There is none with this id, or Postgres does not answer.
    pub async fn get(&self, id: Uuid) -> Result<Endpoint, Error> {
        let mut connection = self.pool.acquire().await?;
        get(id, &mut connection).await
    }

    /// Registers one: it is sent each event of these types that is appended from now on.
    ///
    /// # Errors
    /// The URL or a type is not valid, there are too many, or the log or Postgres does not answer.
    pub async fn add(&self, url: &str, types: &[String]) -> Result<WithSecret, Error> {
        let mut checks = Checks::default();
        types::check(types, &mut checks);
        match Target::parse(url, self.rules) {
            Err(wrong) => checks.add("/url", wrong),
            // A name that stands for nothing now may do so later.
            Ok(target) => {
                if let Err(refused @ crate::address::Unreachable::Refused(_)) =
                    target.addresses(self.rules).await
                {
                    checks.add("/url", refused.to_string());
                }
            }
        }
        checks.finish().map_err(Error::Invalid)?;
        let (id, secret) = (Uuid::now_v7(), secret()?);
        let sealed = self.keys.seal(id, &secret)?;
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        hold_checkpoints(&mut transaction).await?;
        let count: i64 =
            sqlx::query_scalar("select count(*) from cartulary.webhook_endpoints where state <> 'removed'")
                .fetch_one(&mut *transaction)
                .await?;
        if count >= ENDPOINTS_MAX {
            return Err(Error::Refused(format!("there are {ENDPOINTS_MAX} endpoints, which is the most")));
        }
        // The checkpoint can't be behind it before it's there to be seen.
        let end = self.log.end().await?;
        sqlx::query(
            "insert into cartulary.webhook_endpoints (id, url, types, secret, state, from_position)
             values ($1, $2, $3, $4, 'active', $5)",
        )
        .bind(id)
        .bind(url)
        .bind(types)
        .bind(&sealed)
        .bind(end.cast_signed())
        .execute(&mut *transaction)
        .await?;
        let endpoint = get(id, &mut transaction).await?;
        transaction.commit().await?;
        Ok(WithSecret { endpoint, secret })
    }

    /// Sends it nothing more, and forgets it with all that waits for it.
    ///
    /// # Errors
    /// There is none with this id, or Postgres does not answer.
    pub async fn remove(&self, id: Uuid) -> Result<(), Error> {
        let removed = sqlx::query(
            "update cartulary.webhook_endpoints set state = 'removed', secret = '', previous_secret = null
             where id = $1 and state <> 'removed'",
        );
        match removed.bind(id).execute(&self.pool).await?.rows_affected() {
            0 => Err(Error::NotFound),
            _ => Ok(()),
        }
    }

    /// Sends it nothing until it's resumed; what happens meanwhile is made up for then.
    ///
    /// # Errors
    /// There is none with this id, or the log or Postgres does not answer.
    pub async fn pause(&self, id: Uuid, reason: &str) -> Result<Endpoint, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        hold_checkpoints(&mut transaction).await?;
        let end = self.log.end().await?;
        sqlx::query(
            "update cartulary.webhook_endpoints set state = 'paused', reason = $2, paused_position = $3
             where id = $1 and state = 'active'",
        )
        .bind(id)
        .bind(reason)
        .bind(end.cast_signed())
        .execute(&mut *transaction)
        .await?;
        let endpoint = get(id, &mut transaction).await?;
        transaction.commit().await?;
        Ok(endpoint)
    }

    /// Goes on with it, and with what happened while it was paused.
    ///
    /// # Errors
    /// There is none with this id, or the log or Postgres does not answer.
    pub async fn resume(&self, id: Uuid) -> Result<Endpoint, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let checkpoint = hold_checkpoints(&mut transaction).await?;
        let end = self.log.end().await?;
        let paused: Option<i64> = sqlx::query_scalar(
            "update cartulary.webhook_endpoints as new
             set state = 'active', reason = null, paused_position = null, from_position = $2,
                 failures = 0, failing_since = null, rest_until = null
             from cartulary.webhook_endpoints as old
             where new.id = $1 and old.id = $1 and new.state = 'paused' returning old.paused_position",
        )
        .bind(id)
        .bind(end.cast_signed())
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(paused) = paused {
            // What the checkpoint had not come to when it was paused has no row yet.
            let after = paused.cast_unsigned().min(checkpoint);
            replays::begin(id, after + 1, end, false, &mut transaction).await?;
            // Time does not count while it's paused.
            sqlx::query(
                "update cartulary.webhook_deliveries set since = clock_timestamp(), next_at = clock_timestamp()
                 where endpoint = $1 and state = 'pending' and claim is null",
            )
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        }
        let endpoint = get(id, &mut transaction).await?;
        transaction.commit().await?;
        Ok(endpoint)
    }

    /// Gives it another secret. For a while, requests are signed with both.
    ///
    /// # Errors
    /// There is none with this id, or Postgres does not answer.
    pub async fn rotate(&self, id: Uuid, overlap: Duration) -> Result<WithSecret, Error> {
        let secret = secret()?;
        let sealed = self.keys.seal(id, &secret)?;
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        sqlx::query(
            "update cartulary.webhook_endpoints
             set previous_secret = secret, previous_until = clock_timestamp() + make_interval(secs => $3), secret = $2
             where id = $1 and state <> 'removed'",
        )
        .bind(id)
        .bind(&sealed)
        .bind(overlap.min(OVERLAP_MAX).as_secs_f64())
        .execute(&mut *transaction)
        .await?;
        let endpoint = get(id, &mut transaction).await?;
        transaction.commit().await?;
        Ok(WithSecret { endpoint, secret })
    }
}

fn secret() -> Result<String, Error> {
    signature::new_secret()
        .ok_or_else(|| Error::Refused("the system has no randomness for a secret".to_owned()))
}

async fn get(id: Uuid, connection: &mut PgConnection) -> Result<Endpoint, Error> {
    let found = sqlx::query_as(COLUMNS).bind(Some(id)).fetch_optional(connection).await?;
    found.ok_or(Error::NotFound)
}
