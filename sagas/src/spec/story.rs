//! How the checkout is told: what happens, and the steps that it asks for, by name.

use chrono::{DateTime, Duration, Utc};
use domain::order::{Address, Buyer, Line, Parcel, Reason};
use domain::{Aggregate, CartId, Command, Event as Happened, Money, OrderId, Sku, StreamId};
use domain::{cart, order, payment, stock};
use uuid::Uuid;

use crate::checkout::{CaptureAt, Checkout, Limits, Told as Decided};
use crate::saga::{Action, Input};

pub const ORDER: OrderId = OrderId(Uuid::from_u128(7));
pub const CART: CartId = CartId(Uuid::from_u128(3));

/// The saga so far.
pub struct Story {
    state: Checkout,
    pub limits: Limits,
    pub now: DateTime<Utc>,
}

impl Default for Story {
    fn default() -> Self {
        let limits = Limits {
            hold: Duration::minutes(1),
            authorization: Duration::minutes(15),
            challenge: Duration::minutes(10),
            capture: Duration::hours(24),
            shipment: Some(Duration::days(6)),
            capture_at: CaptureAt::Confirmation,
        };
        Self { state: Checkout::default(), limits, now: DateTime::UNIX_EPOCH }
    }
}

impl Story {
    /// Tells the saga something; the steps that it asks for come back by name.
    pub fn tell(&mut self, input: &Input) -> Vec<String> {
        let (limits, now) = (self.limits.clone(), self.now);
        let decide = |state: &Checkout| {
            state.decide(Decided { input: input.clone(), limits: limits.clone(), now }).unwrap()
        };
        let recorded = decide(&self.state);
        recorded.iter().for_each(|event| self.state.evolve(event));
        assert_eq!(decide(&self.state), vec![], "told twice, it records nothing new: {input:?}");
        let actions = self.state.actions(ORDER, input, &recorded, now);
        actions.iter().map(name).collect()
    }

    pub fn happens(&mut self, stream: &str, event: impl Into<Told>) -> Vec<String> {
        self.tell(&heard(stream, event))
    }

    pub fn checked_out() -> Self {
        Self::default().checks_out()
    }

    pub fn checks_out(mut self) -> Self {
        let steps = self.happens(&cart_stream(), checked_out());
        assert_eq!(steps, ["place", "set deadline", "reserve/CUP 1", "reserve/MUG 5"]);
        self
    }

    /// Earlier builds reserved nothing before the order was placed.
    pub fn begun_by_an_earlier_build() -> Self {
        let mut story = Self::default();
        let input = heard(&cart_stream(), checked_out());
        let Ok(events) = story.state.decide(Decided { input, limits: story.limits.clone(), now: story.now });
        story.state.evolve(&events[0]);
        story
    }

    pub fn placed() -> Self {
        Self::checked_out().then_placed()
    }

    pub fn then_placed(mut self) -> Self {
        assert!(self.happens(&order_stream(), placed()).is_empty());
        self
    }

    pub fn held() -> Self {
        Self::placed().then_held()
    }

    pub fn then_held(mut self) -> Self {
        assert!(self.happens("stock/MUG", reserved(5)).is_empty());
        assert_eq!(self.happens("stock/CUP", reserved(1)), ["authorize 23.00 GBP"]);
        self
    }

    pub fn authorized() -> Self {
        Self::held().then_authorized()
    }

    pub fn then_authorized(mut self) -> Self {
        assert_eq!(self.happens(&payment_stream(), authorized()), ["confirm"]);
        self
    }

    pub fn confirmed() -> Self {
        let mut story = Self::authorized();
        let steps = story.happens(&order_stream(), order::Event::Confirmed {});
        assert_eq!(steps, ["set deadline", "capture", "sell/CUP", "sell/MUG"]);
        story
    }

    pub fn captured() -> Self {
        let mut story = Self::confirmed();
        assert!(story.happens(&payment_stream(), captured()).is_empty());
        assert_eq!(story.stage(), "shipping");
        story
    }

    /// Confirmed, where the money is taken when the goods are shipped.
    pub fn sold_before_it_is_paid() -> Self {
        let mut story = Self::default();
        story.limits.capture_at = CaptureAt::Shipment;
        let mut story = story.checks_out().then_placed().then_held().then_authorized();
        let steps = story.happens(&order_stream(), order::Event::Confirmed {});
        assert_eq!(steps, ["sell/CUP", "sell/MUG", "set deadline"]);
        story
    }

    pub fn stage(&self) -> &'static str {
        self.state.summary().expect("begun").stage
    }

    /// The timer fires that is set now.
    pub fn deadline_fires(&mut self) -> Vec<String> {
        let generation = self.state.summary().and_then(|summary| summary.due).map_or(0, |due| due.generation);
        self.tell(&Input::Timer { name: "deadline".into(), generation })
    }

    /// The stage's time is over.
    pub fn deadline(&mut self) -> Vec<String> {
        if let Some(due) = self.state.summary().and_then(|summary| summary.due) {
            self.now = due.at;
        }
        self.deadline_fires()
    }

    /// The order says that nothing is shipped any more.
    pub fn is_taken_back(&mut self, reason: Reason) -> Vec<String> {
        self.happens(&order_stream(), order::Event::CancellationBegun { reason })
    }

    /// From the release of both lines to the end.
    pub fn ends(mut self, given_back: fn(u32) -> stock::Event, last_steps: &[&str]) {
        assert!(self.happens("stock/MUG", given_back(5)).is_empty());
        assert_eq!(self.happens("stock/CUP", given_back(1)), last_steps);
        assert!(
            self.happens(&order_stream(), order::Event::Cancelled { reason: Reason::OutOfStock }).is_empty()
        );
        assert!(self.deadline().is_empty(), "the end is final");
    }
}

