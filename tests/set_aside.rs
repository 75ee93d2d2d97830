//! What the sagas can't read: it is set aside with what happens to the same order later, and all else goes on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use domain::commit::Hash;
use domain::{OrderId, StreamId};
use infra::clock::Clock;
use infra::execute::{self, Executor, Executors};
use infra::feed::Feed;
use infra::log::{EventLog, Message, Stored};
use infra::payment::{PaymentProvider, Providers, Sandbox};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::timers::JetStreamTimers;
use infra::writer::{self, Writer};
use sagas::checkout::Limits;
use sagas::status::{self, Call, Open};
use sagas::{Index, Sagas, Worker};
use sqlx::PgPool;
use tokio::sync::watch;

use crate::support::customer::Client;
use crate::support::poisoned::Poisoned;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::{Roles, operate_sagas};
use crate::support::{eventually, far_deadlines};

/// Units whose total is known by its number.
const POISON: u32 = 3;

/// A shop whose sagas work here.
struct Scene {
    client: Client,
    sku: String,
    admin: String,
    pool: PgPool,
    nats: Nats,
    log: Arc<dyn EventLog>,
    is_mended: Arc<AtomicBool>,
    /// Ends with it.
    _roles: Roles,
}

impl Scene {
    async fn start() -> Self {
        let (nats, database) = (Nats::start().await, database_url().await);
        let roles = Roles::start(nats.url(), &database, &["command-api", "query-api", "projections"]).await;
        let pool = PgPool::connect(&database).await.expect("Postgres answers");
        let client = Client::new(&roles.url, &database);
        let sku = client.product("poison", 100).await;
        let (admin, log) = (roles.admin.clone(), Arc::new(nats.log().await));
        let is_mended = Arc::default();
        Self { client, sku, admin, pool, nats, log, is_mended, _roles: roles }
    }

    /// The sagas of a build that can't read what is poison.
    async fn sagas(&self, is_poison: fn(&Stored) -> bool) -> watch::Sender<bool> {
        let jetstream = self.nats.log().await;
        let timers = JetStreamTimers::open(jetstream.connection().clone(), 1).await.expect("timers");
        let (log, is_mended) = (self.log.clone(), self.is_mended.clone());
        let log: Arc<dyn EventLog> = Arc::new(Poisoned { log, is_mended, is_poison });
        let (clock, writer) = (Clock::system(), Writer::new(log.clone(), writer::Settings::default()));
        let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
        let settings =
            execute::Settings { idempotency_keep: Duration::from_secs(3_600), cached_aggregates_max: 1 };
        let sandbox = Sandbox::open(self.pool.clone(), clock.clone(), Arc::new(timers.clone()))
            .await
            .expect("a sandbox");
        let limits = Limits { shipment: None, ..far_deadlines() };
        let sagas = Sagas {
            feed: Feed::new(log),
            executors: Arc::new(Executors::new(&writer, &snapshots, &clock, &settings)),
            checkouts: Executor::new(&writer, &snapshots, &clock, &settings),
            clock,
            providers: Providers::new([Arc::new(sandbox) as Arc<dyn PaymentProvider>]),
            timers: Arc::new(timers.clone()),
            settings: sagas::Settings {
                limits,
                patience: sagas::Patience::default(),
                reconciliation: sagas::reconcile::Settings::default(),
            },
            index: Index::default(),
        };
        let worker = Worker::new(sagas, self.pool.clone(), timers);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move { worker.run(stopped).await });
        stop
    }

    async fn buy(&self, quantity: u32) -> String {
        self.client.check_out(&self.client.cart(&self.sku, quantity).await, "tok_approve").await
    }

    /// What is set aside.
    async fn stuck(&self) -> Vec<Open> {
        let stuck = eventually("the tables are there", async || status::stuck(&self.pool, 100).await.ok());
        stuck.await.into_iter().filter(|open| open.stage == "set_aside").collect()
    }

    async fn is_set_aside(&self, order: &str) -> Open {
        eventually("it is set aside", async || {
            self.stuck().await.into_iter().find(|open| open.id.to_string() == order)
        })
        .await
    }

    async fn types(&self, stream: &str) -> Vec<String> {
        let commits = self.log.load(&stream.parse().expect("a stream"), 0).await.expect("readable");
        let events = commits.into_iter().flat_map(|stored| stored.commit.events);
        events.map(|event| event.kind).collect()
    }
}

