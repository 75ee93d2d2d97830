//! From the log to Postgres: each projection owns its tables, and is a pure function of the log.

pub mod carts;
pub mod catalog;
pub mod orders;
pub mod projection;
mod rows;
pub mod runner;
pub mod search;

use std::sync::Arc;

use sqlx::PgPool;

pub use projection::{Projection, migrate};
pub use runner::{Status, run};

/// All projections of this build.
#[must_use]
pub fn all() -> Vec<Arc<dyn Projection>> {
    vec![
        Arc::new(catalog::Catalog),
        Arc::new(search::Search),
        Arc::new(orders::Orders),
        Arc::new(carts::Carts),
    ]
}

/// Makes the tables of all projections where there are none yet.
///
/// # Errors
/// Postgres does not answer or does not accept them.
pub async fn migrate_all(pool: &PgPool) -> Result<(), sqlx::Error> {
    infra::checkpoint::migrate(pool).await?;
    for projection in all() {
        migrate(projection.as_ref(), pool).await?;
    }
    Ok(())
}
