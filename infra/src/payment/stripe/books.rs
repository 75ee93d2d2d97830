//! Stripe's books: payments by id, by order and by time, with what moved of them.
//!
//! The list of a time has the payments that were made in it, and then those that a dispute was opened about in
//! it, which may be much older.

use chrono::{DateTime, Utc};
use domain::OrderId;
use domain::payment::Statement;
use futures_util::future::try_join_all;
use serde::de::DeserializeOwned;

use super::moves::{Dispute, Listed, Moves};
use super::objects::{Intent, List};
use super::{Stripe, checked};
use crate::payment::{Booked, NoAnswer, Page, Wanted};

/// Most objects of a page.
const PAGE_MAX: &str = "100";

/// Most pages that are read in search of an order's payment.
const PAGES_MAX: usize = 100;

/// Payments whose moves are read side by side, so that a page of them is read in time.
const READS: usize = 10;

/// Begins a cursor in the list of disputes.
const DISPUTES: &str = "disputes:";

impl Stripe {
    /// A payment with all that moved of it, if it is this order's.
    pub(super) async fn retrieve(&self, id: &str, order_id: OrderId) -> Result<Option<Statement>, NoAnswer> {
        let Some(intent) = self.intent(id).await? else { return Ok(None) };
        if intent.order_id() != Some(order_id) {
            tracing::warn!(order = %order_id, reference = id, "a payment was taken for this order's, and is not");
            return Ok(None);
        }
        let moves = self.moves(&intent, intent.is_captured()).await?;
        intent.statement(&moves).map(Some)
    }

    pub(super) async fn intent(&self, id: &str) -> Result<Option<Intent>, NoAnswer> {
        let path = format!("/v1/payment_intents/{}", checked(id)?);
        self.api.get(&path, &[("expand[]", "latest_charge")]).await
    }

    async fn moves(&self, intent: &Intent, with_refunds: bool) -> Result<Moves, NoAnswer> {
        let mut moves = Moves::default();
        if with_refunds {
            moves.refunds = self.all("/v1/refunds", &intent.id).await?;
        }
        if intent.is_disputed() {
            moves.disputes = self.all("/v1/disputes", &intent.id).await?;
        }
        Ok(moves)
    }

    /// All of one kind that belong to a payment.
    async fn all<T: DeserializeOwned + Listed>(&self, path: &str, id: &str) -> Result<Vec<T>, NoAnswer> {
        let mut all: Vec<T> = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut query = vec![("payment_intent", id), ("limit", PAGE_MAX)];
            let last = all.last().map(|object| object.id().to_owned());
            query.extend(last.as_deref().map(|last| ("starting_after", last)));
            let page: Option<List<T>> = self.api.get(path, &query).await?;
            let List { data, has_more } = page.ok_or_else(no_list)?;
            let is_last = !has_more || data.is_empty();
            all.extend(data);
            if is_last {
                return Ok(all);
            }
        }
        Err(NoAnswer("a payment of which more moved than can be read".to_owned()))
    }

    /// A page of what was made in this time, newest first.
    async fn made<T: DeserializeOwned>(
        &self,
        path: &str,
        (since, until): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        after: Option<&str>,
        expand: &[(&str, &str)],
    ) -> Result<List<T>, NoAnswer> {
        let seconds = |at: DateTime<Utc>| at.timestamp().to_string();
        let (since, until) = (since.map(seconds), until.map(seconds));
        let mut query = [&[("limit", PAGE_MAX)], expand].concat();
        query.extend(since.as_deref().map(|since| ("created[gte]", since)));
        query.extend(until.as_deref().map(|until| ("created[lte]", until)));
        query.extend(after.map(|after| ("starting_after", after)));
        self.api.get(path, &query).await?.ok_or_else(no_list)
    }

    async fn intents_made(
        &self,
        time: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        after: Option<&str>,
    ) -> Result<List<Intent>, NoAnswer> {
        self.made("/v1/payment_intents", time, after, &[("expand[]", "data.latest_charge")]).await
    }

    pub(super) async fn find(&self, wanted: Wanted<'_>) -> Result<Vec<Statement>, NoAnswer> {
        if let Some(id) = wanted.reference {
            return Ok(self.retrieve(id, wanted.order_id).await?.into_iter().collect());
        }
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let List { data, has_more } = self.intents_made((wanted.since, None), after.as_deref()).await?;
            for intent in data.iter().filter(|intent| intent.order_id() == Some(wanted.order_id)) {
                let moves = self.moves(intent, intent.may_have_refunds()).await?;
                found.push(intent.statement(&moves)?);
            }
            after = data.last().map(|last| last.id.clone());
            if !has_more || after.is_none() {
                return Ok(found);
            }
        }
        // Who has not seen all of it does not know that something is not there.
        Err(NoAnswer("there are more payments than can be looked through".to_owned()))
    }

    pub(super) async fn page(
        &self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        cursor: Option<&str>,
    ) -> Result<Page, NoAnswer> {
        let time = (Some(since), Some(until));
        if let Some(after) = cursor.and_then(|cursor| cursor.strip_prefix(DISPUTES)) {
            return self.disputed(time, Some(after).filter(|after| !after.is_empty())).await;
        }
        let List { data, has_more } = self.intents_made(time, cursor).await?;
        let last = data.last().filter(|_| has_more).map(|last| last.id.clone());
        let next = Some(last.unwrap_or_else(|| DISPUTES.to_owned()));
        Ok(Page { payments: self.booked(&data).await?, next })
    }

    /// A page of the payments that disputes were opened about in this time.
    async fn disputed(
        &self,
        time: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        after: Option<&str>,
    ) -> Result<Page, NoAnswer> {
        let List { data, has_more } = self.made::<Dispute>("/v1/disputes", time, after, &[]).await?;
        let mut intents = Vec::new();
        for some in data.chunks(READS) {
            let ids = some.iter().filter_map(|dispute| dispute.payment_intent.as_deref());
            intents.extend(try_join_all(ids.map(|id| self.intent(id))).await?.into_iter().flatten());
        }
        let last = data.last().filter(|_| has_more);
        let next = last.map(|last| format!("{DISPUTES}{}", last.id));
        Ok(Page { payments: self.booked(&intents).await?, next })
    }

    async fn booked(&self, intents: &[Intent]) -> Result<Vec<Booked>, NoAnswer> {
        let mut payments = Vec::new();
        for some in intents.chunks(READS) {
            let moves = some.iter().map(|intent| self.moves(intent, intent.may_have_refunds()));
            for (intent, moves) in some.iter().zip(try_join_all(moves).await?) {
                match intent.booked(&moves) {
                    Ok(booked) => payments.push(booked),
                    // One that no order here can have.
                    Err(error) => {
                        tracing::warn!(reference = intent.id, %error, "a payment was passed over");
                    }
                }
            }
        }
        Ok(payments)
    }
}

fn no_list() -> NoAnswer {
    NoAnswer("there is no list where one should be".to_owned())
}
