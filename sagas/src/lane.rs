//! One lane of the sagas: follows the log for its partitions, remembers how far it is, and does what is called for.

use std::sync::Arc;
use std::time::Duration;

use infra::lanes::{Advance, Lease, Status};
use sqlx::{ConnectOptions, PgConnection, PgPool};
use tokio::sync::watch;

use crate::aside;
use crate::calls;
use crate::following::Following;
use crate::index::{self, Overdue};
use crate::work::Sagas;

/// By then most checkouts have come to where they stay, and are written once; what is lost with a process is soon
/// repeated.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
const BACKOFF: Duration = Duration::from_secs(1);

/// How late a timer may be before it is made up for.
const OVERDUE: Duration = Duration::from_secs(5);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Lane {
    pub sagas: Arc<Sagas>,
    pub lease: Lease,
    pub pool: PgPool,
    pub status: watch::Sender<Status>,
}

impl Lane {
    /// Works until it's dropped, or until somebody else has the lane. Outages of the log, the database or the
    /// provider are waited out.
    pub async fn run(self) {
        let mut connection = self.connection().await;
        let position = loop {
            match self.begin(&mut connection).await {
                Ok(Some(position)) => break position,
                Ok(None) => return,
                Err(error) => self.wait(&error, &mut connection).await,
            }
        };
        self.status.send_modify(|status| status.position = position);
        let partitions = self.lease.partitions.clone();
        let following = Following::new(self.sagas.clone(), partitions, position);
        tokio::select! {
            () = following.run() => {}
            () = self.sweep(&following) => {}
            () = self.save(position, &following, connection) => {}
        }
        tracing::info!(lane = self.lease.lane, "somebody else has this lane of the sagas now");
    }

    /// From where on it works, if the lane is still its own; it knows then who has to wait, and who is in trouble.
    async fn begin(&self, connection: &mut PgConnection) -> Result<Option<u64>, sqlx::Error> {
        let position = self.lease.begin(connection).await?;
        self.sagas.index.aside.load(connection).await?;
        self.sagas.index.load(connection).await?;
        Ok(position)
    }

    async fn connection(&self) -> PgConnection {
        let options = self.pool.connect_options().as_ref().clone();
        // What follows from a checkpoint that is lost is recognised when it is done again.
        let options = options
            .application_name(&format!("cartulary {}/{}", self.lease.reader, self.lease.lane))
            .options([("synchronous_commit", "off")]);
        loop {
            match options.connect().await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::warn!(%error, "the sagas wait for the database");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// A connection with trouble is not used any more.
    async fn wait(&self, error: &sqlx::Error, connection: &mut PgConnection) {
        tracing::warn!(%error, "the sagas wait for the database");
        tokio::time::sleep(BACKOFF).await;
        *connection = self.connection().await;
    }

    /// Does what operators call for, and looks for timers that should have fired by now.
    async fn sweep(&self, following: &Following) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            if let Err(error) = self.take_up_calls().await {
                tracing::warn!(%error, "what was called for is done later");
            }
            if let Err(error) = self.take_up_aside().await {
                tracing::warn!(%error, "what is set aside is tried again later");
            }
            let before = self.sagas.clock.now() - OVERDUE;
            let overdue = async {
                let mut connection = self.pool.acquire().await?;
                if self.lease.lane == 0 {
                    index::forget(&mut connection).await?;
                }
                index::overdue(&self.lease.partitions, before, &mut connection).await
            };
            let overdue = match overdue.await {
                Ok(overdue) => overdue,
                Err(error) => {
                    tracing::warn!(%error, "timers that did not fire are looked for later");
                    continue;
                }
            };
            for Overdue { saga, id, timer, generation } in overdue {
                following.fire(&saga, &id.to_string(), &timer, generation.cast_unsigned()).await;
            }
        }
    }

    async fn take_up_calls(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        for called in calls::open(&self.lease.partitions, &mut connection).await? {
            match self.sagas.take_up(&called, &mut connection).await {
                Ok(()) => {
                    tracing::info!(order = %called.id, call = called.call, "an operator's call was taken up");
                    calls::taken_up(&called, &mut connection).await?;
                }
                Err(again) => {
                    tracing::warn!(order = %called.id, call = called.call, %again, "a call is taken up later");
                }
            }
        }
        Ok(())
    }

    /// Tries again what other builds have set aside.
    async fn take_up_aside(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        self.sagas.index.aside.load(&mut connection).await?;
        for id in aside::of_other_builds(&self.lease.partitions, &mut connection).await? {
            if let Err(again) = self.sagas.try_aside(id, &mut connection).await {
                tracing::warn!(%id, %again, "what is set aside is tried again later");
            }
        }
        Ok(())
    }

    /// Saves how far all is dealt with; ends when the lane is somebody else's.
    async fn save(&self, mut saved: u64, following: &Following, mut connection: PgConnection) {
        loop {
            tokio::time::sleep(CHECKPOINT_INTERVAL).await;
            let done = following.done();
            let now = Status { position: done, stopped: None };
            self.status.send_if_modified(|status| std::mem::replace(status, now.clone()) != now);
            // Never behind the checkpoint: what it passes is not told again.
            if let Err(error) = self.sagas.index.store(&mut connection).await {
                self.wait(&error, &mut connection).await;
                continue;
            }
            if done <= saved {
                continue;
            }
            match self.lease.advance(&mut connection, saved, done, None, 0).await {
                Ok(Advance::Done) => saved = done,
                Ok(Advance::Held(_)) => {}
                Ok(Advance::Lost) => match self.lease.begin(&mut connection).await {
                    // An answer was lost on its way, but not the update.
                    Ok(Some(position)) if position > saved => saved = position,
                    Ok(_) => return,
                    Err(error) => self.wait(&error, &mut connection).await,
                },
                Err(error) => self.wait(&error, &mut connection).await,
            }
        }
    }
}
