//! What becomes of payments, told as stories.

mod abandoned;
mod elsewhere;
mod strays;

use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use super::*;
use crate::order::spec::{ORDER, money};
use crate::spec::{Given, given};

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn amount() -> Money {
    money(1000, "GBP")
}

fn gbp(amount: i64) -> Money {
    money(amount, "GBP")
}

fn token() -> PaymentMethod {
    PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() }
}

fn authorize() -> Command {
    Command::Authorize { amount: amount(), payment: token(), at: NOW }
}

fn requested() -> Event {
    Event::AuthorizationRequested { amount: amount(), payment: token(), at: Some(NOW) }
}

fn authorized() -> Event {
    Event::Authorized { amount: amount(), provider_reference: "p-1".into() }
}

fn capture_requested() -> Event {
    Event::CaptureRequested { amount: amount(), at: Some(NOW) }
}

fn captured() -> Event {
    Event::Captured { amount: amount() }
}

fn void_requested() -> Event {
    Event::VoidRequested { at: Some(NOW), stray: None }
}

fn refund_requested(refund: &str, amount: i64) -> Event {
    Event::RefundRequested { amount: gbp(amount), refund: refund.into(), at: Some(NOW), stray: None }
}

fn refunded(refund: &str, amount: i64) -> Event {
    Event::Refunded { amount: gbp(amount), refund: refund.into() }
}

fn statement(state: State) -> Statement {
    let captured = if state == State::Captured { 1000 } else { 0 };
    let authorized = if matches!(state, State::Authorized | State::Captured) { 1000 } else { 0 };
    let (reference, currency) = ("p-1".to_owned(), amount().currency);
    Statement {
        reference,
        state,
        currency,
        authorized,
        captured,
        charged_back: 0,
        reinstated: 0,
        refunds: Vec::new(),
    }
}

fn with_refund(name: Option<&str>, amount: i64, state: RefundState) -> Statement {
    let (name, reference) = (name.map(str::to_owned), "r-1".to_owned());
    Statement { refunds: vec![Refund { name, reference, amount, state }], ..statement(State::Captured) }
}

fn stated(operation: Operation, attempt: u32, statement: Statement) -> Command {
    record(operation, attempt, Outcome::Stated { statement, look_up_at: NOW })
}

fn record(operation: Operation, attempt: u32, outcome: Outcome) -> Command {
    Command::Record { name: operation.code().to_owned(), attempt, outcome, at: NOW }
}

fn observe(statement: Statement) -> Command {
    Command::Observe { statement, at: NOW }
}

fn unknown(attempt: u32) -> Command {
    record(Operation::Authorize, attempt, Outcome::Unknown { look_up_at: NOW, is_overdue: false })
}

fn refused(operation: Operation, attempt: u32) -> Command {
    record(operation, attempt, Outcome::Refused { reason: "no".into(), again_at: NOW })
}

fn of_captured() -> Given<Payment> {
    given::<Payment>([requested(), authorized(), capture_requested(), captured()])
}

fn key(payment: &Given<Payment>) -> String {
    payment.state().open_request(ORDER).expect("open").idempotency_key()
}

#[test]
fn is_authorized_then_captured_once() {
    given::<Payment>([])
        .when(authorize())
        .then([requested()])
        .when(authorize())
        .then_nothing()
        .when(stated(Operation::Authorize, 0, statement(State::Authorized)))
        .then([authorized()])
        .when(stated(Operation::Authorize, 0, statement(State::Authorized)))
        .then_nothing()
        .when(Command::Capture { at: NOW })
        .then([capture_requested()])
        .when(Command::Capture { at: NOW })
        .then_nothing()
        .when(stated(Operation::Capture, 0, statement(State::Captured)))
        .then([captured()])
        .when(Command::Capture { at: NOW })
        .then_nothing();
}

#[test]
fn an_unknown_outcome_keeps_the_request_open_with_its_key() {
    let asked = given::<Payment>([requested()]);
    let first_key = key(&asked);
    let lost = asked
        .when(unknown(0))
        .then([Event::OutcomeUnknown { operation: Operation::Authorize, attempt: 1, look_up_at: NOW }])
        .when(unknown(0))
        .then_nothing();
    assert_eq!(key(&lost), first_key);
    assert_eq!(lost.state().open_request(ORDER).expect("still open").open.attempt, 1);
    lost.when(stated(Operation::Authorize, 0, statement(State::Authorized))).then([authorized()]);
}

