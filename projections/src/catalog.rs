//! The catalogue: every product with its price and what is available of it.

use domain::product::Details;
use domain::{Event, Money, product, stock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::read_models::ReadModel;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};

use crate::insert;
use crate::projection::{Happened, Key, Projection, Writer};
use crate::rows::{self, ROW_BYTES, Rows, Table};

pub const NAME: &str = "catalog";

/// Separates the levels of a category.
pub const LEVELS: &str = ">";

pub struct Catalog;

/// A row of `products`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    sku: String,
    /// `Audio>Headphones`
    category: String,
    details: Option<Details>,
    price: Option<Money>,
    for_sale: bool,
    version: u64,
    stock_version: u64,
    on_hand: i64,
    held: i64,
}

impl insert::Record for Row {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.text(&self.sku)
            .text(&self.category)
            .optional(self.details.as_ref(), |row, details| row.jsonb(details))
            .optional(self.price, |row, price| row.jsonb(&price))
            .bool(self.for_sale)
            .int8(self.version.cast_signed())
            .int8(self.stock_version.cast_signed())
            .int8(self.on_hand)
            .int8(self.held);
    }
}

impl rows::Row for Row {
    const TABLE: Table = Table {
        name: "products",
        key: "sku",
        key_type: "text",
        columns: &["category", "details", "price", "for_sale", "version", "stock_version", "on_hand", "held"],
    };

    type Key = String;

    fn bytes(&self) -> usize {
        ROW_BYTES + self.details.as_ref().map_or(0, Details::bytes)
    }
}

impl Projection for Catalog {
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
        &[("products", "sku")]
    }

    fn definition(&self) -> &'static str {
        "create table products (
             sku text collate \"C\" primary key,
             category text collate \"C\" not null,
             details jsonb,
             price jsonb,
             for_sale bool not null,
             version bigint not null,
             stock_version bigint not null,
             on_hand bigint not null,
             held bigint not null
         ) with (fillfactor = 80)"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &[
            "create index on products (category, sku) where for_sale",
            "create index on products ((details ->> 'brand'), sku) where for_sale",
        ]
    }

    fn lanes(&self) -> u64 {
        1
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        let is_ours = matches!(happened.event, Event::Product(_) | Event::Stock(_));
        is_ours.then(|| Key::Id(happened.stream.id()))
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(CatalogWriter::default())
    }
}

#[derive(Default)]
struct CatalogWriter {
    products: Rows<Row>,
}

impl Writer for CatalogWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let skus = batch.iter().map(|happened| happened.stream.id().to_owned());
            self.products.load(skus, connection).await?;
            for happened in batch {
                let sku = happened.stream.id().to_owned();
                self.products.change(&sku.clone(), |product| {
                    product.get_or_insert_with(|| Row { sku, ..Row::default() }).fold(happened);
                });
            }
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.products.pending_bytes()
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        self.products.store(transaction).boxed()
    }
}

impl Row {
    fn fold(&mut self, happened: &Happened<'_>) {
        match happened.event {
            Event::Product(event) => {
                self.version = happened.version;
                self.product(event);
            }
            Event::Stock(event) => {
                self.stock_version = happened.version;
                (self.on_hand, self.held) = after(event, self.on_hand, self.held);
            }
            Event::Cart(_) | Event::Order(_) | Event::Payment(_) => {}
        }
    }

    fn product(&mut self, event: &product::Event) {
        match event {
            product::Event::Created { details, price, .. } => {
                self.details = Some(details.clone());
                self.price = Some(*price);
                self.for_sale = true;
            }
            product::Event::Changed(changes) => {
                if let Some(details) = &mut self.details {
                    details.apply(changes);
                }
            }
            product::Event::PriceChanged { price, .. } => self.price = Some(*price),
            product::Event::Withdrawn {} => self.for_sale = false,
        }
        self.category =
            self.details.as_ref().map(|details| details.category.join(LEVELS)).unwrap_or_default();
    }
}

