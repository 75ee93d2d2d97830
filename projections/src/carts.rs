//! Carts, with the prices of the moment.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use domain::totals::Totals;
use domain::{Event, Money, QuoteId, Sku, cart, product};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::read_models::ReadModel;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::insert;
use crate::projection::{Happened, Key, Projection, Writer};
use crate::rows::{self, ROW_BYTES, Rows, Table, storable};

pub const NAME: &str = "carts";

pub struct Carts;

/// What a SKU and its quantity take, about.
const UNIT_BYTES: usize = 64;

/// A row of `carts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CartRow {
    id: Uuid,
    /// While it's checked out.
    order_id: Option<Uuid>,
    version: u64,
    quote: Option<QuoteRow>,
}

/// The cart's last quote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct QuoteRow {
    #[serde(flatten)]
    quote: Quoted,
    /// The units that it is for; nothing, once the cart has had others.
    units: Option<BTreeMap<Sku, u32>>,
}

/// A quote, as it is shown with its cart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quoted {
    pub quote_id: QuoteId,
    pub country: String,
    pub region: Option<String>,
    pub totals: Totals,
    pub expires_at: DateTime<Utc>,
}

impl QuoteRow {
    fn new(quote: &cart::Quote) -> Self {
        let cart::Quote { quote_id, totals, country, region, expires_at, lines, .. } = quote;
        let (country, region, totals) = (country.clone(), region.clone(), totals.clone());
        let (quote_id, expires_at) = (*quote_id, *expires_at);
        let units = lines.iter().map(|line| (line.sku.clone(), line.quantity)).collect();
        Self { quote: Quoted { quote_id, country, region, totals, expires_at }, units: Some(units) }
    }

    /// As long as the cart has only had what the quote is for, that tells what is in it.
    fn line_is(&mut self, sku: &Sku, quantity: u32) {
        self.units.take_if(|units| units.get(sku) != Some(&quantity));
    }
}

/// A row of `products`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct ProductRow {
    sku: String,
    title: String,
    price: Option<Money>,
    for_sale: bool,
}

/// A row of `lines`.
#[derive(Debug, Serialize)]
struct LineRow {
    cart_id: Uuid,
    sku: String,
    quantity: u32,
    /// Position in the log at which it came into the cart.
    added: u64,
}

/// What a batch does to the lines.
#[derive(Default)]
struct LineChanges {
    removed: BTreeSet<(Uuid, String)>,
    set: BTreeMap<(Uuid, String), LineRow>,
}

impl Projection for Carts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        2
    }

    fn categories(&self) -> &'static [&'static str] {
        &[cart::CATEGORY, product::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[("carts", "id"), ("lines", "cart_id, sku"), ("products", "sku")]
    }

    fn definition(&self) -> &'static str {
        "create table carts (
             id uuid primary key,
             order_id uuid,
             version bigint not null,
             quote jsonb
         ) with (fillfactor = 50);
         create table lines (
             cart_id uuid,
             sku text collate \"C\",
             quantity int not null,
             added bigint not null,
             primary key (cart_id, sku)
         ) with (fillfactor = 80);
         create table products (
             sku text collate \"C\" primary key,
             title text not null,
             price jsonb,
             for_sale bool not null
         )"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &[]
    }

    fn lanes(&self) -> u64 {
        1
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        let is_ours = matches!(happened.event, Event::Cart(_) | Event::Product(_));
        is_ours.then(|| Key::Id(happened.stream.id()))
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(CartsWriter::default())
    }
}

#[derive(Default)]
struct CartsWriter {
    carts: Rows<CartRow>,
    lines: LineChanges,
    /// Titles and prices, so that a cart is shown from one read model at one position.
    products: Rows<ProductRow>,
}

impl Writer for CartsWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let skus = batch.iter().filter(|happened| matches!(happened.event, Event::Product(_)));
            let skus = skus.map(|happened| happened.stream.id().to_owned());
            self.products.load(skus, connection).await?;
            self.carts.load(batch.iter().filter_map(cart_of), connection).await?;
            for happened in batch {
                match happened.event {
                    Event::Product(event) => self.product(happened.stream.id(), event),
                    Event::Cart(event) => self.cart(happened, event),
                    Event::Stock(_) | Event::Order(_) | Event::Payment(_) => {}
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.carts.pending_bytes() + self.products.pending_bytes() + self.lines.pending_bytes()
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            self.products.store(transaction).await?;
            self.carts.store(transaction).await?;
            std::mem::take(&mut self.lines).store(transaction).await
        }
        .boxed()
    }
}

fn cart_of(happened: &Happened<'_>) -> Option<Uuid> {
    match happened.event {
        Event::Cart(_) => happened.stream.id().parse().ok(),
        Event::Product(_) | Event::Stock(_) | Event::Order(_) | Event::Payment(_) => None,
    }
}

impl CartsWriter {
    fn product(&mut self, sku: &str, event: &product::Event) {
        let sku = sku.to_owned();
        self.products.change(&sku.clone(), |product| {
            product.get_or_insert_with(|| ProductRow { sku, ..ProductRow::default() }).fold(event);
        });
    }

    fn cart(&mut self, happened: &Happened<'_>, event: &cart::Event) {
        let Some(id) = cart_of(happened) else { return };
        self.carts.change(&id, |cart| {
            let cart = cart.get_or_insert(CartRow { id, order_id: None, version: 0, quote: None });
            cart.version = happened.version;
            match event {
                cart::Event::CheckedOut { order_id, .. } => cart.order_id = Some(order_id.0),
                cart::Event::Reopened { .. } => cart.order_id = None,
                cart::Event::LineSet { sku, quantity, .. } => {
                    cart.quote.iter_mut().for_each(|quote| quote.line_is(sku, *quantity));
                }
                cart::Event::LineRemoved { sku } => {
                    cart.quote.iter_mut().for_each(|quote| quote.line_is(sku, 0));
                }
                cart::Event::Quoted(quote) => cart.quote = Some(QuoteRow::new(quote)),
                cart::Event::Created {} => {}
            }
        });
        self.lines.fold(id, happened.position, event);
    }
}

