//! What becomes of an undo when money goes back by another way meanwhile.

use super::*;

fn charged_back() -> Statement {
    Statement { charged_back: 1000, ..statement(State::Captured) }
}

fn taken_back() -> Event {
    Event::ChargedBack { amount: gbp(1000) }
}

#[test]
fn who_waits_for_money_that_the_bank_has_taken_back_is_told() {
    // The capture's outcome is unknown when all is to be undone.
    given::<Payment>([requested(), authorized(), capture_requested()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(stated(Operation::Capture, 0, charged_back()))
        .then([captured(), taken_back(), Event::NothingToUndo {}])
        .when(observe(charged_back()))
        .then_nothing();
    // The money is asked back already.
    let asked = of_captured().when(Command::Undo { at: NOW }).then([refund_requested("refund", 1000)]);
    let failed =
        Event::RefundFailed { refund: "refund".into(), amount: gbp(1000), reason: "nothing_left".into() };
    asked.when(observe(charged_back())).then([taken_back(), failed, Event::NothingToUndo {}]);
}

#[test]
fn what_is_asked_back_is_what_is_left() {
    let twice = |refunds: &[&str]| {
        let refund = |reference: &&str| Refund {
            name: Some(format!("refund:{}", Uuid::nil())),
            reference: (*reference).to_owned(),
            amount: 100,
            state: RefundState::Done,
        };
        Statement { refunds: refunds.iter().map(refund).collect(), ..statement(State::Captured) }
    };
    let failed = |refund: &str, amount| Event::RefundFailed {
        refund: refund.into(),
        amount: gbp(amount),
        reason: "less_left".into(),
    };
    let name = format!("refund:{}", Uuid::nil());
    let asked = of_captured()
        .when(observe(twice(&["r-1"])))
        .then([refunded(&name, 100)])
        .when(Command::Undo { at: NOW })
        .then([refund_requested("refund", 900)]);
    // A provider that forgets its keys had made the first one twice.
    asked.when(observe(twice(&["r-1", "r-2"]))).then([
        refunded("again:r-2", 100),
        failed("refund", 900),
        refund_requested("refund~1", 800),
    ]);
}

#[test]
fn where_nobody_waits_nothing_is_said_of_that() {
    of_captured().when(observe(charged_back())).then([taken_back()]);
}

#[test]
fn what_comes_back_after_an_undo_is_given_back_under_another_name() {
    let partly = Statement { charged_back: 300, ..statement(State::Captured) };
    let won = Statement { reinstated: 300, ..partly.clone() };
    of_captured()
        .when(observe(partly))
        .then([Event::ChargedBack { amount: gbp(300) }])
        .when(Command::Undo { at: NOW })
        .then([refund_requested("refund", 700)])
        .when(stated(Operation::Refund, 0, with_own_refund("refund", 700, RefundState::Done)))
        .then([refunded("refund", 700)])
        .when(observe(Statement { refunds: own_refund("refund", 700, RefundState::Done), ..won }))
        .then([Event::ChargeBackReversed { amount: gbp(300) }, refund_requested("refund~1", 300)]);
}

#[test]
fn a_refund_that_is_under_way_is_waited_for_whatever_the_bank_does() {
    let under_way =
        Statement { charged_back: 300, ..with_own_refund("refund", 1000, RefundState::Processing) };
    of_captured()
        .when(Command::Undo { at: NOW })
        .then([refund_requested("refund", 1000)])
        .when(observe(under_way))
        .then([Event::ChargedBack { amount: gbp(300) }]);
}

fn own_refund(name: &str, amount: i64, state: RefundState) -> Vec<Refund> {
    vec![Refund { name: Some(name.into()), reference: "r-1".into(), amount, state }]
}

fn with_own_refund(name: &str, amount: i64, state: RefundState) -> Statement {
    Statement { refunds: own_refund(name, amount, state), ..statement(State::Captured) }
}
