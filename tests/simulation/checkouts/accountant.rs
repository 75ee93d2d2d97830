//! Who compares the provider's books with the log: now and then while things go wrong, and once in the end.

use futures_util::future::BoxFuture;
use sagas::reconcile::{self, Difference, Report};

use super::world::World;
use super::*;

/// How much younger the payments are that the provider does not list yet, at most.
pub const LISTED_LATE_MAX_S: u64 = 60;

/// What was found.
struct Findings {
    counts: Counts,
    differences: Vec<String>,
}

impl Report for Findings {
    fn progress(&mut self, _: usize) -> BoxFuture<'_, Result<(), reconcile::Error>> {
        async { Ok(()) }.boxed()
    }

    fn difference<'a>(
        &'a mut self,
        _: &'static str,
        found: &'a Difference,
    ) -> BoxFuture<'a, Result<(), reconcile::Error>> {
        self.counts.note(match found.is_repaired {
            true => "a difference is repaired",
            false => "a difference is reported",
        });
        self.differences.push(format!("{found:?}"));
        async { Ok(()) }.boxed()
    }
}

impl World {
    /// Compares while things go wrong, and may die of it.
    pub async fn reconciliation(self: Arc<Self>, mut random: fastrand::Rng) {
        while !self.calm.is_calm() {
            tokio::time::sleep(Duration::from_secs(random.u64(20..120))).await;
            let leave = Duration::from_secs(LISTED_LATE_MAX_S + random.u64(0..60));
            let dies = Duration::from_millis(random.u64(100..3_000));
            let compared = self.compare(random.fork(), leave);
            match tokio::time::timeout(dies, compared).await {
                Ok(Ok(_)) => self.counts.note("the books are compared"),
                Ok(Err(_)) => self.counts.note("the books are not compared to the end"),
                Err(_) => self.counts.note("who compares the books dies"),
            }
        }
    }

    /// What differs now between the provider's books and the log, and is repaired if it can be. What is younger
    /// is left alone.
    pub async fn compare(
        &self,
        random: fastrand::Rng,
        leave: Duration,
    ) -> Result<Vec<String>, reconcile::Error> {
        let sagas = self.sagas(random, &Nap::default());
        let mut findings = Findings { counts: self.counts.clone(), differences: Vec::new() };
        let until = self.clock.now() - leave;
        for provider in sagas.providers.all() {
            sagas.compare(provider.as_ref(), DateTime::UNIX_EPOCH, until, &mut findings).await?;
        }
        Ok(findings.differences)
    }
}
