//! Lives of orders, as their buyers and the shop's people live them: each step of the sagas is in one of them.
//!
//! | story              | the way                                                                   |
//! |--------------------|---------------------------------------------------------------------------|
//! | SentBack           | paid, shipped in two parcels, one sent back, the rest refunded            |
//! | PaidAtShipment     | confirmed, shipped, paid then                                             |
//! | Cancelled          | paid, cancelled: refunded, returned to the shelf                          |
//! | CancelledUnpaid    | confirmed, cancelled before it is paid: released                          |
//! | CancelledAtTheBank | cancelled while the buyer is to approve the payment                       |
//! | ApprovedAtTheBank  | approved by the buyer, then as any other                                  |
//! | Declined           | the payment is declined: released, the cart open again                    |
//! | SoldOut            | one of two lines is not there: the other is released                      |
//! | CaptureDeclined    | confirmed, the capture is declined: taken back                            |
//! | RefundedFirst      | refunded as a whole, then cancelled: returned to the shelf                |
//! | RefundRefused      | a refund is refused by the provider, asked for again                      |

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::world::World;
use crate::support::within;

/// How long a step of a story may take, on a busy machine, with a death in it.
const STEP_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Story {
    SentBack,
    PaidAtShipment,
    Cancelled,
    CancelledUnpaid,
    CancelledAtTheBank,
    ApprovedAtTheBank,
    Declined,
    SoldOut,
    CaptureDeclined,
    RefundedFirst,
    RefundRefused,
}

impl Story {
    pub const ALL: [Self; 11] = [
        Self::SentBack,
        Self::PaidAtShipment,
        Self::Cancelled,
        Self::CancelledUnpaid,
        Self::CancelledAtTheBank,
        Self::ApprovedAtTheBank,
        Self::Declined,
        Self::SoldOut,
        Self::CaptureDeclined,
        Self::RefundedFirst,
        Self::RefundRefused,
    ];

    /// Of the sagas' process.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::PaidAtShipment | Self::CancelledUnpaid => &["--capture-at", "shipment"],
            _ => &[],
        }
    }

    /// How much of each product there is.
    pub fn units(self) -> [u32; 2] {
        if self == Self::SoldOut { [5, 0] } else { [5, 5] }
    }

    /// Timers fire in the course of it.
    pub fn is_timed(self) -> bool {
        matches!(self, Self::CancelledAtTheBank | Self::ApprovedAtTheBank)
    }

    fn token(self) -> &'static str {
        match self {
            Self::CancelledAtTheBank | Self::ApprovedAtTheBank => "tok_challenge",
            Self::Declined => "tok_decline",
            Self::CaptureDeclined => "tok_capture_declined",
            Self::RefundRefused => "tok_refund_refused",
            _ => "tok_approve",
        }
    }

    /// Lives through it; the order.
    pub async fn tell(self, world: &World, skus: &[String]) -> String {
        let cart = world.client.cart(&skus[0], 2).await;
        world.client.put(&format!("/v1/carts/{cart}/lines/{}", skus[1]), &json!({"quantity": 1})).await;
        let id = world.client.check_out(&cart, self.token()).await;
        let order = Order { world, id };
        match self {
            Self::SentBack => order.sent_back(&skus[0]).await,
            Self::PaidAtShipment => {
                order.is("confirmed", "authorized").await;
                order.post("shipments", json!({"lines": [{"sku": skus[0], "quantity": 1}]})).await;
                order.is("confirmed", "captured").await;
                order.post("shipments", json!({})).await;
                order.is("completed", "captured").await;
            }
            Self::Cancelled => {
                order.is("confirmed", "captured").await;
                order.post("cancel", json!({})).await;
                order.is("cancelled", "refunded").await;
            }
            Self::RefundedFirst => {
                order.is("confirmed", "captured").await;
                order.post("refunds", json!({"reason": "all of it"})).await;
                order.is("confirmed", "refunded").await;
                order.post("cancel", json!({})).await;
                order.is("cancelled", "refunded").await;
            }
            Self::CancelledUnpaid => {
                order.is("confirmed", "authorized").await;
                order.post("cancel", json!({})).await;
                order.is("cancelled", "voided").await;
            }
            Self::CancelledAtTheBank => {
                order.is("pending", "action_required").await;
                order.post("cancel", json!({})).await;
                order.is("cancelled", "voided").await;
            }
            Self::ApprovedAtTheBank => {
                order.is("pending", "action_required").await;
                order.approve().await;
                order.is("confirmed", "captured").await;
            }
            Self::Declined => order.is("cancelled", "declined").await,
            Self::SoldOut => order.is("cancelled", "none").await,
            Self::CaptureDeclined => order.is("cancelled", "voided").await,
            Self::RefundRefused => {
                order.is("confirmed", "captured").await;
                let scratch = json!({"amount": {"amount": 100, "currency": "GBP"}, "reason": "a scratch"});
                order.post("refunds", scratch.clone()).await;
                order.has("order.refund_failed").await;
                order.post("refunds", scratch).await;
                order.is("confirmed", "partially_refunded").await;
            }
        }
        order.id
    }
}

struct Order<'w> {
    world: &'w World,
    id: String,
}

impl Order<'_> {
    async fn sent_back(&self, sku: &str) {
        self.is("confirmed", "captured").await;
        self.post("shipments", json!({"lines": [{"sku": sku, "quantity": 1}]})).await;
        self.post("shipments", json!({})).await;
        self.is("completed", "captured").await;
        self.post("returns", json!({"lines": [{"sku": sku, "quantity": 1}], "reason": "too small"})).await;
        self.is("completed", "partially_refunded").await;
        self.post("refunds", json!({"reason": "all of it"})).await;
        self.is("completed", "refunded").await;
    }

    async fn shown(&self) -> Value {
        self.world.client.get(&format!("/v1/orders/{}", self.id)).await.body
    }

    async fn is(&self, status: &str, payment: &str) {
        let what = format!("{} is {status}, its payment {payment}", self.id);
        within(STEP_LIMIT, &what, async || {
            let shown = self.shown().await;
            let paid = shown["payment"]["status"].as_str().unwrap_or("none");
            (shown["status"] == status && paid == payment).then_some(())
        })
        .await;
    }

    async fn has(&self, kind: &str) {
        within(STEP_LIMIT, &format!("{} has {kind}", self.id), async || {
            let shown = self.shown().await;
            let mut steps = shown["timeline"].as_array()?.iter();
            steps.any(|step| step["type"] == kind).then_some(())
        })
        .await;
    }

    async fn post(&self, what: &str, body: Value) {
        let answer = self.world.client.post(&format!("/v1/orders/{}/{what}", self.id), &body).await;
        assert!(answer.status.is_success(), "{what}: {answer:?}");
    }

    /// The buyer says yes on their bank's page.
    async fn approve(&self) {
        let client = &self.world.client;
        let path = format!("/v1/orders/{}/payment/challenge", self.id);
        let challenge = client.post(&path, &json!({})).await;
        let url = challenge.body["url"].as_str().expect("an address");
        let form =
            client.request(Method::POST, url).header("Content-Type", "application/x-www-form-urlencoded");
        let said = client.send(form.body("approve=true")).await;
        assert_eq!(said.status, 200, "{said:?}");
    }
}
