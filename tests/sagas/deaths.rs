//! Whole lives of orders, in each of which the sagas' process dies at another step.
//!
//! Each story is lived through unharmed once, which tells how often each place is passed at which the process
//! can die, and how it ends. Then it is lived through again for each of these times, with a death there, and
//! has to end the same: the same events in the log, the same lines in the provider's books, the same stock.
//! A random sample of the deaths is part of the tests (`SEED=7` takes the same again), all of them of the soak.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use infra::fail_points;
use infra::log::EventLog;

use super::stories::Story;
use super::world::World;
use crate::support::servers::{MortalPostgres, database_of};
use crate::support::shop::Roles;
use crate::support::{Folder, within};

/// Lives are lived through side by side, each in a world of its own.
const WORLDS: usize = 4;

/// Deaths that are tried in the tests.
const SAMPLE: usize = 48;

/// How long a life may take, on a busy machine.
const LIFE_LIMIT: Duration = Duration::from_secs(120);

/// Between a command's append and its record here.
const APPENDS: [&str; 2] = [fail_points::APPEND_SENT, fail_points::APPEND_ACKNOWLEDGED];

/// What a life leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ending {
    status: String,
    payment: String,
    /// Types of the events, but for those that say that something is not known yet.
    events: Vec<String>,
    /// The provider's books: operation, amount, whether it was declined.
    books: Vec<(String, i64, bool)>,
    /// On hand and held of each product.
    stock: Vec<(i64, i64)>,
}

/// Dies at this place when it comes by for this time, the first being 1.
#[derive(Debug, Clone, Copy)]
struct Death {
    story: Story,
    place: &'static str,
    nth: usize,
}

impl World {
    async fn sagas(&self, story: Story, environment: &[(&str, &str)]) -> Roles {
        self.roles(&arguments(story), environment).await
    }

    /// The sagas, which die; nothing, if they are dead already: of what an earlier story left, such as a timer.
    async fn mortal_sagas(&self, death: Death) -> Option<Roles> {
        let dies = format!("{}={}*off->return", death.place, death.nth - 1);
        let (url, arguments) = (self.nats.url(), arguments(death.story));
        Roles::start_or_die(url, &self.database, &arguments, &[("FAILPOINTS", &dies)]).await.ok()
    }

    /// Lives through a story unharmed; how it ends, and how often each place is passed.
    async fn unharmed(&self, story: Story) -> (Ending, BTreeMap<String, usize>) {
        let folder = Folder::new();
        let passes = folder.path().join("passes");
        let sagas = self.sagas(story, &[(fail_points::PASSES, passes.to_str().expect("a path"))]).await;
        let life = Life::begin(self, story).await;
        let order = story.tell(self, &life.skus).await;
        let position = self.settles().await;
        drop(sagas);
        let mut passed = BTreeMap::new();
        for place in std::fs::read_to_string(passes).expect("places").lines() {
            *passed.entry(place.to_owned()).or_default() += 1;
        }
        self.client.get_at(&format!("/v1/products/{}", life.skus[0]), position).await;
        let ending = life.ending(&order).await;
        ending.holds();
        (ending, passed)
    }

    /// Lives through a story with a death in it, and finds it end as it does without; whether it came to that.
    async fn harmed(&self, death: Death, wanted: &Ending) -> bool {
        let story = death.story;
        let mut dying = self.mortal_sagas(death).await;
        let life = Life::begin(self, story).await;
        let is_over = AtomicBool::new(false);
        let heir = within(LIFE_LIMIT, "it dies or lives on", async || {
            match dying.as_mut().is_none_or(Roles::ended) {
                true => Some(Some(self.sagas(story, &[]).await)),
                false => is_over.load(Ordering::Relaxed).then_some(None),
            }
        });
        let lives = async {
            let order = story.tell(self, &life.skus).await;
            let deadline = Instant::now() + LIFE_LIMIT;
            let mut ending = life.ending(&order).await;
            while ending != *wanted && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
                ending = life.ending(&order).await;
            }
            assert_eq!(ending, *wanted, "{death:?}");
            self.settles().await;
            assert_eq!(life.ending(&order).await, *wanted, "{death:?}: something came after the end");
            is_over.store(true, Ordering::Relaxed);
        };
        let ((), heir) = tokio::join!(lives, heir);
        heir.is_some()
    }
}

fn arguments(story: Story) -> Vec<&'static str> {
    [&["sagas", "--payment-books-lag-s", "2"], story.flags()].concat()
}

/// A story under way.
struct Life<'w> {
    world: &'w World,
    story: Story,
    skus: Vec<String>,
    /// It begins after this position.
    after: u64,
}

impl<'w> Life<'w> {
    async fn begin(world: &'w World, story: Story) -> Self {
        let mut skus = Vec::new();
        for units in story.units() {
            skus.push(world.client.product("life", units).await);
        }
        let after = world.log.end().await.expect("the log answers");
        Self { world, story, skus, after }
    }

