//! What the buyers' banks do by themselves: authorisations expire, and money is taken back.

use domain::payment::{Operation, State, Statement};
use infra::payment::signal_about;

use super::provider::statements;
use super::world::World;
use super::*;

impl World {
    /// Authorisations expire, and banks take money back; of that, the provider tells until somebody has heard it.
    pub async fn banks(self: Arc<Self>, mut random: fastrand::Rng) {
        loop {
            tokio::time::sleep(Duration::from_secs(random.u64(1..200))).await;
            if self.calm.is_calm() {
                return;
            }
            let order_id = OrderId(Uuid::from_u128(2_100 + random.u128(0..BUYERS)));
            let changed = match random.bool() {
                true => self.provider.expire(order_id),
                false => self.provider.charge_back(order_id, random.u32(1..=4)),
            };
            for reference in changed {
                let signal = signal_about(order_id, &reference, self.clock.now());
                while self.timers.set(&signal).await.is_err() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Provider {
    /// What was authorised and not captured expires, as it does after days: the payments that did.
    fn expire(&self, order_id: OrderId) -> Vec<String> {
        let mut ledger = self.ledger.lock().expect("no panic");
        let now = self.clock.now();
        let mut expired = statements(&ledger, order_id, now);
        // What is under way already comes first.
        let is_free = |reference: &str| {
            let mut lines = ledger.values().filter(|line| line.reference == reference && !line.declined);
            lines.all(|line| line.operation == Operation::Authorize)
        };
        expired.retain(|one| one.state == State::Authorized && is_free(&one.reference));
        for Statement { reference, currency, authorized, .. } in &expired {
            let expiry = Booked {
                id: format!("{reference}/expired"),
                order_id,
                operation: Operation::Void,
                amount: Money::new(*authorized, *currency),
                declined: false,
                reference: reference.clone(),
                refund: None,
                challenge: None,
                made_at: now,
                settles_at: now,
                charged_back: 0,
            };
            ledger.insert(expiry.id.clone(), expiry);
            self.counts.note("an authorisation expires");
        }
        expired.into_iter().map(|one| one.reference).collect()
    }

    /// The buyer's bank takes back some of what is left, or all of it; of these payments.
    fn charge_back(&self, order_id: OrderId, part: u32) -> Vec<String> {
        let mut ledger = self.ledger.lock().expect("no panic");
        let mut taken_back = Vec::new();
        for Statement { reference, captured, refunds, charged_back, .. } in
            statements(&ledger, order_id, self.clock.now())
        {
            let refunded: i64 = refunds.iter().map(|refund| refund.amount).sum();
            let left = captured - refunded - charged_back;
            let is_it = |booked: &&mut Booked| {
                booked.operation == Operation::Authorize && booked.reference == reference
            };
            if left > 0
                && let Some(made) = ledger.values_mut().find(is_it)
            {
                made.charged_back += (left * i64::from(part) + 3) / 4;
                self.counts.note("money is taken back by the buyer's bank");
                taken_back.push(reference);
            }
        }
        taken_back
    }
}