#[test]
fn somebody_is_told_once_when_it_takes_too_long() {
    let overdue = |attempt| {
        record(Operation::Authorize, attempt, Outcome::Unknown { look_up_at: NOW, is_overdue: true })
    };
    let unknown =
        |attempt| Event::OutcomeUnknown { operation: Operation::Authorize, attempt, look_up_at: NOW };
    given::<Payment>([requested()])
        .when(overdue(0))
        .then([Event::ReviewRequired { operation: Operation::Authorize }, unknown(1)])
        .when(overdue(1))
        .then([unknown(2)]);
}

#[test]
fn f08_a_late_success_after_a_cancellation_is_voided_by_itself() {
    given::<Payment>([requested()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(Command::Undo { at: NOW })
        .then_nothing()
        .when(stated(Operation::Authorize, 0, statement(State::Authorized)))
        .then([authorized(), void_requested()])
        .when(Command::Undo { at: NOW })
        .then_nothing()
        .when(stated(Operation::Void, 0, statement(State::Voided)))
        .then([Event::Voided {}]);
}

#[test]
fn a_success_of_what_was_declined_is_voided_by_itself() {
    given::<Payment>([requested()])
        .when(record(Operation::Authorize, 0, Outcome::NeverArrived))
        .then([Event::Declined { reason: "never_arrived".into() }])
        .when(observe(statement(State::Authorized)))
        .then([authorized(), void_requested()]);
}

#[test]
fn what_was_captured_is_refunded() {
    given::<Payment>([requested(), authorized(), capture_requested()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(stated(Operation::Capture, 0, statement(State::Captured)))
        .then([captured(), refund_requested("refund", 1000)])
        .when(stated(Operation::Refund, 0, with_refund(Some("refund"), 1000, RefundState::Done)))
        .then([refunded("refund", 1000)])
        .when(Command::Undo { at: NOW })
        .then_nothing();
}

#[test]
fn a_capture_that_overtakes_a_void_is_refunded() {
    given::<Payment>([requested(), authorized(), void_requested()])
        .when(stated(Operation::Void, 0, statement(State::Captured)))
        .then([captured(), refund_requested("refund", 1000)]);
}

#[test]
fn an_undo_may_be_faster_than_what_it_undoes() {
    given::<Payment>([])
        .when(Command::Undo { at: NOW })
        .then([Event::NothingToUndo {}])
        .when(Command::Undo { at: NOW })
        .then_nothing()
        .when(authorize())
        .then_nothing();
}

#[test]
fn what_was_declined_needs_no_undo() {
    given::<Payment>([requested()])
        .when(refused(Operation::Authorize, 0))
        .then([Event::Declined { reason: "no".into() }])
        .when(Command::Undo { at: NOW })
        .then_nothing()
        .when(Command::Capture { at: NOW })
        .then_nothing();
}

#[test]
fn f06_a_refused_undo_is_asked_for_again_with_another_key() {
    let asked = of_captured().when(Command::Undo { at: NOW }).then([refund_requested("refund", 1000)]);
    let (first_key, later) = (key(&asked), NOW + Duration::hours(49));
    let no = Outcome::Refused { reason: "no".into(), again_at: later };
    let again = asked.when(record(Operation::Refund, 0, no)).then([Event::UndoRefused {
        operation: Operation::Refund,
        attempt: 1,
        reason: "no".into(),
        again_at: later,
    }]);
    assert_ne!(key(&again), first_key);
    let asked_at = again.state().open_request(ORDER).expect("open").open.asked_at;
    assert_eq!(asked_at, Some(later), "it is another request, and as young as that");
    again
        .when(refused(Operation::Refund, 0))
        .then_nothing()
        .when(stated(Operation::Refund, 1, with_refund(Some("refund~1"), 1000, RefundState::Done)))
        .then([refunded("refund~1", 1000)]);
}

#[test]
fn no_more_is_refunded_than_was_captured() {
    let [first, second] = [Uuid::from_u128(1), Uuid::from_u128(2)];
    let name = |id: Uuid| format!("refund:{id}");
    let refund = |id, units| Command::Refund { id, amount: gbp(units), at: NOW };
    let failed = |id: Uuid, units| Event::RefundFailed {
        refund: name(id),
        amount: gbp(units),
        reason: "more_than_was_captured".into(),
    };
    of_captured()
        .when(refund(first, 600))
        .then([refund_requested(&name(first), 600)])
        .when(refund(first, 600))
        .then_nothing()
        .when(refund(second, 401))
        .then([failed(second, 401)])
        .when(refund(Uuid::from_u128(3), 400))
        .then([Event::RefundQueued { refund: name(Uuid::from_u128(3)), amount: gbp(400) }])
        .when(observe(with_refund(Some(&name(first)), 600, RefundState::Done)))
        .then([refunded(&name(first), 600), refund_requested(&name(Uuid::from_u128(3)), 400)])
        .when(refund(Uuid::from_u128(4), 1))
        .then([failed(Uuid::from_u128(4), 1)]);
}

#[test]
fn what_came_of_one_refund_is_not_taken_for_another() {
    let [first, second] = [Uuid::from_u128(1), Uuid::from_u128(2)];
    let name = |id: Uuid| format!("refund:{id}");
    let late = Command::Record {
        name: name(first),
        attempt: 0,
        outcome: Outcome::Refused { reason: "refunded already".into(), again_at: NOW },
        at: NOW,
    };
    of_captured()
        .when(Command::Refund { id: first, amount: gbp(600), at: NOW })
        .then([refund_requested(&name(first), 600)])
        .when(observe(with_refund(Some(&name(first)), 600, RefundState::Done)))
        .then([refunded(&name(first), 600)])
        .when(Command::Refund { id: second, amount: gbp(100), at: NOW })
        .then([refund_requested(&name(second), 100)])
        .when(late)
        .then_nothing();
}

#[test]
fn a_refund_before_the_capture_waits_for_it() {
    let id = Uuid::from_u128(1);
    let name = format!("refund:{id}");
    given::<Payment>([requested(), authorized(), capture_requested()])
        .when(Command::Refund { id, amount: gbp(100), at: NOW })
        .then([Event::RefundQueued { refund: name.clone(), amount: gbp(100) }])
        .when(stated(Operation::Capture, 0, statement(State::Captured)))
        .then([captured(), refund_requested(&name, 100)]);
}

#[test]
fn a_refund_that_comes_back_is_no_refund() {
    let undone = of_captured()
        .when(observe(with_refund(None, 300, RefundState::Done)))
        .then([refunded("r-1", 300)])
        .when(observe(with_refund(None, 300, RefundState::Done)))
        .then_nothing();
    assert_eq!(undone.state().status(), Status::PartiallyRefunded);
    let back = undone
        .when(observe(with_refund(None, 300, RefundState::Failed)))
        .then([Event::RefundReversed { refund: "r-1".into(), amount: gbp(300) }]);
    assert_eq!(back.state().status(), Status::Captured);
}

#[test]
fn amounts_are_what_the_provider_states() {
    let less = Statement { authorized: 700, ..statement(State::Authorized) };
    let more = Statement { captured: 1200, ..statement(State::Captured) };
    let authorized = |units| Event::Authorized { amount: gbp(units), provider_reference: "p-1".into() };
    let partly =
        given::<Payment>([requested()]).when(stated(Operation::Authorize, 0, less)).then([authorized(700)]);
    assert_eq!(partly.state().status(), Status::PartiallyAuthorized);
    let full = partly
        .when(observe(statement(State::Authorized)))
        .then([Event::AuthorizationAdjusted { amount: amount() }]);
    assert_eq!(full.state().status(), Status::Authorized);
    let over = full.when(observe(more)).then([Event::Captured { amount: gbp(1200) }]);
    assert_eq!(over.state().status(), Status::Overcharged);
    let charged_back = Statement { charged_back: 1200, captured: 1200, ..statement(State::Captured) };
    let gone = over.when(observe(charged_back)).then([Event::ChargedBack { amount: gbp(1200) }]);
    assert_eq!(gone.state().status(), Status::ChargedBack);
    let gone = gone.when(Command::Undo { at: NOW }).then([Event::NothingToUndo {}]);
    let gone = gone.when(Command::Undo { at: NOW }).then_nothing();
    // The shop was found right, in part: so much can be given back now, and an old statement takes nothing away.
    let charged_back = Statement { charged_back: 1200, captured: 1200, ..statement(State::Captured) };
    let won = Statement { reinstated: 1000, ..charged_back.clone() };
    let back =
        Event::RefundRequested { amount: gbp(1000), refund: "refund".into(), at: Some(NOW), stray: None };
    gone.when(observe(won))
        .then([Event::ChargeBackReversed { amount: gbp(1000) }, back])
        .when(observe(charged_back))
        .then_nothing();
}

#[test]
fn an_old_statement_changes_nothing() {
    of_captured()
        .when(observe(statement(State::Authorized)))
        .then_nothing()
        .when(observe(statement(State::Processing)))
        .then_nothing()
        .when(observe(statement(State::ActionRequired)))
        .then_nothing();
}

#[test]
fn the_buyer_is_waited_for_and_not_when_it_is_to_be_undone() {
    let look_up_at = NOW + Duration::seconds(5);
    let asks = Outcome::Stated { statement: statement(State::ActionRequired), look_up_at };
    let waits = given::<Payment>([requested()])
        .when(record(Operation::Authorize, 0, asks.clone()))
        .then([Event::ActionRequired { provider_reference: "p-1".into(), attempt: 1, look_up_at }])
        .when(record(Operation::Authorize, 1, asks))
        .then([Event::OutcomeUnknown { operation: Operation::Authorize, attempt: 2, look_up_at }]);
    assert_eq!(waits.state().status(), Status::ActionRequired);
    waits
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}, void_requested()])
        .when(stated(Operation::Void, 0, statement(State::Voided)))
        .then([Event::Voided {}]);
}

#[test]
fn the_buyer_is_not_asked_for_what_is_to_be_undone() {
    let asks = Outcome::Stated { statement: statement(State::ActionRequired), look_up_at: NOW };
    given::<Payment>([requested()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(record(Operation::Authorize, 0, asks))
        .then([
            Event::ActionRequired { provider_reference: "p-1".into(), attempt: 1, look_up_at: NOW },
            void_requested(),
        ]);
}

#[test]
fn a_second_payment_at_the_provider_is_undone() {
    let second = |state| Statement { reference: "p-2".into(), ..statement(state) };
    let found =
        Event::StrayFound { provider_reference: "p-2".into(), authorized: amount(), captured: gbp(0) };
    let stray = Some("p-2".to_owned());
    given::<Payment>([requested(), authorized()])
        .when(observe(second(State::Authorized)))
        .then([found, Event::VoidRequested { at: Some(NOW), stray: stray.clone() }])
        .when(observe(second(State::Authorized)))
        .then_nothing()
        .when(stated(Operation::Void, 0, second(State::Voided)))
        .then([Event::StrayUndone { provider_reference: "p-2".into() }])
        .when(Command::Capture { at: NOW })
        .then([capture_requested()]);
}

#[test]
fn another_currency_is_no_payment_of_this_order() {
    let euros = Statement { currency: money(0, "EUR").currency, ..statement(State::Authorized) };
    given::<Payment>([requested()])
        .when(stated(Operation::Authorize, 0, euros.clone()))
        .then([
            Event::Declined { reason: "currency_mismatch".into() },
            Event::StrayFound {
                provider_reference: "p-1".into(),
                authorized: money(1000, "EUR"),
                captured: money(0, "EUR"),
            },
            Event::VoidRequested { at: Some(NOW), stray: Some("p-1".into()) },
        ])
        .when(stated(Operation::Void, 0, Statement { state: State::Voided, ..euros }))
        .then([Event::StrayUndone { provider_reference: "p-1".into() }]);
}

#[test]
fn f03_what_is_given_back_twice_by_one_name_counts_twice() {
    let refund = |reference: &str, state| {
        let (name, reference) = (Some("refund:half".to_owned()), reference.to_owned());
        Refund { name, reference, amount: 300, state }
    };
    let observed = |refunds| Command::Observe {
        statement: Statement { refunds, ..statement(State::Captured) },
        at: NOW,
    };
    let (first, second) = (refund("r-2", RefundState::Done), refund("r-1", RefundState::Done));
    of_captured()
        .when(observed(vec![first.clone()]))
        .then([refunded("refund:half", 300)])
        .when(observed(vec![second.clone(), first.clone()]))
        .then([refunded("again:r-2", 300)])
        .when(observed(vec![first.clone(), second.clone()]))
        .then_nothing()
        .when(observed(vec![refund("r-0", RefundState::Done), first.clone(), second]))
        .then([refunded("again:r-1", 300)])
        .when(observed(vec![refund("r-2", RefundState::Failed)]))
        .then([Event::RefundReversed { refund: "again:r-2".into(), amount: gbp(300) }]);
}

#[test]
fn what_somebody_else_gave_back_is_not_asked_for_any_more() {
    of_captured()
        .when(Command::Undo { at: NOW })
        .then([refund_requested("refund", 1000)])
        .when(stated(Operation::Refund, 0, with_refund(None, 1000, RefundState::Done)))
        .then([
            refunded("r-1", 1000),
            Event::RefundFailed { refund: "refund".into(), amount: gbp(1000), reason: "nothing_left".into() },
            Event::NothingToUndo {},
        ])
        .when(Command::Undo { at: NOW })
        .then_nothing();
}