impl insert::Record for CartRow {
    fn binary(&self, row: &mut insert::Row<'_>) {
        let row = row.uuid(self.id).optional(self.order_id, |row, id| row.uuid(id));
        row.int8(self.version.cast_signed()).optional(self.quote.as_ref(), |row, quote| row.jsonb(quote));
    }
}

impl rows::Row for CartRow {
    const TABLE: Table =
        Table { name: "carts", key: "id", key_type: "uuid", columns: &["order_id", "version", "quote"] };

    type Key = Uuid;

    fn bytes(&self) -> usize {
        let units = self.quote.as_ref().and_then(|quote| quote.units.as_ref());
        ROW_BYTES + units.map_or(0, |units| units.len() * UNIT_BYTES)
    }
}

impl insert::Record for ProductRow {
    fn binary(&self, row: &mut insert::Row<'_>) {
        row.text(&self.sku)
            .text(&self.title)
            .optional(self.price, |row, price| row.jsonb(&price))
            .bool(self.for_sale);
    }
}

impl rows::Row for ProductRow {
    const TABLE: Table =
        Table { name: "products", key: "sku", key_type: "text", columns: &["title", "price", "for_sale"] };

    type Key = String;
}

impl LineChanges {
    fn pending_bytes(&self) -> usize {
        (self.removed.len() + self.set.len()) * ROW_BYTES
    }

    /// Only the lines that change are written, however many the cart has.
    async fn store(self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.removed.is_empty() {
            let (carts, skus): (Vec<Uuid>, Vec<String>) = self.removed.into_iter().unzip();
            let delete = "delete from lines using unnest($1::uuid[], $2::text[]) as gone (cart_id, sku)
                          where lines.cart_id = gone.cart_id and lines.sku = gone.sku";
            sqlx::query(delete).bind(carts).bind(skus).execute(&mut *transaction).await?;
        }
        if !self.set.is_empty() {
            let rows: Vec<&LineRow> = self.set.values().collect();
            // A line that was there keeps its place.
            let upsert =
                "insert into lines select * from jsonb_populate_recordset(null::lines, $1::text::jsonb)
                          on conflict (cart_id, sku) do update set quantity = excluded.quantity";
            sqlx::query(upsert).bind(storable(&rows)?).execute(transaction).await?;
        }
        Ok(())
    }

    fn fold(&mut self, cart_id: Uuid, position: u64, event: &cart::Event) {
        match event {
            cart::Event::LineSet { sku, quantity, .. } => {
                let key = (cart_id, sku.to_string());
                let new = LineRow { cart_id, sku: sku.to_string(), quantity: *quantity, added: position };
                self.set.entry(key).and_modify(|line| line.quantity = *quantity).or_insert(new);
            }
            cart::Event::LineRemoved { sku } => {
                let key = (cart_id, sku.to_string());
                self.set.remove(&key);
                self.removed.insert(key);
            }
            cart::Event::Created {}
            | cart::Event::Quoted(_)
            | cart::Event::CheckedOut { .. }
            | cart::Event::Reopened { .. } => {}
        }
    }
}

impl ProductRow {
    fn fold(&mut self, event: &product::Event) {
        match event {
            product::Event::Created { details, price, .. } => {
                self.title.clone_from(&details.title);
                self.price = Some(*price);
                self.for_sale = true;
            }
            product::Event::Changed(changes) => {
                if let Some(title) = &changes.title {
                    self.title.clone_from(title);
                }
            }
            product::Event::PriceChanged { price, .. } => self.price = Some(*price),
            product::Event::Withdrawn {} => self.for_sale = false,
        }
    }
}

/// A cart as its owner sees it.
#[derive(Debug, Clone, FromRow)]
pub struct Cart {
    pub id: Uuid,
    pub order_id: Option<Uuid>,
    pub version: i64,
    pub quote: Option<Json<Quoted>>,
    /// Whether the cart has had other lines since the quote.
    pub lines_changed: bool,
}

/// A line of a cart, at the price of the moment.
#[derive(Debug, Clone, FromRow)]
pub struct Line {
    pub sku: String,
    pub quantity: i32,
    pub title: String,
    pub price: Json<Money>,
    pub for_sale: bool,
}

/// The cart and its lines, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn cart(
    pool: &PgPool,
    model: &ReadModel,
    id: Uuid,
) -> Result<(Option<(Cart, Vec<Line>)>, u64), sqlx::Error> {
    let mut snapshot = model.snapshot(pool).await?;
    let cart = "select id, order_id, version, quote - 'units' as quote,
                       coalesce(quote -> 'units' = 'null', false) as lines_changed
                from {schema}.carts where id = $1";
    let cart: Option<Cart> =
        sqlx::query_as(snapshot.sql(cart)).bind(id).fetch_optional(snapshot.connection()).await?;
    let lines = sqlx::query_as(snapshot.sql(
        "select sku, quantity, title, price, for_sale
         from {schema}.lines join {schema}.products using (sku)
         where cart_id = $1 and price is not null order by added, sku",
    ))
    .bind(id)
    .fetch_all(snapshot.connection())
    .await?;
    let position = snapshot.position().await?;
    Ok((cart.map(|cart| (cart, lines)), position))
}
