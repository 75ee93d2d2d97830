//! What the log has of payments.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::{CATEGORY, State, Statement, Status};
use futures_util::StreamExt;
use infra::log::{self, ReadError};
use infra::payment::Wanted;

use super::tables::{Difference, Kind};
use super::{Comparison, Error};
use crate::work::Sagas;

impl Comparison<'_> {
    /// Compares one of our payments that the provider did not list: it may be older than the list.
    pub(super) async fn ours(&mut self, order_id: OrderId) -> Result<(), Error> {
        let loaded = self.sagas.executors.payments.load(order_id).await.map_err(Error::log)?;
        let payment = &loaded.state;
        if payment.method().is_none_or(|method| method.method != self.provider.name()) {
            return Ok(());
        }
        let plain = Difference {
            kind: Kind::Unresolved,
            order_id: Some(order_id.0),
            reference: payment.provider_reference().unwrap_or_default().to_owned(),
            amount: payment.requested().map_or(0, |money| money.amount),
            currency: payment.requested().map_or("", |money| money.currency.code()).to_owned(),
            what: String::new(),
            is_repaired: false,
        };
        if let Some(reference) = payment.provider_reference() {
            let wanted = Wanted { order_id, reference: Some(reference), since: None };
            let found: Vec<Statement> = self.provider.look_up(wanted).await?;
            let status = payment.status();
            if found.is_empty() && !matches!(status, Status::Declined | Status::Voided) {
                let what = format!("the log says {}", status.code());
                return self.report(Difference { kind: Kind::Absent, what, ..plain }).await;
            }
            for statement in found.iter().filter(|statement| statement.state != State::Processing) {
                let news = self.observe(order_id, &loaded, statement).await?;
                if news.is_empty() {
                    self.given_up(order_id, payment, statement).await?;
                } else {
                    let (what, is_repaired) = (news.join(", "), true);
                    let missed = Difference { kind: Kind::Missed, what, is_repaired, ..plain.clone() };
                    self.report(missed).await?;
                }
            }
        }
        let payment = self.sagas.executors.payments.load(order_id).await.map_err(Error::log)?.state;
        let Some(request) = payment.open_request(order_id) else { return Ok(()) };
        let review_after = self.sagas.settings.patience.review_after;
        if request.open.asked_at.is_some_and(|asked_at| self.until - asked_at > review_after) {
            let what = format!("{} without an outcome", request.open.operation.code());
            self.report(Difference { what, ..plain }).await?;
        }
        Ok(())
    }
}

impl Sagas {
    /// Orders to whose payments something happened in this time.
    pub(super) async fn with_news(
        &self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<BTreeSet<OrderId>, Error> {
        let log = self.feed.log();
        let first = log::first_at(log.as_ref(), since).await.map_err(Error::log)?;
        let end = log::first_at(log.as_ref(), until).await.map_err(Error::log)?;
        let mut found = BTreeSet::new();
        if first >= end {
            return Ok(found);
        }
        let mut commits = log.follow(first - 1);
        while let Some(stored) = commits.next().await {
            let (sequence, stream) = match stored {
                Ok(stored) => (stored.sequence, Some(stored.commit.stream)),
                // What this build can't read still says whose it is; the stream of commits ends with it.
                Err(ReadError::Unreadable { sequence, stream, .. }) => {
                    commits = log.follow(sequence);
                    (sequence, stream)
                }
                Err(error) => return Err(Error::log(error)),
            };
            if let Some(stream) = stream.filter(|stream| stream.category() == CATEGORY) {
                found.extend(stream.id().parse::<OrderId>());
            }
            if sequence + 1 >= end {
                return Ok(found);
            }
        }
        Err(Error::log("it ended while it was read"))
    }
}
