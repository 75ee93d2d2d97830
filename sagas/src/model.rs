//! Every order of events that two buyers, one unit, a provider that may not answer, and a crash can come in.
//!
//! The states are those of the real rules. All steps use up something, so every way ends: what holds at all ends
//! holds eventually.

mod harness;
mod world;

use std::hash::{Hash, Hasher};

use chrono::Duration;
use domain::order;
use stateright::{Checker, Model, Property};

use crate::checkout::{CaptureAt, Limits};
use crate::saga::Input;
use world::{Saga, Trouble, World, limits};

/// What can still go wrong, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Left {
    troubles: u8,
    crashes: u8,
    cancellations: u8,
    deadlines: u8,
    shipments: u8,
    abandonments: u8,
}

#[derive(Debug, Clone)]
struct Moment {
    world: World,
    left: Left,
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left
            && self.world.shelf == other.world.shelf
            && self.world.cases == other.world.cases
    }
}

impl Hash for Moment {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.left.hash(hasher);
        format!("{:?}{:?}", self.world.shelf, self.world.cases).hash(hasher);
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Deal { who: usize, saga: Saga, dies_at: Option<usize>, trouble: Trouble },
    Fire { who: usize, timer: &'static str },
    Cancel { who: usize },
    Ship { who: usize },
    Abandon { who: usize },
}

/// A shop with one unit, and two who want it.
struct Shop {
    orders: u128,
    limits: Limits,
    left: Left,
    keeps_what_is_held: bool,
}

impl Model for Shop {
    type State = Moment;
    type Action = Step;

    fn init_states(&self) -> Vec<Moment> {
        let mut world = World::new(self.orders, 1, self.limits.clone());
        world.keeps_what_is_held = self.keeps_what_is_held;
        vec![Moment { world, left: self.left }]
    }

    fn actions(&self, moment: &Moment, steps: &mut Vec<Step>) {
        let Moment { world, left } = moment;
        for (who, saga) in world.inputs() {
            let deal = |dies_at, trouble| Step::Deal { who, saga, dies_at, trouble };
            steps.push(deal(None, Trouble::None));
            if saga == Saga::Payment && left.troubles > 0 {
                steps.extend([deal(None, Trouble::Lost), deal(None, Trouble::AnswerLost)]);
            }
            if left.crashes > 0 {
                steps.extend([deal(Some(0), Trouble::None), deal(Some(1), Trouble::None)]);
            }
        }
        for (who, case) in world.cases.iter().enumerate() {
            for timer in case.timers().into_iter().filter(|timer| *timer != "deadline" || left.deadlines > 0)
            {
                steps.push(Step::Fire { who, timer });
            }
            if left.cancellations > 0 && case.order.status().is_some() {
                steps.push(Step::Cancel { who });
            }
            if left.shipments > 0 && case.order.status() == Some(order::Status::Confirmed) {
                steps.push(Step::Ship { who });
            }
            if left.abandonments > 0 && case.order.status().is_some() {
                steps.push(Step::Abandon { who });
            }
        }
    }

