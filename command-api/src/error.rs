//! The one place where what went wrong becomes a problem.

use axum::http::StatusCode;
use domain::totals::Totals;
use domain::{cart, order, product, stock};
use infra::execute::Error;
use infra::http::{MoneyBody, Problem, TotalsBody};
use infra::log::ReadError;

use crate::idempotency::other_request;

/// A refusal of the business, as HTTP says it.
pub(crate) trait Refusal: std::error::Error {
    fn problem(self) -> Problem;
}

pub(crate) fn problem<E: Refusal>(error: Error<E>) -> Problem {
    match error {
        Error::Refused(refusal) => refusal.problem(),
        Error::Stale { .. } => Problem::new(StatusCode::PRECONDITION_FAILED, "stale", error.to_string()),
        Error::OtherRequest => other_request(),
        Error::Unavailable(reason) | Error::Unreadable(reason) => {
            tracing::warn!(reason, "a command could not be carried out");
            Problem::unavailable("log_unavailable", "nothing was recorded; please send the command again", 1)
        }
        Error::Overloaded(full) => {
            let detail = format!("{full}; nothing was recorded; please send the command again");
            Problem::unavailable("overloaded", detail, 1)
        }
        Error::LogFull => {
            tracing::error!("the log is full");
            let detail =
                "nothing was recorded: the log has no more space; please send the command again later";
            Problem::unavailable("log_full", detail, 60)
        }
        Error::OutcomeUnknown(reason) => {
            tracing::error!(reason, "the outcome of a command is unknown");
            let detail = "the command may have been recorded; to send it again with its Idempotency-Key is safe, and tells";
            Problem::unavailable("outcome_unknown", detail, 1)
        }
    }
}

pub(crate) fn unreadable(error: ReadError) -> Problem {
    tracing::warn!(%error, "the log could not be read");
    Problem::unavailable("log_unavailable", "nothing was recorded; please send the command again", 1)
}

pub(crate) fn no_product() -> Problem {
    product::Error::Unknown.problem()
}

fn not_found(code: &'static str, error: &dyn std::error::Error) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, code, error.to_string())
}

fn conflict(code: &'static str, error: &dyn std::error::Error) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, error.to_string())
}

impl Refusal for product::Error {
    fn problem(self) -> Problem {
        match self {
            Self::Exists => conflict("product_exists", &self),
            Self::Unknown => not_found("product_not_found", &self),
            Self::Withdrawn => conflict("product_withdrawn", &self),
            Self::Invalid(found) => Problem::invalid(found),
        }
    }
}

impl Refusal for stock::Error {
    fn problem(self) -> Problem {
        match self {
            Self::Invalid(found) => Problem::invalid(found),
            Self::NotEnough { free, .. } => conflict("not_enough_stock", &self).with("available", free),
            Self::Overflow => conflict("too_much_stock", &self),
            Self::NotEmpty => conflict("stock_not_empty", &self),
        }
    }
}

impl Refusal for cart::Error {
    fn problem(self) -> Problem {
        let problem = match &self {
            Self::Unknown => not_found("cart_not_found", &self),
            Self::CheckedOut(order_id) => conflict("cart_checked_out", &self).with("order_id", order_id),
            Self::Empty => conflict("cart_empty", &self),
            Self::Full => conflict("cart_full", &self),
            Self::NotForSale(sku) => conflict("not_for_sale", &self).with("sku", sku),
            Self::MixedCurrencies { sku, .. } => conflict("mixed_currencies", &self).with("sku", sku),
            Self::Changed { reason, totals, lines } => conflict("cart_changed", &self)
                .with("reason", reason.code())
                .with("total", MoneyBody::from(totals.total))
                .with("totals", TotalsBody::from(Totals::clone(totals)))
                .with("lines", lines),
            Self::TooLarge => conflict("total_too_large", &self),
            Self::Invalid(_) => Problem::invalid(Vec::new()),
        };
        match self {
            Self::Invalid(found) => Problem::invalid(found),
            _ => problem,
        }
    }
}

impl Refusal for order::Error {
    fn problem(self) -> Problem {
        match self {
            Self::Unknown => not_found("order_not_found", &self),
            Self::Cancelled(reason) => conflict("order_cancelled", &self).with("reason", reason.code()),
            Self::Exists => conflict("order_exists", &self),
            Self::Imported => conflict("order_imported", &self),
            Self::NotImported => conflict("order_not_imported", &self),
            Self::NotConfirmed => conflict("order_not_confirmed", &self),
            Self::Shipped => conflict("order_shipped", &self),
            Self::NotOrdered(ref sku) => conflict("not_ordered", &self).with("sku", sku),
            Self::NothingToShip { ref sku, left } => {
                conflict("nothing_to_ship", &self).with("sku", sku).with("left", left)
            }
            Self::NothingToReturn { ref sku, left } => {
                conflict("nothing_to_return", &self).with("sku", sku).with("left", left)
            }
            Self::MoreThanPaid { kept } => {
                conflict("more_than_paid", &self).with("kept", MoneyBody::from(kept))
            }
            Self::Invalid(found) | Self::InvalidCommand(found) => Problem::invalid(found),
        }
    }
}
