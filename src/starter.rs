//! The starter catalogue: what an empty shop is filled with, so that there is something to see.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use crate::import::Client;
use crate::import::catalogue::{self, Settings};
use crate::import::progress::Progress;

/// Invented products in the project's own form, one a line.
const CATALOGUE: &[u8] = include_bytes!("starter/catalogue.jsonl");

/// A product of it that the examples buy.
pub const EXAMPLE_SKU: &str = "LUN-HP-200";

/// Fills an empty shop; one whose filling was interrupted is filled up.
///
/// # Errors
/// The shop does not take it.
pub async fn seed(data_dir: &Path, url: &str, shop_is_empty: bool) -> anyhow::Result<()> {
    let marker = data_dir.join("seeding");
    if shop_is_empty {
        std::fs::write(&marker, "the starter catalogue is being brought in\n")?;
    } else if !marker.exists() {
        return Ok(());
    }
    let settings = Settings { currency: "GBP".parse()?, stock: 0, concurrency: 16 };
    let progress = Arc::new(Progress::quiet());
    let summary = catalogue::import(&Client::new(url)?, Box::new(CATALOGUE), &settings, &progress).await?;
    anyhow::ensure!(summary.bad == 0, "the starter catalogue has bad lines: {summary}");
    tracing::info!("the shop was empty; brought in {summary}");
    std::fs::remove_file(&marker).context("the marker of an unfinished start stays")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::import::forms;

    #[test]
    fn the_catalogue_is_a_shop() {
        let mut categories: BTreeMap<String, u32> = BTreeMap::new();
        let mut skus = BTreeSet::new();
        for line in CATALOGUE.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let (product, stock) = forms::parse(line, "EUR".parse().unwrap()).unwrap();
            assert!(
                stock.is_some() && product.description.len() > 60 && product.attributes.len() >= 3,
                "{product:?}"
            );
            assert!(product.gtins.iter().all(|gtin| domain::product::is_gtin(gtin)), "{product:?}");
            *categories.entry(product.category[0].clone()).or_default() += 1;
            assert!(skus.insert(product.sku.to_string()), "{} is there twice", product.sku);
        }
        assert!(skus.len() >= 60 && categories.len() == 8, "{categories:?}");
        assert!(skus.contains(EXAMPLE_SKU));
    }
}