/// What is on hand and what is held of it after the event.
pub(crate) fn after(event: &stock::Event, on_hand: i64, held: i64) -> (i64, i64) {
    let units = |quantity: &u32| i64::from(*quantity);
    match event {
        stock::Event::Received { quantity }
        | stock::Event::Returned { quantity, .. }
        | stock::Event::Opened { quantity, .. } => (on_hand.saturating_add(units(quantity)), held),
        stock::Event::Dispatched { quantity, .. } => {
            (on_hand.saturating_sub(units(quantity)).max(held), held)
        }
        stock::Event::Adjusted { delta, .. } => (on_hand.saturating_add(*delta), held),
        stock::Event::Reserved { quantity, .. } => (on_hand, held.saturating_add(units(quantity))),
        stock::Event::ReservationRefused { .. } => (on_hand, held),
        stock::Event::Released { quantity, .. } => (on_hand, held.saturating_sub(units(quantity))),
        stock::Event::Sold { quantity, .. } => {
            (on_hand.saturating_sub(units(quantity)), held.saturating_sub(units(quantity)))
        }
    }
}

/// A product as it can be bought.
#[derive(Debug, Clone, FromRow)]
pub struct Product {
    pub sku: String,
    pub details: Json<Details>,
    pub price: Json<Money>,
    pub available: i64,
    pub version: i64,
    pub stock_version: i64,
}

/// What is wanted of the catalogue.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub brand: Option<String>,
    /// `Audio>Headphones`, or `Audio` with all below it.
    pub category: Option<String>,
    /// Only after this SKU.
    pub after: Option<String>,
    pub limit: i64,
}

/// The product, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn product(
    pool: &PgPool,
    model: &ReadModel,
    sku: &str,
) -> Result<(Option<Product>, u64), sqlx::Error> {
    #[derive(FromRow)]
    struct At {
        log_position: i64,
        #[sqlx(flatten)]
        product: Maybe,
    }
    #[derive(FromRow)]
    struct Maybe {
        sku: Option<String>,
        details: Option<Json<Details>>,
        price: Option<Json<Money>>,
        available: Option<i64>,
        version: Option<i64>,
        stock_version: Option<i64>,
    }
    let At { log_position, product } = sqlx::query_as(model.sql(
        "select (select coalesce(min(position), 0) from cartulary.lanes where reader = $2) as log_position,
                sku, details, price, on_hand - held as available, version, stock_version
         from (select) as nothing left join {schema}.products on sku = $1 and for_sale",
    ))
    .bind(sku)
    .bind(model.schema())
    .fetch_one(pool)
    .await?;
    let product = || {
        Some(Product {
            sku: product.sku?,
            details: product.details?,
            price: product.price?,
            available: product.available?,
            version: product.version?,
            stock_version: product.stock_version?,
        })
    };
    Ok((product(), log_position.cast_unsigned()))
}

/// Products in the order of their SKUs, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn products(
    pool: &PgPool,
    model: &ReadModel,
    filter: &Filter,
) -> Result<(Vec<Product>, u64), sqlx::Error> {
    let mut snapshot = model.snapshot(pool).await?;
    let products = sqlx::query_as(snapshot.sql(
        "select sku, details, price, on_hand - held as available, version, stock_version
         from {schema}.products
         where for_sale
           and ($1::text is null or details ->> 'brand' = $1)
           and ($2::text is null or category = $2 or (category >= $2 || '>' and category < $2 || '?'))
           and ($3::text is null or sku > $3)
         order by sku limit $4",
    ))
    .bind(&filter.brand)
    .bind(&filter.category)
    .bind(&filter.after)
    .bind(filter.limit)
    .fetch_all(snapshot.connection())
    .await?;
    let position = snapshot.position().await?;
    Ok((products, position))
}

/// How many products each category has for sale, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn categories(pool: &PgPool, model: &ReadModel) -> Result<(Vec<(String, i64)>, u64), sqlx::Error> {
    let mut snapshot = model.snapshot(pool).await?;
    let counts = "select category, count(*) from {schema}.products where for_sale group by category";
    let counts = sqlx::query_as(snapshot.sql(counts)).fetch_all(snapshot.connection()).await?;
    let position = snapshot.position().await?;
    Ok((counts, position))
}
