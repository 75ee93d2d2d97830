//! Servers, and a shop whose sagas are in a process of their own, to be killed.

use infra::log::{EventLog, JetStreamLog};
use sqlx::PgPool;

use crate::support::customer::Client;
use crate::support::eventually;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::Roles;

/// Without sagas, at first.
pub struct World {
    pub nats: Nats,
    pub database: String,
    pub log: JetStreamLog,
    pub pool: PgPool,
    pub client: Client,
    _shop: Roles,
}

impl World {
    pub async fn start() -> Self {
        Self::start_on(database_url().await).await
    }

    /// On a database of the caller's.
    pub async fn start_on(database: String) -> Self {
        let nats = Nats::start().await;
        let shop = Roles::start(nats.url(), &database, &["command-api", "query-api", "projections"]).await;
        let pool = PgPool::connect(&database).await.expect("Postgres answers");
        let client = Client::new(&shop.url, &database);
        let log = nats.log().await;
        Self { nats, database, log, pool, client, _shop: shop }
    }

    pub async fn roles(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Roles {
        Roles::start_with(self.nats.url(), &self.database, arguments, environment).await
    }

    /// Waits until the sagas have dealt with all that there is; where that ends.
    pub async fn settles(&self) -> u64 {
        let query = "select min(position) from cartulary.lanes where reader = 'sagas'";
        eventually("all is dealt with", async || {
            let end = self.log.end().await.expect("the log answers");
            // Before there are lanes, there is no table of them.
            let done: Option<i64> = sqlx::query_scalar(query).fetch_one(&self.pool).await.ok()?;
            (done == Some(end.cast_signed())).then_some(end)
        })
        .await
    }
}
