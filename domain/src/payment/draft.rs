//! What comes of what is asked for and of what the provider says: one event after the other.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};

use super::request::{AGAIN, name_of_round};
use super::statement::{Outcome, Refund, RefundState, State, Statement};
use super::{Event, KnownRefund, Operation, Payment, RefundStep, undoes_all};
use crate::aggregate::Aggregate;
use crate::money::{Currency, Money};

/// When a refund that failed at the provider is asked for again.
const AGAIN_AFTER: Duration = Duration::minutes(1);

/// The state as it will be, and the events that make it so.
pub(super) struct Draft {
    pub state: Payment,
    pub events: Vec<Event>,
    pub currency: Currency,
    pub at: DateTime<Utc>,
}

impl Draft {
    pub(super) fn record(&mut self, event: Event) {
        self.state.evolve(&event);
        self.events.push(event);
    }

    pub(super) fn money(&self, amount: i64) -> Money {
        Money::new(amount, self.currency)
    }

    fn is_open(&self, operation: Operation) -> bool {
        let open = self.state.open.as_ref();
        open.is_some_and(|open| open.operation == operation && open.stray.is_none())
    }

    /// Whether the order's own payment has a request without an outcome.
    fn awaits_own(&self) -> bool {
        self.state.open.as_ref().is_some_and(|open| open.stray.is_none())
    }

    /// Whatever was taken is to be given back.
    pub fn undo(&mut self) {
        let is_news = !self.state.to_be_undone;
        if self.state.open.is_some() && is_news {
            self.record(Event::CancellationRequested {});
        } else if self.state.amounts.requested > 0 {
            // Who wants it undone now does not mean what was given up before.
            self.state.is_given_up = false;
        }
        self.state.to_be_undone = true;
        self.go_on();
    }

    /// Who waits for the money to be given back is told when none is left, however that came about.
    pub fn tell_end(&mut self, before: &Payment) {
        let is_told = self.events.iter().any(|event| match event {
            Event::Declined { .. } | Event::Voided {} | Event::NothingToUndo {} | Event::Abandoned { .. } => {
                true
            }
            Event::Refunded { refund, .. } => undoes_all(refund),
            _ => false,
        });
        if !is_told && self.state.is_undone() && !before.is_undone() {
            self.record(Event::NothingToUndo {});
        }
    }

    /// Some of what was captured is to be given back.
    pub fn refund(&mut self, refund: String, amount: Money) {
        if self.state.refunds.contains_key(&refund) {
            return;
        }
        let amounts = &self.state.amounts;
        let may_be_captured = amounts.captured == 0 && !amounts.is_voided && !self.state.to_be_undone;
        let kept = if may_be_captured { amounts.requested } else { amounts.kept() };
        let is_valid = amount.amount > 0 && amount.currency == self.currency;
        if !is_valid || self.state.to_be_undone || amount.amount > kept.saturating_sub(self.reserved()) {
            let reason = "more_than_was_captured".to_owned();
            return self.record(Event::RefundFailed { refund, amount, reason });
        }
        if self.state.open.is_none() && self.state.amounts.captured > 0 {
            self.record(Event::RefundRequested { amount, refund, at: Some(self.at), stray: None });
        } else {
            self.record(Event::RefundQueued { refund, amount });
        }
    }

    /// What is to be given back, and is not yet.
    fn reserved(&self) -> i64 {
        let is_ahead = |refund: &&KnownRefund| matches!(refund.step, RefundStep::Queued | RefundStep::Asked);
        let ahead = self.state.refunds.values().filter(is_ahead);
        ahead.fold(0_i64, |sum, refund| sum.saturating_add(refund.amount))
    }

