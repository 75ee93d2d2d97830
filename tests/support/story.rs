//! A log with a bit of everything, for those who read logs.

use std::sync::Arc;
use std::time::Duration;

use domain::commit::Hash;
use domain::order::{self, Import, Line, Reversal};
use domain::product::{self, Details};
use domain::totals::Totals;
use domain::{CartId, CommandId, Money, OrderId, Sku, cart, stock};
use infra::clock::Clock;
use infra::execute::{Executors, Request, Settings};
use infra::log::{EventLog, MemoryLog};
use infra::snapshots::{MemorySnapshots, Snapshots};
use infra::writer::{self, Priority, Writer};
use simulation::shop::{buyer, terms};
use uuid::Uuid;

pub fn request() -> Request {
    let command_id = CommandId(Uuid::now_v7());
    Request {
        command_id,
        hash: Hash::of(b""),
        actor: "test".into(),
        correlation: command_id,
        causation: None,
        trace_parent: None,
        expected_version: None,
        occurred_at: None,
        priority: Priority::Normal,
    }
}

pub fn executors(log: &Arc<dyn EventLog>) -> Executors {
    let settings = Settings { idempotency_keep: Duration::from_secs(60), cached_aggregates_max: 1_000 };
    let writer = Writer::new(log.clone(), writer::Settings::default());
    let snapshots: Arc<dyn Snapshots> = Arc::new(MemorySnapshots::default());
    Executors::new(&writer, &snapshots, &Clock::system(), &settings)
}

pub fn create(sku: &Sku, title: &str, amount: i64) -> product::Command {
    let details = Details {
        title: title.into(),
        description: "Holds tea, and more.".into(),
        brand: "Clayworth".into(),
        category: vec!["Home".into(), "Mugs".into()],
        attributes: [("Colour".to_owned(), "Blue".to_owned())].into(),
        images: vec![],
        gtins: vec![],
    };
    let price = Money::new(amount, "GBP".parse().expect("a currency"));
    product::Command::Create { sku: sku.clone(), details, price }
}

/// A log with a bit of everything.
pub async fn story() -> Arc<dyn EventLog> {
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::default());
    let shop = executors(&log);
    for index in 0..12_u32 {
        let sku: Sku = format!("MUG-{index}").parse().expect("a SKU");
        if index % 3 == 0 {
            // Stock may come before its product is known to a projection.
            shop.stock
                .execute(&sku, &request(), stock::Command::Receive { quantity: 5 })
                .await
                .expect("done");
        }
        shop.products
            .execute(&sku, &request(), create(&sku, &format!("Mug {index}"), 100))
            .await
            .expect("done");
        shop.stock
            .execute(&sku, &request(), stock::Command::Receive { quantity: index + 1 })
            .await
            .expect("done");
        let order_id = OrderId(Uuid::from_u128(u128::from(index)));
        let reserve = stock::Command::Reserve { order_id, quantity: 2 };
        shop.stock.execute(&sku, &request(), reserve).await.expect("done");
        let cart_id = CartId(Uuid::from_u128(u128::from(index % 4)));
        shop.carts.execute(cart_id, &request(), cart::Command::Create).await.expect("done");
        for quantity in [1, 0, index + 2] {
            let offer = cart::Offer {
                title: "Mug".into(),
                price: Money::new(100, "GBP".parse().expect("a currency")),
            };
            let set = cart::Command::SetLine { sku: sku.clone(), quantity, offer: Some(offer) };
            shop.carts.execute(cart_id, &request(), set).await.expect("done");
        }
        if index % 4 == 1 {
            let changes =
                product::Changes { title: Some(format!("Beaker {index}")), ..product::Changes::default() };
            shop.products.execute(&sku, &request(), product::Command::Change(changes)).await.expect("done");
        }
        if index % 5 == 4 {
            shop.products.execute(&sku, &request(), product::Command::Withdraw).await.expect("done");
        }
    }
    orders(&shop).await;
    log
}

fn gbp(amount: i64) -> Money {
    Money::new(amount, "GBP".parse().expect("a currency"))
}

/// Of goods for 3.00.
fn totals() -> Totals {
    let to = terms().destination("GB".parse().expect("a country"), None);
    terms().totals(gbp(300), &to, None).expect("reckoned")
}

/// Some that are bought here, and some of another shop.
async fn orders(shop: &Executors) {
    let buyer = buyer();
    for number in 0..6_u32 {
        let id = OrderId(Uuid::from_u128(u128::from(100 + number)));
        let sku: Sku = format!("MUG-{number}").parse().expect("a SKU");
        let line = |quantity: u32| Line {
            sku: sku.clone(),
            title: "Mug".into(),
            quantity,
            unit_price: gbp(100),
            total: gbp(100 * i64::from(quantity)),
        };
        let (cart_id, lines) = (CartId(Uuid::from_u128(9)), vec![line(2), line(1)]);
        let place = order::Command::Place {
            cart_id,
            lines: lines.clone(),
            total: gbp(300),
            totals: (number % 2 == 0).then(totals),
            buyer: buyer.clone(),
        };
        let reversal = Reversal { reference: "C1".into(), lines: vec![line(1)], refund: gbp(100) };
        let import = Import {
            number: format!("5363{number}"),
            country: "EIRE".into(),
            customer: None,
            lines,
            total: gbp(300),
        };
        let reason = order::Reason::CancelledByBuyer;
        let commands = match number % 3 {
            0 => vec![place, order::Command::Confirm],
            1 => vec![place, order::Command::Confirm, order::Command::Cancel { reason }],
            _ => vec![
                order::Command::Import(import),
                order::Command::ImportReturn(reversal.clone()),
                order::Command::ImportRefund(reversal),
            ],
        };
        for command in commands {
            shop.orders.execute(id, &request(), command).await.expect("done");
        }
        let dispatch = stock::Command::Dispatch { order_id: id, quantity: 1 };
        shop.stock.execute(&sku, &request(), dispatch).await.expect("done");
    }
}
