//! What the saga makes of what happens: forwards, and from the first thing that goes wrong on, backwards.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use domain::order::{Line, Reason};
use domain::payment::Operation;
use domain::{Aggregate, CartId, Event as Happened, Money, Sku, cart, order, payment, stock};
use uuid::Uuid;

use super::{CaptureAt, Checkout, DEADLINE, Event, Limits, LineState, Quote, Shipped, Stage, failed, goods};
use crate::saga::Input;

/// How far the clock of who keeps the timers may be ahead of this one.
const CLOCKS_DIFFER_MAX: Duration = Duration::seconds(5);

/// The state as it will be, and the events that make it so.
pub(super) struct Draft {
    pub state: Checkout,
    pub events: Vec<Event>,
    pub limits: Limits,
    pub now: DateTime<Utc>,
}

impl Draft {
    fn record(&mut self, event: Event) {
        self.state.evolve(&event);
        self.events.push(event);
    }

    pub fn hear(&mut self, input: Input) {
        match input {
            Input::Timer { name, generation } if name == DEADLINE => self.deadline(generation),
            Input::Timer { .. } | Input::Recorded => {}
            Input::Abandoned { reason } => self.abandon(reason),
            Input::Together(inputs) => inputs.into_iter().for_each(|input| self.hear(input)),
            Input::Event { stream, event, at } => match event {
                Happened::Cart(cart::Event::CheckedOut { lines, total, payment, .. }) => {
                    if let Ok(cart_id) = stream.id().parse() {
                        self.start(cart_id, units(&lines), total, payment, at);
                    }
                }
                Happened::Stock(event) => {
                    if let Ok(sku) = stream.id().parse() {
                        self.stock(sku, &event);
                    }
                }
                Happened::Order(event) => self.order(&event),
                Happened::Payment(event) => self.payment(&event),
                Happened::Product(_) | Happened::Cart(_) => {}
            },
        }
    }

    fn start(
        &mut self,
        cart_id: CartId,
        units: BTreeMap<Sku, u32>,
        total: Money,
        payment: cart::PaymentMethod,
        at: DateTime<Utc>,
    ) {
        if self.state.stage == Stage::New {
            let deadline = at + self.limits.authorization;
            let hold_until = Some(at + self.limits.hold).filter(|hold_until| *hold_until < deadline);
            self.record(Event::Started(Quote { cart_id, units, total, payment, deadline, hold_until }));
            self.record(Event::ReservationBegun {});
        }
    }

    fn stock(&mut self, sku: Sku, event: &stock::Event) {
        let line = self.state.lines.get(&sku).copied();
        match (event, line) {
            (stock::Event::Reserved { .. }, Some(LineState::Asked)) => {
                self.record(Event::LineHeld { sku });
                self.after_an_answer();
            }
            (stock::Event::ReservationRefused { .. }, Some(LineState::Asked)) => {
                self.record(Event::LineRefused { sku });
                self.after_an_answer();
            }
            (stock::Event::Released { .. } | stock::Event::Returned { .. }, Some(LineState::Held))
                if self.state.stage == Stage::Releasing =>
            {
                self.record(Event::LineReleased { sku });
                if !self.state.any_line(LineState::Held) {
                    self.record(Event::CancellationBegun {});
                }
            }
            _ => {}
        }
    }

    /// Once every line has its answer, the way is clear: on to the payment, or back.
    fn after_an_answer(&mut self) {
        if self.state.any_line(LineState::Asked) {
            return;
        }
        if self.state.reason.is_some() {
            self.undo();
        } else if self.state.any_line(LineState::Refused) {
            self.fail(Reason::OutOfStock);
        } else {
            self.record(Event::AuthorizationBegun {});
        }
    }

