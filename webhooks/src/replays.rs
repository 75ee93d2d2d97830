//! Replays: a stretch of the log once more, or for the first time, for one endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use infra::feed::{Feed, Follower};
use infra::lanes::Lease;
use infra::log::first_at;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::endpoints::{Endpoints, Error};
use crate::outbox::Wish;
use crate::unreadable::Unreadable;
use crate::{message, outbox, unreadable};

/// Commits looked at in one transaction.
const STEP: usize = 500;

/// With so many waiting for the endpoint, its replays wait too, so that the outbox stays small.
const PENDING_MAX: i64 = 10_000;

/// Most replays to one endpoint at a time.
const REPLAYS_MAX: i64 = 10;

const POLL: Duration = Duration::from_millis(500);

/// How long the log may take to hand out commits that are there.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The stretch of the log that is sent again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Replay {
    pub from: u64,
    pub until: u64,
}

#[derive(Debug, FromRow)]
struct Row {
    id: Uuid,
    endpoint: Uuid,
    next_position: i64,
    until_position: i64,
    again: bool,
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Position(u64),
    Time(DateTime<Utc>),
}

impl Endpoints {
    /// Sends an endpoint all events of its types again from there on, by the ids that they had.
    ///
    /// # Errors
    /// There is no such endpoint, or the log or Postgres does not answer.
    pub async fn replay(&self, endpoint: Uuid, from: From) -> Result<Replay, Error> {
        let from = match from {
            From::Position(position) => position.max(1),
            From::Time(time) => first_at(self.log(), time).await?,
        };
        self.get(endpoint).await?;
        let until = self.log().end().await?;
        let mut connection = self.pool().acquire().await?;
        let under_way: i64 =
            sqlx::query_scalar("select count(*) from cartulary.webhook_replays where endpoint = $1")
                .bind(endpoint)
                .fetch_one(&mut *connection)
                .await?;
        if under_way >= REPLAYS_MAX {
            return Err(Error::Refused(format!("{under_way} replays to this endpoint are under way")));
        }
        begin(endpoint, from, until, true, &mut connection).await?;
        Ok(Replay { from, until })
    }
}

pub(crate) async fn begin(
    endpoint: Uuid,
    from: u64,
    until: u64,
    again: bool,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if from > until {
        return Ok(());
    }
    sqlx::query(
        "insert into cartulary.webhook_replays (id, endpoint, next_position, until_position, again)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(Uuid::now_v7())
    .bind(endpoint)
    .bind(from.cast_signed())
    .bind(until.cast_signed())
    .bind(again)
    .execute(connection)
    .await?;
    Ok(())
}

/// Works on replays, each a step at a time, so that none waits for another, and on what another build could not
/// read. Runs until it's dropped.
pub(crate) async fn run(feed: &Arc<Feed>, lease: &Lease, pool: &PgPool, news: &tokio::sync::Notify) {
    let mut followers = BTreeMap::new();
    loop {
        let stepped = async {
            let went_on = step_each(feed, lease, pool, &mut followers).await?;
            Ok::<_, Error>(went_on | unreadable::take_up(feed.log().as_ref(), lease, pool).await?)
        };
        match stepped.await {
            Ok(true) => news.notify_one(),
            Ok(false) => tokio::time::sleep(POLL).await,
            Err(error) => {
                tracing::warn!(%error, "replays of webhooks go on later");
                followers.clear();
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

/// Whether any went on.
async fn step_each(
    feed: &Arc<Feed>,
    lease: &Lease,
    pool: &PgPool,
    followers: &mut BTreeMap<Uuid, Follower>,
) -> Result<bool, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let rows: Vec<Row> = sqlx::query_as(
        "select id, endpoint, next_position, until_position, again from cartulary.webhook_replays
         order by asked_at, id",
    )
    .fetch_all(&mut *connection)
    .await?;
    followers.retain(|id, _| rows.iter().any(|row| row.id == *id));
    let mut went_on = false;
    for row in rows {
        let pending: i64 = sqlx::query_scalar(
            "select count(*) from cartulary.webhook_deliveries where endpoint = $1 and state = 'pending'",
        )
        .bind(row.endpoint)
        .fetch_one(&mut *connection)
        .await?;
        if pending >= PENDING_MAX {
            // What is read ahead for it is let go meanwhile.
            followers.remove(&row.id);
            continue;
        }
        let after = row.next_position.cast_unsigned().saturating_sub(1);
        let follower = followers.entry(row.id).or_insert_with(|| feed.follow(after));
        went_on |= step(&row, follower, lease, &mut connection).await?;
    }
    Ok(went_on)
}

async fn step(
    row: &Row,
    follower: &mut Follower,
    lease: &Lease,
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    // All of it is in the log, so this waits for nothing but an outage.
    let Ok(batch) = tokio::time::timeout(READ_LIMIT, follower.batch(STEP)).await else { return Ok(false) };
    let until = row.until_position.cast_unsigned();
    let next = batch.last().map_or(0, |last| last.sequence) + 1;
    let mut transaction = connection.begin().await?;
    if !lease.is_valid(&mut transaction).await? {
        return Ok(false);
    }
    let wishes = outbox::wishes(&mut transaction).await?;
    let wish: Option<&Wish> = wishes.iter().find(|wish| wish.id == row.endpoint);
    if let Some(wish) = wish {
        let entries = batch.iter().filter(|entry| entry.sequence <= until);
        let (mut messages, mut unreadable) = (Vec::new(), Vec::new());
        for entry in entries {
            match Unreadable::of(entry, wish) {
                Some(one) => unreadable.push(one),
                None => messages.extend(message::of(entry, |kind| wish.wants(kind))),
            }
        }
        let rows = messages.iter().map(|message| (wish.id, message)).collect();
        outbox::put(rows, row.again, &mut transaction).await?;
        unreadable::set_aside(&unreadable, row.again, &mut transaction).await?;
    }
    let query = match wish.is_none() || next > until {
        true => "delete from cartulary.webhook_replays where id = $1 and $2 > 0",
        false => "update cartulary.webhook_replays set next_position = $2 where id = $1",
    };
    sqlx::query(query).bind(row.id).bind(next.cast_signed()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}
