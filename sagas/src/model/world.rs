//! Orders, a shelf and a provider in memory: the real rules, with nothing around them but queues.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, Duration, Utc};
use domain::cart::{self, Cart};
use domain::order::{self, Order, Parcel, ShipmentAsked};
use domain::payment::{self, Operation, Outcome, Payment, Refund, RefundState, Request, State, Statement};
use domain::stock::{self, Stock};
use domain::{Aggregate, Command, Event as Happened, OrderId, Sku, StreamId};
use uuid::Uuid;

use crate::checkout::{self, CaptureAt, Checkout, Limits, Told};
use crate::payment as payment_saga;
use crate::saga::{Action, Input};
use crate::spec::story::{CART, buyer, gbp, line};

const TOTAL: i64 = 400;
const SKU: &str = "MUG";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Saga {
    Checkout,
    Payment,
}

/// What becomes of a request to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    Lost,
    AnswerLost,
}

/// What the provider has in its books for an order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    keys: BTreeSet<String>,
    pub charges: u32,
    pub authorized: i64,
    pub captured: i64,
    pub voided: bool,
    refunds: BTreeMap<String, i64>,
    /// What it says no to, once for each time it stands here.
    pub refuses: Vec<Operation>,
}

/// An input that is under way: what was recorded, and how many of its steps are done.
#[derive(Debug, Clone, PartialEq)]
struct Begun {
    recorded: Vec<checkout::Event>,
    done: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    order_id: OrderId,
    checkout: Checkout,
    pub order: Order,
    cart: Cart,
    pub is_cart_open: bool,
    /// Its goods were sold, whatever became of them: then its cart stays closed.
    was_sold: bool,
    is_written_off: bool,
    /// It was over, and nobody asked for it to go on.
    pub has_gone_on: bool,
    payment: Payment,
    pub ledger: Ledger,
    inputs: BTreeMap<Saga, VecDeque<Input>>,
    begun: BTreeMap<Saga, Begun>,
    timers: BTreeMap<&'static str, u32>,
}

#[derive(Debug, Clone)]
pub struct World {
    pub cases: Vec<Case>,
    pub shelf: Stock,
    /// Units that came in.
    received: u64,
    /// Units that went out, and did not come back.
    out: i64,
    pub limits: Limits,
    /// Nothing is given back to the shelf, as a control.
    pub keeps_what_is_held: bool,
}

impl Ledger {
    pub fn kept(&self) -> i64 {
        self.captured - self.refunds.values().sum::<i64>()
    }

    /// Neither money nor a promise of it is left.
    pub fn is_empty(&self) -> bool {
        self.kept() == 0 && (self.authorized == 0 || self.voided || self.captured > 0)
    }

    /// Carries the request out, unless its key is known.
    fn book(&mut self, request: &Request) -> Result<(), String> {
        let operation = request.open.operation;
        if !self.keys.contains(&request.idempotency_key())
            && let Some(at) = self.refuses.iter().position(|refused| *refused == operation)
        {
            self.refuses.remove(at);
            return Err("declined".to_owned());
        }
        if !self.keys.insert(request.idempotency_key()) {
            return Ok(());
        }
        match operation {
            Operation::Authorize => {
                self.charges += 1;
                self.authorized += request.amount.amount;
            }
            Operation::Capture if self.captured == 0 && !self.voided => self.captured = request.amount.amount,
            Operation::Capture => {}
            Operation::Void => self.voided = self.captured == 0,
            Operation::Refund => {
                let name = request.open.refund.clone().expect("a refund has a name");
                self.refunds.insert(name, request.amount.amount);
            }
        }
        Ok(())
    }

