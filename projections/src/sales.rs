//! Sales, for analysts: what was sold and given back, by day and country, and by day and product.
//!
//! An order counts when it is confirmed, on the day on which it is (UTC); what is cancelled or given back
//! counts on the day on which that happens: money by country, goods by product. An imported order counts when it was placed.
//!
//! `gross` is what the lines cost, with the tax that is in their prices. By day and country, what was paid on top
//! of that stands beside it: shipping, and tax that comes on top. No product has a share of these.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::NaiveDate;
use domain::order::{self, Line, Units};
use domain::totals::Totals;
use domain::{Event, Money, OrderId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use infra::read_models::ReadModel;
use infra::storable::storable;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::insert;
use crate::projection::{Happened, Key, Projection, Writer};
use crate::rows::{self, ROW_BYTES, Rows, Table};

pub const NAME: &str = "sales";

pub struct Sales;

impl Projection for Sales {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        3
    }

    fn categories(&self) -> &'static [&'static str] {
        &[order::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[("by_country", "day, country, currency"), ("by_product", "day, sku, currency"), ("orders", "id")]
    }

    fn definition(&self) -> &'static str {
        "create table by_country (
             day date, country text collate \"C\", currency text collate \"C\",
             orders bigint not null, units bigint not null, gross bigint not null,
             shipping bigint not null, tax bigint not null, refunded bigint not null,
             primary key (day, country, currency)
         );
         create table by_product (
             day date, sku text collate \"C\", currency text collate \"C\",
             orders bigint not null, units bigint not null, gross bigint not null,
             shipping bigint not null, tax bigint not null, refunded bigint not null,
             primary key (day, sku, currency)
         );
         create table orders (
             id uuid primary key, country text not null, is_sold bool not null, lines jsonb not null, extra jsonb
         )"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &[]
    }

    /// Nobody waits for a day's sums.
    fn interval_min(&self) -> Duration {
        Duration::from_millis(50)
    }

    /// A day's sums are fed by all orders.
    fn lanes(&self) -> u64 {
        1
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        matches!(happened.event, Event::Order(_)).then(|| Key::Id(happened.stream.id()))
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(SalesWriter::default())
    }
}

/// An order, as far as a later event may ask for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: OrderId,
    country: String,
    is_sold: bool,
    /// None of an imported one: what is given back of it says what that is.
    lines: Vec<Line>,
    /// What is paid beside the lines, if that is known.
    extra: Option<Extra>,
}

/// Shipping, and the tax that comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Extra {
    shipping: Money,
    tax: i64,
}

impl From<&Totals> for Extra {
    fn from(totals: &Totals) -> Self {
        let added = totals.tax.as_ref().filter(|tax| !tax.included);
        Self { shipping: totals.shipping.price, tax: added.map_or(0, |tax| tax.amount.amount) }
    }
}

impl insert::Record for Order {
    fn binary(&self, row: &mut insert::Row<'_>) {
        let row = row.uuid(self.id.0).text(&self.country).bool(self.is_sold).jsonb(&self.lines);
        row.optional(self.extra, |row, extra| row.jsonb(&extra));
    }
}

impl rows::Row for Order {
    const TABLE: Table = Table {
        name: "orders",
        key: "id",
        key_type: "uuid",
        columns: &["country", "is_sold", "lines", "extra"],
    };

    type Key = Uuid;

    fn bytes(&self) -> usize {
        (1 + self.lines.len()) * ROW_BYTES
    }
}

/// Day, country or SKU, currency.
type Place = (NaiveDate, String, String);

#[derive(Debug, Default)]
struct Sums {
    orders: i64,
    units: i64,
    gross: i64,
    shipping: i64,
    tax: i64,
    refunded: i64,
}

impl Sums {
    fn sold(&mut self, is_first_of_order: bool, line: &Line) {
        self.orders += i64::from(is_first_of_order);
        self.units += i64::from(line.quantity);
        self.gross = self.gross.saturating_add(line.total.amount);
    }

    fn given_back(&mut self, line: &Line) {
        self.refunded = self.refunded.saturating_add(line.total.amount);
    }
}

impl Extra {
    fn charged(self, sums: &mut Sums) {
        sums.shipping = sums.shipping.saturating_add(self.shipping.amount);
        sums.tax = sums.tax.saturating_add(self.tax);
    }

    fn given_back(self, sums: &mut Sums) {
        sums.refunded = sums.refunded.saturating_add(self.shipping.amount).saturating_add(self.tax);
    }
}

