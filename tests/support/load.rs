//! Clients under load, what they were told, and whether the log agrees with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::commit::Hash;
use domain::stock::Event;
use domain::{StreamId, stock};
use futures_util::StreamExt;
use infra::log::{EventLog, JetStreamLog};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::shop::product;

const SKUS: u64 = 24;

/// Every so many commands, one can't be carried out.
const REFUSED_EVERY: u64 = 8;

/// How long clients may take to get through again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Clients that each give one command after the other, with a key of its own, until it is answered.
pub struct Load {
    told: Arc<Told>,
    clients: JoinSet<()>,
}

/// What the clients know.
#[derive(Default)]
pub struct Told {
    /// Position of each command that was acknowledged, by its number.
    acknowledged: Mutex<BTreeMap<u64, u64>>,
    refused: Mutex<BTreeSet<u64>>,
    /// Requests that got no answer, or one that says to come again, by what it said.
    interrupted: Mutex<BTreeMap<String, u64>>,
    /// Answers of commands that had been carried out, and whose first answer was lost.
    repeated: AtomicU64,
    under_way: AtomicUsize,
    enough: AtomicBool,
    /// Where the command APIs listen, which changes when they are started again.
    urls: Mutex<Vec<String>>,
}

impl Load {
    /// Makes the products, and lets so many clients begin.
    pub async fn start(urls: &[&str], clients: u64) -> Self {
        let told = Arc::new(Told::default());
        let load = Self { told, clients: JoinSet::new() };
        load.now_at(urls);
        for sku in (0..SKUS).map(name) {
            let create = client().post(format!("{}/v1/products", urls[0])).header("Idempotency-Key", &sku);
            let created = create.json(&product(&sku)).send().await.expect("an answer");
            assert_eq!(created.status(), 201, "{created:?}");
        }
        load.with_clients(clients)
    }

    fn with_clients(mut self, clients: u64) -> Self {
        for number in 0..clients {
            self.clients.spawn(self.told.clone().client(1 + (number << 32)));
        }
        self
    }

    /// The command APIs listen there from now on.
    pub fn now_at(&self, urls: &[&str]) {
        *self.told.urls.lock().expect("no panic") = urls.iter().map(ToString::to_string).collect();
    }

    pub fn acknowledged(&self) -> usize {
        self.told.acknowledged.lock().expect("no panic").len()
    }

    /// Requests that wait for their answer.
    pub fn under_way(&self) -> usize {
        self.told.under_way.load(Ordering::Relaxed)
    }

    pub fn told(&self) -> Arc<Told> {
        self.told.clone()
    }

    /// Waits until so many more commands are acknowledged; how long that took.
    ///
    /// # Panics
    /// They are not within two minutes.
    pub async fn go_on(&mut self, commands: usize) -> Duration {
        let (began, wanted) = (Instant::now(), self.acknowledged() + commands);
        while self.acknowledged() < wanted {
            if let Some(ended) = self.clients.try_join_next() {
                ended.expect("no client ends early");
            }
            assert!(began.elapsed() < PATIENCE, "in vain: commands are acknowledged again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }

    /// Lets each client come to the end of its command.
    pub async fn finish(mut self) -> Arc<Told> {
        self.told.enough.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no panic");
        }
        self.told
    }
}

fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30));
    builder.build().expect("a client")
}

fn name(sku: u64) -> String {
    format!("SOLD-{sku}")
}

/// Some are asked for more than others.
fn sku(number: u64) -> String {
    name((number % SKUS).min(number / SKUS % SKUS))
}

