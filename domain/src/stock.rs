//! Stock of one SKU: how much is on the shelf, and for whom it is held.
//!
//! | command | event                          | refused when                                 |
//! |---------|--------------------------------|----------------------------------------------|
//! | Receive | Received                       | quantity is 0, or the shelf would overflow   |
//! | Adjust  | Adjusted                       | delta is 0, or what is held would be missing |
//! | Reserve | Reserved or ReservationRefused |                                              |
//! | Release | Released                       |                                              |
//! | Sell    | Sold                           |                                              |
//! | Return  | Returned                       |                                              |
//! | Open    | Opened                         | it has a history already, or would overflow  |
//! | Dispatch | Dispatched                    | quantity is 0                                |
//!
//! Open and Dispatch record what happened in another shop: how much there must have been at the
//! beginning, and what left the shelf without having been held here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::ids::OrderId;
use crate::text::{Checks, Invalid};

pub const CATEGORY: &str = "stock";

/// Most units that one receipt or adjustment can move.
pub const MOVEMENT_MAX: u32 = 1_000_000;

/// Most units on the shelf.
pub const ON_HAND_MAX: u64 = 1_000_000_000;

/// Invariant: 0 <= held <= on hand, whatever happens in whatever order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    on_hand: u64,
    /// Sum over `held_for`, kept so that a sale with many open orders stays cheap.
    held: u64,
    held_for: BTreeMap<OrderId, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Receive { quantity: u32 },
    Adjust { delta: i64, reason: String },
    Reserve { order_id: OrderId, quantity: u32 },
    Release { order_id: OrderId },
    Sell { order_id: OrderId },
    Return { order_id: OrderId, quantity: u32 },
    Open { quantity: u32, derived: bool },
    Dispatch { order_id: OrderId, quantity: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "stock.received")]
    Received { quantity: u32 },
    #[serde(rename = "stock.adjusted")]
    Adjusted { delta: i64, reason: String },
    #[serde(rename = "stock.reserved")]
    Reserved { order_id: OrderId, quantity: u32 },
    #[serde(rename = "stock.reservation_refused")]
    ReservationRefused { order_id: OrderId, free: u64, asked: u32 },
    #[serde(rename = "stock.released")]
    Released { order_id: OrderId, quantity: u32 },
    #[serde(rename = "stock.sold")]
    Sold { order_id: OrderId, quantity: u32 },
    #[serde(rename = "stock.returned")]
    Returned { order_id: OrderId, quantity: u32 },
    #[serde(rename = "stock.opened")]
    Opened {
        quantity: u32,
        /// Nobody counted it: it follows from what happened later.
        derived: bool,
    },
    #[serde(rename = "stock.dispatched")]
    Dispatched { order_id: OrderId, quantity: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the movement is not valid")]
    Invalid(Vec<Invalid>),
    #[error("only {free} units are free, so {delta} can't be taken away")]
    NotEnough { free: u64, delta: i64 },
    #[error("a shelf holds at most {ON_HAND_MAX} units")]
    Overflow,
    #[error("the shelf has a history already")]
    NotEmpty,
}

impl Aggregate for Stock {
    const CATEGORY: &'static str = CATEGORY;
    const CODE: &'static [&'static str] = &[crate::CODE];
    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn decide(&self, command: Command) -> Result<Vec<Event>, Error> {
        match command {
            Command::Receive { quantity } => self.receive(quantity),
            Command::Adjust { delta, reason } => self.adjust(delta, reason),
            Command::Reserve { order_id, quantity } => Ok(self.reserve(order_id, quantity)),
            Command::Release { order_id } => Ok(self.release(order_id)),
            Command::Sell { order_id } => Ok(self.sell(order_id)),
            Command::Return { order_id, quantity } => Ok(vec![Event::Returned { order_id, quantity }]),
            Command::Open { quantity, derived } => self.open(quantity, derived),
            Command::Dispatch { order_id, quantity } => dispatch(order_id, quantity),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::Received { quantity }
            | Event::Returned { quantity, .. }
            | Event::Opened { quantity, .. } => {
                self.on_hand = self.on_hand.saturating_add(u64::from(*quantity));
            }
            // What is held stays there for whom it is held.
            Event::Dispatched { quantity, .. } => {
                self.on_hand = self.on_hand.saturating_sub(u64::from(*quantity)).max(self.held);
            }
            Event::Adjusted { delta, .. } => self.on_hand = self.on_hand.saturating_add_signed(*delta),
            Event::Reserved { order_id, quantity } => {
                self.held = self.held.saturating_add(u64::from(*quantity));
                self.held_for.insert(*order_id, *quantity);
            }
            Event::ReservationRefused { .. } => {}
            Event::Released { order_id, quantity } => self.let_go(*order_id, *quantity),
            Event::Sold { order_id, quantity } => {
                self.let_go(*order_id, *quantity);
                self.on_hand = self.on_hand.saturating_sub(u64::from(*quantity));
            }
        }
    }
}

