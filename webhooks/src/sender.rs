//! Sends what is due, each endpoint apart from the others: who is slow or down delays nobody else.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use infra::fail_points;
use sqlx::PgPool;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::outbox::{self, Attempt, Destination, Failure};
use crate::outcome::{Outcome, pause, rest};
use crate::send::Http;
use crate::{Endpoints, Settings};

/// How often it looks for what is due, if nobody says that there is something.
const POLL: Duration = Duration::from_millis(250);
const BACKOFF: Duration = Duration::from_secs(1);

/// Longer than an attempt takes, with what is written about it: after that, a claim is nobody's.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

/// Connections to Postgres at a time: others need some, too.
const CONNECTIONS_MAX: usize = 4;

const GONE: &str = "it answered 410 Gone";

pub(crate) struct Sender {
    pub endpoints: Endpoints,
    pub http: Http,
    pub settings: Settings,
    pub news: Arc<Notify>,
    connections: Semaphore,
}

impl Sender {
    pub fn new(endpoints: Endpoints, http: Http, settings: Settings, news: Arc<Notify>) -> Self {
        Self { endpoints, http, settings, news, connections: Semaphore::new(CONNECTIONS_MAX) }
    }

    /// Runs until it is told to stop, and then until what is on its way has arrived, or has not. If it's dropped
    /// instead, that is due again when its claim has ended.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let mut served = HashSet::new();
        while !*stop.borrow() {
            let pause = match self.due().await {
                Ok(due) => {
                    for endpoint in due {
                        if served.insert(endpoint) {
                            let sender = self.clone();
                            let stop = stop.clone();
                            tasks.spawn(async move { (sender.serve(endpoint, stop).await, endpoint).1 });
                        }
                    }
                    POLL
                }
                Err(error) => {
                    tracing::warn!(%error, "webhooks wait for the database");
                    BACKOFF
                }
            };
            tokio::select! {
                Some(done) = tasks.join_next() => {
                    match done {
                        Ok(endpoint) => drop(served.remove(&endpoint)),
                        // A panic: which endpoint it was is not said, and the others are served on.
                        Err(error) => tracing::error!(%error, "an endpoint is not served any more"),
                    }
                }
                () = self.news.notified() => {}
                () = tokio::time::sleep(pause) => {}
                // If the sender is gone, so is the platform.
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn pool(&self) -> &PgPool {
        self.endpoints.pool()
    }

    async fn due(&self) -> Result<Vec<Uuid>, sqlx::Error> {
        let _connection = self.connections.acquire().await;
        outbox::due(self.pool()).await
    }

    /// Sends one endpoint all that is due, so many at a time.
    async fn serve(self: &Arc<Self>, endpoint: Uuid, stop: watch::Receiver<bool>) {
        let claim_for = self.settings.time_limit + CLAIM_MARGIN;
        let mut sending: JoinSet<()> = JoinSet::new();
        while !*stop.borrow() {
            let claimed = {
                let _connection = self.connections.acquire().await;
                outbox::claim(endpoint, self.settings.in_flight_max, claim_for, self.pool()).await
            };
            let (destination, attempts) = match claimed {
                Ok(Some(claimed)) => claimed,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, %endpoint, "webhooks wait for the database");
                    break;
                }
            };
            if !attempts.is_empty() {
                fail_points::may_die(fail_points::WEBHOOK_CLAIMED);
            }
            let destination = Arc::new(destination);
            for attempt in attempts {
                let (sender, destination) = (self.clone(), destination.clone());
                sending.spawn(async move { sender.attempt(&destination, &attempt).await });
            }
            // One that is slow keeps only its own place: for the others, it looks what else is due.
            if let Ok(None) = tokio::time::timeout(POLL, sending.join_next()).await {
                return;
            }
            while sending.try_join_next().is_some() {}
        }
        while sending.join_next().await.is_some() {}
    }

    async fn attempt(&self, destination: &Destination, attempt: &Attempt) {
        let outcome = self.http.send(destination, attempt).await;
        fail_points::may_die(fail_points::WEBHOOK_SENT);
        // Who can't write it down in time sends it again.
        let noted = async {
            while let Err(error) = self.note(destination, attempt, &outcome).await {
                tracing::warn!(%error, id = attempt.id, "what came of a webhook is written down later");
                tokio::time::sleep(BACKOFF).await;
            }
        };
        let _ = tokio::time::timeout(CLAIM_MARGIN, noted).await;
    }

    async fn note(
        &self,
        destination: &Destination,
        attempt: &Attempt,
        outcome: &Outcome,
    ) -> Result<(), crate::Error> {
        let _connection = self.connections.acquire().await;
        let (endpoint, id, attempts) = (attempt.endpoint, &attempt.id, attempt.attempts + 1);
        match outcome {
            Outcome::Delivered { status } => {
                metrics::counter!("cartulary_webhooks_delivered").increment(1);
                tracing::debug!(%endpoint, id, attempts, status, "webhook delivered");
                outbox::delivered(attempt, *status, destination.failures > 0, self.pool()).await?;
            }
            Outcome::Gone => {
                tracing::warn!(%endpoint, id, "the endpoint answers 410 Gone, and is paused");
                outbox::put_back(attempt, self.pool()).await?;
                self.endpoints.pause(endpoint, GONE).await?;
            }
            Outcome::Failed { status, reason, retry_after } => {
                metrics::counter!("cartulary_webhooks_failed").increment(1);
                let pause = pause(attempts, &self.settings, fastrand::f64());
                let pause = pause.max(retry_after.unwrap_or_default().min(self.settings.retry_max));
                let failure = Failure {
                    status: *status,
                    reason,
                    pause,
                    rest: rest(destination.failures + 1, *retry_after, &self.settings),
                    give_up_after: self.settings.give_up_after,
                };
                let dead = outbox::failed(attempt, &failure, self.pool()).await?;
                let pause_s = pause.as_secs();
                tracing::info!(%endpoint, id, attempts, reason, pause_s, dead, "webhook failed");
            }
        }
        Ok(())
    }
}