    /// What came of a request, if that is still open.
    pub fn outcome(&mut self, name: &str, attempt: u32, outcome: Outcome) {
        if let Outcome::Stated { statement, .. } = &outcome {
            self.take_from(statement);
        }
        let open = self.state.open.clone();
        if let Some(open) = open.filter(|open| open.attempt == attempt && open.name() == name) {
            let (operation, next) = (open.operation, attempt.saturating_add(1));
            match outcome {
                Outcome::Stated { statement, look_up_at } => {
                    let waits_for_buyer = statement.state == State::ActionRequired
                        && operation == Operation::Authorize
                        && !self.state.amounts.needs_buyer;
                    self.record(if waits_for_buyer {
                        let provider_reference = statement.reference;
                        Event::ActionRequired { provider_reference, attempt: next, look_up_at }
                    } else {
                        Event::OutcomeUnknown { operation, attempt: next, look_up_at }
                    });
                }
                Outcome::Unknown { look_up_at, is_overdue } => {
                    if is_overdue && !open.is_under_review {
                        self.record(Event::ReviewRequired { operation });
                    }
                    self.record(Event::OutcomeUnknown { operation, attempt: next, look_up_at });
                }
                Outcome::Refused { reason, again_at } => self.refused(reason, again_at),
                Outcome::NeverArrived => {
                    self.refused("never_arrived".to_owned(), self.at + AGAIN_AFTER);
                }
            }
        }
        self.go_on();
    }

    /// The open request was not carried out, and will not be. What must be done is asked for again.
    fn refused(&mut self, reason: String, again_at: DateTime<Utc>) {
        let Some(open) = self.state.open.clone() else { return };
        let attempt = open.attempt.saturating_add(1);
        match (open.operation, open.refund) {
            (Operation::Authorize, _) => self.record(Event::Declined { reason }),
            (Operation::Capture, _) => self.record(Event::CaptureFailed { reason }),
            (Operation::Refund, Some(refund)) if open.stray.is_none() && refund.contains(':') => {
                let amount = self.money(open.amount);
                self.record(Event::RefundFailed { refund, amount, reason });
            }
            (operation @ (Operation::Void | Operation::Refund), _) => {
                self.record(Event::UndoRefused { operation, attempt, reason, again_at });
            }
        }
    }

    pub fn observe(&mut self, statement: &Statement) {
        self.take_from(statement);
        self.go_on();
    }

    /// What is news in it. Amounts only grow, and ends stay, so an old statement brings none.
    fn take_from(&mut self, statement: &Statement) {
        if !self.is_ours(statement) {
            return self.stray(statement);
        }
        if statement.currency != self.currency {
            if self.is_open(Operation::Authorize) {
                self.record(Event::Declined { reason: "currency_mismatch".to_owned() });
            }
            // What is held or taken all the same is let go.
            return self.stray(statement);
        }
        self.authorization(statement);
        let captured = statement.captured.saturating_sub(self.state.amounts.captured);
        if captured > 0 {
            self.record(Event::Captured { amount: self.money(captured) });
        }
        // Where nothing was held or asked for, that it holds nothing is no news.
        let may_hold = self.state.amounts.is_capturable() || self.awaits_own();
        if may_hold && statement.state == State::Voided && self.state.amounts.captured == 0 {
            self.record(Event::Voided {});
        }
        self.refunds(statement);
        let charged_back = statement.charged_back.saturating_sub(self.state.amounts.charged_back);
        if charged_back > 0 {
            self.record(Event::ChargedBack { amount: self.money(charged_back) });
        }
        let reinstated = statement.reinstated.min(self.state.amounts.charged_back);
        let reinstated = reinstated.saturating_sub(self.state.amounts.reinstated);
        if reinstated > 0 {
            self.record(Event::ChargeBackReversed { amount: self.money(reinstated) });
        }
        self.less_is_left(statement);
    }

    /// Before it is known under a name, what is heard of is taken for it. But if it was released under none, that is
    /// another one, or needs nothing more; and so it is if it has ended, and that one waits for its buyer yet, and
    /// must not go on.
    fn is_ours(&self, statement: &Statement) -> bool {
        let has_ended = self.state.to_be_undone && !self.awaits_own();
        match &self.state.provider_reference {
            Some(ours) => *ours == statement.reference,
            None if self.state.amounts.is_voided => false,
            None if self.state.strays.contains_key(&statement.reference) => false,
            None => !(has_ended && statement.state == State::ActionRequired),
        }
    }