impl Stock {
    #[must_use]
    pub fn on_hand(&self) -> u64 {
        self.on_hand
    }

    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// What can still be promised to somebody.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.on_hand.saturating_sub(self.held)
    }

    fn receive(&self, quantity: u32) -> Result<Vec<Event>, Error> {
        let mut checks = Checks::default();
        checks.require(quantity > 0, "/quantity", "must be at least 1");
        checks.require(quantity <= MOVEMENT_MAX, "/quantity", "must be at most 1000000");
        checks.finish().map_err(Error::Invalid)?;
        if self.on_hand.saturating_add(u64::from(quantity)) > ON_HAND_MAX {
            return Err(Error::Overflow);
        }
        Ok(vec![Event::Received { quantity }])
    }

    fn adjust(&self, delta: i64, reason: String) -> Result<Vec<Event>, Error> {
        let mut checks = Checks::default();
        checks.require(delta != 0, "/delta", "must not be 0");
        let bounded = delta.unsigned_abs() <= u64::from(MOVEMENT_MAX);
        checks.require(bounded, "/delta", "must be within ±1000000");
        checks.line("/reason", &reason, 200);
        checks.finish().map_err(Error::Invalid)?;
        match self.on_hand.checked_add_signed(delta) {
            Some(on_hand) if on_hand > ON_HAND_MAX => Err(Error::Overflow),
            Some(on_hand) if on_hand >= self.held => Ok(vec![Event::Adjusted { delta, reason }]),
            _ => Err(Error::NotEnough { free: self.free(), delta }),
        }
    }

    fn reserve(&self, order_id: OrderId, quantity: u32) -> Vec<Event> {
        if self.held_for.contains_key(&order_id) {
            return Vec::new();
        }
        if u64::from(quantity) > self.free() {
            return vec![Event::ReservationRefused { order_id, free: self.free(), asked: quantity }];
        }
        vec![Event::Reserved { order_id, quantity }]
    }

    fn release(&self, order_id: OrderId) -> Vec<Event> {
        let held = self.held_for.get(&order_id);
        held.map(|quantity| Event::Released { order_id, quantity: *quantity }).into_iter().collect()
    }

    fn sell(&self, order_id: OrderId) -> Vec<Event> {
        let held = self.held_for.get(&order_id);
        held.map(|quantity| Event::Sold { order_id, quantity: *quantity }).into_iter().collect()
    }

    fn open(&self, quantity: u32, derived: bool) -> Result<Vec<Event>, Error> {
        let mut checks = Checks::default();
        checks.require(quantity <= MOVEMENT_MAX, "/quantity", "must be at most 1000000");
        checks.finish().map_err(Error::Invalid)?;
        if self.on_hand > 0 || self.held > 0 {
            return Err(Error::NotEmpty);
        }
        Ok(vec![Event::Opened { quantity, derived }])
    }

    fn let_go(&mut self, order_id: OrderId, quantity: u32) {
        self.held_for.remove(&order_id);
        self.held = self.held.saturating_sub(u64::from(quantity));
    }
}

fn dispatch(order_id: OrderId, quantity: u32) -> Result<Vec<Event>, Error> {
    let mut checks = Checks::default();
    checks.require(quantity > 0, "/quantity", "must be at least 1");
    checks.finish().map_err(Error::Invalid)?;
    Ok(vec![Event::Dispatched { order_id, quantity }])
}

#[cfg(test)]
mod spec {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::spec::given;

    const ALICE: OrderId = OrderId(Uuid::from_u128(1));
    const BOB: OrderId = OrderId(Uuid::from_u128(2));

    #[test]
    fn holds_for_who_comes_first() {
        given::<Stock>([Event::Received { quantity: 3 }])
            .when(Command::Reserve { order_id: ALICE, quantity: 2 })
            .then([Event::Reserved { order_id: ALICE, quantity: 2 }])
            .when(Command::Reserve { order_id: ALICE, quantity: 2 })
            .then_nothing()
            .when(Command::Reserve { order_id: BOB, quantity: 2 })
            .then([Event::ReservationRefused { order_id: BOB, free: 1, asked: 2 }]);
    }

    #[test]
    fn what_is_released_is_free_again() {
        given::<Stock>([Event::Received { quantity: 2 }, Event::Reserved { order_id: ALICE, quantity: 2 }])
            .when(Command::Release { order_id: ALICE })
            .then([Event::Released { order_id: ALICE, quantity: 2 }])
            .when(Command::Release { order_id: ALICE })
            .then_nothing()
            .when(Command::Reserve { order_id: BOB, quantity: 2 })
            .then([Event::Reserved { order_id: BOB, quantity: 2 }]);
    }