    fn statement(&self) -> Statement {
        let refund = |(name, amount): (&String, &i64)| Refund {
            name: Some(name.clone()),
            reference: name.clone(),
            amount: *amount,
            state: RefundState::Done,
        };
        Statement {
            reference: "p-1".to_owned(),
            state: match () {
                () if self.captured > 0 => State::Captured,
                () if self.voided => State::Voided,
                () => State::Authorized,
            },
            currency: gbp(0).currency,
            authorized: self.authorized,
            captured: self.captured,
            charged_back: 0,
            reinstated: 0,
            refunds: self.refunds.iter().map(refund).collect(),
        }
    }
}

/// A person wants it to be taken back.
fn is_asked_for(input: &Input) -> bool {
    let Input::Event { event: Happened::Order(event), .. } = input else { return false };
    matches!(
        event,
        order::Event::CancellationRequested {}
            | order::Event::CancellationBegun { reason: order::Reason::Abandoned }
    )
}

/// Late enough for every deadline.
fn late() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::days(365)
}

fn sku() -> Sku {
    SKU.parse().expect("a SKU")
}

pub fn limits(capture_at: CaptureAt, shipment: Option<Duration>) -> Limits {
    Limits {
        hold: Duration::minutes(1),
        authorization: Duration::minutes(15),
        challenge: Duration::minutes(10),
        capture: Duration::hours(24),
        shipment,
        capture_at,
    }
}

