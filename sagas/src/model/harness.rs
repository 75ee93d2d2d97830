//! Every step of a checkout, repeated and failed, through the real rules in memory.

use chrono::Duration;
use domain::order;
use domain::payment::Operation;

use super::world::{Saga, Trouble, World, limits};
use crate::checkout::CaptureAt;
use crate::saga::Input;

/// What goes wrong, at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// It dies before the n-th thing that is to be done, and begins again.
    Dies(usize),
    Lost,
    AnswerLost,
    Cancelled,
    Abandoned,
    Deadline,
}

const FAULTS: [Fault; 9] = [
    Fault::Nothing,
    Fault::Dies(0),
    Fault::Dies(1),
    Fault::Dies(2),
    Fault::Lost,
    Fault::AnswerLost,
    Fault::Cancelled,
    Fault::Abandoned,
    Fault::Deadline,
];

/// No checkout has more.
const STEPS_MAX: usize = 60;

/// What the provider says no to, one way or another.
const REFUSED: [&[Operation]; 5] = [
    &[],
    &[Operation::Authorize],
    &[Operation::Capture],
    &[Operation::Void],
    &[Operation::Refund, Operation::Refund],
];

fn ways() -> impl Iterator<Item = (CaptureAt, u32, &'static [Operation])> {
    let times = [CaptureAt::Confirmation, CaptureAt::Shipment];
    times.into_iter().flat_map(|capture_at| {
        [0, 1].into_iter().flat_map(move |units| REFUSED.map(|refused| (capture_at, units, refused)))
    })
}

/// Goes all the way, with a fault at that step of it; how many steps there were.
fn goes(way: (CaptureAt, u32, &[Operation]), at: usize, fault: Fault, then: (usize, Fault)) -> usize {
    let (capture_at, units, refused) = way;
    let mut world = World::new(1, units, limits(capture_at, Some(Duration::days(6))));
    world.cases[0].ledger.refuses = refused.to_vec();
    for step in 0..STEPS_MAX {
        let faults = [(at, fault), then].into_iter().filter(|(when, _)| *when == step);
        for (_, fault) in faults {
            goes_wrong(&mut world, fault);
        }
        let case = &mut world.cases[0];
        let next = [Saga::Payment, Saga::Checkout].into_iter().find(|saga| case.has_input(*saga));
        if let Some(saga) = next {
            world.deal(0, saga, None, Trouble::None);
        } else if let Some(timer) = case.timers().into_iter().find(|timer| *timer != "deadline") {
            case.fire(timer);
        } else if case.stage() == "capture_stuck" {
            case.tell(Saga::Checkout, Input::Abandoned { reason: "written off".into() });
        } else if !case.ships() || !case.has_input(Saga::Checkout) {
            let case = &world.cases[0];
            let is_sold = case.order.status() == Some(order::Status::Confirmed);
            assert!(case.ended_well(), "{way:?} with {fault:?} at {at} and {then:?}: {case:?}");
            assert!(case.ledger.charges <= 1, "{way:?} with {fault:?} at {at} and {then:?}: charged twice");
            let left = (world.shelf.held(), world.shelf.on_hand());
            assert_eq!(
                left,
                (0, u64::from(units - u32::from(is_sold))),
                "{way:?} with {fault:?} at {at}: the shelf"
            );
            return step;
        }
    }
    panic!("it never ends: {:?}", world.cases[0]);
}

fn goes_wrong(world: &mut World, fault: Fault) {
    let saga = world.inputs().last().map_or(Saga::Checkout, |(_, saga)| *saga);
    match fault {
        Fault::Nothing => {}
        Fault::Dies(number) => world.deal(0, saga, Some(number), Trouble::None),
        Fault::Lost => world.deal(0, saga, None, Trouble::Lost),
        Fault::AnswerLost => world.deal(0, saga, None, Trouble::AnswerLost),
        Fault::Cancelled => drop(world.cases[0].ask(order::Command::RequestCancellation)),
        Fault::Abandoned => {
            world.cases[0].tell(Saga::Checkout, Input::Abandoned { reason: "a test".into() });
        }
        Fault::Deadline => world.cases[0].fire("deadline"),
    }
}

/// Each step, in each way: it dies there once or twice, and what it had begun is told again.
#[test]
fn every_event_can_repeat() {
    let mut runs = 0;
    for way in ways() {
        let steps = goes(way, 0, Fault::Nothing, (0, Fault::Nothing));
        for (at, number) in (0..steps).flat_map(|at| (0..3).map(move |number| (at, number))) {
            goes(way, at, Fault::Dies(number), (at, Fault::Dies(number + 1)));
            runs += 1;
        }
    }
    println!("{runs} runs");
}

/// Each fault at each step, and each other fault at each later step.
#[test]
fn f07_every_step_can_fail() {
    let mut runs = 0;
    for way in ways() {
        let steps = goes(way, 0, Fault::Nothing, (0, Fault::Nothing));
        for (at, fault) in (0..steps).flat_map(|at| FAULTS.map(|fault| (at, fault))) {
            let steps = goes(way, at, fault, (0, Fault::Nothing));
            for (then, other) in (at..steps).flat_map(|then| FAULTS.map(|other| (then, other))) {
                goes(way, at, fault, (then, other));
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}
