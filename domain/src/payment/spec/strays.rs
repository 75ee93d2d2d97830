//! What becomes of an order's own payment while a second one is undone.

use super::*;

fn stray(state: State) -> Statement {
    Statement { reference: "p-2".into(), ..statement(state) }
}

fn found(captured: i64) -> Event {
    let provider_reference = "p-2".to_owned();
    Event::StrayFound { provider_reference, authorized: gbp(1000), captured: gbp(captured) }
}

fn undone() -> Event {
    Event::StrayUndone { provider_reference: "p-2".into() }
}

fn void_of_stray() -> Event {
    Event::VoidRequested { at: Some(NOW), stray: Some("p-2".into()) }
}

fn refund_of_stray(refund: &str, amount: i64) -> Event {
    let stray = Some("p-2".to_owned());
    Event::RefundRequested { amount: gbp(amount), refund: refund.into(), at: Some(NOW), stray }
}

fn abandon() -> Command {
    Command::Abandon { reason: "paid in cash".into(), at: NOW }
}

#[test]
fn a_capture_waits_for_the_undo_and_is_not_forgotten() {
    let queued = given::<Payment>([requested(), authorized(), found(0), void_of_stray()])
        .when(Command::Capture { at: NOW })
        .then([Event::CaptureQueued { amount: amount() }])
        .when(Command::Capture { at: NOW })
        .then_nothing();
    let asked = queued.when(observe(stray(State::Voided))).then([undone(), capture_requested()]);
    asked.when(stated(Operation::Capture, 0, statement(State::Captured))).then([captured()]);
}

#[test]
fn a_queued_capture_is_not_wanted_where_all_is_to_be_undone() {
    given::<Payment>([requested(), authorized(), found(0), void_of_stray()])
        .when(Command::Capture { at: NOW })
        .then([Event::CaptureQueued { amount: amount() }])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(observe(stray(State::Voided)))
        .then([undone(), void_requested()]);
}

#[test]
fn who_waits_for_the_own_payment_does_not_wait_for_the_other_one() {
    let taken_back = Statement { charged_back: 1000, ..statement(State::Captured) };
    given::<Payment>([requested(), authorized(), capture_requested(), captured(), found(0), void_of_stray()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(observe(taken_back))
        .then([Event::ChargedBack { amount: gbp(1000) }, Event::NothingToUndo {}])
        .when(observe(stray(State::Voided)))
        .then([undone()]);
}

#[test]
fn of_a_second_payment_what_is_left_is_asked_back() {
    let partly = Statement { charged_back: 300, ..stray(State::Captured) };
    given::<Payment>([requested(), authorized(), capture_requested(), captured()])
        .when(observe(stray(State::Captured)))
        .then([found(1000), refund_of_stray("stray:p-2", 1000)])
        .when(observe(partly))
        .then([found(700), refund_of_stray("stray:p-2~1", 700)]);
}

#[test]
fn who_gives_up_the_other_payment_does_not_give_up_the_own_one() {
    let given_up = given::<Payment>([requested(), authorized(), capture_requested(), captured()])
        .when(observe(stray(State::Captured)))
        .then([found(1000), refund_of_stray("stray:p-2", 1000)])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(abandon())
        .then([
            Event::Abandoned {
                operation: Operation::Refund,
                amount: gbp(1000),
                refund: Some("stray:p-2".into()),
                stray: Some("p-2".into()),
                reason: "paid in cash".into(),
            },
            refund_requested("refund~1", 1000),
        ]);
    assert!(given_up.state().is_given_up("p-2") && !given_up.state().is_given_up("p-1"));
}

#[test]
fn after_a_release_under_no_name_whatever_is_held_is_another_payment() {
    given::<Payment>([requested()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(observe(statement(State::Voided)))
        .then([Event::Voided {}])
        .when(observe(stray(State::Authorized)))
        .then([found(0), void_of_stray()])
        .when(observe(stray(State::Voided)))
        .then([undone()])
        .when(observe(statement(State::Voided)))
        .then_nothing();
}

#[test]
fn a_payment_that_waits_for_its_buyer_when_the_order_is_over_is_released_before_they_can_pay() {
    let waiting = stray(State::ActionRequired);
    let nothing = gbp(0);
    let found =
        Event::StrayFound { provider_reference: "p-2".into(), authorized: nothing, captured: nothing };
    let declined = Event::Declined { reason: "no".into() };
    given::<Payment>([requested()])
        .when(observe(waiting.clone()))
        .then_nothing()
        .when(refused(Operation::Authorize, 0))
        .then([declined])
        .when(observe(waiting.clone()))
        .then([found, void_of_stray()])
        .when(observe(waiting))
        .then_nothing()
        // The buyer was faster.
        .when(observe(stray(State::Authorized)))
        .then_nothing()
        .when(observe(stray(State::Voided)))
        .then([undone()])
        .when(observe(stray(State::Voided)))
        .then_nothing();
}
