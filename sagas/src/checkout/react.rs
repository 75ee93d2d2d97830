//! What the saga makes of what happens: forwards, and from the first thing that goes wrong on, backwards.

use domain::order::Reason;
use domain::{Aggregate, Sku, order, payment, stock};

use super::{Checkout, Event, LineState, Quote, Stage};

/// The state as it will be, and the events that make it so.
pub(super) struct Draft {
    pub state: Checkout,
    pub events: Vec<Event>,
}

impl Draft {
    fn record(&mut self, event: Event) {
        self.state.evolve(&event);
        self.events.push(event);
    }

    pub fn start(&mut self, quote: Quote) {
        if self.state.stage == Stage::New {
            self.record(Event::Started(quote));
        }
    }

    pub fn stock(&mut self, sku: Sku, event: &stock::Event) {
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

    pub fn order(&mut self, event: &order::Event) {
        match (event, self.state.stage) {
            (order::Event::Placed { .. }, Stage::Placing) if self.state.reason.is_some() => {
                self.record(Event::CancellationBegun {});
            }
            (order::Event::Placed { .. }, Stage::Placing) => self.record(Event::ReservationBegun {}),
            (order::Event::Confirmed {}, Stage::Confirming) => self.record(Event::CaptureBegun {}),
            (order::Event::CancellationRequested {}, _) => self.fail(Reason::CancelledByBuyer),
            (order::Event::Cancelled { .. }, Stage::Cancelling) => self.record(Event::Cancelled {}),
            _ => {}
        }
    }

    pub fn payment(&mut self, event: &payment::Event) {
        match (event, self.state.stage) {
            (payment::Event::Authorized { amount, .. }, Stage::Authorizing) => {
                if self.state.quote.as_ref().is_some_and(|quote| quote.total == *amount) {
                    self.record(Event::ConfirmationBegun {});
                } else {
                    self.fail(Reason::PaymentMismatch);
                }
            }
            (payment::Event::Captured { .. }, Stage::Capturing) => self.record(Event::Completed {}),
            (
                payment::Event::Declined { .. } | payment::Event::Voided {},
                Stage::Authorizing | Stage::Confirming | Stage::Capturing,
            ) => {
                self.record(Event::PaymentUndone {});
                self.fail(Reason::PaymentDeclined);
            }
            (payment::Event::CaptureFailed { .. }, Stage::Capturing) => self.fail(Reason::PaymentDeclined),
            (
                payment::Event::Declined { .. } | payment::Event::Voided {} | payment::Event::Refunded { .. },
                Stage::UndoingPayment,
            ) => {
                self.record(Event::PaymentUndone {});
                self.undo();
            }
            _ => {}
        }
    }

    pub fn deadline(&mut self) {
        if self.state.waits_for_buyer() {
            self.fail(Reason::PaymentTimedOut);
        }
    }

    pub fn abandon(&mut self, reason: String) {
        if self.state.reason.is_none() && self.state.stage != Stage::New {
            self.record(Event::Abandoned { reason });
            self.fail(Reason::Abandoned);
        }
    }

    /// From here on it goes backwards. Only the first reason counts.
    fn fail(&mut self, reason: Reason) {
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