    /// Somebody else gave some of it back meanwhile, or the buyer's bank did: so much was not given back by what was
    /// asked for, and can't be any more. An undo goes on with what is left.
    fn less_is_left(&mut self, statement: &Statement) {
        let open = self.state.open.as_ref().filter(|open| open.stray.is_none());
        let Some((refund, amount)) = open.and_then(|open| Some((open.refund.clone()?, open.amount))) else {
            return;
        };
        let reason = match self.state.amounts.kept() {
            // It is under way, and may be carried out yet.
            _ if is_under_way(&refund, statement) => return,
            0 => "nothing_left",
            kept if kept < amount && !refund.contains(':') => "less_left",
            _ => return,
        };
        let (amount, reason) = (self.money(amount), reason.to_owned());
        self.record(Event::RefundFailed { refund, amount, reason });
    }

    fn authorization(&mut self, statement: &Statement) {
        let amounts = &self.state.amounts;
        let amount = self.money(statement.authorized);
        match &statement.state {
            State::Authorized | State::Captured if amounts.authorized == 0 && amount.amount > 0 => {
                let provider_reference = statement.reference.clone();
                self.record(Event::Authorized { amount, provider_reference });
            }
            State::Authorized if amounts.is_capturable() && amounts.authorized != amount.amount => {
                self.record(Event::AuthorizationAdjusted { amount });
            }
            State::Declined { reason } if self.is_open(Operation::Authorize) => {
                self.record(Event::Declined { reason: reason.clone() });
            }
            _ => {}
        }
    }

    /// By our names, and by the provider's where somebody else made them. Of two that were made by one name, by a
    /// provider that forgot its key, the second one has a name of its own, too: it is money that is gone.
    fn by_name(&self, refunds: &[Refund]) -> BTreeMap<String, (i64, RefundState)> {
        let mut stated: BTreeMap<String, (i64, RefundState)> = BTreeMap::new();
        // Always in the same order, whichever the provider lists first.
        let sorted: BTreeMap<&str, &Refund> =
            refunds.iter().map(|refund| (refund.reference.as_str(), refund)).collect();
        for (reference, refund) in sorted {
            let again = format!("{AGAIN}{reference}");
            let now = (refund.amount, refund.state);
            let name = refund.name.clone().filter(|_| !self.state.refunds.contains_key(&again));
            let name = match name {
                Some(name) => name,
                None if refund.name.is_some() => again.clone(),
                None => reference.to_owned(),
            };
            match stated.get(&name).map(|(_, state)| *state) {
                Some(RefundState::Done) if refund.state == RefundState::Done => {
                    stated.insert(again, now);
                }
                None | Some(RefundState::Failed) => drop(stated.insert(name, now)),
                Some(_) if refund.state == RefundState::Done => drop(stated.insert(name, now)),
                Some(_) => {}
            }
        }
        stated
    }

    fn refunds(&mut self, statement: &Statement) {
        for (refund, (amount, state)) in self.by_name(&statement.refunds) {
            let amount = self.money(amount);
            match (state, self.state.refunds.get(&refund).map(|known| known.step)) {
                (RefundState::Done, step) if step != Some(RefundStep::Done) => {
                    self.record(Event::Refunded { amount, refund });
                }
                (RefundState::Failed, Some(RefundStep::Done)) => {
                    self.record(Event::RefundReversed { refund, amount });
                }
                (RefundState::Failed, Some(RefundStep::Asked)) => self.refund_failed(refund, amount),
                _ => {}
            }
        }
    }

    fn refund_failed(&mut self, refund: String, amount: Money) {
        let reason = "failed_at_provider".to_owned();
        match &self.state.open {
            Some(open) if open.refund.as_ref() == Some(&refund) => {
                self.refused(reason, self.at + AGAIN_AFTER)
            }
            // It was given up before.
            _ => self.record(Event::RefundFailed { refund, amount, reason }),
        }
    }