fn body(stored: &Stored) -> &str {
    std::str::from_utf8(&stored.body).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_an_order_with_an_unreadable_event_waits_and_all_others_go_on() {
    let scene = Scene::start().await;
    let sagas = scene
        .sagas(|stored| {
            let total = format!("\"amount\":{}", 1250 * POISON);
            body(stored).contains("\"payment.authorized\"") && body(stored).contains(&total)
        })
        .await;
    let poisoned = scene.buy(POISON).await;
    let open = scene.is_set_aside(&poisoned).await;
    assert!(open.error.as_deref().is_some_and(|error| error.contains("teleported")), "{open:?}");
    for _ in 0..20 {
        let order = scene.buy(1).await;
        assert_eq!(scene.client.settled(&order).await["status"], "confirmed");
    }
    let (_, printed) = operate_sagas(&scene.admin, &["status"]).await;
    assert!(printed.contains("set_aside"), "{printed}");
    // Whatever happens to it meanwhile waits in its turn.
    let cancel = scene.client.request(reqwest::Method::POST, &format!("/v1/orders/{poisoned}/cancel"));
    let cancelled = scene.client.send(cancel.header("Idempotency-Key", "cancel-it-now-please")).await;
    assert!(cancelled.status.is_success(), "{cancelled:?}");
    let id: OrderId = poisoned.parse().expect("an id");
    let waits = async |events: &str| {
        eventually("it waits", async || {
            let error = scene.is_set_aside(&poisoned).await.error.unwrap_or_default();
            error.ends_with(events).then_some(())
        })
        .await;
    };
    waits("1 wait behind it").await;
    // Tried too early, nothing is lost.
    status::call(&scene.pool, id, &Call::Retry).await.expect("called");
    eventually("it was tried", async || {
        status::calls(&scene.pool, id).await.expect("rows").is_empty().then_some(())
    })
    .await;
    waits("1 wait behind it").await;
    let checkout = format!("checkout/{poisoned}");
    assert!(!scene.types(&checkout).await.contains(&"checkout.failed".to_owned()));

    // Another process of the same build knows who has to wait.
    sagas.send_replace(true);
    let second = scene.sagas(|_| false).await;
    assert_eq!(scene.client.settled(&scene.buy(1).await).await["status"], "confirmed");
    assert!(!scene.types(&checkout).await.contains(&"checkout.failed".to_owned()));
    status::call(&scene.pool, id, &Call::Retry).await.expect("called");
    assert_eq!(scene.client.settled(&poisoned).await["status"], "cancelled");
    let types = scene.types(&checkout).await;
    let place = |kind: &str| types.iter().position(|known| known == kind);
    assert!(place("checkout.confirmation_begun") < place("checkout.failed"), "{types:?}");
    assert!(place("checkout.confirmation_begun").is_some(), "{types:?}");
    let types = scene.types(&format!("payment/{poisoned}")).await;
    let times = |kind: &str| types.iter().filter(|known| *known == kind).count();
    assert_eq!(times("payment.authorized"), 1, "{types:?}");
    eventually("nothing is set aside any more", async || scene.stuck().await.is_empty().then_some(())).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_say_whose_it_is_waits_alone() {
    let scene = Scene::start().await;
    let stream: StreamId = format!("stock/{}", scene.sku).parse().expect("a stream");
    let last = scene.log.load(&stream, 0).await.expect("readable").pop().expect("a commit");
    let body = Bytes::from_static(b"{\"envelope\": 2, from the future");
    let junk = Message { hash: Hash::of(&body), stream, body };
    let _sagas = scene.sagas(|_| false).await;
    let other = scene.client.product("other", 5).await;
    scene.log.append(&junk, last.sequence).await.expect("appended");
    let order = scene.client.check_out(&scene.client.cart(&other, 1).await, "tok_approve").await;
    assert_eq!(scene.client.settled(&order).await["status"], "confirmed");
    let stuck = eventually("it is set aside", async || scene.stuck().await.pop()).await;
    assert_eq!(stuck.saga, "order");
    assert!(stuck.error.is_some_and(|error| error.contains(&format!("stock/{}", scene.sku))));
    // Who wants what nobody can read the stock of waits, too; and is found.
    let (found, printed) = operate_sagas(&scene.admin, &["show", &stuck.id.to_string()]).await;
    assert!(found && printed.contains("set_aside"), "{printed}");
}
