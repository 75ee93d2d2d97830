//! A process with projections that dies in the middle of a batch, or is away for a while and wakes up when its
//! lanes are somebody else's.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::feed::Feed;
use infra::log::EventLog;
use infra::read_models;
use projections::projection::{Happened, Key, Projection, Writer};
use projections::{Builds, Worker};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// Who was away writes what it had, whoever has its lane by then.
    NotFenced,
    /// Rows are written before the transaction that moves the checkpoint.
    RowsByThemselves,
}

/// What has become of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Dies,
    Sleeps,
}

/// How often what is worth it has happened.
#[derive(Clone, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Counts {
    pub fn note(&self, what: &'static str) {
        *self.0.lock().expect("no panic").entry(what).or_default() += 1;
    }

    pub fn all(&self) -> BTreeMap<&'static str, usize> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Decides what becomes of processes, a few times for all of them together.
pub struct Fates {
    random: Mutex<fastrand::Rng>,
    left: Mutex<u32>,
    mutant: Mutant,
    counts: Counts,
    tell: mpsc::UnboundedSender<(usize, Fate)>,
}

impl Fates {
    pub fn new(
        mut random: fastrand::Rng,
        mutant: Mutant,
        counts: Counts,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<(usize, Fate)>) {
        let (tell, told) = mpsc::unbounded_channel();
        let left = Mutex::new(random.u32(2..6));
        (Arc::new(Self { random: Mutex::new(random), left, mutant, counts, tell }), told)
    }

    fn draw(&self) -> Option<Fate> {
        let (mut random, mut left) =
            (self.random.lock().expect("no panic"), self.left.lock().expect("no panic"));
        if *left == 0 || random.u32(0..6) > 0 {
            return None;
        }
        *left -= 1;
        random.choice([Fate::Dies, Fate::Sleeps])
    }
}

/// What a process and its lanes know of each other.
struct Life {
    number: usize,
    fates: Arc<Fates>,
    awake: watch::Sender<bool>,
    is_killed: AtomicBool,
    pool: PgPool,
}

impl Life {
    async fn is_awake(&self) {
        let _ = self.awake.subscribe().wait_for(|awake| *awake).await;
    }

    async fn sleep(&self) {
        self.awake.send_replace(false);
        let _ = self.fates.tell.send((self.number, Fate::Sleeps));
        self.is_awake().await;
    }

    /// Nothing of it goes on after this.
    async fn die(&self) {
        let _ = self.fates.tell.send((self.number, Fate::Dies));
        pending().await
    }
}

/// A process whose role is projections.
pub struct Process {
    life: Arc<Life>,
    task: JoinHandle<()>,
}

impl Process {
    pub fn start(
        number: usize,
        log: &Arc<dyn EventLog>,
        options: &PgConnectOptions,
        fates: &Arc<Fates>,
    ) -> Self {
        let options = options.clone().application_name(&name(number));
        let pool = PgPoolOptions::new().max_connections(3).connect_lazy_with(options);
        let (fates, awake) = (fates.clone(), watch::Sender::new(true));
        let life =
            Arc::new(Life { number, fates, awake, is_killed: AtomicBool::new(false), pool: pool.clone() });
        let interrupted = |inner| Arc::new(Interrupted { inner, life: life.clone() }) as Arc<dyn Projection>;
        let projections = projections::all().into_iter().map(interrupted).collect();
        let worker = Worker::new(Builds::new(projections, Feed::new(log.clone()), pool));
        let task = tokio::spawn(while_awake(life.awake.subscribe(), async move {
            let (_sender, never) = watch::channel(false);
            worker.run(never).await;
        }));
        Self { life, task }
    }

    /// Ends it in the middle of whatever it is at.
    pub fn kill(&self) {
        self.life.is_killed.store(true, Ordering::Relaxed);
        self.task.abort();
    }

    pub fn wake(&self) {
        self.life.awake.send_replace(true);
    }
}

/// As its connections are named.
pub fn name(number: usize) -> String {
    format!("process {number}")
}

/// Does the work, but for the times at which the process is not awake.
async fn while_awake(mut awake: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            _ = awake.wait_for(|awake| !awake) => {}
            () = &mut work => return,
        }
        let _ = awake.wait_for(|awake| *awake).await;
    }
}

/// A projection in a process.
struct Interrupted {
    inner: Arc<dyn Projection>,
    life: Arc<Life>,
}

impl Projection for Interrupted {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn version(&self) -> i32 {
        self.inner.version()
    }

    fn categories(&self) -> &'static [&'static str] {
        self.inner.categories()
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        self.inner.tables()
    }

    fn definition(&self) -> &'static str {
        self.inner.definition()
    }

    fn indexes(&self) -> &'static [&'static str] {
        self.inner.indexes()
    }

    fn lanes(&self) -> u64 {
        self.inner.lanes()
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        self.inner.key(happened)
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(InterruptedWriter {
            inner: self.inner.writer(),
            schema: read_models::schema(self.inner.name(), 1),
            life: self.life.clone(),
            has_slept: false,
        })
    }
}

struct InterruptedWriter {
    inner: Box<dyn Writer>,
    schema: String,
    life: Arc<Life>,
    /// Since it has last written.
    has_slept: bool,
}

impl InterruptedWriter {
    /// As nothing but a mutant does it.
    async fn write_by_itself(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = self.life.pool.acquire().await?;
        let path = format!("set search_path = {}, public", self.schema);
        sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut *connection).await?;
        let mut transaction = connection.begin().await?;
        self.inner.flush(&mut transaction).await?;
        transaction.commit().await
    }

    async fn interrupted_flush(&mut self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (fate, mutant) = (self.life.fates.draw(), self.life.fates.mutant);
        if fate == Some(Fate::Sleeps) {
            self.has_slept = true;
            self.life.sleep().await;
        }
        self.life.is_awake().await;
        match mutant {
            Mutant::RowsByThemselves => self.write_by_itself().await?,
            Mutant::NotFenced if self.has_slept => self.write_by_itself().await?,
            _ => self.inner.flush(transaction).await?,
        }
        if fate == Some(Fate::Dies) {
            self.life.die().await;
        }
        self.has_slept = false;
        Ok(())
    }
}

impl Writer for InterruptedWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            self.inner.fold(batch, connection).await?;
            match self.life.fates.draw() {
                Some(Fate::Dies) => self.life.die().await,
                Some(Fate::Sleeps) => {
                    self.has_slept = true;
                    self.life.sleep().await;
                }
                None => self.life.is_awake().await,
            }
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.inner.pending_bytes()
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        self.interrupted_flush(transaction).boxed()
    }
}

impl Drop for InterruptedWriter {
    fn drop(&mut self) {
        if self.has_slept && !self.life.is_killed.load(Ordering::Relaxed) {
            // It woke up with a batch, and did not get it written.
            self.life.fates.counts.note("a stale worker is fenced");
        }
    }
}