    async fn ending(&self, order: &str) -> Ending {
        let World { client, log, pool, .. } = self.world;
        let shown = client.get(&format!("/v1/orders/{order}")).await.body;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let end = log.end().await.expect("the log answers");
        let mut events = Vec::new();
        for position in self.after + 1..=end {
            let stored = log.read(position).await.expect("readable").expect("it is there");
            events.extend(stored.commit.events.into_iter().map(|event| event.kind));
        }
        events.retain(|kind| kind != "payment.outcome_unknown");
        if self.story.is_timed() {
            // A look-up that comes in between may say that the money is not back yet, which is not waited for.
            for kind in events.iter_mut().filter(|kind| *kind == "checkout.payment_undo_left") {
                "checkout.payment_undone".clone_into(kind);
            }
        }
        events.sort_unstable();
        let query = "select operation, amount, declined is not null from sandbox.operations
                     where order_id = $1 order by operation, amount, 3";
        let id: uuid::Uuid = order.parse().expect("an id");
        let books = sqlx::query_as(query).bind(id).fetch_all(pool).await.expect("the ledger");
        let query = "select on_hand, held from catalog.products where sku = any($1)
                     order by array_position($1::text[], sku::text)";
        let stock = sqlx::query_as(query).bind(&self.skus).fetch_all(pool).await.expect("stock");
        Ending {
            status: text(&shown["status"]),
            payment: text(&shown["payment"]["status"]),
            events,
            books,
            stock,
        }
    }
}

impl Ending {
    /// One charge at most; and what was taken is what the order came to, less what was given back.
    fn holds(&self) {
        let amounts = |of: &str| -> Vec<i64> {
            let done = self.books.iter().filter(|(operation, _, declined)| operation == of && !declined);
            done.map(|(_, amount, _)| *amount).collect()
        };
        let (held, taken, back) = (amounts("authorize"), amounts("capture"), amounts("refund"));
        assert!(held.len() <= 1 && taken.len() <= 1, "charged twice: {self:?}");
        let kept = taken.iter().sum::<i64>() - back.iter().sum::<i64>();
        let is_released = held.is_empty() || !taken.is_empty() || !amounts("void").is_empty();
        match self.status.as_str() {
            "cancelled" => assert!(kept == 0 && is_released, "{self:?}"),
            "completed" | "confirmed" => assert!(kept >= 0 && taken == held, "{self:?}"),
            _ => panic!("it has no end: {self:?}"),
        }
        assert!(self.stock.iter().all(|(_, held)| *held == 0), "something is held: {self:?}");
    }
}

/// Has the worlds take one after the other, until there are none left.
async fn share<T, R>(worlds: &[World], all: Vec<T>, act: impl AsyncFn(&World, T) -> R) -> Vec<R> {
    let (waiting, act) = (Mutex::new(VecDeque::from(all)), &act);
    let next = || waiting.lock().expect("no panic").pop_front();
    let work = worlds.iter().map(async |world| {
        let mut done = Vec::new();
        while let Some(one) = next() {
            done.push(act(world, one).await);
        }
        done
    });
    join_all(work).await.into_iter().flatten().collect()
}

/// Every death at these places, or a random sample of them.
async fn die(places: &[&'static str], sample: Option<usize>) {
    // Their own server, or they would use up the connections of everybody else's.
    let postgres = MortalPostgres::start().await;
    let start = async |_| World::start_on(database_of(&postgres.url).await).await;
    let worlds = join_all((0..WORLDS).map(start)).await;
    let stories =
        share(&worlds, Story::ALL.to_vec(), async |world, story| (story, world.unharmed(story).await));
    let unharmed: BTreeMap<Story, _> = stories.await.into_iter().collect();
    let mut deaths = Vec::new();
    for (story, (_, passed)) in &unharmed {
        for place in places {
            let times = passed.get(*place).copied().unwrap_or_default();
            deaths.extend((1..=times).map(|nth| Death { story: *story, place, nth }));
        }
    }
    let all = deaths.len();
    assert!(all > Story::ALL.len() * places.len(), "{unharmed:?}");
    if let Some(sample) = sample {
        let seed = std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| fastrand::u64(..));
        println!("SEED={seed}");
        fastrand::Rng::with_seed(seed).shuffle(&mut deaths);
        deaths.truncate(sample);
    }
    let (began, tried) = (Instant::now(), deaths.len());
    let died = share(&worlds, deaths, async |world, death| {
        usize::from(world.harmed(death, &unharmed[&death.story].0).await)
    });
    let died = died.await.into_iter().sum::<usize>();
    println!("died {died} times in {tried} of {all} lives, which took {:.1?}", began.elapsed());
    // Where a timer fires meanwhile, or an input came twice, a place is passed less often than the first time.
    assert!(died * 20 >= tried * 19, "{died} of {tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_a_death_at_any_step_of_a_life_changes_nothing() {
    die(&[&fail_points::SAGAS[..], &APPENDS].concat(), Some(SAMPLE)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make soak ONLY=sagas::deaths"]
async fn every_death_at_a_step_of_the_sagas() {
    die(&fail_points::SAGAS, None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make soak ONLY=sagas::deaths"]
async fn every_death_at_an_append_of_the_sagas() {
    die(&APPENDS, None).await;
}
