//! What both HTTP APIs share: problems (RFC 9457), bodies, and the log's position in headers.

mod extract;
mod totals;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, ETAG, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::text::Invalid;
use domain::{Currency, Money};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use extract::{JsonBody, Path, Query, whole_number};
pub use totals::{LineBody, ShippingBody, TaxBody, TotalsBody};

/// Position in the log that an answer reflects, or that a command led to.
pub const LOG_POSITION: HeaderName = HeaderName::from_static("log-position");

/// Position that a query's answer must reflect at least.
pub const MIN_LOG_POSITION: HeaderName = HeaderName::from_static("min-log-position");

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Largest body that is read.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// What went wrong, as `application/problem+json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the code tells problems apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    #[schema(value_type = u16, example = 422)]
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    /// Stable name of the problem, for programs.
    #[schema(example = "invalid")]
    code: &'static str,
    title: &'static str,
    /// What went wrong this time, for people.
    detail: String,
    /// What is wrong with the request's data, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// What else helps to go on, such as the new total of a cart that changed.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    more: serde_json::Map<String, serde_json::Value>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FieldProblem {
    detail: String,
    /// JSON pointer (RFC 6901) into the request's body.
    #[schema(example = "/price/amount")]
    pointer: String,
}

/// An amount in whole minor units (pence, cents) of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Money)]
pub struct MoneyBody {
    #[schema(example = 1999)]
    amount: i64,
    /// ISO 4217.
    #[schema(value_type = String, example = "GBP")]
    currency: Currency,
}

impl From<MoneyBody> for Money {
    fn from(body: MoneyBody) -> Self {
        Self::new(body.amount, body.currency)
    }
}

impl From<Money> for MoneyBody {
    fn from(money: Money) -> Self {
        Self { amount: money.amount, currency: money.currency }
    }
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            status,
            code,
            title: status.canonical_reason().unwrap_or("Problem"),
            detail: detail.into(),
            errors: Vec::new(),
            more: serde_json::Map::new(),
            retry_after_s: None,
        }
    }

    /// 422: the request is well-formed, but its data is not valid.
    #[must_use]
    pub fn invalid(found: Vec<Invalid>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "the data is not valid");
        problem.errors =
            found.into_iter().map(|Invalid { pointer, detail }| FieldProblem { detail, pointer }).collect();
        problem
    }

    /// 422 for one field.
    pub fn invalid_field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![Invalid::new(pointer, detail)])
    }

    /// 400: a parameter behind the `?`, or a header, is not of its form.
    pub fn bad_parameter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail)
    }

    /// 503: nothing is wrong with the request; to be sent again after this time.
    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(retry_after_s)
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds a member of the problem's own.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.more.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `ETag: "<version>"`
#[must_use]
pub fn etag(version: impl std::fmt::Display) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("\"{version}\""));
    (ETAG, value.unwrap_or_else(|_| unreachable!("versions are digits and dashes")))
}

/// `Log-Position: <sequence>`
#[must_use]
pub fn log_position(sequence: u64) -> (HeaderName, HeaderValue) {
    (LOG_POSITION, HeaderValue::from(sequence))
}

/// The value of one preference of `Prefer` (RFC 7240); empty for one without a value.
#[must_use]
pub fn preference<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
        let (key, value) = preference.split_once('=').unwrap_or((preference, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_found_in_any_company() {
        let mut headers = HeaderMap::new();
        headers.insert(PREFER, HeaderValue::from_static("respond-async, Wait=2; stale-ok"));
        assert_eq!(preference(&headers, "wait"), Some("2"));
        assert_eq!(preference(&headers, "stale-ok"), Some(""));
        assert_eq!(preference(&headers, "return"), None);
    }
}
