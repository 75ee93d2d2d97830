//! What holds after every history, over the whole log and the provider's ledger.

use std::collections::{BTreeMap, BTreeSet};

use domain::commit::Hash;
use domain::order::Reason;
use domain::payment::{self, Operation, Payment};
use domain::stock::Stock;
use domain::totals::Totals;
use domain::{Aggregate, CommandId, Event, Money, OrderId, RecordedEvent, StreamId, cart, order, stock};
use infra::log::Stored;
use sagas::{Checkout, checkout};
use uuid::Uuid;

use super::History;
use super::liar::ASKED_BLINDLY;
use crate::shop::buyer;

/// What the log says of one order.
#[derive(Default)]
struct Told {
    total: Option<Money>,
    totals: Option<Totals>,
    units: u64,
    returned: u64,
    /// What was asked back, and is not known to have failed.
    refunds: BTreeMap<Uuid, i64>,
    /// What was given back by requests that had been carried out before.
    refunded_again: i64,
    checkout: Checkout,
    payment: Payment,
    is_cart_open_again: bool,
    is_confirmed: bool,
    is_shipped: bool,
    is_cancelled: bool,
    is_written_off: bool,
    /// A person has it taken back.
    is_asked_for: bool,
}

/// What a commit says, in a line.
pub fn line(stored: &Stored) -> String {
    let event = |event: &RecordedEvent| format!("{} {}", event.kind, event.data);
    let events: Vec<String> = stored.commit.events.iter().map(event).collect();
    let at = stored.commit.recorded_at.timestamp_millis();
    format!("{:>5} {at:>8} ms {} {}", stored.sequence, stored.commit.stream, events.join(", "))
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

/// I12: what is personal stands where it can be erased, and nowhere else.
fn is_private(commits: &[Stored]) {
    let buyer = buyer();
    let address = &buyer.shipping_address;
    let secrets = [&buyer.email, &address.name, &address.line1, &address.postal_code];
    for stored in commits {
        for event in &stored.commit.events {
            let is_open = secrets.iter().any(|secret| event.data.get().contains(secret.as_str()));
            assert!(!is_open, "{} at {} says who buys", event.kind, stored.sequence);
        }
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
                let told = orders.entry(order_id).or_default();
                told.is_written_off |= matches!(event, checkout::Event::WrittenOff {});
                let was_over = told.checkout.summary().is_some_and(|summary| summary.is_over);
                told.checkout.evolve(&event);
                // I9, at every moment: what is over stays so, unless a person has it taken back.
                let is_over = told.checkout.summary().is_some_and(|summary| summary.is_over);
                let is_asked_for = matches!(
                    event,
                    checkout::Event::Failed { reason: Reason::CancelledByBuyer | Reason::Abandoned }
                );
                let may_go_on = told.is_asked_for || is_asked_for;
                told.is_asked_for |= is_asked_for;
                assert!(is_over || !was_over || may_go_on, "{stream} was over before {}", stored.sequence);
                told.is_asked_for &= !matches!(event, checkout::Event::Cancelled {});
                continue;
            }
            match Event::decode(recorded).expect("readable") {
                Some(Event::Cart(cart::Event::CheckedOut { order_id, total, totals, lines, .. })) => {
                    let told = orders.entry(order_id).or_default();
                    told.total = Some(total);
                    told.totals = totals;
                    told.units = lines.iter().map(|line| u64::from(line.quantity)).sum();
                }
                Some(Event::Cart(cart::Event::Reopened { order_id, .. })) => {
                    orders.entry(order_id).or_default().is_cart_open_again = true;
                }
                Some(Event::Order(event)) => {
                    let told = orders.entry(stream.id().parse().expect("an order")).or_default();
                    if let order::Event::Placed { total, totals, .. } = &event {
                        assert_eq!(*totals, told.totals, "{stream} is placed as it was checked out");
                        assert_eq!(totals.as_ref().map(|totals| totals.total), Some(*total), "{stream}");
                    }
                    told.order(&event);
                }
                Some(Event::Payment(event)) => {
                    let told = orders.entry(stream.id().parse().expect("an order")).or_default();
                    let before = told.payment.amounts().clone();
                    told.payment.evolve(&event);
                    if let payment::Event::Refunded { refund, amount } = &event
                        && payment::is_made_again(refund)
                    {
                        told.refunded_again += amount.amount;
                    }
                    // I7, at every moment.
                    let amounts = told.payment.amounts();
                    let is_sound = 0 <= amounts.refunded
                        && amounts.refunded <= amounts.captured
                        && amounts.captured <= amounts.authorized;
                    // I9: what the provider did stays done.
                    let is_kept = before.captured <= amounts.captured
                        && before.refunded <= amounts.refunded
                        && before.is_voided <= amounts.is_voided;
                    assert!(is_sound && is_kept, "{stream} at {}: {amounts:?}", stored.sequence);
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

impl Told {
    fn order(&mut self, event: &order::Event) {
        match event {
            // I9: each of them once, and none after the end.
            order::Event::Confirmed {} => {
                assert!(!self.is_confirmed && !self.is_cancelled, "what is cancelled stays so");
                self.is_confirmed = true;
            }
            order::Event::Shipped { .. } => {
                assert!(self.is_confirmed && !self.is_cancelled, "only what is sold is shipped");
                self.is_shipped = true;
            }
            order::Event::Cancelled { .. } => {
                assert!(!self.is_cancelled && !self.is_shipped, "what is cancelled or shipped stays so");
                let is_seen_open = self.is_cart_open_again || self.is_confirmed;
                assert!(is_seen_open, "who sees the order cancelled finds the cart open");
                self.is_cancelled = true;
            }
            order::Event::GoodsReturned { lines, .. } => {
                self.returned += lines.iter().map(|units| u64::from(units.quantity)).sum::<u64>();
            }
            order::Event::RefundRequested { refund_id, amount, .. } => {
                self.refunds.insert(*refund_id, amount.amount);
            }
            order::Event::RefundFailed { refund_id, .. } => {
                self.refunds.remove(refund_id);
            }
            _ => {}
        }
    }
}

/// What the provider's ledger says of one payment.
#[derive(Default)]
struct Ledger {
    authorized: usize,
    voided: usize,
    captured: Vec<i64>,
    refunded: Vec<i64>,
    charged_back: i64,
}

impl Ledger {
    /// An order's payments, by the provider's name for them.
    fn of(order_id: OrderId, history: &History) -> BTreeMap<&str, Self> {
        let mut payments: BTreeMap<&str, Self> = BTreeMap::new();
        let lines = history.ledger.iter().filter(|line| line.order_id == order_id && !line.is_declined());
        for line in lines {
            let payment = payments.entry(&line.reference).or_default();
            payment.charged_back += line.charged_back;
            match line.operation {
                Operation::Authorize => payment.authorized += 1,
                Operation::Void => payment.voided += 1,
                Operation::Capture => payment.captured.push(line.amount.amount),
                Operation::Refund => payment.refunded.push(line.amount.amount),
            }
        }
        payments
    }

    /// Nothing is held, and nothing kept.
    fn is_undone(&self) -> bool {
        let (captured, refunded): (i64, i64) = (self.captured.iter().sum(), self.refunded.iter().sum());
        captured == refunded + self.charged_back && (self.authorized == 0 || captured > 0 || self.voided == 1)
    }
}

/// I1 to I4, I6 to I9, I11 and I12: all has come to an end in time, money and goods are where they belong, both books
/// agree, and everybody was told the truth. I10 is looked at whenever a client reads, and I5 where there is a database.
pub fn all_is_well(history: &History) {
    is_a_log(&history.commits);
    history.answers.hold(&history.commits);
    is_private(&history.commits);
    let blindly = history.counts.get(ASKED_BLINDLY);
    assert_eq!(blindly, None, "{ASKED_BLINDLY}");
    let [first, second] = &history.differences;
    assert!(first.is_empty() || history.forgets_keys, "the books differ: {first:#?}");
    assert!(second.is_empty(), "the books differ after they were compared: {second:#?}");
    let (orders, shelves) = told(&history.commits);
    let mut sold = 0;
    for (order_id, told) in &orders {
        let end = told.checkout.summary();
        assert!(end.as_ref().is_some_and(|end| end.is_over), "{order_id} is stuck: {end:?}");
        let mut payments = Ledger::of(*order_id, history);
        let own = told.payment.provider_reference().and_then(|own| payments.remove(own));
        let ledger = own.unwrap_or_default();
        let are_undone = payments.values().all(Ledger::is_undone);
        assert!(are_undone, "{order_id} has another payment, which holds money");
        let is_once = ledger.authorized + payments.len() <= 1 || history.forgets_keys;
        assert!(is_once, "{order_id} is authorised {} times", ledger.authorized + payments.len());
        let (captured, refunded): (i64, i64) = (ledger.captured.iter().sum(), ledger.refunded.iter().sum());
        let amounts = told.payment.amounts();
        assert_eq!(
            (amounts.captured, amounts.refunded),
            (captured, refunded),
            "{order_id}: the books differ"
        );
        assert!(ledger.captured.len() <= 1, "{order_id} is captured {} times", ledger.captured.len());
        assert!(told.refunded_again == 0 || history.forgets_keys, "{order_id} is refunded twice");
        let total = told.total.map_or(0, |total| total.amount);
        match (told.is_confirmed && !told.is_cancelled, told.is_cancelled) {
            (true, _) => {
                let asked_back = told.refunds.values().sum::<i64>() + told.refunded_again;
                let is_paid = match told.is_written_off {
                    true => ledger.authorized == 1 && ledger.is_undone(),
                    false => (captured, refunded, ledger.voided) == (total, asked_back, 0),
                };
                assert!(is_paid, "{order_id}: {captured} of {total} taken, {refunded} of {asked_back} back");
                sold += told.units - told.returned;
            }
            (false, true) => {
                assert!(ledger.is_undone(), "{order_id} is cancelled, and its money is not back");
            }
            (false, false) => panic!("{order_id} is neither confirmed nor cancelled"),
        }
    }
    let left: u64 = shelves.values().map(Stock::on_hand).sum();
    let held: u64 = shelves.values().map(Stock::held).sum();
    assert_eq!((received(&history.commits) - left, held), (sold, 0), "goods are where they belong");
}

/// Units that came in.
fn received(commits: &[Stored]) -> u64 {
    let events = commits.iter().flat_map(|stored| &stored.commit.events);
    let units = |event: &RecordedEvent| match Event::decode(event) {
        Ok(Some(Event::Stock(stock::Event::Received { quantity }))) => u64::from(quantity),
        _ => 0,
    };
    events.map(units).sum()
}

/// How often what is worth it has happened.
pub fn branches(history: &History) -> BTreeMap<&'static str, usize> {
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut note = |what: &'static str| *seen.entry(what).or_default() += 1;
    let mut withdrawn = BTreeSet::new();
    for stored in &history.commits {
        let kinds: Vec<&str> = stored.commit.events.iter().map(|event| event.kind.as_str()).collect();
        for event in &stored.commit.events {
            match event.kind.as_str() {
                "payment.outcome_unknown" => note("an outcome is unknown"),
                "payment.refunded" if event.data.get().contains("again:") => note("a refund is made twice"),
                "payment.refunded" => note("money is given back"),
                "stock.reservation_refused" => note("sold out"),
                "checkout.completed" => note("completed"),
                "checkout.cancelled" => note("taken back"),
                "payment.declined" => note("declined"),
                "payment.action_required" => note("the buyer is asked"),
                "payment.capture_failed" => note("a capture fails"),
                "payment.undo_refused" => note("an undo is refused"),
                "payment.stray_undone" => note("a second payment is undone"),
                "payment.refund_queued" => note("a refund waits"),
                "order.refund_failed" => note("a refund fails"),
                "order.goods_returned" => note("goods are sent back"),
                "checkout.payment_undo_left" => note("money is not waited for"),
                "checkout.deadline_moved" => note("a deadline is moved"),
                "checkout.shipment_overdue" => note("a shipment is overdue"),
                "checkout.sale_begun" => note("paid at shipment"),
                "checkout.capture_stuck" => note("a capture is stuck"),
                "checkout.withdrawal_begun" => {
                    note("it is to be taken back before it is shipped");
                    withdrawn.insert(&stored.commit.stream);
                }
                "checkout.goods_shipped" if withdrawn.remove(&stored.commit.stream) => {
                    note("it is shipped before it is taken back");
                }
                _ => {}
            }
        }
        // What is written off is the last operator's.
        if kinds.contains(&"checkout.abandoned") && !kinds.contains(&"checkout.written_off") {
            note("an operator gives up");
        }
        if kinds.iter().filter(|kind| kind.starts_with("checkout.line_")).count() > 1 {
            note("answers are heard together");
        }
        if kinds.starts_with(&["payment.authorized", "payment.void_requested"]) {
            note("a late success is voided by itself");
        }
        for (reason, what) in [
            ("payment_timed_out", "the deadline passes"),
            ("reservation_timed_out", "lines are not held in time"),
            ("not_shipped", "it is not shipped in time"),
            ("payment_mismatch", "another amount is held than asked for"),
        ] {
            let is_why =
                |event: &RecordedEvent| event.kind == "checkout.failed" && event.data.get().contains(reason);
            if stored.commit.events.iter().any(is_why) {
                note(what);
            }
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