pub fn heard(stream: &str, event: impl Into<Told>) -> Input {
    let Told(event) = event.into();
    Input::Event { stream: stream.parse().unwrap(), event, at: DateTime::UNIX_EPOCH }
}

pub struct Told(Happened);

impl From<cart::Event> for Told {
    fn from(event: cart::Event) -> Self {
        Self(Happened::Cart(event))
    }
}
impl From<stock::Event> for Told {
    fn from(event: stock::Event) -> Self {
        Self(Happened::Stock(event))
    }
}
impl From<order::Event> for Told {
    fn from(event: order::Event) -> Self {
        Self(Happened::Order(event))
    }
}
impl From<payment::Event> for Told {
    fn from(event: payment::Event) -> Self {
        Self(Happened::Payment(event))
    }
}

pub fn name(action: &Action) -> String {
    match action {
        Action::Execute { step, command } => match command {
            Command::Stock(
                _,
                stock::Command::Reserve { quantity, .. } | stock::Command::Return { quantity, .. },
            ) => {
                format!("{step} {quantity}")
            }
            Command::Payment(_, payment::Command::Authorize { amount, .. }) => format!("{step} {amount}"),
            Command::Order(_, order::Command::Cancel { reason }) => format!("{step} {}", reason.code()),
            _ => step.clone(),
        },
        Action::SettlePayment { .. } => "settle".to_owned(),
        Action::ObservePayment { .. } => "observe".to_owned(),
        Action::SetTimer { name, .. } => format!("set {name}"),
        Action::CancelTimer { name } => format!("cancel {name}"),
    }
}

pub fn cart_stream() -> String {
    StreamId::of::<cart::Cart>(CART).to_string()
}

pub fn order_stream() -> String {
    StreamId::of::<order::Order>(ORDER).to_string()
}

pub fn payment_stream() -> String {
    StreamId::of::<payment::Payment>(ORDER).to_string()
}

pub fn gbp(amount: i64) -> Money {
    Money::new(amount, "GBP".parse().unwrap())
}

pub fn line(code: &str, quantity: u32, price: i64) -> Line {
    let sku: Sku = code.parse().unwrap();
    let total = gbp(price).times(quantity).unwrap();
    Line { sku, title: code.to_owned(), quantity, unit_price: gbp(price), total }
}

pub fn buyer() -> Buyer {
    let text = |text: &str| text.to_owned();
    let address = Address {
        name: text("Alice"),
        line1: text("1 High Street"),
        line2: None,
        city: text("Leeds"),
        region: None,
        postal_code: text("LS1 1AA"),
        country: text("GB"),
    };
    Buyer { email: text("alice@example.com"), shipping_address: address }
}

/// Two lines of one SKU among them.
pub fn lines() -> Vec<Line> {
    vec![line("MUG", 2, 400), line("CUP", 1, 300), line("MUG", 3, 400)]
}

pub fn checked_out() -> cart::Event {
    let payment = cart::PaymentMethod { method: "sandbox".into(), token: "tok_approve".into() };
    cart::Event::CheckedOut {
        order_id: ORDER,
        lines: lines(),
        total: gbp(2300),
        totals: None,
        payment,
        personal: buyer(),
    }
}

pub fn placed() -> order::Event {
    let country = "GB".into();
    order::Event::Placed {
        cart_id: CART,
        lines: lines(),
        total: gbp(2300),
        totals: None,
        country,
        personal: buyer(),
    }
}

pub fn reserved(quantity: u32) -> stock::Event {
    stock::Event::Reserved { order_id: ORDER, quantity }
}

pub fn released(quantity: u32) -> stock::Event {
    stock::Event::Released { order_id: ORDER, quantity }
}

pub fn returned(quantity: u32) -> stock::Event {
    stock::Event::Returned { order_id: ORDER, quantity }
}

pub fn refused() -> stock::Event {
    stock::Event::ReservationRefused { order_id: ORDER, free: 0, asked: 1 }
}

pub fn authorized() -> payment::Event {
    payment::Event::Authorized { amount: gbp(2300), provider_reference: "p-1".into() }
}

pub fn captured() -> payment::Event {
    payment::Event::Captured { amount: gbp(2300) }
}

pub fn shipped(shipment: u128, is_last: bool) -> order::Event {
    order::Event::Shipped {
        shipment_id: Uuid::from_u128(shipment),
        lines: vec![],
        parcel: Parcel::default(),
        is_last,
    }
}

pub fn capture_failed() -> payment::Event {
    payment::Event::CaptureFailed { reason: "expired_card".into() }
}

pub fn declined() -> payment::Event {
    payment::Event::Declined { reason: "insufficient_funds".into() }
}
