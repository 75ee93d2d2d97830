//! Events that can't be applied: they are set aside with what waits behind them, and all else goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::commit::Hash;
use domain::{OrderId, RecordedEvent, StreamId, stock};
use infra::feed::Feed;
use infra::log::{EventLog, MemoryLog, Message};
use projections::builds::Purpose;
use projections::dead_letters::{self, DeadLetter};
use projections::projection::Projection;
use projections::{Builds, set_up, verify};
use serde_json::value::RawValue;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::projecting::{CURSED, HEXED, Running, Units, live, reaches};
use crate::support::servers::{Nats, database, database_url};
use crate::support::shop::{Roles, operate};
use crate::support::stock::{commit, message};
use crate::support::{eventually, servers};

fn stream(sku: &str) -> StreamId {
    format!("stock/{sku}").parse().expect("a stream")
}

/// Adds receipts to the streams of some SKUs.
struct Receipts {
    log: Arc<dyn EventLog>,
    /// Version and position of each stream's last commit.
    last: BTreeMap<String, (u64, u64)>,
}

impl Receipts {
    fn of(log: Arc<dyn EventLog>) -> Self {
        Self { log, last: BTreeMap::new() }
    }

    async fn add(&mut self, sku: &str, quantity: u32) -> u64 {
        self.add_with(sku, quantity, |_| {}).await
    }

    async fn add_with(&mut self, sku: &str, quantity: u32, change: impl FnOnce(&mut domain::Commit)) -> u64 {
        let (version, position) = self.last.get(sku).copied().unwrap_or((0, 0));
        let mut commit = commit(&stream(sku), version + 1, quantity);
        change(&mut commit);
        let position = self.log.append(&message(&commit), position).await.expect("appended");
        self.last.insert(sku.to_owned(), (version + 1, position));
        position
    }

    async fn add_junk(&mut self, sku: &str) -> u64 {
        let (version, position) = self.last.get(sku).copied().unwrap_or((0, 0));
        let body = bytes::Bytes::from_static(b"{\"envelope\": 1, no commit");
        let junk = Message { hash: Hash::of(&body), stream: stream(sku), body };
        let position = self.log.append(&junk, position).await.expect("appended");
        self.last.insert(sku.to_owned(), (version + 1, position));
        position
    }
}

async fn units(pool: &PgPool) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select sku, units from units.units").fetch_all(pool).await.expect("rows");
    rows.into_iter().collect()
}

async fn letters(pool: &PgPool) -> Vec<DeadLetter> {
    let mut letters = dead_letters::list(pool, Some("units")).await.expect("letters");
    letters.sort_by(|a, b| a.key.cmp(&b.key));
    letters
}

async fn history(pool: &PgPool, key: &str) -> Vec<String> {
    let what = "select what from cartulary.dead_letter_history where key = $1 order by id";
    sqlx::query_scalar(what).bind(key).fetch_all(pool).await.expect("a history")
}