    fn stray(&mut self, statement: &Statement) {
        let provider_reference = statement.reference.clone();
        let done = statement.refunds.iter().filter(|refund| refund.state == RefundState::Done);
        let refunded = done.fold(0_i64, |sum, refund| sum.saturating_add(refund.amount));
        let is_undone = match statement.state {
            State::Voided | State::Declined { .. } => true,
            State::Captured => refunded.saturating_add(statement.taken_back()) >= statement.captured,
            State::Processing | State::ActionRequired | State::Authorized => false,
        };
        let money = |amount| Money::new(amount, statement.currency);
        let open = self.state.open.as_ref().filter(|open| open.stray.as_ref() == Some(&provider_reference));
        let refund = open.and_then(|open| open.refund.as_ref());
        let is_under_way = refund.is_some_and(|refund| is_under_way(refund, statement));
        let left = statement.captured.saturating_sub(refunded).saturating_sub(statement.taken_back()).max(0);
        match self.state.strays.get(&provider_reference).copied() {
            Some(_) if is_undone => self.record(Event::StrayUndone { provider_reference }),
            known if !is_undone && !is_under_way && known != Some(left) => {
                let (authorized, captured) = (money(statement.authorized), money(left));
                self.record(Event::StrayFound { provider_reference, authorized, captured });
            }
            _ => {}
        }
    }

    /// What is to be asked for next, once nothing is open any more.
    pub(super) fn go_on(&mut self) {
        let waits_for_buyer = self.state.amounts.needs_buyer && self.is_open(Operation::Authorize);
        if waits_for_buyer && self.state.to_be_undone {
            // Nobody knows whether the buyer ever does it, so it is not waited for.
            self.record(Event::VoidRequested { at: Some(self.at), stray: None });
        }
        while self.state.open.is_none() {
            let Some(event) = self.next() else { return };
            self.record(event);
        }
    }

    /// How what was taken is given back, if somebody still asks for that.
    fn undo_next(&self) -> Option<Event> {
        let (amounts, at) = (&self.state.amounts, Some(self.at));
        if self.state.is_given_up || !self.state.to_be_undone {
            return None;
        }
        // Nobody knows whether the buyer ever does what they are to do, so it is not waited for.
        if amounts.is_capturable() || amounts.needs_buyer {
            return Some(Event::VoidRequested { at, stray: None });
        }
        let (amount, refund) = (self.money(amounts.kept()), self.state.free_name());
        (amounts.kept() > 0).then_some(Event::RefundRequested { amount, refund, at, stray: None })
    }

    /// The same for what was taken by a second payment.
    fn undo_stray_next(&self) -> Option<Event> {
        let at = Some(self.at);
        let mut wanted =
            self.state.strays.iter().filter(|(stray, _)| !self.state.strays_given_up.contains(*stray));
        let (stray, left) = wanted.next()?;
        let stray_name = Some(stray.clone());
        if *left == 0 {
            return Some(Event::VoidRequested { at, stray: stray_name });
        }
        let amount = self.money(*left);
        let refund = name_of_round(&format!("stray:{stray}"), self.state.rounds);
        Some(Event::RefundRequested { amount, refund, at, stray: stray_name })
    }

    fn capture_next(&self) -> Option<Event> {
        let capture = || self.state.capture(self.at).into_iter().next();
        self.state.is_capture_queued.then(capture).flatten()
    }

    fn refund_next(&self) -> Option<Event> {
        let (amounts, at) = (&self.state.amounts, Some(self.at));
        let mut all = self.state.refunds.iter();
        let (refund, queued) = all.find(|(_, known)| known.step == RefundStep::Queued)?;
        let (refund, amount) = (refund.clone(), self.money(queued.amount));
        if amounts.captured == 0 && !self.state.to_be_undone && !amounts.is_voided {
            return None;
        }
        Some(if amount.amount > amounts.kept() {
            Event::RefundFailed { refund, amount, reason: "more_than_was_captured".to_owned() }
        } else {
            Event::RefundRequested { amount, refund, at, stray: None }
        })
    }

    fn next(&self) -> Option<Event> {
        let next = self.undo_next().or_else(|| self.capture_next());
        next.or_else(|| self.undo_stray_next()).or_else(|| self.refund_next())
    }
}

/// The provider has it in its books, and has not carried it out.
fn is_under_way(refund: &str, statement: &Statement) -> bool {
    let mut refunds = statement.refunds.iter();
    refunds.any(|one| one.name.as_deref() == Some(refund) && one.state == RefundState::Processing)
}
