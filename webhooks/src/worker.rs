//! A process's share of the webhooks: the lane, if it's the one that has it, and sending what is due.

use std::sync::Arc;
use std::time::Duration;

use infra::clock::Clock;
use infra::feed::Feed;
use infra::lanes::{self, Status, Tasks, Working};
use sqlx::{Connection, PgPool};
use tokio::sync::{Notify, watch};

use crate::lane::Lane;
use crate::send::Http;
use crate::sender::Sender;
use crate::tables::{READER as NAME, hold_checkpoints, set_up};
use crate::{Endpoints, Settings};

/// Name under which webhooks read the log.
pub const READER: &str = NAME;

const BACKOFF: Duration = Duration::from_secs(1);

/// Works on its share of the webhooks.
pub struct Worker {
    feed: Arc<Feed>,
    pool: PgPool,
    settings: Settings,
    clock: Clock,
    news: Arc<Notify>,
    lanes: Working,
}

impl Worker {
    #[must_use]
    pub fn new(feed: Arc<Feed>, pool: PgPool, clock: Clock, settings: Settings) -> Self {
        Self { feed, pool, settings, clock, news: Arc::default(), lanes: Working::new(READER) }
    }

    /// How the lanes are doing that this process works on, by number; nothing before it knows which these are.
    #[must_use]
    pub fn statuses(&self) -> Option<Vec<(i32, Status)>> {
        self.lanes.statuses()
    }

    /// Works until it is told to stop; then gives its lane back, for others to take at once.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut worker = lanes::Worker::of_process(self.pool.clone());
        let mut tasks = Tasks::default();
        let Settings { rules, keys, .. } = &self.settings;
        let endpoints = Endpoints::new(self.pool.clone(), self.feed.log().clone(), *rules, keys.clone());
        let http = Http::new(&self.settings, self.clock.clone());
        let sender = Sender::new(endpoints, http, self.settings.clone(), self.news.clone());
        let sending = Arc::new(sender).run(stop.clone());
        let working = async {
            tokio::select! {
                () = async { (self.begin().await, self.work(&mut worker, &mut tasks).await).1 } => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            tasks.end().await;
        };
        tokio::join!(working, sending);
        if let Err(error) = worker.leave().await {
            tracing::warn!(%error, "others find out by themselves that the webhooks' lane is free");
        }
    }

    async fn begin(&self) {
        while let Err(error) = self.try_begin().await {
            tracing::warn!(%error, "webhooks wait for the log and the database");
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// Where nobody ever wanted anything, what is in the log already need not be read.
    async fn try_begin(&self) -> Result<(), crate::Error> {
        set_up(&self.pool).await?;
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let position = hold_checkpoints(&mut transaction).await?;
        let is_wanted: bool = sqlx::query_scalar("select exists (select from cartulary.webhook_endpoints)")
            .fetch_one(&mut *transaction)
            .await?;
        if position == 0 && !is_wanted {
            let end = self.feed.log().end().await?;
            sqlx::query("update cartulary.lanes set position = $2 where reader = $1")
                .bind(READER)
                .bind(end.cast_signed())
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn work(&self, worker: &mut lanes::Worker, tasks: &mut Tasks) {
        let begin = |lease, status| {
            let (feed, pool, settings) = (self.feed.clone(), self.pool.clone(), self.settings.clone());
            Lane { lease, feed, pool, settings, status, news: self.news.clone() }.run()
        };
        self.lanes.run(worker, tasks, begin).await;
    }
}
