//! What holds after every history, over the whole log and the provider's ledger.

use std::collections::BTreeMap;

use domain::commit::Hash;
use domain::payment::Operation;
use domain::stock::Stock;
use domain::totals::Totals;
use domain::{Aggregate, CommandId, Event, Money, OrderId, StreamId, cart, order, stock};
use infra::log::Stored;
use sagas::{Checkout, checkout};

use super::History;

/// What the log says of one order.
#[derive(Default)]
struct Told {
    total: Option<Money>,
    totals: Option<Totals>,
    units: u64,
    checkout: Checkout,
    is_confirmed: bool,
    is_cancelled: bool,
}

/// I4: each stream's versions and hashes are a chain, and no command is there twice.
pub fn is_a_log(commits: &[Stored]) {
    let mut ids: BTreeMap<CommandId, u64> = BTreeMap::new();
    let mut streams: BTreeMap<&StreamId, (u64, Option<Hash>)> = BTreeMap::new();
    for stored in commits {
        let commit = &stored.commit;
        let first = ids.insert(commit.id, stored.sequence);
        assert_eq!(first, None, "the command at {} is there twice", stored.sequence);
        let (version, last) = streams.entry(&commit.stream).or_default();
        assert_eq!((commit.version, commit.previous), (*version + 1, *last), "{}", commit.stream);
        (*version, *last) = (commit.version_after(), Some(stored.hash()));
    }
}

fn told(commits: &[Stored]) -> (BTreeMap<OrderId, Told>, BTreeMap<StreamId, Stock>) {
    let (mut orders, mut shelves): (BTreeMap<OrderId, Told>, BTreeMap<StreamId, Stock>) = Default::default();
    for stored in commits {
        let stream = &stored.commit.stream;
        for recorded in &stored.commit.events {
            if stream.category() == checkout::NAME {
                let event: checkout::Event = recorded.decode().expect("readable");
                let order_id = stream.id().parse().expect("an order");
                orders.entry(order_id).or_default().checkout.evolve(&event);
                continue;
            }
            match Event::decode(recorded).expect("readable") {
                Some(Event::Cart(cart::Event::CheckedOut { order_id, total, totals, lines, .. })) => {
                    let told = orders.entry(order_id).or_default();
                    told.total = Some(total);
                    told.totals = totals;
                    told.units = lines.iter().map(|line| u64::from(line.quantity)).sum();
                }
                Some(Event::Order(event)) => {
                    let told = orders.entry(stream.id().parse().expect("an order")).or_default();
                    if let order::Event::Placed { total, totals, .. } = &event {
                        assert_eq!(*totals, told.totals, "{stream} is placed as it was checked out");
                        assert_eq!(totals.as_ref().map(|totals| totals.total), Some(*total), "{stream}");
                    }
                    told.is_confirmed |= matches!(event, order::Event::Confirmed {});
                    told.is_cancelled |= matches!(event, order::Event::Cancelled { .. });
                }
                Some(Event::Stock(event)) => {
                    let shelf = shelves.entry(stream.clone()).or_default();
                    shelf.evolve(&event);
                    // I6, at every moment.
                    assert!(shelf.held() <= shelf.on_hand(), "{stream} is oversold at {}", stored.sequence);
                }
                _ => {}
            }
        }
    }
    (orders, shelves)
}

/// I6 to I9: all has come to an end, money and goods are where they belong, and both books agree.
pub fn all_is_well(history: &History) {
    is_a_log(&history.commits);
    let (orders, shelves) = told(&history.commits);
    let mut sold = 0;
    for (order_id, told) in &orders {
        let end = told.checkout.summary();
        assert!(end.as_ref().is_some_and(|end| end.is_over), "{order_id} is stuck: {end:?}");
        let booked = |operation: Operation| {
            let lines = history.ledger.iter();
            let wanted = |line: &&super::provider::Booked| {
                line.order_id == *order_id && line.operation == operation && !line.declined
            };
            let amounts: Vec<Money> = lines.filter(wanted).map(|line| line.amount).collect();
            assert!(amounts.len() <= 1, "{order_id}: {operation:?} is booked {} times", amounts.len());
            assert!(amounts.iter().all(|amount| Some(*amount) == told.total), "{order_id}: {amounts:?}");
            !amounts.is_empty()
        };
        let (authorized, captured) = (booked(Operation::Authorize), booked(Operation::Capture));
        let (voided, refunded) = (booked(Operation::Void), booked(Operation::Refund));
        match (told.is_confirmed && !told.is_cancelled, told.is_cancelled) {
            (true, _) => {
                assert!(captured && !refunded && !voided, "{order_id} is confirmed and not paid");
                sold += told.units;
            }
            (false, true) if authorized => {
                assert!(voided != (captured && refunded), "{order_id} is cancelled and its money not back");
            }
            (false, true) => assert!(!captured, "{order_id} is captured and was never authorised"),
            (false, false) => panic!("{order_id} is neither confirmed nor cancelled"),
        }
    }
    let left: u64 = shelves.values().map(Stock::on_hand).sum();
    let held: u64 = shelves.values().map(Stock::held).sum();
    assert_eq!((history.received - left, held), (sold, 0), "goods are where they belong");
}

/// How often what is worth it has happened.
pub fn branches(history: &History) -> BTreeMap<&'static str, usize> {
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut note = |what: &'static str| *seen.entry(what).or_default() += 1;
    for stored in &history.commits {
        let kinds: Vec<&str> = stored.commit.events.iter().map(|event| event.kind.as_str()).collect();
        for event in &stored.commit.events {
            match event.kind.as_str() {
                "payment.outcome_unknown" => note("an outcome is unknown"),
                "payment.refunded" => note("money is given back"),
                "stock.reservation_refused" => note("sold out"),
                "checkout.completed" => note("completed"),
                "checkout.cancelled" => note("taken back"),
                "payment.declined" => note("declined"),
                _ => {}
            }
        }
        if kinds.starts_with(&["payment.authorized", "payment.void_requested"]) {
            note("a late success is voided by itself");
        }
        if stored.commit.events.iter().any(|event| event.data.get().contains("payment_timed_out")) {
            note("the deadline passes");
        }
    }
    let is = |event: &Event| matches!(event, Event::Stock(stock::Event::Returned { .. }));
    let returned = history.commits.iter().flat_map(|stored| &stored.commit.events);
    let returned =
        returned.filter(|event| Event::decode(event).is_ok_and(|event| event.as_ref().is_some_and(is)));
    for _ in returned {
        note("sold goods come back");
    }
    seen
}