async fn retry(pool: &PgPool, key: &str) {
    assert_eq!(dead_letters::retry(pool, "units", Some(key)).await.expect("asked"), 1);
    eventually("it was tried", async || {
        let letters = letters(pool).await;
        (!letters.iter().any(|letter| letter.key == key && letter.is_asked)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_poison_event_sets_aside_what_it_is_about_and_nothing_else() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    let code = Units::times(1);
    set_up(std::slice::from_ref(&code), &pool).await.expect("tables");
    let mut receipts = Receipts::of(log.clone());
    let mut end = 0;
    for round in 0..3 {
        for number in 0..40 {
            let quantity = match (round, number) {
                // One that the code can't stand, one that the table can't.
                (1, 3) => CURSED,
                (1, 5) => HEXED - 1,
                _ => 1,
            };
            end = receipts.add(&format!("SKU-{number}"), quantity).await;
        }
    }
    let running = Running::start(&code, &log, &pool);
    reaches("units", &pool, end).await;
    let rows = units(&pool).await;
    let (poisoned, others): (Vec<_>, Vec<_>) =
        rows.iter().partition(|(sku, _)| ["SKU-3", "SKU-5"].contains(&sku.as_str()));
    assert!(others.len() == 38 && others.iter().all(|(_, units)| **units == 3), "{others:?}");
    assert!(poisoned.len() == 2 && poisoned.iter().all(|(_, units)| **units == 1), "{poisoned:?}");

    end = receipts.add("SKU-3", 10).await;
    reaches("units", &pool, end).await;
    let found = letters(&pool).await;
    let found: Vec<_> =
        found.iter().map(|letter| (letter.key.as_str(), letter.events, letter.attempts)).collect();
    assert_eq!(found, [("SKU-3", 3, 1), ("SKU-5", 2, 1)]);
    retry(&pool, "SKU-3").await;
    let again = &letters(&pool).await[0];
    assert_eq!((again.key.as_str(), again.events, again.attempts), ("SKU-3", 3, 2));
    assert!(again.reason.as_ref().is_some_and(|reason| reason.contains("a cursed quantity")), "{again:?}");
    running.stop().await;

    let mended: Arc<dyn Projection> = Arc::new(Units { times: 1, is_mended: true });
    let running = Running::start(&mended, &log, &pool);
    retry(&pool, "SKU-3").await;
    assert_eq!(units(&pool).await["SKU-3"], 1 + i64::from(CURSED) + 1 + 10);
    sqlx::raw_sql("alter table units_v1.units drop constraint hexed").execute(&pool).await.expect("mended");
    retry(&pool, "SKU-5").await;
    assert_eq!(units(&pool).await["SKU-5"], i64::from(HEXED) + 1);
    assert!(letters(&pool).await.is_empty());
    assert_eq!(
        history(&pool, "SKU-3").await,
        ["set aside", "asked for", "tried again in vain", "asked for", "drained"]
    );
    // Nothing waits any more.
    end = receipts.add("SKU-3", 5).await;
    reaches("units", &pool, end).await;
    assert_eq!(units(&pool).await["SKU-3"], 1 + i64::from(CURSED) + 1 + 10 + 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_stays_skipped_in_every_rebuild() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    let code = Units::times(1);
    set_up(std::slice::from_ref(&code), &pool).await.expect("tables");
    let mut receipts = Receipts::of(log.clone());
    receipts.add("MUG", 1).await;
    receipts.add_with("MUG", 1, |commit| commit.events[0].kind = "stock.teleported".to_owned()).await;
    receipts.add_junk("MUG").await;
    let end = receipts.add("MUG", 3).await;
    let running = Running::start(&code, &log, &pool);
    reaches("units", &pool, end).await;
    let found = letters(&pool).await.remove(0);
    assert_eq!((found.position, found.events, found.kind.as_str()), (2, 3, "stock.teleported"));
    let reason = found.reason.expect("a reason");
    assert!(reason.contains("does not know the event `stock.teleported`"), "{reason}");

    dead_letters::skip(&pool, "units", "MUG", "a joke").await.expect("skipped");
    let next = eventually("it comes to the junk", async || {
        let letter = letters(&pool).await.into_iter().next()?;
        (letter.position == 3 && !letter.is_asked).then_some(letter)
    });
    assert!(next.await.reason.is_some_and(|reason| reason.contains("not readable")));
    dead_letters::skip(&pool, "units", "MUG", "junk").await.expect("skipped");
    eventually("it's drained", async || letters(&pool).await.is_empty().then_some(())).await;
    assert_eq!(units(&pool).await["MUG"], 4);
    let refused = dead_letters::skip(&pool, "units", "MUG", "more").await.expect_err("nothing is left");
    assert!(refused.to_string().contains("nothing of `MUG` is set aside"));

    let builds = Builds::new(vec![code.clone()], Feed::new(log.clone()), pool.clone());
    let version = builds.begin("units", Purpose::Verify).await.expect("begun");
    let comparison =
        eventually("it's compared", async || verify::result(&pool, "units", version).await.expect("answers"));
    assert!(comparison.await.is_equal());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_forms_of_events_are_tolerated_and_reported() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = database().await;
    let code = Units::times(1);
    set_up(std::slice::from_ref(&code), &pool).await.expect("tables");
    let mut receipts = Receipts::of(log.clone());
    let newer = |commit: &mut domain::Commit| {
        let data = r#"{"quantity":7,"warehouse":"north"}"#;
        (commit.events[0].schema, commit.events[0].data) =
            (9, RawValue::from_string(data.to_owned()).expect("JSON"));
    };
    let end = receipts.add_with("MUG", 7, newer).await;
    let running = Running::start(&code, &log, &pool);
    reaches("units", &pool, end).await;
    assert_eq!(units(&pool).await["MUG"], 7);
    let status = projections::status::all(&pool, log.as_ref(), Some("units")).await.expect("a status");
    assert_eq!(
        (status[0].newer_events.as_slice(), status[0].set_aside),
        (&["stock.received 9".to_owned()][..], 0)
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_sets_more_aside_than_the_live_one_waits() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    let (mended, cursed): (Arc<dyn Projection>, _) =
        (Arc::new(Units { times: 1, is_mended: true }), Units::times(1));
    set_up(std::slice::from_ref(&mended), &pool).await.expect("tables");
    let mut receipts = Receipts::of(log.clone());
    receipts.add("MUG", CURSED).await;
    let end = receipts.add("CUP", 1).await;
    let running = Running::start(&mended, &log, &pool);
    reaches("units", &pool, end).await;
    running.stop().await;

    let running = Running::start(&cursed, &log, &pool);
    let builds = Builds::new(vec![cursed.clone()], Feed::new(log.clone()), pool.clone());
    let keep = std::time::Duration::from_secs(60);
    builds.begin("units", Purpose::Replace { verify: false, keep }).await.expect("begun");
    let note = async || {
        let all = projections::status::all(&pool, log.as_ref(), Some("units")).await.expect("a status");
        all.into_iter().find(|model| model.state == "building").and_then(|model| model.note)
    };
    let note = eventually("it waits", note).await;
    assert_eq!(note, "has set aside 1 more than units_v1");
    assert_eq!(live("units", &pool).await.version, 1);
    assert_eq!(builds.cut_over("units").await.expect("switched"), 2);
    running.stop().await;
}

/// A commit that could not be read at all, and can now: each of its events is applied once, to what it turns
/// out to be about, in whichever lane that is.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_at_last_goes_where_it_belongs() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = database().await;
    let orders: Arc<dyn Projection> = Arc::new(projections::orders::Orders);
    let ids: Vec<OrderId> = (0..8).map(|number| OrderId(Uuid::from_u128(number))).collect();
    let mut receipts = Receipts::of(log.clone());
    let reserved = |commit: &mut domain::Commit| {
        let event = |(index, order_id): (usize, &OrderId)| {
            let event = stock::Event::Reserved { order_id: *order_id, quantity: 1 };
            RecordedEvent::encode(&event, commit.id, index, commit.recorded_at)
        };
        commit.events = ids.iter().enumerate().map(event).collect();
    };
    let end = receipts.add_with("MUG", 1, reserved).await;
    // As if the lane of the stream had come by it with code that could not read it.
    let lanes = domain::ids::PARTITIONS / 2;
    let lane = i32::try_from(domain::ids::partition("MUG") / lanes).expect("a lane");
    let as_it_was = format!(
        "update cartulary.lanes set position = {end} where reader = 'orders_v1';
         insert into cartulary.parked (reader, lane, key, build) values ('orders_v1', {lane}, 'MUG', 'older');
         insert into cartulary.dead_letters (reader, key, position, index, stream, kind, reason)
             values ('orders_v1', 'MUG', {end}, -1, 'stock/MUG', '(unreadable commit)', 'older code')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(as_it_was)).execute(&pool).await.expect("as it was");
    // Other code tries again by itself.
    let running = Running::start(&orders, &log, &pool);
    eventually("it's drained", async || {
        let left = dead_letters::list(&pool, Some("orders")).await.expect("letters");
        let rows: i64 =
            sqlx::query_scalar("select count(*) from orders.timeline").fetch_one(&pool).await.expect("rows");
        (left.is_empty() && rows > 0 && rows == ids.len() as i64).then_some(())
    })
    .await;
    running.stop().await;
    let steps: Vec<(i64, i64)> = sqlx::query_as(
        "select count(*), count(distinct order_id) from orders.timeline join orders.orders on id = order_id",
    )
    .fetch_all(&pool)
    .await
    .expect("rows");
    assert_eq!(steps, [(8, 8)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_does_not_take_can_be_set_aside_too() {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let pool = PgPool::connect(&database_url().await).await.expect("Postgres answers");
    let code = Units::times(1);
    set_up(std::slice::from_ref(&code), &pool).await.expect("tables");
    let mut receipts = Receipts::of(log.clone());
    receipts.add_with("MUG", 1, |commit| commit.events[0].kind = "stock.tele\0ported".to_owned()).await;
    let end = receipts.add("CUP", 1).await;
    let running = Running::start(&code, &log, &pool);
    reaches("units", &pool, end).await;
    retry(&pool, "MUG").await;
    assert_eq!(letters(&pool).await[0].attempts, 2);
    assert_eq!(units(&pool).await["CUP"], 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_and_decide() {
    let (nats, database) = (Nats::start().await, servers::database_url().await);
    let place = Roles::start(nats.url(), &database, &["projections", "query-api"]).await;
    let mut receipts = Receipts::of(Arc::new(nats.log().await));
    receipts.add("MUG", 1).await;
    receipts.add_with("MUG", 1, |commit| commit.events[0].kind = "stock.teleported".to_owned()).await;
    receipts.add("MUG", 2).await;
    receipts.add("CUP", 1).await;
    let run =
        async |arguments: &[&str]| operate(&place.admin, &[&["dead-letters"], arguments].concat()).await;
    let listed = eventually("it's set aside", async || {
        let (succeeded, printed) = run(&["list", "catalog"]).await;
        (succeeded && printed.contains("MUG")).then_some(printed)
    });
    let listed = listed.await;
    assert!(listed.contains("catalog_v1") && listed.contains("stock.teleported"), "{listed}");
    let (shown, printed) = run(&["show", "catalog", "MUG"]).await;
    assert!(shown && printed.contains("2 events are set aside") && printed.contains("quantity"), "{printed}");
    let (failed, printed) = run(&["show", "catalog", "CUP"]).await;
    assert!(!failed && printed.contains("nothing of `CUP` is set aside in catalog"), "{printed}");
    let (failed, printed) = run(&["skip", "catalog", "MUG", "--reason", " "]).await;
    assert!(!failed && printed.contains("reason"), "{printed}");
    let (asked, printed) = run(&["retry", "catalog"]).await;
    assert!(asked && printed.contains("1 will be tried again"), "{printed}");
    let (_, status) = operate(&place.admin, &["status", "catalog"]).await;
    assert!(status.contains("SET ASIDE"), "{status}");
    let (skipped, printed) = run(&["skip", "catalog", "MUG", "--reason", "nobody teleports"]).await;
    assert!(skipped, "{printed}");
    eventually("it's drained", async || {
        let (_, printed) = run(&["list", "catalog"]).await;
        printed.contains("nothing is set aside").then_some(())
    })
    .await;
    let pool = PgPool::connect(&database).await.expect("Postgres answers");
    let on_hand: i64 = sqlx::query_scalar("select on_hand from catalog.products where sku = 'MUG'")
        .fetch_one(&pool)
        .await
        .expect("a product");
    assert_eq!(on_hand, 3);
    // Each projection decides for itself: search has it aside still.
    let (_, printed) = run(&["list"]).await;
    assert!(printed.contains("search_v1") && !printed.contains("catalog_v1"), "{printed}");
}
