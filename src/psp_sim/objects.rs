//! What the provider shows, in the shape of Stripe's objects.

use serde_json::{Value, json};

use super::book::{Book, Endpoint, Event};
use super::money::{Capture, Dispute, DisputeStatus, Intent, Refund, Status};

/// The version of Stripe's API whose shapes these are.
pub const API_VERSION: &str = "2025-03-31.basil";

fn seconds(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

pub fn intent(intent: &Intent, base_url: &str) -> Value {
    let problem = intent.problem.as_ref().map(|decline| {
        json!({
            "type": "card_error", "code": decline.code, "decline_code": decline.decline_code,
            "message": decline.message, "charge": intent.charge,
        })
    });
    let next_action = (intent.status == Status::RequiresAction).then(|| {
        json!({"type": "redirect_to_url", "redirect_to_url": {
            "return_url": intent.return_url,
            "url": format!("{base_url}/_sim/challenges/{}", intent.id),
        }})
    });
    json!({
        "id": intent.id,
        "object": "payment_intent",
        "amount": intent.amount,
        "amount_capturable": intent.capturable,
        "amount_received": intent.received,
        "canceled_at": intent.canceled_ms.map(seconds),
        "cancellation_reason": intent.cancellation_reason,
        "capture_method": match intent.capture {
            Capture::Automatic => "automatic",
            Capture::Manual => "manual",
        },
        "client_secret": format!("{}_secret_{}", intent.id, &intent.id[intent.id.len().saturating_sub(12)..]),
        "confirmation_method": "automatic",
        "created": seconds(intent.created_ms),
        "currency": intent.currency,
        "customer": null,
        "description": intent.description,
        "last_payment_error": problem,
        "latest_charge": intent.charge,
        "livemode": false,
        "metadata": intent.metadata,
        "next_action": next_action,
        "payment_method": intent.payment_method,
        "payment_method_types": ["card"],
        "status": intent.status.name(),
    })
}

/// The intent's latest charge, if it has one.
pub fn charge(intent: &Intent) -> Option<Value> {
    let id = intent.charge.as_ref()?;
    let failed = intent.problem.as_ref();
    Some(json!({
        "id": id,
        "object": "charge",
        "amount": intent.amount,
        "amount_captured": intent.received,
        "amount_refunded": intent.refunded,
        "captured": intent.status == Status::Succeeded,
        "created": seconds(intent.charge_ms),
        "currency": intent.currency,
        "customer": null,
        "description": intent.description,
        "disputed": intent.disputed,
        "failure_code": failed.map(|decline| &decline.code),
        "failure_message": failed.map(|decline| &decline.message),
        "livemode": false,
        "metadata": intent.metadata,
        "paid": failed.is_none(),
        "payment_intent": intent.id,
        "payment_method": intent.payment_method,
        "refunded": intent.received > 0 && intent.refundable() == 0,
        "status": if failed.is_some() { "failed" } else { "succeeded" },
    }))
}

pub fn refund(refund: &Refund) -> Value {
    json!({
        "id": refund.id,
        "object": "refund",
        "amount": refund.amount,
        "charge": refund.charge,
        "created": seconds(refund.created_ms),
        "currency": refund.currency,
        "metadata": refund.metadata,
        "payment_intent": refund.intent,
        "reason": refund.reason,
        "status": refund.status.name(),
    })
}

/// With what it moved of the shop's money, apart from fees.
pub fn dispute(dispute: &Dispute) -> Value {
    let moved = |category: &str, amount: i64| {
        json!({"object": "balance_transaction", "amount": amount, "currency": dispute.currency,
            "reporting_category": category, "source": dispute.id, "type": "adjustment"})
    };
    let mut transactions = vec![moved("dispute", -dispute.amount)];
    transactions
        .extend((dispute.status == DisputeStatus::Won).then(|| moved("dispute_reversal", dispute.amount)));
    json!({
        "id": dispute.id,
        "object": "dispute",
        "amount": dispute.amount,
        "balance_transactions": transactions,
        "charge": dispute.charge,
        "created": seconds(dispute.created_ms),
        "currency": dispute.currency,
        "is_charge_refundable": false,
        "livemode": false,
        "metadata": {},
        "payment_intent": dispute.intent,
        "reason": "fraudulent",
        "status": dispute.status.name(),
    })
}

/// An event, as it's listed and as it's sent.
pub fn event(event: &Event, book: &Book) -> Value {
    json!({
        "id": event.id,
        "object": "event",
        "api_version": API_VERSION,
        "created": seconds(event.created_ms),
        "data": {"object": event.object.value()},
        "livemode": false,
        "pending_webhooks": book.is_to_reach(&event.id),
        "request": {"id": event.request, "idempotency_key": event.key},
        "type": event.kind,
    })
}

/// A webhook endpoint, without its secret.
pub fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "api_version": null,
        "created": seconds(endpoint.created_ms),
        "enabled_events": endpoint.enabled_events,
        "livemode": false,
        "metadata": endpoint.metadata,
        "status": "enabled",
        "url": endpoint.url,
    })
}
