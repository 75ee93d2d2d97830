//! What operators see of deliveries, and how they have them tried again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::endpoints::{Endpoints, Error};
use crate::message;

/// Most that are made due again by one call.
const RETRIED_MAX: i64 = 10_000;

/// An event on its way to an endpoint, or at the end of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, FromRow)]
pub struct Delivery {
    pub endpoint: Uuid,
    /// As in the header `webhook-id`.
    pub id: String,
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the event, in the log.
    pub position: i64,
    pub index: i32,
    /// pending, delivered or dead
    pub state: String,
    pub attempts: i32,
    /// When the next attempt is due, at the earliest.
    pub next_at: Option<DateTime<Utc>>,
    pub last_at: Option<DateTime<Utc>>,
    /// What the endpoint answered last.
    pub last_status: Option<i32>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// What became of it so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Pending,
    Delivered,
    /// Given up.
    Dead,
}

impl State {
    fn code(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl Endpoints {
    /// The last events of one endpoint, or of all; the last first.
    ///
    /// # Errors
    /// There is no such endpoint, or Postgres does not answer.
    pub async fn deliveries(
        &self,
        endpoint: Option<Uuid>,
        state: Option<State>,
        limit: u32,
    ) -> Result<Vec<Delivery>, Error> {
        if let Some(id) = endpoint {
            self.get(id).await?;
        }
        let found = sqlx::query_as(
            "select endpoint, id, type, position, index, state, attempts,
                    case when state = 'pending' then next_at end as next_at, last_at, last_status, last_error
             from cartulary.webhook_deliveries
             where ($1::uuid is null or endpoint = $1) and ($2::text is null or state = $2)
               and endpoint in (select e.id from cartulary.webhook_endpoints as e where e.state <> 'removed')
             order by position desc, index desc, endpoint limit $3",
        )
        .bind(endpoint)
        .bind(state.map(State::code))
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        Ok(found)
    }

    /// Tries what was given up again, all of it or one; one that waits is due at once. How many.
    ///
    /// # Errors
    /// There is no such endpoint, or Postgres does not answer.
    pub async fn retry(&self, endpoint: Uuid, id: Option<&str>) -> Result<u64, Error> {
        self.get(endpoint).await?;
        if id.is_some_and(|id| !message::is_id(id)) {
            return Ok(0);
        }
        let retried = sqlx::query(
            "update cartulary.webhook_deliveries
             set state = 'pending', attempts = 0, since = clock_timestamp(), next_at = clock_timestamp(),
                 claim = null, done_at = null
             where (endpoint, position, index) in (
                 select endpoint, position, index from cartulary.webhook_deliveries
                 where endpoint = $1
                   and (state = 'dead' and ($2::text is null or id = $2)
                        or state = 'pending' and id = $2 and claim is null)
                 order by position limit $3 for update skip locked)",
        )
        .bind(endpoint)
        .bind(id)
        .bind(RETRIED_MAX)
        .execute(self.pool())
        .await?;
        Ok(retried.rows_affected())
    }
}