    fn order(&mut self, event: &order::Event) {
        match (event, self.state.stage) {
            (order::Event::Placed { .. }, Stage::Placing) if self.state.reason.is_some() => {
                self.record(Event::CancellationBegun {});
            }
            (order::Event::Placed { .. }, Stage::Placing) => self.record(Event::ReservationBegun {}),
            (order::Event::Confirmed {}, Stage::Confirming) => self.confirmed(),
            (order::Event::CancellationRequested {}, _) => self.go_back(Reason::CancelledByBuyer),
            (order::Event::CancellationBegun { reason }, _) => self.go_back(*reason),
            (order::Event::Cancelled { .. }, Stage::Cancelling) => self.record(Event::Cancelled {}),
            (order::Event::Shipped { shipment_id, is_last, .. }, _) if self.is_news(*shipment_id) => {
                let withdrawal = self.state.withdrawal;
                self.record(Event::GoodsShipped { shipment_id: *shipment_id, is_last: *is_last });
                self.goods_shipped(withdrawal);
            }
            (order::Event::RefundRequested { refund_id, amount, .. }, _) if self.is_news(*refund_id) => {
                self.record(Event::RefundBegun { refund_id: *refund_id, amount: *amount });
            }
            (order::Event::GoodsReturned { return_id, lines, .. }, _) if self.is_news(goods(*return_id)) => {
                self.record(Event::ReturnBegun { return_id: *return_id, lines: lines.clone() });
            }
            _ => {}
        }
    }

    fn is_news(&self, id: Uuid) -> bool {
        self.state.is_confirmed() && !self.state.seen.contains(&id)
    }

    fn confirmed(&mut self) {
        match (self.limits.capture_at, self.limits.shipment) {
            // Nothing is taken that will most likely be given back.
            (_, limit) if self.state.withdrawal.is_some() => {
                self.begin_sale(limit.unwrap_or(self.limits.capture));
            }
            (CaptureAt::Shipment, Some(limit)) => self.begin_sale(limit),
            (CaptureAt::Confirmation, _) | (CaptureAt::Shipment, None) => self.begin_capture(),
        }
    }

    /// The goods are sold, and paid when they are shipped.
    fn begin_sale(&mut self, limit: Duration) {
        self.record(Event::SaleBegun {});
        let (deadline, generation) = self.new_deadline(limit);
        self.record(Event::ShippingBegun { is_paid: false, deadline, generation });
    }

    fn begin_capture(&mut self) {
        let (deadline, generation) = self.new_deadline(self.limits.capture);
        self.record(Event::CaptureBegun { deadline: Some(deadline), generation });
        if self.state.captured_early {
            self.captured();
        }
    }

    /// They may have gone while it was to be taken back, and that is not done any more.
    fn goods_shipped(&mut self, withdrawal: Option<Reason>) {
        match (self.state.stage, withdrawal) {
            (Stage::Capturing, Some(reason)) => self.capture_stuck(reason.code()),
            (Stage::Shipping | Stage::ShipmentOverdue, _) if !self.state.captured => {
                if self.state.payment_open {
                    self.begin_capture();
                } else {
                    self.capture_stuck(withdrawal.map_or("payment_gone", Reason::code));
                }
            }
            (Stage::Shipping | Stage::ShipmentOverdue, _)
                if self.state.shipped == Shipped::All || self.limits.shipment.is_none() =>
            {
                self.record(Event::Completed {});
            }
            _ => {}
        }
    }

    fn captured(&mut self) {
        // It is not over while it may be taken back.
        let may_go_back = self.state.withdrawal.map(|_| self.limits.capture);
        match self.limits.shipment.or(may_go_back) {
            Some(limit) if self.state.shipped != Shipped::All => {
                // The timer that waits for the capture is moved when it fires; if it did, it does not again, and
                // it may have if all is to be taken back.
                let (deadline, generation) = (self.after(limit), self.state.generation);
                let has_fired = self.state.deadline.is_none() || self.state.withdrawal.is_some();
                self.record(Event::ShippingBegun { is_paid: true, deadline, generation });
                if has_fired {
                    let generation = generation.saturating_add(1);
                    self.record(Event::DeadlineMoved { deadline, generation });
                }
            }
            _ => self.record(Event::Completed {}),
        }
    }

