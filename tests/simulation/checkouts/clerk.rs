//! Who works in the shop: ships, takes back, pays back, and fills the shelves.

use std::sync::Arc;
use std::time::Duration;

use domain::order::{Command, Parcel, RefundAsked, ReturnAsked, ShipmentAsked, Units};
use domain::{OrderId, Sku, order, stock};
use infra::execute::Executors;
use uuid::Uuid;

use super::{SKUS, gbp, insist, request};

/// No payment takes so long.
const PATIENCE: Duration = Duration::from_secs(600);

/// What an order has come to, once that can be read.
async fn status(order_id: OrderId, shop: &Executors) -> Option<order::Status> {
    loop {
        match shop.orders.load(order_id).await {
            Ok(order) => return order.state.status(),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn settled(order_id: OrderId, shop: &Executors) -> Option<order::Status> {
    let waited = async {
        loop {
            match status(order_id, shop).await {
                None | Some(order::Status::Pending) => tokio::time::sleep(Duration::from_secs(1)).await,
                settled => return settled,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.ok().flatten()
}

fn id(client: u128, step: u128) -> Uuid {
    Uuid::from_u128(1_000_000 + client * 100 + step)
}

fn ship(shipment_id: Uuid, lines: Vec<Units>) -> Command {
    Command::Ship(ShipmentAsked { shipment_id, lines, parcel: Parcel::default() })
}

/// Ships an order in one parcel or two, and now and then takes something back or pays something back.
/// Whatever the order does not allow by then is refused.
pub async fn after_sales(client: u128, order_id: OrderId, shop: &Executors, random: &mut fastrand::Rng) {
    if settled(order_id, shop).await != Some(order::Status::Confirmed) || random.u32(0..5) == 0 {
        return;
    }
    let cup: Sku = SKUS[0].parse().expect("a SKU");
    let one_cup = || vec![Units { sku: cup.clone(), quantity: 1 }];
    if random.bool() {
        let one = ship(id(client, 1), one_cup());
        insist(&shop.orders, order_id, &request(client, "ship one"), one).await;
        tokio::time::sleep(Duration::from_millis(random.u64(0..30_000))).await;
    }
    if random.u32(0..4) == 0 {
        let asked = RefundAsked {
            refund_id: id(client, 2),
            amount: Some(gbp(random.i64(1..500))),
            reason: "a scratch".into(),
        };
        insist(&shop.orders, order_id, &request(client, "refund"), Command::Refund(asked)).await;
    }
    if random.u32(0..4) > 0 {
        insist(&shop.orders, order_id, &request(client, "ship all"), ship(id(client, 3), vec![])).await;
    }
    tokio::time::sleep(Duration::from_millis(random.u64(0..60_000))).await;
    if random.u32(0..3) == 0 {
        let asked = ReturnAsked {
            return_id: id(client, 4),
            lines: if random.bool() { one_cup() } else { vec![] },
            refund: None,
            reason: "too small".into(),
        };
        insist(&shop.orders, order_id, &request(client, "return"), Command::Return(asked)).await;
    }
}

/// Now and then, something comes in.
pub async fn restocks(shop: Arc<Executors>, mut random: fastrand::Rng) {
    for (sku, number) in SKUS.into_iter().zip(10..) {
        tokio::time::sleep(Duration::from_millis(random.u64(0..30_000))).await;
        let receive = stock::Command::Receive { quantity: random.u32(1..4) };
        assert!(insist(&shop.stock, sku, &request(number, "restock"), receive).await);
    }
}

/// Whatever is confirmed is shipped in the end.
pub async fn ships_all(mut orders: Vec<OrderId>, shop: Arc<Executors>) {
    for round in 0_u64.. {
        let mut left = Vec::new();
        for order_id in orders {
            let is_done = match status(order_id, &shop).await {
                Some(order::Status::Confirmed) => {
                    // A request that was refused is another one later.
                    let request = request(order_id.0.as_u128(), &format!("ship the rest {round}"));
                    let rest = ship(Uuid::new_v5(&order_id.0, b"the rest"), vec![]);
                    insist(&shop.orders, order_id, &request, rest).await
                }
                status => matches!(status, Some(order::Status::Cancelled(_))),
            };
            if !is_done {
                left.push(order_id);
            }
        }
        orders = left;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
