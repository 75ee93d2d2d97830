//! Full-text search: weighted fields, word stems, facets, and help with typing errors.

mod query;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use domain::product::{self, Details};
use domain::{Event, Money, stock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::catalog::{LEVELS, after};
use crate::insert;
use crate::projection::{Happened, Key, Projection, Writer};
use crate::rows::{self, ROW_BYTES, Rows, Table, storable};
use words::{known_words, plain};

pub use query::{Facet, Filter, Found, Hit, Place, search};

pub const NAME: &str = "search";

/// Characters of one text that can be searched: Postgres takes no more than 1 MB of words, and a
/// product with more must not stop the projection.
const TEXT_CHARS_MAX: usize = 50_000;

pub struct Search;

/// A row of `products`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Product {
    sku: String,
    details: Details,
    price: Money,
    for_sale: bool,
}

/// A row of `documents`, as texts that Postgres makes a vector of.
#[derive(Debug, PartialEq, Serialize)]
struct Document {
    sku: String,
    brand: String,
    category: String,
    amount: i64,
    title_words: usize,
    title: String,
    /// Brand and category.
    subject: String,
    attributes: String,
    description: String,
}

/// A row of `availability`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Availability {
    sku: String,
    on_hand: i64,
    held: i64,
}

/// What a batch does to the index.
#[derive(Default)]
struct IndexChanges {
    gone: Vec<String>,
    indexed: Vec<Document>,
    repriced: Vec<(String, i64)>,
    /// In how many more documents, or fewer, a word is.
    words: BTreeMap<String, i64>,
}

impl Projection for Search {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        1
    }

    fn categories(&self) -> &'static [&'static str] {
        &[product::CATEGORY, stock::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[("products", "sku"), ("documents", "sku"), ("availability", "sku"), ("words", "word")]
    }

    fn definition(&self) -> &'static str {
        "create table products (
             sku text collate \"C\" primary key,
             details jsonb not null,
             price jsonb not null,
             for_sale bool not null
         );
         create table documents (
             sku text collate \"C\" primary key,
             brand text collate \"C\" not null,
             category text collate \"C\" not null,
             amount bigint not null,
             title_words int not null,
             words tsvector not null
         );
         create table availability (
             sku text collate \"C\" primary key,
             on_hand bigint not null,
             held bigint not null
         ) with (fillfactor = 70);
         create table words (
             word text collate \"C\" primary key,
             documents bigint not null
         ) with (fillfactor = 80)"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &[
            "create index on documents using gin (words) with (gin_pending_list_limit = 1024)",
            "create index on words (length(word))",
        ]
    }

    /// Who has changed something looks for it in the catalog.
    fn interval_min(&self) -> Duration {
        Duration::from_millis(25)
    }

    /// How often a word occurs is fed by all products.
    fn lanes(&self) -> u64 {
        1
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        let is_ours = matches!(happened.event, Event::Product(_) | Event::Stock(_));
        is_ours.then(|| Key::Id(happened.stream.id()))
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(SearchWriter::default())
    }
}

#[derive(Default)]
struct SearchWriter {
    /// What is shown of a product, whether it's for sale or not.
    products: Rows<Product>,
    /// Apart from the texts, so that a sale does not index a product again.
    availability: Rows<Availability>,
}

impl Writer for SearchWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let of_products = batch.iter().filter(|happened| matches!(happened.event, Event::Product(_)));
            let skus = of_products.map(|happened| happened.stream.id().to_owned());
            self.products.load(skus, connection).await?;
            let of_stock = batch.iter().filter(|happened| matches!(happened.event, Event::Stock(_)));
            let skus = of_stock.map(|happened| happened.stream.id().to_owned());
            self.availability.load(skus, connection).await?;
            for happened in batch {
                let sku = happened.stream.id().to_owned();
                match happened.event {
                    Event::Product(event) => {
                        self.products.change(&sku, |product| fold(product, &sku, event));
                    }
                    Event::Stock(event) => {
                        let new = || Availability { sku: sku.clone(), ..Availability::default() };
                        self.availability.change(&sku, |row| {
                            let row = row.get_or_insert_with(new);
                            (row.on_hand, row.held) = after(event, row.on_hand, row.held);
                        });
                    }
                    Event::Cart(_) | Event::Order(_) | Event::Payment(_) => {}
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.products.pending_bytes() + self.availability.pending_bytes()
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let mut index = IndexChanges::default();
            self.products.changes().for_each(|(before, after)| index.note(before, after));
            self.products.store(transaction).await?;
            self.availability.store(transaction).await?;
            index.apply(transaction).await
        }
        .boxed()
    }
}

impl insert::Record for Product {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.text(&self.sku).jsonb(&self.details).jsonb(&self.price).bool(self.for_sale);
    }
}

impl rows::Row for Product {
    const TABLE: Table =
        Table { name: "products", key: "sku", key_type: "text", columns: &["details", "price", "for_sale"] };

    type Key = String;