    fn next_state(&self, last: &Moment, step: Step) -> Option<Moment> {
        let mut next = last.clone();
        match step {
            Step::Deal { who, saga, dies_at, trouble } => {
                next.left.troubles -= u8::from(trouble != Trouble::None);
                next.left.crashes -= u8::from(dies_at.is_some());
                next.world.deal(who, saga, dies_at, trouble);
            }
            Step::Fire { who, timer } => {
                next.left.deadlines -= u8::from(timer == "deadline");
                next.world.cases[who].fire(timer);
            }
            Step::Cancel { who } => {
                next.left.cancellations -= 1;
                next.world.cases[who].ask(order::Command::RequestCancellation);
            }
            Step::Ship { who } => {
                next.left.shipments -= 1;
                next.world.cases[who].ships();
            }
            Step::Abandon { who } => {
                next.left.abandonments -= 1;
                let reason = "written off".to_owned();
                next.world.cases[who].tell(Saga::Checkout, Input::Abandoned { reason });
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never oversold", |_, Moment { world, .. }: &Moment| world.is_sound()),
            Property::always("charged at most once", |_, Moment { world, .. }: &Moment| {
                world.cases.iter().all(|case| case.ledger.charges <= 1 && case.ledger.kept() >= 0)
            }),
            Property::always("confirmed means authorised", |_, Moment { world, .. }: &Moment| {
                let confirmed = |case: &&world::Case| case.order.status() == Some(order::Status::Confirmed);
                world.cases.iter().filter(confirmed).all(|case| case.ledger.charges == 1)
            }),
            Property::always("cancelled means that nothing is held", |_, Moment { world, .. }: &Moment| {
                let cancelled =
                    |case: &world::Case| matches!(case.order.status(), Some(order::Status::Cancelled(_)));
                !world.cases.iter().all(cancelled) || world.shelf.held() == 0
            }),
            Property::always("what is shipped is not taken back", |_, Moment { world, .. }: &Moment| {
                world.cases.iter().all(|case| !case.is_taken_back() || !case.order.fulfilment().is_begun())
            }),
            Property::always("what is over stays so, unless a person takes it back", |_, moment: &Moment| {
                !moment.world.cases.iter().any(|case| case.has_gone_on)
            }),
            Property::always("every way ends well", |shop: &Self, moment: &Moment| {
                let mut steps = Vec::new();
                shop.actions(moment, &mut steps);
                let cases = &moment.world.cases;
                let can_go_on = steps.iter().any(|step| matches!(step, Step::Deal { .. }))
                    || cases.iter().any(|case| case.timers().iter().any(|timer| *timer != "deadline"));
                can_go_on || (moment.world.shelf.held() == 0 && cases.iter().all(world::Case::rests_well))
            }),
            Property::sometimes("it is sold", |_, moment: &Moment| {
                moment.world.cases.iter().any(|case| case.ledger.kept() > 0 && case.is_over())
            }),
            Property::sometimes("it is shipped", |shop: &Self, moment: &Moment| {
                shop.left.shipments == 0
                    || moment
                        .world
                        .cases
                        .iter()
                        .any(|case| case.order.fulfilment().is_begun() && case.is_over())
            }),
            Property::sometimes("money comes back", |_, moment: &Moment| {
                moment.world.cases.iter().any(|case| case.ledger.captured > 0 && case.ledger.kept() == 0)
            }),
        ]
    }
}

const TWO: Left =
    Left { troubles: 1, crashes: 1, cancellations: 1, deadlines: 0, shipments: 0, abandonments: 0 };
const ONE: Left =
    Left { troubles: 2, crashes: 2, cancellations: 1, deadlines: 1, shipments: 1, abandonments: 0 };

/// One whose every stage has a deadline, and people who give it up.
const ALL: Left =
    Left { troubles: 1, crashes: 1, cancellations: 1, deadlines: 2, shipments: 1, abandonments: 1 };

fn nothing_is_shipped() -> Limits {
    limits(CaptureAt::Confirmation, None)
}

fn check(name: &str, shop: Shop) {
    let checker = shop.checker().spawn_bfs().join();
    println!("{name}: {} states, {} of them different", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn f05_one_buyer_and_everything_that_can_go_wrong() {
    check(
        "one buyer",
        Shop { orders: 1, limits: nothing_is_shipped(), left: ONE, keeps_what_is_held: false },
    );
}

#[test]
fn f05_one_buyer_whose_goods_may_go_while_all_is_taken_back() {
    for capture_at in [CaptureAt::Confirmation, CaptureAt::Shipment] {
        let limits = limits(capture_at, Some(Duration::days(6)));
        let shop = Shop { orders: 1, limits, left: ALL, keeps_what_is_held: false };
        check(&format!("one buyer, paid at {capture_at:?}"), shop);
    }
}

#[test]
fn f01_two_buyers_for_one_unit() {
    check(
        "two buyers",
        Shop { orders: 2, limits: nothing_is_shipped(), left: TWO, keeps_what_is_held: false },
    );
}

#[test]
#[should_panic(expected = "every way ends well")]
fn what_is_not_given_back_is_found_out() {
    check(
        "a shop that keeps what is held",
        Shop { orders: 1, limits: nothing_is_shipped(), left: ONE, keeps_what_is_held: true },
    );
}