impl Told {
    async fn client(self: Arc<Self>, first: u64) {
        let http = client();
        for number in first.. {
            while let Err(reason) = self.try_once(&http, number).await {
                *self.interrupted.lock().expect("no panic").entry(reason).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(20..80))).await;
            }
            if self.enough.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Why the command has to be given again.
    async fn try_once(&self, http: &reqwest::Client, number: u64) -> Result<(), String> {
        let url = fastrand::choice(self.urls.lock().expect("no panic").iter()).expect("one").clone();
        // There are never so many units as some want to take away.
        let delta = if number.is_multiple_of(REFUSED_EVERY) { -1_000_000 } else { 1 };
        let request = http.post(format!("{url}/v1/stock/{}/adjustments", sku(number)));
        let request = request.json(&json!({"delta": delta, "reason": number.to_string()}));
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let answer = request.header("Idempotency-Key", number.to_string()).send().await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let answer =
            answer.map_err(|error| if error.is_timeout() { "no answer in time" } else { "no answer" })?;
        match answer.status() {
            StatusCode::CREATED => {
                self.repeated.fetch_add(u64::from(is_repeated(&answer)), Ordering::Relaxed);
                let position = position(&answer);
                self.acknowledged.lock().expect("no panic").insert(number, position);
            }
            StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
                let problem: Value = answer.json().await.map_err(|_| "no answer")?;
                if problem["code"] != "not_enough_stock" {
                    return Err(problem["code"].as_str().unwrap_or("no code").to_owned());
                }
                assert!(delta < 0, "{number} was refused: {problem}");
                self.refused.lock().expect("no panic").insert(number);
            }
            status => panic!("{number}: {status} {}", answer.text().await.unwrap_or_default()),
        }
        Ok(())
    }

    /// Requests that had to be made again, by the reason.
    pub fn interrupted(&self) -> BTreeMap<String, u64> {
        self.interrupted.lock().expect("no panic").clone()
    }

    /// I1, I3 and I4: each acknowledged command at its position, none twice, no refused one, no gaps,
    /// all chained.
    ///
    /// # Panics
    /// One of them does not hold.
    pub async fn holds(&self, log: &JetStreamLog) {
        let recorded = recorded(log).await;
        let acknowledged = self.acknowledged.lock().expect("no panic");
        for (number, position) in &*acknowledged {
            assert_eq!(recorded.get(number), Some(position), "{number} was acknowledged");
        }
        for number in &*self.refused.lock().expect("no panic") {
            assert_eq!(recorded.get(number), None, "{number} was refused");
        }
        // No client gave up, so nothing else is there either.
        assert_eq!(recorded.len(), acknowledged.len());
    }

    /// Acknowledged commands that the log does not have: what a log that forgets has lost.
    pub async fn lost(&self, log: &JetStreamLog) -> usize {
        let recorded = recorded(log).await;
        let acknowledged = self.acknowledged.lock().expect("no panic");
        acknowledged.iter().filter(|(number, position)| recorded.get(number) != Some(position)).count()
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let acknowledged = self.acknowledged.lock().expect("no panic").len();
        let refused = self.refused.lock().expect("no panic").len();
        let repeated = self.repeated.load(Ordering::Relaxed);
        write!(formatter, "{acknowledged} acknowledged, {refused} refused, {repeated} found done; again: ")?;
        formatter.debug_map().entries(self.interrupted()).finish()
    }
}

fn position(answer: &Response) -> u64 {
    answer.headers()["log-position"].to_str().expect("text").parse().expect("a number")
}

fn is_repeated(answer: &Response) -> bool {
    answer.headers().get("idempotent-replayed").is_some_and(|value| value == "true")
}

/// Position of each command in the log, by its number.
async fn recorded(log: &JetStreamLog) -> BTreeMap<u64, u64> {
    let mut recorded = BTreeMap::new();
    let mut streams: BTreeMap<StreamId, (u64, Option<Hash>)> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let end = log.end().await.expect("an end");
    let mut commits = log.follow(0).take(usize::try_from(end).expect("a count"));
    while let Some(stored) = commits.next().await {
        let stored = stored.expect("readable, without gaps");
        let (version, last) = streams.entry(stored.commit.stream.clone()).or_default();
        let follows = (stored.commit.version, stored.commit.previous) == (*version + 1, *last);
        assert!(follows, "the commit at {} does not follow that before it", stored.sequence);
        (*version, *last) = (stored.commit.version_after(), Some(stored.hash()));
        assert!(ids.insert(stored.commit.id), "the command of {} was recorded before", stored.sequence);
        if stored.commit.stream.category() == stock::CATEGORY
            && let Event::Adjusted { reason, .. } = stored.commit.events[0].decode().expect("readable")
        {
            let number = reason.parse().expect("a number");
            assert_eq!(recorded.insert(number, stored.sequence), None, "{number} is there twice");
        }
    }
    recorded
}
