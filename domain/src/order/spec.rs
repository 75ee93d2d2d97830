//! What becomes of orders, told as stories.

use uuid::Uuid;

use super::*;
use crate::ids::OrderId;
use crate::spec::given;
use crate::text::Checks;

pub const ORDER: OrderId = OrderId(Uuid::from_u128(7));

pub fn sku(code: &str) -> Sku {
    code.parse().expect("a SKU")
}

pub fn money(amount: i64, currency: &str) -> Money {
    Money::new(amount, currency.parse().expect("a currency"))
}

pub fn line(code: &str, quantity: u32, price: i64) -> Line {
    let unit_price = money(price, "GBP");
    let total = unit_price.times(quantity).expect("small");
    Line { sku: sku(code), title: "Mug".into(), quantity, unit_price, total }
}

pub fn alice() -> Buyer {
    Buyer {
        email: "alice@example.com".into(),
        shipping_address: Address {
            name: "Alice Ames".into(),
            line1: "1 High Street".into(),
            line2: None,
            city: "Leeds".into(),
            region: None,
            postal_code: "LS1 1AA".into(),
            country: "GB".into(),
        },
    }
}

pub fn placed() -> Event {
    Event::Placed {
        cart_id: CartId(Uuid::from_u128(3)),
        lines: vec![line("MUG", 2, 500)],
        total: money(1000, "GBP"),
        totals: None,
        country: "GB".into(),
        personal: alice(),
    }
}

#[test]
fn is_confirmed_once() {
    given::<Order>([placed()])
        .when(Command::Confirm)
        .then([Event::Confirmed {}])
        .when(Command::Confirm)
        .then_nothing();
}

#[test]
fn a_request_to_cancel_overtakes_the_confirmation() {
    given::<Order>([placed()])
        .when(Command::RequestCancellation)
        .then([Event::CancellationRequested {}])
        .when(Command::Confirm)
        .then_nothing()
        .when(Command::Cancel { reason: Reason::CancelledByBuyer })
        .then([Event::Cancelled { reason: Reason::CancelledByBuyer }])
        .when(Command::RequestCancellation)
        .then_nothing();
}

#[test]
fn a_confirmed_order_can_be_cancelled() {
    given::<Order>([placed(), Event::Confirmed {}])
        .when(Command::RequestCancellation)
        .then([Event::CancellationRequested {}]);
}

#[test]
fn what_the_shop_takes_back_is_not_shipped_and_what_is_shipped_is_not_taken_back() {
    let reason = Reason::PaymentTimedOut;
    let begun = Event::CancellationBegun { reason };
    given::<Order>([placed(), Event::Confirmed {}])
        .when(Command::BeginCancellation { reason })
        .then([begun.clone()])
        .when(ship(FIRST, vec![]))
        .then_refused(Error::NotConfirmed);
    given::<Order>([placed(), Event::Confirmed {}, begun])
        .when(Command::BeginCancellation { reason: Reason::Abandoned })
        .then_nothing()
        .when(Command::RequestCancellation)
        .then([Event::CancellationRequested {}])
        .when(Command::RequestCancellation)
        .then_nothing()
        .when(Command::Cancel { reason })
        .then([Event::Cancelled { reason }])
        .when(Command::BeginCancellation { reason })
        .then_nothing();
    given::<Order>([placed(), Event::Confirmed {}, shipped(FIRST, 1, false)])
        .when(Command::BeginCancellation { reason })
        .then_nothing();
    given::<Order>([placed(), Event::Confirmed {}, Event::CancellationRequested {}])
        .when(Command::BeginCancellation { reason })
        .then_nothing();
}

#[test]
fn what_is_cancelled_stays_cancelled() {
    let reason = Reason::OutOfStock;
    given::<Order>([placed(), Event::Cancelled { reason }])
        .when(Command::Confirm)
        .then_nothing()
        .when(Command::Cancel { reason: Reason::PaymentDeclined })
        .then_nothing()
        .when(Command::RequestCancellation)
        .then_refused(Error::Cancelled(reason));
}

#[test]
fn an_unknown_order_can_not_be_cancelled() {
    given::<Order>([]).when(Command::RequestCancellation).then_refused(Error::Unknown);
}

#[test]
fn a_buyer_is_checked_field_by_field() {
    let mut buyer = alice();
    buyer.email = "alice at example".into();
    buyer.shipping_address.country = "England".into();
    buyer.shipping_address.line1 = "\0".into();
    let mut checks = Checks::default();
    buyer.check(&mut checks);
    let found = checks.finish().expect_err("invalid");
    let pointers: Vec<_> = found.iter().map(|invalid| invalid.pointer.as_str()).collect();
    assert_eq!(pointers, ["/email", "/shipping_address/line1", "/shipping_address/country"]);
}