impl Case {
    /// An order of one unit that is just checked out.
    fn new(number: u128) -> Self {
        let order_id = OrderId(Uuid::from_u128(number));
        let event = cart::Event::CheckedOut {
            order_id,
            lines: vec![line(SKU, 1, TOTAL)],
            total: gbp(TOTAL),
            totals: None,
            payment: cart::PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() },
            personal: buyer(),
        };
        let mut cart = Cart::default();
        cart.evolve(&event);
        let mut case = Self {
            order_id,
            checkout: Checkout::default(),
            order: Order::default(),
            cart,
            is_cart_open: false,
            was_sold: false,
            is_written_off: false,
            has_gone_on: false,
            payment: Payment::default(),
            ledger: Ledger::default(),
            inputs: BTreeMap::new(),
            begun: BTreeMap::new(),
            timers: BTreeMap::new(),
        };
        case.hear(StreamId::of::<Cart>(CART), Happened::Cart(event));
        case
    }

    fn hear(&mut self, stream: StreamId, event: Happened) {
        let follows = [
            (Saga::Checkout, checkout::follows(stream.id(), &event)),
            (Saga::Payment, payment_saga::follows(stream.id(), &event)),
        ];
        for (saga, order_id) in follows {
            if order_id == Some(self.order_id) {
                let (stream, event, at) = (stream.clone(), event.clone(), DateTime::UNIX_EPOCH);
                self.tell(saga, Input::Event { stream, event, at });
            }
        }
    }

    pub fn tell(&mut self, saga: Saga, input: Input) {
        self.inputs.entry(saga).or_default().push_back(input);
    }

    pub fn has_input(&self, saga: Saga) -> bool {
        self.inputs.get(&saga).is_some_and(|inputs| !inputs.is_empty())
    }

    pub fn timers(&self) -> Vec<&'static str> {
        self.timers.keys().copied().collect()
    }

    /// A timer fires, at whatever time.
    pub fn fire(&mut self, name: &'static str) {
        if let Some(generation) = self.timers.remove(name) {
            let saga = if name == "deadline" { Saga::Checkout } else { Saga::Payment };
            self.tell(saga, Input::Timer { name: name.to_owned(), generation });
        }
    }

    /// Gives the order a command; false, if it is refused.
    pub fn ask(&mut self, command: order::Command) -> bool {
        let Ok(events) = self.order.decide(command) else { return false };
        for event in events {
            self.order.evolve(&event);
            self.hear(StreamId::of::<Order>(self.order_id), Happened::Order(event));
        }
        true
    }

    /// Ships all of it, if the order lets it.
    pub fn ships(&mut self) -> bool {
        let shipment_id = Uuid::from_u128(1);
        self.ask(order::Command::Ship(ShipmentAsked {
            shipment_id,
            lines: vec![],
            parcel: Parcel::default(),
        }))
    }

    /// Its goods or its money go back.
    pub fn is_taken_back(&self) -> bool {
        matches!(self.stage(), "undoing_payment" | "releasing" | "cancelling" | "cancelled")
    }

    pub fn is_over(&self) -> bool {
        self.checkout.summary().is_some_and(|summary| summary.is_over)
    }

    pub fn stage(&self) -> &'static str {
        self.checkout.summary().map_or("new", |summary| summary.stage)
    }

    /// At the end, money and goods are where they belong.
    pub fn ended_well(&self) -> bool {
        match self.order.status() {
            Some(order::Status::Cancelled(_)) => {
                self.is_over() && self.ledger.is_empty() && self.is_cart_open != self.was_sold
            }
            Some(order::Status::Confirmed) if self.is_written_off => self.is_over() && self.ledger.is_empty(),
            Some(order::Status::Confirmed) => self.is_over() && self.ledger.kept() == TOTAL,
            _ => false,
        }
    }

    /// It ended well, or waits for the goods to be shipped, and that has a deadline or had one.
    pub fn rests_well(&self) -> bool {
        let is_paid = self.ledger.kept() == TOTAL || (self.ledger.captured == 0 && !self.ledger.is_empty());
        let waits = match self.stage() {
            "shipping" => is_paid && self.timers.contains_key("deadline"),
            "shipment_overdue" => is_paid,
            _ => false,
        };
        self.ended_well() || waits
    }

    fn pay(&mut self, command: payment::Command) {
        let events = self.payment.decide(command).expect("never refused");
        for event in events {
            self.payment.evolve(&event);
            self.hear(StreamId::of::<Payment>(self.order_id), Happened::Payment(event));
        }
    }

    fn settle(&mut self, generation: Option<u32>, trouble: Trouble, dies: bool) {
        let Some(request) = self.payment.open_request(self.order_id) else { return };
        if generation.is_some_and(|generation| generation != request.open.attempt) {
            return;
        }
        let booked = if trouble == Trouble::Lost { Ok(()) } else { self.ledger.book(&request) };
        if dies {
            return;
        }
        let at = DateTime::UNIX_EPOCH;
        let outcome = match (trouble, booked) {
            (Trouble::None, Ok(())) => Outcome::Stated { statement: self.ledger.statement(), look_up_at: at },
            (Trouble::None, Err(reason)) => Outcome::Refused { reason, again_at: at },
            _ => Outcome::Unknown { look_up_at: at, is_overdue: false },
        };
        let (name, attempt) = (request.open.name(), request.open.attempt);
        self.pay(payment::Command::Record { name, attempt, outcome, at });
    }
}

impl World {
    pub fn new(orders: u128, units: u32, limits: Limits) -> Self {
        let mut shelf = Stock::default();
        shelf.evolve(&stock::Event::Received { quantity: units });
        let cases = (1..=orders).map(Case::new).collect();
        Self { cases, shelf, received: units.into(), out: 0, limits, keeps_what_is_held: false }
    }

    /// Deals with a saga's next input; dies before the step of that number, if there is one.
    pub fn deal(&mut self, who: usize, saga: Saga, dies_at: Option<usize>, trouble: Trouble) {
        let Some(input) = self.cases[who].inputs.get(&saga).and_then(|inputs| inputs.front()).cloned() else {
            return;
        };
        let now = if matches!(input, Input::Timer { .. }) { late() } else { DateTime::UNIX_EPOCH };
        let (actions, done) = self.react(who, saga, &input, now);
        for (number, action) in actions.into_iter().enumerate().skip(done) {
            let dies = dies_at == Some(number);
            if dies && !matches!(action, Action::SettlePayment { .. }) {
                return;
            }
            self.act(who, action, trouble, dies);
            if dies {
                return;
            }
            if let Some(begun) = self.cases[who].begun.get_mut(&saga) {
                begun.done = number + 1;
            }
        }
        let case = &mut self.cases[who];
        case.begun.remove(&saga);
        case.inputs.get_mut(&saga).and_then(VecDeque::pop_front);
    }

