//! What products are offered for: from memory, as long as the log has nothing new about them.
//!
//! The log is followed for changes of products, so what is in memory may be behind it by as much as it takes to
//! hear of one: moments. For a quote or a checkout it is as new as the cart's last change at least, and for
//! everything as new as what was changed through this process. What is not, is read from the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::Sku;
use domain::cart::Offer;
use domain::product::{self, Product};
use infra::execute::{Executor, Loaded};
use infra::feed::{Entry, Feed};
use infra::known::{Change, Keep, Known, KnownAnswers};
use infra::log::ReadError;

/// There is only the log to read it from.
const MODEL: i32 = 0;

/// What a product is offered for.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    pub exists: bool,
    /// Nothing, if it is not for sale.
    pub offer: Option<Offer>,
}

impl Keep for Offered {
    // To ask again costs nats-server a block of its log, of products that were made long ago.
    const IS_FROM_THE_LOG: bool = true;

    fn change(commit: &Entry) -> Change<'_> {
        match commit.stream() {
            Some(stream) if stream.category() == product::CATEGORY => Change::Of(stream.id()),
            Some(_) => Change::Nothing,
            None => Change::OfAll,
        }
    }

    fn bytes(&self) -> usize {
        self.offer.as_ref().map_or(0, |offer| offer.title.len())
    }
}

#[derive(Default)]
pub(crate) struct Offers {
    known: KnownAnswers<Offered>,
    /// Position of the last product's change that came through this process.
    changed_at: AtomicU64,
}

impl Offers {
    /// What the product is offered for, at the position or later.
    pub async fn of(
        &self,
        sku: &Sku,
        position: u64,
        products: &Executor<Product>,
    ) -> Result<Arc<Known<Offered>>, ReadError> {
        let least = position.max(self.changed_at.load(Ordering::Acquire));
        // What there was not may be there by now, and whoever made it has been told.
        let known = self.known.get(sku.as_str(), MODEL, least).filter(|(known, _)| known.answer.exists);
        if let Some((known, _)) = known {
            return Ok(known);
        }
        // What is read from here on has all of that.
        let position = self.known.looked_at();
        let Loaded { state: product, sequence, .. } = products.load(sku).await?;
        let offer = product.offer().map(|(title, price)| Offer { title: title.to_owned(), price });
        let offered = Offered { exists: product.exists(), offer };
        let known = Arc::new(Known::new(offered, MODEL, position));
        // A replica that is behind the feed has answered, if a change that was heard of is not there.
        if sequence >= self.known.changed_at(sku.as_str()) {
            self.known.put(sku.as_str(), known.clone());
        }
        Ok(known)
    }

    /// A product was changed through this process, and is offered as it is now.
    pub fn changed(&self, position: u64) {
        self.changed_at.fetch_max(position, Ordering::AcqRel);
    }

    /// Follows the log for changes. Runs until it is dropped.
    pub async fn run(&self, feed: Arc<Feed>) {
        self.known.run(feed).await;
    }
}

#[cfg(test)]
mod tests {
    use domain::commit::Hash;
    use domain::product::{Command, Details};
    use domain::{CommandId, Money};
    use infra::clock::Clock;
    use infra::execute::{self, Request};
    use infra::log::{EventLog, MemoryLog};
    use infra::snapshots::{MemorySnapshots, Snapshots};
    use infra::writer::{self, Priority, Writer};
    use uuid::Uuid;

    use super::*;

    /// A process of its own.
    fn process(log: &MemoryLog) -> Executor<Product> {
        let writer = Writer::new(Arc::new(log.clone()), writer::Settings::default());
        let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
        let idempotency_keep = std::time::Duration::from_secs(60);
        let settings = execute::Settings { idempotency_keep, cached_aggregates_max: 100 };
        Executor::new(&writer, &snapshots, &Clock::system(), &settings)
    }

    fn gbp(amount: i64) -> Money {
        Money::new(amount, "GBP".parse().expect("a currency"))
    }

    fn mug() -> Sku {
        "MUG".parse().expect("a SKU")
    }

    async fn give(products: &Executor<Product>, command: Command) -> u64 {
        let id = CommandId(Uuid::now_v7());
        let request = Request {
            command_id: id,
            hash: Hash::of(b"asked"),
            actor: "test".into(),
            correlation: id,
            causation: None,
            trace_parent: None,
            expected_version: None,
            occurred_at: None,
            priority: Priority::Normal,
        };
        products.execute(&mug(), &request, command).await.expect("done").sequence
    }

    async fn create(products: &Executor<Product>) -> u64 {
        let details = Details {
            title: "A mug".into(),
            description: String::new(),
            brand: "Clayworth".into(),
            category: vec!["Mugs".into()],
            attributes: Default::default(),
            images: Vec::new(),
            gtins: Vec::new(),
        };
        give(products, Command::Create { sku: mug(), details, price: gbp(100) }).await
    }

    async fn price(offers: &Offers, position: u64, products: &Executor<Product>) -> Option<i64> {
        let known = offers.of(&mug(), position, products).await.expect("readable");
        known.answer.offer.as_ref().map(|offer| offer.price.amount)
    }

    #[tokio::test]
    async fn it_comes_from_memory_until_something_is_heard_of_it() {
        let log = MemoryLog::default();
        let (here, elsewhere) = (process(&log), process(&log));
        create(&elsewhere).await;
        let offers = Arc::new(Offers::default());
        let following = offers.clone();
        let feed = Feed::new(Arc::new(log.clone()));
        tokio::spawn(async move { following.run(feed).await });
        while offers.known.looked_at() == 0 {
            tokio::task::yield_now().await;
        }
        let first = offers.of(&mug(), 0, &here).await.expect("readable");
        let second = offers.of(&mug(), 0, &here).await.expect("readable");
        assert!(Arc::ptr_eq(&first, &second), "nothing was read again");
        let at = give(&elsewhere, Command::SetPrice { price: gbp(200) }).await;
        assert_eq!(price(&offers, at, &here).await, Some(200), "who knows of it does not wait for that");
        give(&elsewhere, Command::SetPrice { price: gbp(300) }).await;
        while price(&offers, 0, &here).await != Some(300) {
            tokio::task::yield_now().await;
        }
        give(&elsewhere, Command::Withdraw).await;
        while price(&offers, 0, &here).await.is_some() {
            tokio::task::yield_now().await;
        }
    }

    /// Nobody follows the log any more, so nothing is heard of what happens.
    #[tokio::test]
    async fn what_was_changed_here_or_did_not_exist_is_never_taken_from_memory() {
        let log = MemoryLog::default();
        let (here, elsewhere) = (process(&log), process(&log));
        let offers = Arc::new(Offers::default());
        let (following, feed) = (offers.clone(), Feed::new(Arc::new(log.clone())));
        let task = tokio::spawn(async move { following.run(feed).await });
        while offers.known.looked_at() == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(price(&offers, 0, &here).await, None);
        create(&elsewhere).await;
        assert_eq!(price(&offers, 0, &here).await, Some(100), "it is there by now");
        let at = give(&elsewhere, Command::SetPrice { price: gbp(200) }).await;
        assert_eq!(price(&offers, 0, &here).await, Some(100), "nothing was heard of it");
        offers.changed(at);
        assert_eq!(price(&offers, 0, &here).await, Some(200));
        assert_eq!(log.end().await.expect("an end"), at);
    }
}
