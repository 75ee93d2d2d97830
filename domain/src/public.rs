//! What of an event may leave the platform, and for whose eyes: types and fields that are named here.
//!
//! What is not named stays inside: personal data, payment tokens, the provider's references, and whatever a
//! later build adds without a decision. It works on the stored form, so an event that this build does
//! not know is no trouble; it's only not shown.

use serde_json::{Map, Value};

use crate::commit::RecordedEvent;
use crate::schema;

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Who placed the order.
    Buyer,
    /// The shop's own systems.
    Shop,
}

/// A type of event: the fields that the shop's systems see, and those that the buyer sees, if any.
struct Shown(&'static str, &'static [&'static str], Option<&'static [&'static str]>);

const AMOUNT: &[&str] = &["amount"];
const PLACED: &[&str] = &["lines", "total", "totals", "country"];
const SHIPPED: &[&str] = &["shipment_id", "lines", "is_last", "carrier", "tracking_number", "tracking_url"];
const PARCEL: &[&str] = &["lines", "is_last", "carrier", "tracking_number", "tracking_url"];
const REFUND: &[&str] = &["refund_id", "amount", "reason"];
const IMPORTED: &[&str] = &["number", "country", "lines", "total"];
const REVERSAL: &[&str] = &["reference", "lines", "refund"];
const HELD: &[&str] = &["order_id", "quantity"];
const DETAILS: &[&str] =
    &["sku", "title", "description", "brand", "category", "attributes", "images", "gtins", "price"];

/// In the order of the aggregates' tables.
const SHOWN: [Shown; 57] = [
    Shown("product.created", DETAILS, None),
    Shown("product.changed", DETAILS, None),
    Shown("product.price_changed", &["price", "was"], None),
    Shown("product.withdrawn", &[], None),
    Shown("stock.opened", &["quantity", "derived"], None),
    Shown("stock.received", &["quantity"], None),
    Shown("stock.adjusted", &["delta", "reason"], None),
    Shown("stock.reserved", HELD, None),
    Shown("stock.reservation_refused", &["order_id", "free", "asked"], None),
    Shown("stock.released", HELD, None),
    Shown("stock.sold", HELD, None),
    Shown("stock.returned", HELD, None),
    Shown("stock.dispatched", HELD, None),
    Shown("cart.created", &[], None),
    Shown("cart.line_set", &["sku", "quantity", "price"], None),
    Shown("cart.line_removed", &["sku"], None),
    Shown("cart.quoted", &["quote_id", "lines", "totals", "expires_at"], None),
    Shown("cart.checked_out", &["order_id", "lines", "total", "totals"], None),
    Shown("cart.reopened", &["order_id"], None),
    Shown("order.placed", &["cart_id", "lines", "total", "totals", "country"], Some(PLACED)),
    Shown("order.confirmed", &[], Some(&[])),
    Shown("order.cancellation_requested", &[], Some(&[])),
    Shown("order.cancellation_begun", &["reason"], Some(&["reason"])),
    Shown("order.cancelled", &["reason"], Some(&["reason"])),
    Shown("order.shipped", SHIPPED, Some(PARCEL)),
    Shown("order.goods_returned", &["return_id", "lines", "reason"], Some(&["lines"])),
    Shown("order.refund_requested", REFUND, Some(AMOUNT)),
    Shown("order.refund_failed", REFUND, Some(AMOUNT)),
    Shown("order.imported", IMPORTED, Some(IMPORTED)),
    Shown("order.returned", REVERSAL, Some(REVERSAL)),
    Shown("order.refunded", REVERSAL, Some(REVERSAL)),
    Shown("payment.authorization_requested", AMOUNT, Some(AMOUNT)),
    Shown("payment.action_required", &["attempt", "look_up_at"], Some(&[])),
    Shown("payment.authorized", AMOUNT, Some(AMOUNT)),
    Shown("payment.authorization_adjusted", AMOUNT, None),
    // Why a provider declines may be what a thief wants to know.
    Shown("payment.declined", &["reason"], Some(&[])),
    Shown("payment.capture_queued", AMOUNT, None),
    Shown("payment.capture_requested", AMOUNT, None),
    Shown("payment.captured", AMOUNT, Some(AMOUNT)),
    Shown("payment.capture_failed", &["reason"], None),
    Shown("payment.cancellation_requested", &[], None),
    Shown("payment.nothing_to_undo", &[], None),
    Shown("payment.void_requested", &[], None),
    Shown("payment.voided", &[], Some(&[])),
    // A refund's name may be the provider's.
    Shown("payment.refund_queued", AMOUNT, None),
    Shown("payment.refund_requested", AMOUNT, None),
    Shown("payment.refunded", AMOUNT, Some(AMOUNT)),
    Shown("payment.refund_failed", &["amount", "reason"], None),
    Shown("payment.refund_reversed", AMOUNT, Some(AMOUNT)),
    Shown("payment.charged_back", AMOUNT, None),
    Shown("payment.charge_back_reversed", AMOUNT, None),
    Shown("payment.undo_refused", &["operation", "attempt", "reason", "again_at"], None),
    Shown("payment.outcome_unknown", &["operation", "attempt", "look_up_at"], None),
    Shown("payment.review_required", &["operation"], None),
    // Why is in an operator's own words.
    Shown("payment.abandoned", &["operation", "amount"], None),
    Shown("payment.stray_found", &["authorized", "captured"], None),
    Shown("payment.stray_undone", &[], None),
];

/// Types that nobody outside sees, which was decided and not forgotten.
pub const HIDDEN: &[&str] = &[];

impl Shown {
    fn to(&self, audience: Audience) -> Option<&'static [&'static str]> {
        match audience {
            Audience::Buyer => self.2,
            Audience::Shop => Some(self.1),
        }
    }
}

/// All types that the audience sees something of.
pub fn kinds(audience: Audience) -> impl Iterator<Item = &'static str> {
    SHOWN.iter().filter(move |shown| shown.to(audience).is_some()).map(|shown| shown.0)
}

/// The event's data as the audience sees it, in its present form; nothing, if it does not see the event.
#[must_use]
pub fn data(event: &RecordedEvent, audience: Audience) -> Option<Map<String, Value>> {
    let fields = SHOWN.iter().find(|shown| shown.0 == event.kind)?.to(audience)?;
    let mut data: Map<String, Value> = serde_json::from_str(event.data.get()).ok()?;
    if schema::current(&event.kind).is_some_and(|current| event.schema < current) {
        let personal = event.personal.as_ref().and_then(|personal| serde_json::from_str(personal.get()).ok());
        schema::upcast(&event.kind, event.schema, &mut data, personal.as_ref());
    }
    data.retain(|name, _| fields.contains(&name.as_str()));
    Some(data)
}