    #[test]
    fn what_is_sold_is_gone_until_it_comes_back() {
        let sold = given::<Stock>([
            Event::Received { quantity: 2 },
            Event::Reserved { order_id: ALICE, quantity: 2 },
        ])
        .when(Command::Sell { order_id: ALICE })
        .then([Event::Sold { order_id: ALICE, quantity: 2 }]);
        assert_eq!((sold.state().on_hand(), sold.state().held()), (0, 0));
        let back = sold
            .when(Command::Release { order_id: ALICE })
            .then_nothing()
            .when(Command::Return { order_id: ALICE, quantity: 2 })
            .then([Event::Returned { order_id: ALICE, quantity: 2 }]);
        assert_eq!(back.state().free(), 2);
    }

    #[test]
    fn what_was_dispatched_elsewhere_takes_nothing_from_who_it_is_held_for() {
        let opened = given::<Stock>([])
            .when(Command::Open { quantity: 3, derived: true })
            .then([Event::Opened { quantity: 3, derived: true }]);
        let held = opened
            .when(Command::Reserve { order_id: BOB, quantity: 2 })
            .then([Event::Reserved { order_id: BOB, quantity: 2 }])
            .when(Command::Dispatch { order_id: ALICE, quantity: 2 })
            .then([Event::Dispatched { order_id: ALICE, quantity: 2 }]);
        assert_eq!((held.state().on_hand(), held.state().held()), (2, 2));
        held.when(Command::Open { quantity: 3, derived: true }).then_refused(Error::NotEmpty);
    }

    #[test]
    fn a_receipt_of_nothing_is_refused() {
        let empty = |command| given::<Stock>([]).when(command);
        let invalid = |pointer: &str, detail: &str| Error::Invalid(vec![Invalid::new(pointer, detail)]);
        empty(Command::Receive { quantity: 0 }).then_refused(invalid("/quantity", "must be at least 1"));
        empty(Command::Receive { quantity: u32::MAX })
            .then_refused(invalid("/quantity", "must be at most 1000000"));
        empty(Command::Adjust { delta: i64::MIN, reason: "lost".into() })
            .then_refused(invalid("/delta", "must be within ±1000000"));
    }

    #[test]
    fn what_is_held_can_not_be_adjusted_away() {
        given::<Stock>([Event::Received { quantity: 3 }, Event::Reserved { order_id: ALICE, quantity: 2 }])
            .when(Command::Adjust { delta: -2, reason: "broken".into() })
            .then_refused(Error::NotEnough { free: 1, delta: -2 });
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let order = (0_u128..5).prop_map(|n| OrderId(Uuid::from_u128(n)));
        prop_oneof![
            (0_u32..20).prop_map(|quantity| Command::Receive { quantity }),
            (-20_i64..20).prop_map(|delta| Command::Adjust { delta, reason: "count".into() }),
            (order.clone(), 1_u32..10)
                .prop_map(|(order_id, quantity)| Command::Reserve { order_id, quantity }),
            order.clone().prop_map(|order_id| Command::Release { order_id }),
            order.prop_map(|order_id| Command::Sell { order_id }),
        ]
    }

    proptest! {
        #[test]
        fn never_promises_more_than_there_is(commands in prop::collection::vec(any_command(), 0..200)) {
            let mut stock = Stock::default();
            let (mut came, mut went) = (0_i64, 0_i64);
            for command in commands {
                let Ok(events) = stock.decide(command.clone()) else { continue };
                for event in &events {
                    stock.evolve(event);
                    match event {
                        Event::Received { quantity } | Event::Returned { quantity, .. } => came += i64::from(*quantity),
                        Event::Adjusted { delta, .. } => came += delta,
                        Event::Sold { quantity, .. } => went += i64::from(*quantity),
                        Event::Opened { quantity, .. } => came += i64::from(*quantity),
                        Event::Dispatched { quantity, .. } => went += i64::from(*quantity),
                        Event::Reserved { .. } | Event::ReservationRefused { .. } | Event::Released { .. } => {}
                    }
                }
                prop_assert!(stock.held <= stock.on_hand);
                prop_assert_eq!(stock.held, stock.held_for.values().map(|held| u64::from(*held)).sum::<u64>());
                prop_assert_eq!(i64::try_from(stock.on_hand).expect("small"), came - went);
                if matches!(command, Command::Reserve { .. } | Command::Release { .. } | Command::Sell { .. })
                    && !matches!(events.first(), Some(Event::ReservationRefused { .. }))
                {
                    prop_assert_eq!(stock.decide(command).expect("decided"), vec![], "a repeat changes nothing");
                }
            }
        }
    }
}
