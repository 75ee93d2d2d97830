//! What is to be done after something was recorded.

use chrono::{DateTime, Utc};
use domain::order::Reason;
use domain::{Command, Event as Happened, OrderId, Sku, cart, order, payment, stock};

use super::{Checkout, DEADLINE, Event, Quote};
use crate::saga::{Action, Input};

/// What the actions are about.
struct About<'a> {
    order_id: OrderId,
    quote: &'a Quote,
    input: &'a Input,
    now: DateTime<Utc>,
}

impl Checkout {
    /// What is to be done after these events were recorded.
    #[must_use]
    pub fn actions(
        &self,
        order_id: OrderId,
        input: &Input,
        recorded: &[Event],
        now: DateTime<Utc>,
    ) -> Vec<Action> {
        let Some(quote) = &self.quote else { return Vec::new() };
        let about = About { order_id, quote, input, now };
        recorded.iter().flat_map(|event| self.actions_after(event, &about)).collect()
    }

    /// Depends only on what never changes once it's recorded, so that a repeat asks for the same.
    fn actions_after(&self, event: &Event, about: &About<'_>) -> Vec<Action> {
        let (order_id, quote, at) = (about.order_id, about.quote, about.now);
        match event {
            Event::Started(quote) => {
                let deadline = about.timer(quote.hold_until.unwrap_or(quote.deadline), 0);
                let place = placed(about.input).map(|place| about.order("place", place));
                place.into_iter().chain([deadline]).collect()
            }
            Event::ReservationBegun {} => {
                about.every_line("reserve", &|quantity| stock::Command::Reserve { order_id, quantity })
            }
            Event::AuthorizationBegun {} => {
                let (amount, payment) = (quote.total, quote.payment.clone());
                vec![about.payment("authorize", payment::Command::Authorize { amount, payment, at })]
            }
            Event::ChallengeBegun { deadline, generation }
            | Event::DeadlineMoved { deadline, generation } => {
                vec![about.timer(*deadline, *generation)]
            }
            Event::ConfirmationBegun {} => vec![about.order("confirm", order::Command::Confirm)],
            Event::CaptureBegun { deadline, generation } => {
                let timer = deadline.map(|deadline| about.timer(deadline, *generation));
                let timer = timer.unwrap_or(Action::CancelTimer { name: DEADLINE });
                let capture = [timer, about.capture()];
                capture.into_iter().chain(about.sell()).collect()
            }
            Event::SaleBegun {} => about.sell(),
            Event::ShippingBegun { is_paid: false, deadline, generation } => {
                vec![about.timer(*deadline, *generation)]
            }
            Event::RefundBegun { refund_id: id, amount } => {
                vec![about.payment("refund", payment::Command::Refund { id: *id, amount: *amount, at })]
            }
            Event::RefundFailed { refund_id, reason } => {
                let (refund_id, reason) = (*refund_id, reason.clone());
                vec![about.order("fail_refund", order::Command::FailRefund { refund_id, reason })]
            }
            Event::ReturnBegun { lines, .. } => {
                let units = lines.iter().map(|units| (&units.sku, units.quantity));
                about.lines("return", units, &|quantity| stock::Command::Return { order_id, quantity })
            }
            Event::Completed {} | Event::Failed { .. } => vec![Action::CancelTimer { name: DEADLINE }],
            Event::PaymentUndoBegun {} | Event::WrittenOff {} => {
                vec![about.payment("undo", payment::Command::Undo { at })]
            }
            Event::WithdrawalBegun { reason } => vec![about.begin_cancellation(*reason)],
            Event::ReleaseBegun {} if self.confirmed => {
                about.every_line("return", &|quantity| stock::Command::Return { order_id, quantity })
            }
            Event::ReleaseBegun {} => about.every_line("release", &|_| stock::Command::Release { order_id }),
            Event::CancellationBegun {} => {
                let reason = self.reason.unwrap_or(Reason::CancelledByBuyer);
                let reopen = (!self.confirmed).then(|| about.reopen());
                let cancel = about.order("cancel", order::Command::Cancel { reason });
                reopen.into_iter().chain([cancel]).collect()
            }
            Event::Abandoned { .. }
            | Event::LineHeld { .. }
            | Event::CapturedEarly {}
            | Event::LineRefused { .. }
            | Event::ShippingBegun { is_paid: true, .. }
            | Event::GoodsShipped { .. }
            | Event::ShipmentOverdue {}
            | Event::CaptureStuck { .. }
            | Event::PaymentUndone {}
            | Event::PaymentUndoLeft {}
            | Event::LineReleased { .. }
            | Event::Cancelled {} => Vec::new(),
        }
    }
}

impl About<'_> {
    fn order(&self, step: &str, command: order::Command) -> Action {
        Action::execute(step, Command::Order(self.order_id, command))
    }

    fn payment(&self, step: &str, command: payment::Command) -> Action {
        Action::execute(step, Command::Payment(self.order_id, command))
    }

    fn begin_cancellation(&self, reason: Reason) -> Action {
        self.order("begin_cancellation", order::Command::BeginCancellation { reason })
    }

    fn reopen(&self) -> Action {
        let order_id = self.order_id;
        Action::execute("reopen", Command::Cart(self.quote.cart_id, cart::Command::Reopen { order_id }))
    }

    fn capture(&self) -> Action {
        self.payment("capture", payment::Command::Capture { at: self.now })
    }

    fn sell(&self) -> Vec<Action> {
        let order_id = self.order_id;
        self.every_line("sell", &|_| stock::Command::Sell { order_id })
    }

    fn timer(&self, at: DateTime<Utc>, generation: u32) -> Action {
        Action::SetTimer { name: DEADLINE, generation, at }
    }

    fn every_line(&self, step: &str, command: &dyn Fn(u32) -> stock::Command) -> Vec<Action> {
        let units = self.quote.units.iter().map(|(sku, quantity)| (sku, *quantity));
        self.lines(step, units, command)
    }

    fn lines<'u>(
        &self,
        step: &str,
        units: impl Iterator<Item = (&'u Sku, u32)>,
        command: &dyn Fn(u32) -> stock::Command,
    ) -> Vec<Action> {
        let action = |(sku, quantity): (&'u Sku, u32)| {
            Action::execute(format!("{step}/{sku}"), Command::Stock(sku.clone(), command(quantity)))
        };
        units.map(action).collect()
    }
}

/// The order as the cart was checked out.
fn placed(input: &Input) -> Option<order::Command> {
    match input {
        Input::Event {
            stream,
            event: Happened::Cart(cart::Event::CheckedOut { lines, total, totals, personal, .. }),
            ..
        } => Some(order::Command::Place {
            cart_id: stream.id().parse().ok()?,
            lines: lines.clone(),
            total: *total,
            totals: totals.clone(),
            buyer: personal.clone(),
        }),
        _ => None,
    }
}
