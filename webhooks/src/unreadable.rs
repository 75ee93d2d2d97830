//! What this build can't read waits, for each endpoint that may want it, for a build that can; all else is sent.

use std::collections::{BTreeMap, BTreeSet};

use domain::{cart, order, payment, product, stock};
use infra::feed::Entry;
use infra::lanes::Lease;
use infra::log::EventLog;
use infra::storable::storable;
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::outbox::Wish;
use crate::{message, outbox};

/// Categories of the streams whose events may be wanted.
const FOLLOWED: [&str; 5] =
    [product::CATEGORY, stock::CATEGORY, cart::CATEGORY, order::CATEGORY, payment::CATEGORY];

/// With so many waiting, something is wrong with more than a few commits: the log is not followed further.
pub(crate) const WAITING_MAX: i64 = 10_000;

/// Rows that are tried at a time.
const TRIED_MAX: i64 = 100;

pub(crate) async fn set_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists cartulary.webhook_unreadable (
             endpoint uuid not null,
             position bigint not null,
             -- Whether what was delivered is sent again.
             again bool not null,
             -- Which build could not read it.
             build text not null,
             reason text not null,
             since timestamptz not null default clock_timestamp(),
             primary key (endpoint, position)
         )",
    )
    .execute(connection)
    .await
    .map(drop)
}

/// What is to wait for an endpoint, and why.
pub(crate) struct Unreadable {
    endpoint: Uuid,
    position: u64,
    reason: String,
}

impl Unreadable {
    /// Of this commit, if it may be wanted.
    pub fn of(entry: &Entry, wish: &Wish) -> Option<Self> {
        let reason = match &entry.commit {
            Err(reason) => {
                let is_followed = entry.stream().is_none_or(|stream| FOLLOWED.contains(&stream.category()));
                is_followed.then(|| reason.to_string())?
            }
            Ok(commit) if commit.events.iter().any(|event| wish.wants(&event.kind)) => {
                let mut read = commit.events.iter().zip(entry.events());
                read.find_map(|(event, read)| read.as_ref().err().filter(|_| wish.wants(&event.kind)))?
                    .to_string()
            }
            Ok(_) => return None,
        };
        Some(Self { endpoint: wish.id, position: entry.sequence, reason })
    }
}

/// Has them wait. `again` as for [`outbox::put`]; what waits already was not sent before, and is left as it is.
pub(crate) async fn set_aside(
    all: &[Unreadable],
    again: bool,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if all.is_empty() {
        return Ok(());
    }
    let positions: BTreeMap<u64, &str> = all.iter().map(|one| (one.position, one.reason.as_str())).collect();
    for (position, reason) in positions {
        tracing::error!(position, reason, "webhooks about this wait for a build that can read it");
    }
    let endpoints: Vec<Uuid> = all.iter().map(|one| one.endpoint).collect();
    let positions: Vec<i64> = all.iter().map(|one| one.position.cast_signed()).collect();
    let reasons: Vec<_> = all.iter().map(|one| storable(&one.reason)).collect();
    sqlx::query(
        "insert into cartulary.webhook_unreadable (endpoint, position, again, build, reason)
         select endpoint, position, $4, $5, reason
         from unnest($1::uuid[], $2::bigint[], $3::text[]) as new (endpoint, position, reason)
         on conflict (endpoint, position) do update set build = excluded.build, reason = excluded.reason",
    )
    .bind(endpoints)
    .bind(positions)
    .bind(reasons)
    .bind(again)
    .bind(domain::CODE)
    .execute(connection)
    .await
    .map(drop)
}

/// How many commits wait.
pub(crate) async fn count(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let count = "select count(distinct position) from cartulary.webhook_unreadable";
    sqlx::query_scalar(count).fetch_one(connection).await
}

/// What waits for endpoints that are gone is forgotten.
pub(crate) async fn tidy(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from cartulary.webhook_unreadable as one where not exists (
             select from cartulary.webhook_endpoints as e where e.id = one.endpoint and e.state <> 'removed')",
    )
    .execute(pool)
    .await
    .map(drop)
}

#[derive(Debug, FromRow)]
struct Row {
    endpoint: Uuid,
    position: i64,
    again: bool,
}

/// Sends some of what another build could not read, or notes that this one can't either; whether it did any of that.
pub(crate) async fn take_up(log: &dyn EventLog, lease: &Lease, pool: &PgPool) -> Result<bool, crate::Error> {
    let mut connection = pool.acquire().await?;
    let rows: Vec<Row> = sqlx::query_as(
        "select endpoint, position, again
         from cartulary.webhook_unreadable join cartulary.webhook_endpoints as e on e.id = endpoint
         where build <> $1 and e.state <> 'removed' order by position, endpoint limit $2",
    )
    .bind(domain::CODE)
    .bind(TRIED_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let mut entries = BTreeMap::new();
    for position in rows.iter().map(|row| row.position).collect::<BTreeSet<_>>() {
        let entry = match log.read(position.cast_unsigned()).await {
            Ok(stored) => stored.map(Entry::new),
            Err(error) => Some(Entry::unreadable(error)?),
        };
        entries.extend(entry.map(|entry| (position, entry)));
    }
    let mut transaction = connection.begin().await?;
    if !lease.is_valid(&mut transaction).await? {
        return Ok(false);
    }
    let wishes = outbox::wishes(&mut transaction).await?;
    let mut went_on = false;
    for row in &rows {
        let wish = wishes.iter().find(|wish| wish.id == row.endpoint);
        let Some((wish, entry)) = wish.zip(entries.get(&row.position)) else { continue };
        went_on = true;
        if let Some(unreadable) = Unreadable::of(entry, wish) {
            set_aside(&[unreadable], row.again, &mut transaction).await?;
            continue;
        }
        let messages = message::of(entry, |kind| wish.wants(kind));
        let messages = messages.iter().map(|message| (wish.id, message)).collect();
        outbox::put(messages, row.again, &mut transaction).await?;
        sqlx::query("delete from cartulary.webhook_unreadable where endpoint = $1 and position = $2")
            .bind(row.endpoint)
            .bind(row.position)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(went_on)
}
