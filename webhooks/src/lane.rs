//! Follows the log: for each event, a row for every endpoint that wants it, in one transaction with the checkpoint.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use infra::fail_points;
use infra::feed::{Entry, Feed};
use infra::lanes::{Advance, Lease, Status};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::outbox::Wish;
use crate::unreadable::Unreadable;
use crate::{Settings, message, outbox, replays, unreadable};

const BATCH_MAX: usize = 1_000;

/// Shortest time from the beginning of one transaction to that of the next; what comes meanwhile shares one.
const INTERVAL: Duration = Duration::from_millis(20);

/// The same while there is no endpoint: only the checkpoint moves.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

const BACKOFF: Duration = Duration::from_secs(1);

/// How often it looks for what is to be given up or forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the database does not answer: {0}")]
    Unavailable(#[from] sqlx::Error),
    /// A build that can read them goes on from here.
    #[error("{0} commits are not readable, and wait for a build that can read them")]
    Unreadable(i64),
    #[error("somebody else has the lane now")]
    Lost,
}

pub(crate) struct Lane {
    pub lease: Lease,
    pub feed: Arc<Feed>,
    pub pool: PgPool,
    pub settings: Settings,
    pub status: watch::Sender<Status>,
    /// There may be something to send.
    pub news: Arc<Notify>,
}

impl Lane {
    /// Works until it's dropped, or until somebody else has the lane. Outages are waited out.
    pub async fn run(self) {
        tokio::select! {
            () = self.follow_on() => {}
            () = replays::run(&self.feed, &self.lease, &self.pool, &self.news) => {}
            () = self.tidy() => {}
        }
        tracing::info!("somebody else follows the log for webhooks now");
    }

    async fn follow_on(&self) {
        loop {
            let Err(error) = self.follow().await;
            if matches!(error, Error::Lost) {
                return;
            }
            let reason = error.to_string();
            if self.status.borrow().stopped.as_ref() != Some(&reason) {
                tracing::error!(reason, "the webhooks' outbox is stopped, and tries again");
                self.status.send_modify(|status| status.stopped = Some(reason));
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn follow(&self) -> Result<Infallible, Error> {
        let options = self.pool.connect_options().as_ref().clone();
        // Rows and checkpoint are lost together, if they are, and made again.
        let options = options
            .application_name(&format!("cartulary {}/{}", self.lease.reader, self.lease.lane))
            .options([("synchronous_commit", "off")]);
        let mut connection = options.connect().await?;
        let mut position = self.lease.begin(&mut connection).await?.ok_or(Error::Lost)?;
        self.status.send_replace(Status { position, stopped: None });
        let mut follower = self.feed.follow(position);
        loop {
            let batch = follower.batch(BATCH_MAX).await;
            let begun_at = Instant::now();
            let mut has_endpoints = true;
            if let Some(last) = batch.last() {
                has_endpoints = self.take_in(position, &batch, &mut connection).await?;
                position = last.sequence;
                self.status.send_replace(Status { position, stopped: None });
            }
            // Who is far behind does not keep others waiting who read with it.
            if batch.len() < BATCH_MAX {
                let interval = if has_endpoints { INTERVAL } else { IDLE_INTERVAL };
                tokio::time::sleep_until(begun_at + interval).await;
            }
        }
    }

    /// Whether there are endpoints.
    async fn take_in(
        &self,
        from: u64,
        batch: &[Arc<Entry>],
        connection: &mut PgConnection,
    ) -> Result<bool, Error> {
        let Some(last) = batch.last() else { return Ok(true) };
        let events = batch.iter().map(|entry| entry.commit.as_ref().map_or(0, |commit| commit.events.len()));
        let mut transaction = connection.begin().await?;
        // The checkpoint comes first: endpoints that are changed at a position are seen as they are there.
        let advanced = self
            .lease
            .advance(&mut transaction, from, last.sequence, Some(last.hash()), events.sum())
            .await?;
        if advanced != Advance::Done {
            return Err(Error::Lost);
        }
        let wishes = outbox::wishes(&mut transaction).await?;
        if !wishes.is_empty() {
            fail_points::may_die(fail_points::WEBHOOK_CHECKPOINT);
        }
        let has_news = tell(batch, &wishes, &mut transaction).await?;
        transaction.commit().await?;
        if has_news {
            self.news.notify_one();
        }
        Ok(!wishes.is_empty())
    }

    async fn tidy(&self) {
        loop {
            tokio::time::sleep(TIDY_INTERVAL).await;
            let Settings { give_up_after, keep, .. } = self.settings;
            if let Err(error) = outbox::tidy(give_up_after, keep, &self.pool).await {
                tracing::warn!(%error, "old deliveries of webhooks are removed later");
            }
            match outbox::counts(&self.pool).await {
                Ok((pending, dead)) => {
                    metrics::gauge!("cartulary_webhooks_pending").set(pending as f64);
                    metrics::gauge!("cartulary_webhooks_dead").set(dead as f64);
                }
                Err(error) => tracing::debug!(%error, "deliveries of webhooks are counted later"),
            }
            match self.tidy_unreadable().await {
                Ok(count) => metrics::gauge!("cartulary_webhooks_unreadable").set(count as f64),
                Err(error) => tracing::debug!(%error, "what can't be read of webhooks is counted later"),
            }
        }
    }

    /// How many commits wait for a build that can read them.
    async fn tidy_unreadable(&self) -> Result<i64, sqlx::Error> {
        unreadable::tidy(&self.pool).await?;
        unreadable::count(&mut *self.pool.acquire().await?).await
    }
}

/// A row for each event and each endpoint that it comes to and that wants it; whether there are any.
async fn tell(batch: &[Arc<Entry>], wishes: &[Wish], transaction: &mut PgConnection) -> Result<bool, Error> {
    let (mut told, mut unreadable) = (Vec::new(), Vec::new());
    for entry in batch {
        let mut readers = Vec::new();
        for wish in wishes.iter().filter(|wish| wish.covers(entry.sequence)) {
            match Unreadable::of(entry, wish) {
                Some(one) => unreadable.push(one),
                None => readers.push(wish),
            }
        }
        let messages = message::of(entry, |kind| readers.iter().any(|wish| wish.wants(kind)));
        told.extend(messages.into_iter().map(|message| (message, readers.clone())));
    }
    let rows = told.iter().flat_map(|(message, readers)| {
        let wanting = readers.iter().filter(|wish| wish.wants(&message.kind));
        wanting.map(move |wish| (wish.id, message))
    });
    outbox::put(rows.collect(), false, transaction).await?;
    if !unreadable.is_empty() && unreadable::count(transaction).await? >= unreadable::WAITING_MAX {
        return Err(Error::Unreadable(unreadable::WAITING_MAX));
    }
    unreadable::set_aside(&unreadable, false, transaction).await?;
    Ok(!told.is_empty())
}
