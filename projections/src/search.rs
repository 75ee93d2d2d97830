//! Full-text search: weighted fields, word stems, facets, and help with typing errors.

mod query;

use std::collections::BTreeMap;

use domain::product::{self, Details};
use domain::{Event, Money, stock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::catalog::{LEVELS, after};
use crate::projection::{Happened, Projection};
use crate::rows::Table;

pub use query::{Facet, Filter, Found, Hit, Place, search};

pub const NAME: &str = "search";

const DOCUMENTS: Table = Table {
    name: "documents",
    key: "sku",
    columns: &[
        "title",
        "brand",
        "category",
        "codes",
        "attributes",
        "description",
        "details",
        "price",
        "for_sale",
    ],
};

/// Apart from the texts, so that a sale does not index a product again.
const AVAILABILITY: Table = Table { name: "availability", key: "sku", columns: &["on_hand", "held"] };

pub struct Search;

/// A row of `documents`: the texts that are searched, and the details that are shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Document {
    sku: String,
    title: String,
    brand: String,
    category: String,
    codes: String,
    attributes: String,
    description: String,
    details: Details,
    price: Money,
    for_sale: bool,
}

/// A row of `availability`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Availability {
    sku: String,
    on_hand: i64,
    held: i64,
}

impl Projection for Search {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["documents", "availability", "words"]
    }

    fn definition(&self) -> &'static str {
        "create table documents (
             sku text collate \"C\" primary key,
             title text not null,
             brand text not null,
             category text collate \"C\" not null,
             codes text not null,
             attributes text not null,
             description text not null,
             details jsonb not null,
             price jsonb not null,
             for_sale bool not null,
             words tsvector not null generated always as (
                 setweight(to_tsvector('english', title), 'A')
                 || setweight(to_tsvector('english', codes), 'A')
                 || setweight(to_tsvector('english', brand || ' ' || replace(category, '>', ' ')), 'B')
                 || setweight(to_tsvector('english', attributes), 'C')
                 || setweight(to_tsvector('english', description), 'D')
             ) stored
         );
         create index on documents using gin (words) with (fastupdate = off) where for_sale;
         create table availability (
             sku text collate \"C\" primary key,
             on_hand bigint not null,
             held bigint not null
         ) with (fillfactor = 70);
         create table words (
             word text collate \"C\" primary key,
             documents bigint not null
         );
         create index on words (length(word))"
    }

    fn apply<'a>(
        &'a self,
        batch: &'a [Happened],
        transaction: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            apply_documents(batch, transaction).await?;
            apply_availability(batch, transaction).await
        }
        .boxed()
    }
}

async fn apply_documents(batch: &[Happened], transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    let ours: Vec<(&str, &product::Event)> = batch
        .iter()
        .filter_map(|happened| match &happened.event {
            Event::Product(event) => Some((happened.stream.id(), event)),
            _ => None,
        })
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<_> = ours.iter().map(|(sku, _)| (*sku).to_owned()).collect();
    keys.sort_unstable();
    keys.dedup();
    count_words(&keys, -1, transaction).await?;
    let mut documents: BTreeMap<String, Document> = DOCUMENTS.load(&keys, transaction).await?;
    for (sku, event) in ours {
        fold(&mut documents, sku, event);
    }
    DOCUMENTS.store(documents.values(), transaction).await?;
    count_words(&keys, 1, transaction).await
}

async fn apply_availability(batch: &[Happened], transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    let ours: Vec<(&str, &stock::Event)> = batch
        .iter()
        .filter_map(|happened| match &happened.event {
            Event::Stock(event) => Some((happened.stream.id(), event)),
            _ => None,
        })
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = ours.iter().map(|(sku, _)| (*sku).to_owned()).collect();
    let mut rows: BTreeMap<String, Availability> = AVAILABILITY.load(&keys, transaction).await?;
    for (sku, event) in ours {
        let new = || Availability { sku: sku.to_owned(), ..Availability::default() };
        let row = rows.entry(sku.to_owned()).or_insert_with(new);
        (row.on_hand, row.held) = after(event, row.on_hand, row.held);
    }
    AVAILABILITY.store(rows.values(), transaction).await
}

/// Adds the words of these documents to the known ones, or takes them away.
async fn count_words(skus: &[String], times: i64, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into words as known (word, documents)
         select word, $2 * count(*)
         from documents, unnest(tsvector_to_array(to_tsvector('simple',
             title || ' ' || brand || ' ' || category || ' ' || description))) as word
         where sku = any($1) and for_sale and length(word) between 3 and 40
         group by word order by word
         on conflict (word) do update set documents = known.documents + excluded.documents",
    )
    .bind(skus)
    .bind(times)
    .execute(transaction)
    .await?;
    Ok(())
}

fn fold(documents: &mut BTreeMap<String, Document>, sku: &str, event: &product::Event) {
    match event {
        product::Event::Created { details, price, .. } => {
            documents.insert(sku.to_owned(), Document::new(sku, details.clone(), *price));
        }
        product::Event::Changed(changes) => {
            if let Some(document) = documents.get_mut(sku) {
                let mut details = document.details.clone();
                details.apply(changes);
                *document =
                    Document { for_sale: document.for_sale, ..Document::new(sku, details, document.price) };
            }
        }
        product::Event::PriceChanged { price, .. } => {
            if let Some(document) = documents.get_mut(sku) {
                document.price = *price;
            }
        }
        product::Event::Withdrawn {} => {
            if let Some(document) = documents.get_mut(sku) {
                document.for_sale = false;
            }
        }
    }
}

impl Document {
    fn new(sku: &str, details: Details, price: Money) -> Self {
        let attributes = details.attributes.iter().map(|(name, value)| format!("{name} {value}"));
        Self {
            sku: sku.to_owned(),
            title: details.title.clone(),
            brand: details.brand.clone(),
            category: details.category.join(LEVELS),
            codes: format!("{sku} {}", details.gtins.join(" ")),
            attributes: attributes.collect::<Vec<_>>().join("\n"),
            description: details.description.clone(),
            details,
            price,
            for_sale: true,
        }
    }
}
