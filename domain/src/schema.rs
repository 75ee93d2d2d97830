//! Forms of events: which one is present, and how an older one becomes that.
//!
//! A form's number rises when a field is added that older events lack and whose value can be told
//! from the rest. Writers write the present form only; readers read all that there ever were.

use serde_json::{Map, Value};

/// Number of the type's present form; nothing, if this build does not know the type.
#[must_use]
pub fn current(kind: &str) -> Option<u32> {
    Some(match kind {
        "order.placed" => 2,
        "product.created" | "product.changed" | "product.price_changed" | "product.withdrawn" => 1,
        "stock.opened" | "stock.received" | "stock.adjusted" | "stock.reserved" => 1,
        "stock.reservation_refused" | "stock.released" | "stock.sold" | "stock.returned" => 1,
        "stock.dispatched" => 1,
        "cart.created" | "cart.line_set" | "cart.line_removed" | "cart.quoted" | "cart.checked_out"
        | "cart.reopened" => 1,
        "order.confirmed" | "order.cancellation_requested" => 1,
        "order.cancellation_begun" | "order.cancelled" => 1,
        "order.shipped" | "order.goods_returned" | "order.refund_requested" | "order.refund_failed" => 1,
        "order.imported" | "order.returned" | "order.refunded" => 1,
        "payment.authorization_requested" | "payment.authorized" | "payment.declined" => 1,
        "payment.capture_queued"
        | "payment.capture_requested"
        | "payment.captured"
        | "payment.cancellation_requested" => 1,
        "payment.void_requested" | "payment.voided" => 1,
        "payment.refund_requested" | "payment.refunded" | "payment.outcome_unknown" => 1,
        "payment.action_required" | "payment.authorization_adjusted" | "payment.capture_failed" => 1,
        "payment.refund_queued" | "payment.refund_failed" | "payment.refund_reversed" => 1,
        "payment.charged_back" | "payment.undo_refused" | "payment.review_required" => 1,
        "payment.charge_back_reversed" | "payment.nothing_to_undo" | "payment.abandoned" => 1,
        "payment.stray_found" | "payment.stray_undone" => 1,
        _ => return None,
    })
}

/// Brings an event's data from an older form to the present one, a form at a time.
pub(crate) fn upcast(kind: &str, from: u32, data: &mut Map<String, Value>, personal: Option<&Value>) {
    // Form 2: the country stands apart from the address, which may be erased.
    if kind == "order.placed" && from < 2 {
        let country = personal.map_or(&Value::Null, |buyer| &buyer["shipping_address"]["country"]);
        data.insert("country".to_owned(), country.as_str().unwrap_or_default().into());
    }
}
