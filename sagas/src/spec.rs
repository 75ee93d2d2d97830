//! The checkout told as stories: what happens, and what the saga asks for.

pub mod story;

use domain::order::Reason;
use domain::order::Units;
use domain::payment::Operation;
use domain::{order, payment};
use infra::writer::Priority;
use uuid::Uuid;

use crate::saga::Input;
use story::*;

#[test]
fn all_goes_well() {
    let mut story = Story::captured();
    assert!(story.happens(&order_stream(), shipped(1, false)).is_empty());
    assert_eq!(story.happens(&order_stream(), shipped(2, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
    assert!(story.deadline().is_empty(), "a late deadline changes nothing");
}

#[test]
fn whoever_has_the_order_confirmed_waits_for_nothing_more() {
    let until_then = [
        heard(&cart_stream(), checked_out()),
        heard(&order_stream(), placed()),
        heard("stock/MUG", reserved(5)),
        heard(&payment_stream(), authorized()),
    ];
    assert!(until_then.iter().all(|input| input.priority() == Priority::Normal));
    let requested = payment::Event::CaptureRequested { amount: gbp(2300), at: None };
    let from_then_on = [
        heard(&order_stream(), order::Event::Confirmed {}),
        heard(&payment_stream(), requested),
        heard(&payment_stream(), captured()),
    ];
    assert!(from_then_on.iter().all(|input| input.priority() == Priority::Background));
    // Who goes back waits for that.
    assert_eq!(heard(&payment_stream(), payment::Event::Voided {}).priority(), Priority::Normal);
}

#[test]
fn where_nothing_is_shipped_it_is_over_when_it_is_paid() {
    let mut story = Story::authorized();
    story.limits.shipment = None;
    story.happens(&order_stream(), order::Event::Confirmed {});
    assert_eq!(story.happens(&payment_stream(), captured()), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn the_money_is_taken_when_the_first_parcel_goes() {
    let mut story = Story::sold_before_it_is_paid();
    let steps = story.happens(&order_stream(), shipped(1, false));
    assert_eq!(steps, ["set deadline", "capture", "sell/CUP", "sell/MUG"]);
    assert!(story.happens(&payment_stream(), captured()).is_empty());
    assert_eq!(story.happens(&order_stream(), shipped(2, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn money_that_the_provider_takes_by_itself_is_not_waited_for() {
    let mut story = Story::authorized();
    assert!(story.happens(&payment_stream(), captured()).is_empty());
    let steps = story.happens(&order_stream(), order::Event::Confirmed {});
    assert_eq!(steps, ["set deadline", "capture", "sell/CUP", "sell/MUG"]);
    assert_eq!(story.stage(), "shipping");
    let mut story = Story::sold_before_it_is_paid();
    assert!(story.happens(&payment_stream(), captured()).is_empty());
    story.happens(&order_stream(), shipped(1, true));
    assert_eq!(story.stage(), "completed");
}

#[test]
fn what_is_not_shipped_as_long_as_it_can_be_paid_is_taken_back() {
    let mut story = Story::sold_before_it_is_paid();
    assert_eq!(story.deadline(), ["begin_cancellation"]);
    assert_eq!(story.is_taken_back(Reason::NotShipped), ["cancel deadline", "undo"]);
    let steps = story.happens(&payment_stream(), payment::Event::Voided {});
    assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel not_shipped"]);
}

#[test]
fn what_is_paid_and_not_shipped_is_told_and_waited_for() {
    let mut story = Story::captured();
    assert!(story.deadline().is_empty());
    assert_eq!(story.stage(), "shipment_overdue");
    assert_eq!(story.happens(&order_stream(), shipped(1, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

fn abandoned(operation: Operation, refund: Option<&str>) -> payment::Event {
    let (refund, reason) = (refund.map(str::to_owned), "paid in cash".to_owned());
    payment::Event::Abandoned { operation, amount: gbp(2300), refund, stray: None, reason }
}

#[test]
fn an_authorization_that_a_person_gives_up_is_not_waited_for() {
    let mut story = Story::held();
    let steps = story.happens(&payment_stream(), abandoned(Operation::Authorize, None));
    assert_eq!(steps, ["cancel deadline", "release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel abandoned"]);
}

#[test]
fn a_capture_that_a_person_gives_up_is_asked_back_unless_the_goods_are_gone() {
    let mut story = Story::confirmed();
    let steps = story.happens(&payment_stream(), abandoned(Operation::Capture, None));
    assert_eq!(steps, ["begin_cancellation"]);
    assert_eq!(story.is_taken_back(Reason::Abandoned), ["cancel deadline", "undo"]);
    let steps = story.happens(&payment_stream(), abandoned(Operation::Void, None));
    assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel abandoned"]);

    let mut story = Story::sold_before_it_is_paid();
    story.happens(&order_stream(), shipped(1, true));
    assert!(story.happens(&payment_stream(), abandoned(Operation::Capture, None)).is_empty());
    assert_eq!(story.stage(), "capture_stuck");
}

#[test]
fn a_refund_that_a_person_gives_up_has_failed_for_the_order() {
    let mut story = Story::captured();
    let (refund_id, amount) = (Uuid::from_u128(5), gbp(100));
    let asked = order::Event::RefundRequested { refund_id, amount, reason: String::new() };
    assert_eq!(story.happens(&order_stream(), asked), ["refund"]);
    let given_up = abandoned(Operation::Refund, Some(&format!("refund:{refund_id}")));
    assert_eq!(story.happens(&payment_stream(), given_up), ["fail_refund"]);
}

#[test]
fn a_capture_that_fails_before_the_goods_are_gone_takes_it_back() {
    let mut story = Story::confirmed();
    assert_eq!(story.happens(&payment_stream(), capture_failed()), ["begin_cancellation"]);
    assert_eq!(story.is_taken_back(Reason::PaymentDeclined), ["cancel deadline", "undo"]);
    let steps = story.happens(&payment_stream(), payment::Event::Voided {});
    assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel payment_declined"]);
}

#[test]
fn goods_that_go_while_a_capture_fails_are_not_taken_back() {
    let mut story = Story::confirmed();
    assert_eq!(story.deadline(), ["begin_cancellation"]);
    assert!(story.deadline_fires().is_empty());
    assert!(
        story.happens(&order_stream(), shipped(1, false)).is_empty(),
        "the order says that it was too late"
    );
    assert_eq!(story.stage(), "capture_stuck");
    assert_eq!(story.happens(&payment_stream(), captured()), ["set deadline"]);
    assert_eq!(story.happens(&order_stream(), shipped(2, true)), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn goods_that_go_in_the_last_moment_are_paid() {
    let mut story = Story::sold_before_it_is_paid();
    assert_eq!(story.deadline(), ["begin_cancellation"]);
    let steps = story.happens(&order_stream(), shipped(1, true));
    assert_eq!(steps, ["set deadline", "capture", "sell/CUP", "sell/MUG"]);
    story.happens(&payment_stream(), captured());
    assert_eq!(story.stage(), "completed");
}

#[test]
fn a_payment_that_is_gone_before_the_confirmation_is_known_takes_the_order_back() {
    let mut story = Story::authorized();
    assert_eq!(story.happens(&payment_stream(), payment::Event::Voided {}), ["begin_cancellation"]);
    let steps = story.happens(&order_stream(), order::Event::Confirmed {});
    assert_eq!(steps, ["sell/CUP", "sell/MUG", "set deadline"], "nothing is taken that will be given back");
    let steps = story.is_taken_back(Reason::PaymentTimedOut);
    assert_eq!(steps, ["cancel deadline", "return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel payment_timed_out"]);
}

#[test]
fn goods_that_go_when_the_payment_is_gone_are_somebodys_to_see_to_at_once() {
    let mut story = Story::sold_before_it_is_paid();
    assert_eq!(story.happens(&payment_stream(), payment::Event::Voided {}), ["begin_cancellation"]);
    assert!(story.happens(&order_stream(), shipped(1, true)).is_empty());
    assert_eq!(story.stage(), "capture_stuck");
}

/// Its capture is late, and comes when the order is asked; which says that these goods are gone, or none.
fn is_captured_while_the_order_is_asked(mut story: Story, gone: Option<order::Event>) {
    assert_eq!(story.deadline(), ["begin_cancellation"]);
    assert_eq!(story.happens(&payment_stream(), captured()), ["set deadline"], "the last one has fired");
    if let Some(gone) = gone {
        assert_eq!(story.happens(&order_stream(), gone), ["cancel deadline"]);
        assert_eq!(story.stage(), "completed");
    } else {
        assert_eq!(story.is_taken_back(Reason::PaymentTimedOut), ["cancel deadline", "undo"]);
    }
}

#[test]
fn money_that_comes_while_the_order_is_asked_is_given_back_or_kept() {
    for gone in [None, Some(shipped(1, true))] {
        is_captured_while_the_order_is_asked(Story::confirmed(), gone);
    }
}

#[test]
fn where_nothing_is_shipped_it_is_not_over_while_it_may_be_taken_back() {
    for gone in [None, Some(shipped(1, false))] {
        let mut story = Story::default();
        story.limits.shipment = None;
        let mut story = story.checks_out().then_placed().then_held().then_authorized();
        story.happens(&order_stream(), order::Event::Confirmed {});
        is_captured_while_the_order_is_asked(story, gone);
    }
}

#[test]
fn a_capture_that_fails_after_the_goods_are_gone_is_somebodys_to_see_to() {
    let mut story = Story::sold_before_it_is_paid();
    story.happens(&order_stream(), shipped(1, true));
    assert!(story.happens(&payment_stream(), capture_failed()).is_empty());
    assert_eq!(story.stage(), "capture_stuck");
    assert_eq!(story.happens(&payment_stream(), captured()), ["cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn what_is_paid_after_all_has_a_deadline_for_the_rest() {
    let mut story = Story::sold_before_it_is_paid();
    story.happens(&order_stream(), shipped(1, false));
    assert!(story.deadline().is_empty());
    assert_eq!(story.stage(), "capture_stuck");
    assert_eq!(story.happens(&payment_stream(), captured()), ["set deadline"], "the last one has fired");
    assert!(story.deadline().is_empty());
    assert_eq!(story.stage(), "shipment_overdue");
}

#[test]
fn refunds_and_returns_go_on_once_it_is_confirmed() {
    let mut story = Story::captured();
    let (id, amount, reason) = (Uuid::from_u128(9), gbp(400), "too small".to_owned());
    let lines = vec![Units { sku: "MUG".parse().unwrap(), quantity: 1 }];
    let goods = order::Event::GoodsReturned { return_id: id, lines, reason: reason.clone() };
    let money = order::Event::RefundRequested { refund_id: id, amount, reason };
    assert_eq!(story.happens(&order_stream(), goods), ["return/MUG 1"]);
    assert_eq!(story.happens(&order_stream(), money), ["refund"]);
    let refund = format!("refund:{id}");
    let failed = payment::Event::RefundFailed { refund, amount, reason: "expired_card".into() };
    assert_eq!(story.happens(&payment_stream(), failed), ["fail_refund"]);
}

#[test]
fn another_amount_than_the_quoted_is_not_taken() {
    let mut story = Story::held();
    let less = payment::Event::Authorized { amount: gbp(2299), provider_reference: "p-1".into() };
    assert_eq!(story.happens(&payment_stream(), less), ["cancel deadline", "undo"]);
    story.happens(&payment_stream(), payment::Event::Voided {});
    story.ends(released, &["reopen", "cancel payment_mismatch"]);
}

#[test]
fn the_buyer_has_time_for_what_the_provider_requires() {
    let mut story = Story::held();
    let look_up_at = story.now;
    let asked = payment::Event::ActionRequired { provider_reference: "p-1".into(), attempt: 1, look_up_at };
    assert_eq!(story.happens(&payment_stream(), asked), ["set deadline"]);
    assert!(story.tell(&Input::Timer { name: "deadline".into(), generation: 0 }).is_empty(), "outdated");
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
}

#[test]
fn the_timer_is_moved_to_the_stage_that_it_finds() {
    let mut story = Story::held();
    assert_eq!(story.deadline_fires(), ["set deadline"]);
    assert!(story.tell(&Input::Timer { name: "deadline".into(), generation: 0 }).is_empty(), "outdated");
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
}

#[test]
fn lines_are_held_in_time_or_not_at_all() {
    let mut story = Story::placed();
    story.happens("stock/MUG", reserved(5));
    assert_eq!(story.deadline(), ["cancel deadline"]);
    assert_eq!(story.happens("stock/CUP", reserved(1)), ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel reservation_timed_out"]);
}

#[test]
fn money_that_nobody_knows_of_is_not_waited_for() {
    let mut story = Story::held();
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
    let operation = payment::Operation::Void;
    let unknown = payment::Event::OutcomeUnknown { operation, attempt: 1, look_up_at: story.now };
    assert_eq!(story.happens(&payment_stream(), unknown), ["release/CUP", "release/MUG"]);
    assert!(story.happens(&payment_stream(), payment::Event::Voided {}).is_empty());
    story.ends(released, &["reopen", "cancel payment_timed_out"]);
}

#[test]
fn an_operator_gives_up_what_is_shipped_and_not_paid() {
    let mut story = Story::sold_before_it_is_paid();
    story.happens(&order_stream(), shipped(1, true));
    story.happens(&payment_stream(), capture_failed());
    assert_eq!(story.tell(&Input::Abandoned { reason: "written off".into() }), ["undo", "cancel deadline"]);
    assert_eq!(story.stage(), "completed");
}

#[test]
fn f07_a_sold_out_line_ends_it_before_any_money_moves() {
    let mut story = Story::placed();
    assert!(story.happens("stock/CUP", refused()).is_empty(), "waits for the other line's answer");
    let steps = story.happens("stock/MUG", reserved(5));
    assert_eq!(steps, ["cancel deadline", "release/CUP", "release/MUG"]);
    assert_eq!(story.happens("stock/MUG", released(5)), ["reopen", "cancel out_of_stock"]);
}

#[test]
fn answers_that_come_together_are_heard_together() {
    let both = |cup, mug| Input::Together(vec![heard("stock/CUP", cup), heard("stock/MUG", mug)]);
    assert_eq!(Story::placed().tell(&both(reserved(1), reserved(5))), ["authorize 23.00 GBP"]);
    let mut story = Story::placed();
    let steps = story.tell(&both(refused(), reserved(5)));
    assert_eq!(steps, ["cancel deadline", "release/CUP", "release/MUG"]);
    let steps = story.tell(&both(released(1), released(5)));
    assert_eq!(steps, ["reopen", "cancel out_of_stock"]);
}

#[test]
fn nothing_held_means_nothing_to_release() {
    let mut story = Story::placed();
    assert!(story.happens("stock/CUP", refused()).is_empty());
    let steps = story.happens("stock/MUG", refused());
    assert_eq!(steps, ["cancel deadline", "reopen", "cancel out_of_stock"]);
}

#[test]
fn a_declined_payment_leaves_nothing_held() {
    let mut story = Story::held();
    let steps = story.happens(&payment_stream(), declined());
    assert_eq!(steps, ["cancel deadline", "release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel payment_declined"]);
}

#[test]
fn without_payment_in_time_the_money_is_taken_back_first() {
    let mut story = Story::held();
    assert_eq!(story.deadline(), ["cancel deadline", "undo"]);
    assert!(
        story.happens(&payment_stream(), authorized()).is_empty(),
        "the late success is voided by the payment"
    );
    let steps = story.happens(&payment_stream(), payment::Event::Voided {});
    assert_eq!(steps, ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel payment_timed_out"]);
}

#[test]
fn a_cancellation_while_stock_is_asked_for_waits_for_the_answers() {
    let mut story = Story::placed();
    let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
    assert_eq!(steps, ["cancel deadline"]);
    assert!(story.happens("stock/CUP", reserved(1)).is_empty());
    assert_eq!(story.happens("stock/MUG", reserved(5)), ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel cancelled_by_buyer"]);
}

#[test]
fn a_cancellation_overtakes_the_confirmation() {
    let mut story = Story::authorized();
    let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
    assert_eq!(steps, ["cancel deadline", "undo"]);
    assert_eq!(story.happens(&payment_stream(), payment::Event::Voided {}), ["release/CUP", "release/MUG"]);
    story.ends(released, &["reopen", "cancel cancelled_by_buyer"]);
}

#[test]
fn where_no_money_is_left_nobody_waits_for_it() {
    let mut story = Story::confirmed();
    story.happens(&payment_stream(), payment::Event::Captured { amount: gbp(2300) });
    story.happens(&payment_stream(), payment::Event::ChargedBack { amount: gbp(2300) });
    let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
    assert_eq!(steps, ["cancel deadline", "undo"]);
    let steps = story.happens(&payment_stream(), payment::Event::NothingToUndo {});
    assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
    story.ends(returned, &["cancel cancelled_by_buyer"]);
}

#[test]
fn a_confirmed_order_is_refunded_and_its_goods_return() {
    for captured_before in [true, false] {
        let mut story = Story::confirmed();
        let captured = payment::Event::Captured { amount: gbp(2300) };
        if captured_before {
            story.happens(&payment_stream(), captured.clone());
        }
        let steps = story.happens(&order_stream(), order::Event::CancellationRequested {});
        assert_eq!(steps, ["cancel deadline", "undo"]);
        if !captured_before {
            assert!(story.happens(&payment_stream(), captured).is_empty());
        }
        let steps = story.happens(
            &payment_stream(),
            payment::Event::Refunded { amount: gbp(2300), refund: "refund".into() },
        );
        assert_eq!(steps, ["return/CUP 1", "return/MUG 5"]);
        story.ends(returned, &["cancel cancelled_by_buyer"]);
    }
}

#[test]
fn only_the_first_reason_counts() {
    let mut story = Story::held();
    story.happens(&payment_stream(), declined());
    assert!(story.deadline().is_empty());
    assert!(story.happens(&order_stream(), order::Event::CancellationRequested {}).is_empty());
}

#[test]
fn what_an_earlier_build_began_goes_on() {
    let mut story = Story::begun_by_an_earlier_build();
    assert_eq!(story.happens(&order_stream(), placed()), ["reserve/CUP 1", "reserve/MUG 5"]);
    story.then_held().then_authorized();

    let mut story = Story::begun_by_an_earlier_build();
    assert_eq!(story.deadline(), ["cancel deadline"], "nothing is reserved after that");
    assert_eq!(story.happens(&order_stream(), placed()), ["reopen", "cancel reservation_timed_out"]);
}

#[test]
fn a_payment_is_not_over_while_something_is_asked_of_its_provider() {
    let summary = |event: &payment::Event, is_open| crate::payment::summary(event, is_open);
    assert!(summary(&authorized(), false).is_some_and(|summary| summary.is_over));
    // The buyer has approved what is being released: the release is still looked up.
    assert_eq!(summary(&authorized(), true), None);
    let look_up_at = chrono::DateTime::UNIX_EPOCH;
    let unknown = payment::Event::OutcomeUnknown { operation: Operation::Void, attempt: 2, look_up_at };
    assert!(summary(&unknown, true).and_then(|summary| summary.due).is_some_and(|due| due.generation == 2));
}