const FIRST: Uuid = Uuid::from_u128(11);
const SECOND: Uuid = Uuid::from_u128(12);

fn units(code: &str, quantity: u32) -> Units {
    Units { sku: sku(code), quantity }
}

fn ship(shipment_id: Uuid, lines: Vec<Units>) -> Command {
    Command::Ship(ShipmentAsked { shipment_id, lines, parcel: Parcel::default() })
}

fn shipped(shipment_id: Uuid, quantity: u32, is_last: bool) -> Event {
    Event::Shipped { shipment_id, lines: vec![units("MUG", quantity)], parcel: Parcel::default(), is_last }
}

fn send_back(return_id: Uuid, lines: Vec<Units>, refund: Option<Money>) -> Command {
    Command::Return(ReturnAsked { return_id, lines, refund, reason: "too small".into() })
}

fn refund(refund_id: Uuid, amount: i64) -> Command {
    let amount = Some(money(amount, "GBP"));
    Command::Refund(RefundAsked { refund_id, amount, reason: "a scratch".into() })
}

fn refund_requested(refund_id: Uuid, amount: i64, reason: &str) -> Event {
    Event::RefundRequested { refund_id, amount: money(amount, "GBP"), reason: reason.into() }
}

fn goods_returned(return_id: Uuid, quantity: u32) -> Event {
    Event::GoodsReturned { return_id, lines: vec![units("MUG", quantity)], reason: "too small".into() }
}

#[test]
fn is_shipped_in_parts_and_never_twice() {
    let half = given::<Order>([placed(), Event::Confirmed {}])
        .when(ship(FIRST, vec![units("MUG", 1)]))
        .then([shipped(FIRST, 1, false)]);
    assert_eq!(half.state().fulfilment().status(), "partially_shipped");
    let whole = half
        .when(ship(SECOND, vec![units("MUG", 2)]))
        .then_refused(Error::NothingToShip { sku: sku("MUG"), left: 1 })
        .when(ship(SECOND, vec![units("CUP", 1)]))
        .then_refused(Error::NotOrdered(sku("CUP")))
        .when(ship(SECOND, vec![]))
        .then([shipped(SECOND, 1, true)]);
    assert_eq!(whole.state().fulfilment().status(), "shipped");
    whole.when(ship(SECOND, vec![])).then_nothing();
}

#[test]
fn what_is_not_confirmed_or_to_be_cancelled_is_not_shipped() {
    given::<Order>([placed()]).when(ship(FIRST, vec![])).then_refused(Error::NotConfirmed);
    given::<Order>([placed(), Event::Confirmed {}, Event::CancellationRequested {}])
        .when(ship(FIRST, vec![]))
        .then_refused(Error::NotConfirmed);
    given::<Order>([placed(), Event::Confirmed {}, shipped(FIRST, 1, false)])
        .when(Command::RequestCancellation)
        .then_refused(Error::Shipped);
}

#[test]
fn what_comes_back_is_paid_back() {
    let back = given::<Order>([placed(), Event::Confirmed {}, shipped(FIRST, 2, true)])
        .when(send_back(FIRST, vec![units("MUG", 3)], None))
        .then_refused(Error::NothingToReturn { sku: sku("MUG"), left: 2 })
        .when(send_back(FIRST, vec![units("MUG", 1)], None))
        .then([goods_returned(FIRST, 1), refund_requested(FIRST, 500, "too small")]);
    assert_eq!(back.state().fulfilment().status(), "partially_returned");
    let all = back
        .when(send_back(SECOND, vec![], Some(money(100, "GBP"))))
        .then([goods_returned(SECOND, 1), refund_requested(SECOND, 100, "too small")]);
    assert_eq!(all.state().fulfilment().status(), "returned");
}

#[test]
fn no_more_is_asked_back_than_was_paid() {
    given::<Order>([placed(), Event::Confirmed {}])
        .when(refund(FIRST, 1001))
        .then_refused(Error::MoreThanPaid { kept: money(1000, "GBP") })
        .when(refund(FIRST, 700))
        .then([refund_requested(FIRST, 700, "a scratch")])
        .when(refund(SECOND, 301))
        .then_refused(Error::MoreThanPaid { kept: money(300, "GBP") })
        .when(Command::FailRefund { refund_id: FIRST, reason: "expired_card".into() })
        .then([Event::RefundFailed {
            refund_id: FIRST,
            amount: money(700, "GBP"),
            reason: "expired_card".into(),
        }])
        .when(Command::FailRefund { refund_id: FIRST, reason: "expired_card".into() })
        .then_nothing()
        .when(refund(SECOND, 1000))
        .then([refund_requested(SECOND, 1000, "a scratch")]);
}
