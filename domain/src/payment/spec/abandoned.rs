//! What becomes of payments that a person gives up.

use super::*;

fn abandon() -> Command {
    Command::Abandon { reason: "paid in cash".into(), at: NOW }
}

fn abandoned(operation: Operation, refund: Option<&str>, amount: i64) -> Event {
    let (refund, reason) = (refund.map(str::to_owned), "paid in cash".to_owned());
    Event::Abandoned { operation, amount: gbp(amount), refund, stray: None, reason }
}

#[test]
fn there_is_nothing_to_give_up_where_nothing_is_asked_for() {
    given::<Payment>([]).when(abandon()).then_nothing();
    of_captured().when(abandon()).then_nothing();
}

#[test]
fn an_authorization_that_was_given_up_is_not_wanted_any_more() {
    let given_up =
        given::<Payment>([requested()]).when(abandon()).then([abandoned(Operation::Authorize, None, 1000)]);
    assert_eq!(given_up.state().open_request(ORDER), None);
    assert_eq!(given_up.state().status(), Status::Pending, "nobody knows what became of it");
    given_up
        .when(abandon())
        .then_nothing()
        .when(unknown(0))
        .then_nothing()
        .when(observe(statement(State::Authorized)))
        .then([authorized(), void_requested()]);
}

#[test]
fn an_authorization_that_was_given_up_while_the_buyer_was_to_act_is_released() {
    let waiting = statement(State::ActionRequired);
    let provider_reference = "p-1".to_owned();
    given::<Payment>([requested()])
        .when(stated(Operation::Authorize, 0, waiting.clone()))
        .then([Event::ActionRequired { provider_reference, attempt: 1, look_up_at: NOW }])
        .when(abandon())
        .then([abandoned(Operation::Authorize, None, 1000), void_requested()])
        .when(observe(waiting))
        .then_nothing()
        .when(observe(statement(State::Voided)))
        .then([Event::Voided {}]);
}

#[test]
fn a_capture_that_was_given_up_counts_if_it_was_done() {
    let asked = given::<Payment>([requested(), authorized(), capture_requested()]);
    let first_key = key(&asked);
    let given_up = asked.when(abandon()).then([abandoned(Operation::Capture, None, 1000)]);
    let again = given_up.when(Command::Capture { at: NOW }).then([capture_requested()]);
    assert_ne!(key(&again), first_key);
    given::<Payment>([
        requested(),
        authorized(),
        capture_requested(),
        abandoned(Operation::Capture, None, 1000),
    ])
    .when(observe(statement(State::Captured)))
    .then([captured()]);
}

#[test]
fn a_payment_that_was_to_be_undone_is_released_once_its_capture_is_given_up() {
    given::<Payment>([requested(), authorized(), capture_requested()])
        .when(Command::Undo { at: NOW })
        .then([Event::CancellationRequested {}])
        .when(abandon())
        .then([abandoned(Operation::Capture, None, 1000), void_requested()])
        .when(abandon())
        .then([abandoned(Operation::Void, None, 1000)]);
}

#[test]
fn an_undo_that_was_given_up_is_not_asked_for_again_until_there_is_more_to_undo() {
    let given_up = given::<Payment>([requested(), authorized(), void_requested()])
        .when(abandon())
        .then([abandoned(Operation::Void, None, 1000)]);
    assert!(given_up.state().is_given_up("p-1"));
    given_up
        .when(observe(statement(State::Authorized)))
        .then_nothing()
        .when(observe(statement(State::Captured)))
        .then([captured(), refund_requested("refund~1", 1000)])
        .when(abandon())
        .then([abandoned(Operation::Refund, Some("refund~1"), 1000)])
        .when(observe(statement(State::Captured)))
        .then_nothing()
        .when(observe(with_refund(Some("refund~1"), 1000, RefundState::Done)))
        .then([refunded("refund~1", 1000)]);
}

#[test]
fn an_undo_that_was_given_up_is_asked_for_when_the_shop_wants_it_anew() {
    let given_up = given::<Payment>([
        requested(),
        authorized(),
        void_requested(),
        abandoned(Operation::Void, None, 1000),
    ]);
    let again = given_up.when(Command::Undo { at: NOW }).then([void_requested()]);
    assert!(!again.state().is_given_up("p-1"));
    assert!(key(&again).ends_with("void~1"), "{}", key(&again));
}

#[test]
fn what_a_refund_that_was_given_up_may_have_paid_stays_set_aside() {
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let name = |id: Uuid| format!("refund:{id}");
    let refund = |id, amount| Command::Refund { id, amount: gbp(amount), at: NOW };
    let given_up = of_captured()
        .when(refund(first, 700))
        .then([refund_requested(&name(first), 700)])
        .when(abandon())
        .then([abandoned(Operation::Refund, Some(&name(first)), 700)]);
    assert!(!given_up.state().is_given_up("p-1"), "the payment itself is to be kept");
    let (reason, amount) = ("more_than_was_captured".to_owned(), gbp(400));
    let failed = given_up.when(refund(second, 400)).then([Event::RefundFailed {
        refund: name(second),
        amount,
        reason,
    }]);
    let (reason, amount) = ("failed_at_provider".to_owned(), gbp(700));
    failed
        .when(observe(with_refund(Some(&name(first)), 700, RefundState::Failed)))
        .then([Event::RefundFailed { refund: name(first), amount, reason }])
        .when(refund(Uuid::from_u128(3), 400))
        .then([refund_requested(&name(Uuid::from_u128(3)), 400)]);
}

#[test]
fn those_that_wait_behind_a_refund_that_was_given_up_go_on() {
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let name = |id: Uuid| format!("refund:{id}");
    let refund = |id| Command::Refund { id, amount: gbp(300), at: NOW };
    of_captured()
        .when(refund(first))
        .then([refund_requested(&name(first), 300)])
        .when(refund(second))
        .then([Event::RefundQueued { refund: name(second), amount: gbp(300) }])
        .when(abandon())
        .then([abandoned(Operation::Refund, Some(&name(first)), 300), refund_requested(&name(second), 300)]);
}

#[test]
fn a_second_payment_that_cannot_be_undone_is_given_up_alone() {
    let second = |state| Statement { reference: "p-2".into(), ..statement(state) };
    let stray = Some("p-2".to_owned());
    let given_up = of_captured()
        .when(observe(second(State::Authorized)))
        .then([
            Event::StrayFound { provider_reference: "p-2".into(), authorized: gbp(1000), captured: gbp(0) },
            Event::VoidRequested { at: Some(NOW), stray: stray.clone() },
        ])
        .when(abandon())
        .then([Event::Abandoned {
            operation: Operation::Void,
            amount: gbp(1000),
            refund: None,
            stray,
            reason: "paid in cash".into(),
        }]);
    assert!(given_up.state().is_given_up("p-2") && !given_up.state().is_given_up("p-1"));
    given_up
        .when(observe(second(State::Authorized)))
        .then_nothing()
        .when(observe(second(State::Voided)))
        .then([Event::StrayUndone { provider_reference: "p-2".into() }]);
}
