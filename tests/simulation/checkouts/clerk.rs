//! Who works in the shop: ships, takes back, pays back, and fills the shelves.

use std::sync::Arc;
use std::time::Duration;

use domain::order::{Command, Parcel, RefundAsked, ReturnAsked, ShipmentAsked, Units};
use domain::{OrderId, RecordedEvent, Sku, order, stock};
use futures_util::StreamExt;
use infra::log::{EventLog, MemoryLog};
use uuid::Uuid;

use super::client::{Client, Desk};
use super::{SKUS, gbp};

/// No payment takes so long.
const PATIENCE: Duration = Duration::from_secs(600);

/// What an order has come to, once that can be read.
async fn status(order_id: OrderId, client: &Client) -> Option<order::Status> {
    loop {
        match client.load(|shop| &shop.orders, order_id).await {
            Some(order) => return order.state.status(),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn settled(order_id: OrderId, client: &Client) -> Option<order::Status> {
    let waited = async {
        loop {
            match status(order_id, client).await {
                None | Some(order::Status::Pending) => tokio::time::sleep(Duration::from_secs(1)).await,
                settled => return settled,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.ok().flatten()
}

fn id(number: u128, step: u128) -> Uuid {
    Uuid::from_u128(1_000_000 + number * 100 + step)
}

fn ship(shipment_id: Uuid, lines: Vec<Units>) -> Command {
    Command::Ship(ShipmentAsked { shipment_id, lines, parcel: Parcel::default() })
}

/// Ships an order in one parcel or two, and now and then takes something back or pays something back.
/// Whatever the order does not allow by then is refused.
pub async fn after_sales(number: u128, order_id: OrderId, client: &Client, random: &mut fastrand::Rng) {
    if settled(order_id, client).await != Some(order::Status::Confirmed) || random.u32(0..5) == 0 {
        return;
    }
    let cup: Sku = SKUS[0].parse().expect("a SKU");
    let one_cup = || vec![Units { sku: cup.clone(), quantity: 1 }];
    if random.bool() {
        let one = ship(id(number, 1), one_cup());
        client.insist(|shop| &shop.orders, order_id, "ship one", one).await;
        tokio::time::sleep(Duration::from_millis(random.u64(0..30_000))).await;
    }
    if random.u32(0..4) == 0 {
        let asked = RefundAsked {
            refund_id: id(number, 2),
            amount: Some(gbp(random.i64(1..500))),
            reason: "a scratch".into(),
        };
        client.insist(|shop| &shop.orders, order_id, "refund", Command::Refund(asked)).await;
    }
    if random.u32(0..4) > 0 {
        client.insist(|shop| &shop.orders, order_id, "ship all", ship(id(number, 3), vec![])).await;
    }
    tokio::time::sleep(Duration::from_millis(random.u64(0..60_000))).await;
    if random.u32(0..3) == 0 {
        let asked = ReturnAsked {
            return_id: id(number, 4),
            lines: if random.bool() { one_cup() } else { vec![] },
            refund: None,
            reason: "too small".into(),
        };
        client.insist(|shop| &shop.orders, order_id, "return", Command::Return(asked)).await;
    }
}

/// Hands a parcel over whenever somebody has just decided to take its order back.
pub async fn ships_in_the_last_moment(memory: MemoryLog, desk: Arc<Desk>, mut random: fastrand::Rng) {
    let mut all = memory.follow(0);
    while let Some(Ok(stored)) = all.next().await {
        let is_begun = |event: &RecordedEvent| event.kind == "checkout.withdrawal_begun";
        if stored.commit.events.iter().any(is_begun) && random.bool() {
            let order_id: OrderId = stored.commit.stream.id().parse().expect("an order");
            let client = desk.client(order_id.0.as_u128());
            let last = ship(Uuid::new_v5(&order_id.0, b"the last moment"), vec![]);
            client.insist(|shop| &shop.orders, order_id, "ship in the last moment", last).await;
        }
    }
}

/// Now and then, something comes in.
pub async fn restocks(desk: Arc<Desk>, mut random: fastrand::Rng) {
    for (sku, number) in SKUS.into_iter().zip(10..) {
        tokio::time::sleep(Duration::from_millis(random.u64(0..30_000))).await;
        let receive = stock::Command::Receive { quantity: random.u32(1..4) };
        assert!(desk.client(number).insist(|shop| &shop.stock, sku, "restock", receive).await);
    }
}

/// Whatever is confirmed is shipped in the end.
pub async fn ships_all(mut orders: Vec<OrderId>, desk: Arc<Desk>) {
    for round in 0_u64.. {
        let mut left = Vec::new();
        for order_id in orders {
            let client = desk.client(order_id.0.as_u128());
            let is_done = match status(order_id, &client).await {
                Some(order::Status::Confirmed) => {
                    // A request that was refused is another one later.
                    let step = format!("ship the rest {round}");
                    let rest = ship(Uuid::new_v5(&order_id.0, b"the rest"), vec![]);
                    client.insist(|shop| &shop.orders, order_id, &step, rest).await
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