#[derive(Default)]
struct SalesWriter {
    orders: Rows<Order>,
    by_country: BTreeMap<Place, Sums>,
    by_product: BTreeMap<Place, Sums>,
}

impl Writer for SalesWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let id = |happened: &Happened<'_>| happened.stream.id().parse::<OrderId>().ok();
            self.orders.load(batch.iter().filter_map(id).map(|id| id.0), connection).await?;
            for happened in batch {
                if let (Some(id), Event::Order(event)) = (id(happened), happened.event) {
                    self.happened(id, happened.at.date_naive(), event);
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        self.orders.pending_bytes() + (self.by_country.len() + self.by_product.len()) * ROW_BYTES
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            self.orders.store(transaction).await?;
            add("by_country", "country", std::mem::take(&mut self.by_country), transaction).await?;
            add("by_product", "sku", std::mem::take(&mut self.by_product), transaction).await
        }
        .boxed()
    }
}

impl SalesWriter {
    fn happened(&mut self, id: OrderId, day: NaiveDate, event: &order::Event) {
        match event {
            order::Event::Placed { country, lines, totals, .. } => {
                let (country, lines) = (country.clone(), lines.clone());
                let extra = totals.as_ref().map(Extra::from);
                let order = Order { id, country, is_sold: false, lines, extra };
                self.orders.change(&id.0, |known| *known = Some(order));
            }
            order::Event::Confirmed {} => {
                let sold = self.orders.change(&id.0, |order| {
                    let order = order.as_mut()?;
                    order.is_sold = true;
                    Some(order.clone())
                });
                if let Some(order) = sold {
                    self.sold(day, &order.country, &order.lines);
                    self.extra(day, &order, Extra::charged);
                }
            }
            order::Event::Cancelled { .. } => {
                let order = self.orders.change(&id.0, Option::take);
                if let Some(order) = order.filter(|order| order.is_sold) {
                    self.given_back(day, &order.country, &order.lines);
                    self.extra(day, &order, Extra::given_back);
                }
            }
            order::Event::Imported { country, lines, .. } => {
                self.sold(day, country, lines);
                let country = country.clone();
                let order = Order { id, country, is_sold: true, lines: Vec::new(), extra: None };
                self.orders.change(&id.0, |known| *known = Some(order));
            }
            order::Event::Returned(reversal) | order::Event::Refunded(reversal) => {
                let country = self.orders.get(&id.0).map(|order| order.country.clone());
                self.given_back(day, &country.unwrap_or_default(), &reversal.lines);
            }
            order::Event::RefundRequested { amount, .. } => self.refunded(id, day, *amount, 1),
            // It was counted when it was asked for.
            order::Event::RefundFailed { amount, .. } => self.refunded(id, day, *amount, -1),
            order::Event::GoodsReturned { lines, .. } => self.came_back(id, day, lines),
            order::Event::Shipped { .. }
            | order::Event::CancellationRequested {}
            | order::Event::CancellationBegun { .. } => {}
        }
    }

    fn sold(&mut self, day: NaiveDate, country: &str, lines: &[Line]) {
        let (mut currencies, mut products) = (BTreeSet::new(), BTreeSet::new());
        for line in lines {
            let currency = line.total.currency.code();
            let is_first = currencies.insert(currency);
            self.in_country(day, country, currency).sold(is_first, line);
            let is_first = products.insert((&line.sku, currency));
            self.of_product(day, line.sku.as_str(), currency).sold(is_first, line);
        }
    }

    fn given_back(&mut self, day: NaiveDate, country: &str, lines: &[Line]) {
        for line in lines {
            let currency = line.total.currency.code();
            self.in_country(day, country, currency).given_back(line);
            self.of_product(day, line.sku.as_str(), currency).given_back(line);
        }
    }

    fn extra(&mut self, day: NaiveDate, order: &Order, count: fn(Extra, &mut Sums)) {
        if let Some(extra) = order.extra {
            count(extra, self.in_country(day, &order.country, extra.shipping.currency.code()));
        }
    }

    /// Money that is given back counts for the country; which product it is for, only the goods say.
    fn refunded(&mut self, id: OrderId, day: NaiveDate, amount: Money, sign: i64) {
        let country = self.orders.get(&id.0).map(|order| order.country.clone()).unwrap_or_default();
        let sums = self.in_country(day, &country, amount.currency.code());
        sums.refunded = sums.refunded.saturating_add(amount.amount.saturating_mul(sign));
    }

