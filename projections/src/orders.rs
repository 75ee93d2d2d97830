//! Orders: what became of each, step by step.

mod rows;
mod view;

use domain::order::Units;
use domain::{Event, Money, OrderId, cart, order, payment, stock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::insert::Inserts;
use crate::projection::{Happened, Key, Projection, Writer};
use crate::rows::Rows;
use rows::{About, ParcelRow, Quote, Row, Step};

pub use view::{Extent, Order, Parcel, Refund, TimelineEntry, Whole, extent, order};

pub const NAME: &str = "orders";

pub struct Orders;

impl Projection for Orders {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        4
    }

    fn categories(&self) -> &'static [&'static str] {
        &[cart::CATEGORY, order::CATEGORY, payment::CATEGORY, stock::CATEGORY]
    }

    fn tables(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("orders", "id"),
            ("quotes", "order_id"),
            ("refunds", "order_id, position, index"),
            ("parcels", "order_id, position, index"),
            ("timeline", "order_id, position, index"),
        ]
    }

    fn definition(&self) -> &'static str {
        "create table orders (
             id uuid primary key,
             cart_id uuid,
             number text,
             country text,
             status text not null,
             reason text,
             total jsonb,
             payment_status text not null,
             payment jsonb,
             ordered bigint not null,
             shipped bigint not null,
             returned bigint not null,
             placed_at timestamptz not null,
             version bigint not null,
             position bigint not null
         ) with (fillfactor = 50);
         create table quotes (
             order_id uuid not null,
             lines jsonb not null,
             totals jsonb
         );
         create table refunds (
             order_id uuid not null,
             position bigint not null,
             index int not null,
             at timestamptz not null,
             reference text not null,
             with_goods bool not null,
             amount bigint not null,
             currency text not null
         );
         create table parcels (
             order_id uuid not null,
             position bigint not null,
             index int not null,
             at timestamptz not null,
             id uuid not null,
             is_return bool not null,
             lines jsonb not null,
             about jsonb not null
         );
         create table timeline (
             order_id uuid not null,
             position bigint not null,
             index int not null,
             kind text not null,
             at timestamptz not null
         )"
    }

    fn indexes(&self) -> &'static [&'static str] {
        &[
            "create index on orders (placed_at, id)",
            "alter table quotes add primary key (order_id)",
            "alter table refunds add primary key (order_id, position, index)",
            "alter table parcels add primary key (order_id, position, index)",
            "alter table timeline add primary key (order_id, position, index)",
        ]
    }

    fn lanes(&self) -> u64 {
        2
    }

    fn key<'a>(&self, happened: &Happened<'a>) -> Option<Key<'a>> {
        order_of(happened).map(Key::Order)
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(OrdersWriter::default())
    }
}

/// What is only ever added goes straight into the rows to be inserted.
struct OrdersWriter {
    orders: Rows<Row>,
    /// Apart from what changes: an order of a thousand lines is touched some thousand times.
    quotes: Inserts,
    refunds: Inserts,
    parcels: Inserts,
    timeline: Inserts,
}

impl Default for OrdersWriter {
    fn default() -> Self {
        const REFUND: [&str; 8] =
            ["order_id", "position", "index", "at", "reference", "with_goods", "amount", "currency"];
        const PARCEL: [&str; 8] =
            ["order_id", "position", "index", "at", "id", "is_return", "lines", "about"];
        Self {
            orders: Rows::default(),
            quotes: Inserts::new("quotes", &["order_id", "lines", "totals"]),
            refunds: Inserts::new("refunds", &REFUND),
            parcels: Inserts::new("parcels", &PARCEL),
            timeline: Inserts::new("timeline", &["order_id", "position", "index", "kind", "at"]),
        }
    }
}