    /// Records what the saga makes of the input, unless that is done; what is to be done, and how much of it is.
    fn react(&mut self, who: usize, saga: Saga, input: &Input, now: DateTime<Utc>) -> (Vec<Action>, usize) {
        let limits = self.limits.clone();
        let case = &mut self.cases[who];
        if saga == Saga::Payment {
            return (payment_saga::actions(input), case.begun.get(&saga).map_or(0, |begun| begun.done));
        }
        let told = || Told { input: input.clone(), limits: limits.clone(), now };
        if !case.begun.contains_key(&saga) {
            let Ok(recorded) = case.checkout.decide(told());
            let was_over = case.is_over();
            for event in &recorded {
                case.checkout.evolve(event);
                case.was_sold |=
                    matches!(event, checkout::Event::SaleBegun {} | checkout::Event::CaptureBegun { .. });
                case.is_written_off |= matches!(event, checkout::Event::WrittenOff {});
            }
            case.has_gone_on |= was_over && !case.is_over() && !is_asked_for(input);
            case.begun.insert(saga, Begun { recorded, done: 0 });
        }
        let Ok(again) = case.checkout.decide(told());
        assert_eq!(again, [], "told twice, it records something new: {input:?}");
        let begun = &case.begun[&saga];
        (case.checkout.actions(case.order_id, input, &begun.recorded, now), begun.done)
    }

    fn act(&mut self, who: usize, action: Action, trouble: Trouble, dies: bool) {
        let case = &mut self.cases[who];
        match action {
            Action::SettlePayment { generation } => case.settle(generation, trouble, dies),
            Action::ObservePayment { .. } => {}
            Action::SetTimer { name, generation, .. } => drop(case.timers.insert(name, generation)),
            Action::CancelTimer { name } => drop(case.timers.remove(name)),
            Action::Execute { command, .. } => match command {
                Command::Payment(_, command) => case.pay(command),
                Command::Order(_, command) => assert!(case.ask(command), "a step is refused"),
                Command::Cart(_, command) => {
                    for event in case.cart.decide(command).expect("a step is not refused") {
                        case.is_cart_open |= matches!(event, cart::Event::Reopened { .. });
                        case.cart.evolve(&event);
                    }
                }
                Command::Stock(_, stock::Command::Release { .. }) if self.keeps_what_is_held => {}
                Command::Stock(_, command) => self.move_stock(command),
                Command::Product(..) => unreachable!("no saga changes products"),
            },
        }
    }

    fn move_stock(&mut self, command: stock::Command) {
        for event in self.shelf.decide(command).expect("a step is not refused") {
            self.shelf.evolve(&event);
            self.out += match event {
                stock::Event::Sold { quantity, .. } => i64::from(quantity),
                stock::Event::Returned { quantity, .. } => -i64::from(quantity),
                _ => 0,
            };
            let stream = StreamId::of::<Stock>(sku());
            for case in &mut self.cases {
                case.hear(stream.clone(), Happened::Stock(event.clone()));
            }
        }
    }

    /// Nobody was sold or promised what is not there.
    pub fn is_sound(&self) -> bool {
        let there = self.shelf.on_hand().cast_signed() + self.out == self.received.cast_signed();
        there && self.shelf.held() <= self.shelf.on_hand()
    }

    /// Sagas that have something to do.
    pub fn inputs(&self) -> Vec<(usize, Saga)> {
        let both = |who| [(who, Saga::Checkout), (who, Saga::Payment)];
        let all = (0..self.cases.len()).flat_map(both);
        all.filter(|(who, saga)| self.cases[*who].has_input(*saga)).collect()
    }
}