    fn bytes(&self) -> usize {
        ROW_BYTES + self.details.bytes()
    }
}

impl insert::Record for Availability {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.text(&self.sku).int8(self.on_hand).int8(self.held);
    }
}

impl rows::Row for Availability {
    const TABLE: Table =
        Table { name: "availability", key: "sku", key_type: "text", columns: &["on_hand", "held"] };

    type Key = String;
}

fn fold(known: &mut Option<Product>, sku: &str, event: &product::Event) {
    if let product::Event::Created { details, price, .. } = event {
        let sku = sku.to_owned();
        *known = Some(Product { sku, details: details.clone(), price: *price, for_sale: true });
        return;
    }
    let Some(product) = known else { return };
    match event {
        product::Event::Created { .. } => {}
        product::Event::Changed(changes) => product.details.apply(changes),
        product::Event::PriceChanged { price, .. } => product.price = *price,
        product::Event::Withdrawn {} => product.for_sale = false,
    }
}

impl IndexChanges {
    fn note(&mut self, before: Option<&Product>, after: Option<&Product>) {
        let before = before.filter(|product| product.for_sale);
        let after = after.filter(|product| product.for_sale);
        if before.map(|product| &product.details) == after.map(|product| &product.details) {
            let repriced = after.filter(|after| before.is_some_and(|before| before.price != after.price));
            self.repriced.extend(repriced.map(|product| (product.sku.clone(), product.price.amount)));
            return;
        }
        for (product, documents) in [(before, -1), (after, 1)] {
            for word in product.iter().flat_map(|product| known_words(&product.details)) {
                *self.words.entry(word).or_default() += documents;
            }
        }
        match (before, after) {
            (_, Some(after)) => self.indexed.push(Document::of(after)),
            (Some(before), None) => self.gone.push(before.sku.clone()),
            (None, None) => {}
        }
    }

    async fn apply(self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.gone.is_empty() {
            let delete = sqlx::query("delete from documents where sku = any($1)").bind(self.gone);
            delete.execute(&mut *transaction).await?;
        }
        if !self.indexed.is_empty() {
            let documents = storable(&self.indexed)?;
            sqlx::query(INDEX).bind(documents).execute(&mut *transaction).await?;
        }
        if !self.repriced.is_empty() {
            let (skus, amounts): (Vec<String>, Vec<i64>) = self.repriced.into_iter().unzip();
            let update = "update documents set amount = new.amount
                          from unnest($1::text[], $2::bigint[]) as new (sku, amount)
                          where documents.sku = new.sku";
            sqlx::query(update).bind(skus).bind(amounts).execute(&mut *transaction).await?;
        }
        count_words(self.words, transaction).await
    }
}

/// A word that is in no document any more is forgotten, as if it had never been there.
async fn count_words(
    changes: BTreeMap<String, i64>,
    transaction: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let changes = changes.into_iter().filter(|(_, documents)| *documents != 0);
    let (words, documents): (Vec<String>, Vec<i64>) = changes.unzip();
    if words.is_empty() {
        return Ok(());
    }
    let fewer = documents.iter().any(|documents| *documents < 0);
    let upsert = "insert into words as known (word, documents) select * from unnest($1::text[], $2::bigint[])
                  on conflict (word) do update set documents = known.documents + excluded.documents";
    sqlx::query(upsert).bind(&words).bind(documents).execute(&mut *transaction).await?;
    if fewer {
        let forget = "delete from words where word = any($1) and documents <= 0";
        sqlx::query(forget).bind(words).execute(transaction).await?;
    }
    Ok(())
}

impl Document {
    fn of(product: &Product) -> Self {
        let Product { sku, details, price, .. } = product;
        let plain = |text: &str| plain(text, TEXT_CHARS_MAX);
        let title = plain(&details.title);
        let codes = format!("{sku} {}", details.gtins.join(" "));
        let attributes = details.attributes.iter().map(|(name, value)| format!("{name} {value}"));
        Self {
            sku: sku.clone(),
            brand: details.brand.clone(),
            category: details.category.join(LEVELS),
            amount: price.amount,
            title_words: title.split_whitespace().count(),
            title: format!("{title} {}", plain(&codes)),
            subject: plain(&format!("{} {}", details.brand, details.category.join(" "))),
            attributes: plain(&attributes.collect::<Vec<_>>().join("\n")),
            description: plain(&details.description),
        }
    }
}

const INDEX: &str = "
    insert into documents (sku, brand, category, amount, title_words, words)
    select sku, brand, category, amount, title_words,
           setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', subject), 'B')
           || setweight(to_tsvector('english', attributes), 'C') || setweight(to_tsvector('english', description), 'D')
    from jsonb_to_recordset($1::text::jsonb) as new (sku text, brand text, category text, amount bigint, title_words int,
                                        title text, subject text, attributes text, description text)
    on conflict (sku) do update set
        brand = excluded.brand, category = excluded.category, amount = excluded.amount,
        title_words = excluded.title_words, words = excluded.words";