impl Writer for OrdersWriter {
    fn fold<'a>(
        &'a mut self,
        batch: &'a [Happened<'a>],
        connection: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let ours = batch.iter().filter_map(|happened| Some((order_of(happened)?, happened)));
            let ours: Vec<(OrderId, &Happened<'_>)> = ours.collect();
            self.orders.load(ours.iter().map(|(id, _)| id.0), connection).await?;
            ours.into_iter().for_each(|(id, happened)| self.happened(id, happened));
            Ok(())
        }
        .boxed()
    }

    fn pending_bytes(&self) -> usize {
        let inserts = [&self.quotes, &self.refunds, &self.parcels, &self.timeline];
        self.orders.pending_bytes() + inserts.iter().map(|inserts| inserts.bytes()).sum::<usize>()
    }

    fn flush<'a>(&'a mut self, transaction: &'a mut PgConnection) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            self.orders.store(transaction).await?;
            self.quotes.store(transaction).await?;
            self.refunds.store(transaction).await?;
            self.parcels.store(transaction).await?;
            self.timeline.store(transaction).await
        }
        .boxed()
    }
}

impl OrdersWriter {
    fn happened(&mut self, id: OrderId, happened: &Happened<'_>) {
        let had_quote = self.orders.change(&id.0, |order| {
            let order = order.get_or_insert_with(|| Row::new(id, happened.at));
            let had_quote = order.total.is_some();
            order.fold(happened);
            had_quote
        });
        match happened.event {
            // The order is placed with the lines that the cart was checked out with.
            Event::Cart(cart::Event::CheckedOut { lines, totals, .. })
            | Event::Order(order::Event::Placed { lines, totals, .. })
                if !had_quote =>
            {
                self.quotes.add(&Quote { order_id: id, lines, totals: totals.as_ref() });
            }
            Event::Order(order::Event::Imported { lines, .. }) if !had_quote => {
                self.quotes.add(&Quote { order_id: id, lines, totals: None });
            }
            Event::Order(order::Event::Returned(reversal)) => {
                self.refund(id, happened, &reversal.reference, reversal.refund, true);
            }
            Event::Order(order::Event::Refunded(reversal)) => {
                self.refund(id, happened, &reversal.reference, reversal.refund, false);
            }
            Event::Payment(payment::Event::Refunded { refund, amount }) => {
                let reference = refund.split_once(':').map_or(refund.as_str(), |(_, id)| id);
                self.refund(id, happened, reference, *amount, false);
            }
            Event::Order(order::Event::Shipped { shipment_id, lines, parcel, .. }) => {
                self.parcel(id, happened, *shipment_id, lines, About::Parcel(parcel));
            }
            Event::Order(order::Event::GoodsReturned { return_id, lines, reason }) => {
                self.parcel(id, happened, *return_id, lines, About::Reason { reason });
            }
            _ => {}
        }
        let Happened { position, index, at, kind, .. } = *happened;
        self.timeline.add(&Step { order_id: id, position, index, kind, at });
    }

    fn refund(
        &mut self,
        order_id: OrderId,
        happened: &Happened<'_>,
        reference: &str,
        Money { amount, currency }: Money,
        with_goods: bool,
    ) {
        let Happened { position, index, at, .. } = *happened;
        let currency = currency.code();
        let refund = rows::Refund { order_id, position, index, at, reference, with_goods, amount, currency };
        self.refunds.add(&refund);
    }

    fn parcel(
        &mut self,
        order_id: OrderId,
        happened: &Happened<'_>,
        id: Uuid,
        lines: &[Units],
        about: About<'_>,
    ) {
        let Happened { position, index, at, .. } = *happened;
        let is_return = matches!(about, About::Reason { .. });
        self.parcels.add(&ParcelRow { order_id, position, index, at, id, is_return, lines, about });
    }
}

/// The order that the event is about.
fn order_of(happened: &Happened<'_>) -> Option<OrderId> {
    match happened.event {
        Event::Cart(cart::Event::CheckedOut { order_id, .. } | cart::Event::Reopened { order_id }) => {
            Some(*order_id)
        }
        Event::Stock(
            stock::Event::Reserved { order_id, .. }
            | stock::Event::ReservationRefused { order_id, .. }
            | stock::Event::Released { order_id, .. }
            | stock::Event::Sold { order_id, .. }
            | stock::Event::Dispatched { order_id, .. }
            | stock::Event::Returned { order_id, .. },
        ) => Some(*order_id),
        Event::Order(_) | Event::Payment(_) => happened.stream.id().parse().ok(),
        Event::Product(_) | Event::Cart(_) | Event::Stock(_) => None,
    }
}