    fn after(&self, limit: Duration) -> DateTime<Utc> {
        (self.now + limit).trunc_subsecs(3)
    }

    /// A deadline that the timer is set to.
    fn new_deadline(&self, limit: Duration) -> (DateTime<Utc>, u32) {
        (self.after(limit), self.state.generation.saturating_add(1))
    }

    fn payment(&mut self, event: &payment::Event) {
        match (event, self.state.stage) {
            (payment::Event::Authorized { amount, .. }, Stage::Authorizing) => {
                if self.state.quote.as_ref().is_some_and(|quote| quote.total == *amount) {
                    self.record(Event::ConfirmationBegun {});
                } else {
                    self.fail(Reason::PaymentMismatch);
                }
            }
            (payment::Event::ActionRequired { .. }, Stage::Authorizing) if !self.state.challenged => {
                let (deadline, generation) = self.new_deadline(self.limits.challenge);
                self.record(Event::ChallengeBegun { deadline, generation });
            }
            (payment::Event::Captured { .. }, Stage::Capturing | Stage::CaptureStuck) => self.captured(),
            (payment::Event::Captured { .. }, Stage::Authorizing | Stage::Confirming | Stage::Shipping)
                if !self.state.captured && !self.state.captured_early =>
            {
                self.record(Event::CapturedEarly {});
            }
            (payment::Event::RefundFailed { refund, reason, .. }, _) => self.refund_failed(refund, reason),
            (payment::Event::Abandoned { operation, refund, stray: None, .. }, _) => {
                self.payment_abandoned(*operation, refund.as_deref());
            }
            (payment::Event::CaptureFailed { reason }, Stage::Capturing) => {
                self.capture_failed(reason, Reason::PaymentDeclined);
            }
            (
                payment::Event::Declined { .. }
                | payment::Event::Voided {}
                | payment::Event::NothingToUndo {},
                Stage::UndoingPayment,
            ) => self.payment_undone(),
            (payment::Event::Refunded { refund, .. }, Stage::UndoingPayment)
                if payment::undoes_all(refund) =>
            {
                self.payment_undone();
            }
            (
                payment::Event::Declined { reason },
                Stage::Authorizing | Stage::Confirming | Stage::Capturing | Stage::Shipping,
            ) => self.payment_gone(reason, Reason::PaymentDeclined),
            (
                payment::Event::Voided {},
                Stage::Authorizing | Stage::Confirming | Stage::Capturing | Stage::Shipping,
            ) => self.payment_gone("voided", Reason::PaymentTimedOut),
            (
                payment::Event::OutcomeUnknown { .. } | payment::Event::UndoRefused { .. },
                Stage::UndoingPayment,
            ) => {
                self.record(Event::PaymentUndoLeft {});
                self.undo();
            }
            _ => {}
        }
    }

    fn payment_undone(&mut self) {
        self.record(Event::PaymentUndone {});
        self.undo();
    }

    /// A person gave up what was asked of the provider: nobody waits for it any more.
    fn payment_abandoned(&mut self, operation: Operation, refund: Option<&str>) {
        match (operation, self.state.stage) {
            (Operation::Authorize, Stage::Authorizing) => {
                self.record(Event::PaymentUndoLeft {});
                self.fail(Reason::Abandoned);
            }
            (Operation::Capture, Stage::Capturing) => self.capture_failed("abandoned", Reason::Abandoned),
            (Operation::Refund, _) if refund.is_some_and(|refund| refund.contains(':')) => {
                self.refund_failed(refund.unwrap_or_default(), "abandoned");
            }
            // What follows a capture that was given up is a release, which is waited for in its turn.
            (Operation::Authorize | Operation::Void | Operation::Refund, Stage::UndoingPayment) => {
                self.record(Event::PaymentUndoLeft {});
                self.undo();
            }
            _ => {}
        }
    }

    fn payment_gone(&mut self, why: &str, reason: Reason) {
        if self.state.captured {
            return;
        }
        if self.state.shipped == Shipped::Nothing && self.state.payment_open {
            self.record(Event::PaymentUndone {});
        }
        self.capture_failed(why, reason);
    }