    fn came_back(&mut self, id: OrderId, day: NaiveDate, units: &[Units]) {
        let lines = self.orders.get(&id.0).map(|order| order.lines.clone()).unwrap_or_default();
        for Units { sku, quantity } in units {
            let Some(line) = lines.iter().find(|line| line.sku == *sku) else { continue };
            let cost = line.unit_price.amount.saturating_mul(i64::from(*quantity));
            let sums = self.of_product(day, sku.as_str(), line.total.currency.code());
            sums.refunded = sums.refunded.saturating_add(cost);
        }
    }

    fn in_country(&mut self, day: NaiveDate, country: &str, currency: &str) -> &mut Sums {
        self.by_country.entry((day, country.to_owned(), currency.to_owned())).or_default()
    }

    fn of_product(&mut self, day: NaiveDate, sku: &str, currency: &str) -> &mut Sums {
        self.by_product.entry((day, sku.to_owned(), currency.to_owned())).or_default()
    }
}

/// Adds to the sums that there are.
async fn add(
    table: &str,
    column: &str,
    sums: BTreeMap<Place, Sums>,
    transaction: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if sums.is_empty() {
        return Ok(());
    }
    let mut keys: (Vec<NaiveDate>, Vec<String>, Vec<String>) = Default::default();
    let mut values: [Vec<i64>; 6] = Default::default();
    for ((day, name, currency), Sums { orders, units, gross, shipping, tax, refunded }) in sums {
        keys.0.push(day);
        keys.1.push(storable(&name).into_owned());
        keys.2.push(currency);
        for (values, value) in values.iter_mut().zip([orders, units, gross, shipping, tax, refunded]) {
            values.push(value);
        }
    }
    let upsert = format!(
        "insert into {table} as known (day, {column}, currency, orders, units, gross, shipping, tax, refunded)
         select * from unnest($1::date[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                              $7::bigint[], $8::bigint[], $9::bigint[])
         on conflict (day, {column}, currency) do update set
             orders = known.orders + excluded.orders, units = known.units + excluded.units,
             gross = known.gross + excluded.gross, shipping = known.shipping + excluded.shipping,
             tax = known.tax + excluded.tax, refunded = known.refunded + excluded.refunded"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(upsert)).bind(keys.0).bind(keys.1).bind(keys.2);
    values.into_iter().fold(query, sqlx::query::Query::bind).execute(transaction).await?;
    Ok(())
}

/// What a report has a line for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Day,
    Month,
    Country,
    Product,
}

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub struct Filter {
    pub by: By,
    /// First day that counts.
    pub from: Option<NaiveDate>,
    /// Last day that counts.
    pub to: Option<NaiveDate>,
    /// Only lines after this key and currency.
    pub after: Option<(String, String)>,
    pub limit: i64,
}

/// A line of a report; amounts in minor units of the currency.
#[derive(Debug, Clone, FromRow)]
pub struct ReportLine {
    pub key: String,
    pub currency: String,
    pub orders: i64,
    pub units: i64,
    pub gross: i64,
    pub shipping: i64,
    pub tax: i64,
    pub refunded: i64,
}

/// Lines in the order of their keys, and the position in the log that this is true at.
///
/// # Errors
/// Postgres does not answer.
pub async fn report(
    pool: &PgPool,
    model: &ReadModel,
    filter: &Filter,
) -> Result<(Vec<ReportLine>, u64), sqlx::Error> {
    let (key, table) = match filter.by {
        By::Day => ("to_char(day, 'YYYY-MM-DD') collate \"C\"", "by_country"),
        By::Month => ("to_char(day, 'YYYY-MM') collate \"C\"", "by_country"),
        By::Country => ("country", "by_country"),
        By::Product => ("sku", "by_product"),
    };
    let (after_key, after_currency) = filter.after.clone().unzip();
    let mut snapshot = model.snapshot(pool).await?;
    let lines = format!(
        "select key, currency, sum(orders)::bigint as orders, sum(units)::bigint as units,
                sum(gross)::bigint as gross, sum(shipping)::bigint as shipping, sum(tax)::bigint as tax,
                sum(refunded)::bigint as refunded
         from (select {key} as key, currency, orders, units, gross, shipping, tax, refunded from {{schema}}.{table}
               where ($1::date is null or day >= $1) and ($2::date is null or day <= $2)) as sales
         where $3::text is null or (key, currency) > ($3, $4)
         group by key, currency order by key, currency limit $5"
    );
    let lines = sqlx::query_as(snapshot.sql(&lines))
        .bind(filter.from)
        .bind(filter.to)
        .bind(after_key)
        .bind(after_currency)
        .bind(filter.limit)
        .fetch_all(snapshot.connection())
        .await?;
    let position = snapshot.position().await?;
    Ok((lines, position))
}