    /// What is shipped can't be taken back, so somebody has to see to the money.
    fn capture_failed(&mut self, why: &str, reason: Reason) {
        if self.state.shipped == Shipped::Nothing {
            self.fail(reason);
        } else {
            self.capture_stuck(why);
        }
    }

    fn capture_stuck(&mut self, why: &str) {
        self.record(Event::CaptureStuck { reason: why.to_owned() });
    }

    fn refund_failed(&mut self, refund: &str, reason: &str) {
        let id = refund.split_once(':').and_then(|(_, id)| id.parse::<Uuid>().ok());
        let is_news = |id: &Uuid| self.state.seen.contains(id) && !self.state.seen.contains(&failed(*id));
        if let Some(refund_id) = id.filter(is_news) {
            self.record(Event::RefundFailed { refund_id, reason: reason.to_owned() });
        }
    }

    fn deadline(&mut self, generation: u32) {
        let Some(deadline) = self.state.deadline.filter(|_| generation == self.state.generation) else {
            return;
        };
        if self.state.reason.is_some() {
            return;
        }
        if self.now + CLOCKS_DIFFER_MAX < deadline {
            return self.record(Event::DeadlineMoved { deadline, generation: generation.saturating_add(1) });
        }
        match self.state.stage {
            Stage::Placing | Stage::Reserving if self.state.is_held_for_less_than_to_be_paid() => {
                self.fail(Reason::ReservationTimedOut);
            }
            Stage::Placing | Stage::Reserving | Stage::Authorizing => self.fail(Reason::PaymentTimedOut),
            Stage::Capturing => self.capture_failed("timed_out", Reason::PaymentTimedOut),
            // Later, no authorisation may be left to capture.
            Stage::Shipping if !self.state.captured && self.state.shipped == Shipped::Nothing => {
                self.fail(Reason::NotShipped);
            }
            Stage::Shipping => self.record(Event::ShipmentOverdue {}),
            _ => {}
        }
    }

    fn abandon(&mut self, reason: String) {
        let is_going_back = self.state.reason.is_some() || self.state.withdrawal.is_some();
        if is_going_back || self.state.stage == Stage::New {
            return;
        }
        if self.state.shipped == Shipped::Nothing {
            self.record(Event::Abandoned { reason });
            self.fail(Reason::Abandoned);
        } else if self.state.stage != Stage::Completed {
            // The goods are gone, so there is nothing to go back to.
            self.record(Event::Abandoned { reason });
            if !self.state.captured {
                self.record(Event::WrittenOff {});
            }
            self.record(Event::Completed {});
        }
    }

    /// It is to go backwards: at once, or when the order has said that nothing is shipped any more.
    fn fail(&mut self, reason: Reason) {
        if !self.state.may_be_shipped() {
            self.go_back(reason);
        } else if self.state.reason.is_none() && self.state.withdrawal.is_none() {
            self.record(Event::WithdrawalBegun { reason });
        }
    }

    /// From here on it goes backwards. Only the first reason counts.
    fn go_back(&mut self, reason: Reason) {
        if self.state.reason.is_some() || self.state.stage == Stage::New {
            return;
        }
        self.record(Event::Failed { reason });
        self.undo();
    }

    /// The next step backwards, once nothing is under way any more.
    fn undo(&mut self) {
        if self.state.stage == Stage::Placing || self.state.any_line(LineState::Asked) {
            return;
        }
        if self.state.payment_open {
            self.record(Event::PaymentUndoBegun {});
        } else if self.state.any_line(LineState::Held) {
            self.record(Event::ReleaseBegun {});
        } else {
            self.record(Event::CancellationBegun {});
        }
    }
}

fn units(lines: &[Line]) -> BTreeMap<Sku, u32> {
    let mut units = BTreeMap::new();
    for line in lines {
        let sum: &mut u32 = units.entry(line.sku.clone()).or_default();
        *sum = sum.saturating_add(line.quantity);
    }
    units
}
