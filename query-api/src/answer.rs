//! What every query's answer has in common: how fresh it is, how it's cached, where it goes on.

use std::fmt::Display;

use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, IF_NONE_MATCH, VARY};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use infra::http::{MIN_LOG_POSITION, PREFERENCE_APPLIED, Problem, etag, log_position, preference};
use infra::read_models::ReadModel;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::QueryApi;
use crate::representation::{PACKED, takes_gzip};

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;

/// May be shown to everybody, for a moment, by whoever stands in between.
const SHARED: &str = "public, max-age=1, stale-while-revalidate=30";

/// Concerns one person.
pub(crate) const PRIVATE: &str = "private, no-store";

/// Nothing to keep: it says what is not there, or what was asked for in a hurry.
const NOT_KEPT: &str = "no-store";

/// Says that the answer is older than was asked for.
const STALE: HeaderName = HeaderName::from_static("log-position-stale");

/// What a query asks for beside its parameters.
#[derive(Debug)]
pub(crate) struct Asked {
    min_log_position: u64,
    stale_is_fine: bool,
    none_match: Option<String>,
    takes_gzip: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let headers = &parts.headers;
        Ok(Self {
            min_log_position: min_log_position(headers)?,
            stale_is_fine: preference(headers, "stale-ok").is_some(),
            none_match: headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned),
            takes_gzip: takes_gzip(headers),
        })
    }
}

fn min_log_position(headers: &HeaderMap) -> Result<u64, Problem> {
    let Some(value) = headers.get(MIN_LOG_POSITION) else { return Ok(0) };
    let position = value.to_str().ok().and_then(|value| value.parse().ok());
    position.ok_or_else(|| Problem::bad_parameter("Min-Log-Position takes a Log-Position as it was answered"))
}

impl Asked {
    pub fn min_log_position(&self) -> u64 {
        self.min_log_position
    }

    pub fn takes_gzip(&self) -> bool {
        self.takes_gzip
    }

    /// At least this position, and nothing older will do.
    pub fn exactly(&self, position: u64) -> Self {
        let min_log_position = self.min_log_position.max(position);
        Self { min_log_position, stale_is_fine: false, none_match: None, takes_gzip: false }
    }
}

impl QueryApi {
    /// The read model to ask, once it has come to where the query wants it, unless the query is
    /// content with less.
    pub(crate) async fn fresh(&self, projection: &str, asked: &Asked) -> Result<ReadModel, Problem> {
        let position = asked.min_log_position;
        let Some(model) = self.read_models.at(projection, position, self.freshness_limit).await else {
            let detail = format!("there is no read model `{projection}` yet");
            return Err(Problem::unavailable("read_models_unavailable", detail, 1));
        };
        if model.position.0 >= position || asked.stale_is_fine {
            return Ok(model);
        }
        let detail = format!("the read model `{projection}` has not come to position {position} yet");
        Err(Problem::unavailable("not_yet_projected", detail, 1))
    }
}

/// The database did not answer, or not as it should.
pub(crate) fn unavailable(error: sqlx::Error) -> Problem {
    tracing::error!(%error, "a query failed");
    Problem::unavailable("read_models_unavailable", "the read models do not answer; please ask again", 1)
}

/// What is asked for is not there, as far as the read model has come.
#[derive(Debug)]
pub(crate) struct Missing {
    pub code: &'static str,
    pub detail: &'static str,
    pub log_position: u64,
}

impl IntoResponse for Missing {
    fn into_response(self) -> Response {
        let problem = Problem::new(StatusCode::NOT_FOUND, self.code, self.detail);
        let not_kept = (CACHE_CONTROL, HeaderValue::from_static(NOT_KEPT));
        ([log_position(self.log_position), not_kept], problem).into_response()
    }
}

/// An answer to a query.
#[derive(Debug)]
pub(crate) struct Answer<B> {
    body: B,
    log_position: u64,
    stale: bool,
    etag: Option<String>,
    not_modified: bool,
    cache: &'static str,
}

impl<B> Answer<B> {
    /// About what everybody may see.
    pub fn shared(body: B, log_position: u64, asked: &Asked) -> Self {
        let stale = log_position < asked.min_log_position;
        Self { body, log_position, stale, etag: None, not_modified: false, cache: SHARED }
    }

    /// About what concerns one person.
    pub fn private(body: B, log_position: u64, asked: &Asked) -> Self {
        Self { cache: PRIVATE, ..Self::shared(body, log_position, asked) }
    }

    pub fn etag(mut self, version: impl Display, asked: &Asked) -> Self {
        let tag = version.to_string();
        // Packed or not: who has either has what it shows (RFC 9110 compares weakly here).
        let shown = |tag: &str| tag.strip_suffix(PACKED).unwrap_or(tag).to_owned();
        let same = |candidate: &str| {
            let candidate = candidate.trim();
            candidate == "*" || shown(candidate.trim_start_matches("W/").trim_matches('"')) == shown(&tag)
        };
        self.not_modified = asked.none_match.as_deref().is_some_and(|tags| tags.split(',').any(same));
        self.etag = Some(tag);
        self
    }
}

impl<B: IntoResponse> IntoResponse for Answer<B> {
    fn into_response(self) -> Response {
        let mut response = match self.not_modified {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.body.into_response(),
        };
        let headers = response.headers_mut();
        headers.extend([log_position(self.log_position)]);
        let cache = if self.stale { NOT_KEPT } else { self.cache };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
        // An answer that was fresh enough for one query may not be for the next.
        headers.append(VARY, HeaderValue::from(MIN_LOG_POSITION));
        headers.extend(self.etag.map(etag));
        if self.stale {
            headers.insert(STALE, HeaderValue::from_static("true"));
            headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("stale-ok"));
        }
        response
    }
}

/// How many items a page has.
pub(crate) fn limit(asked: Option<i64>) -> Result<i64, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad_parameter(format!("limit is 1 to {LIMIT_MAX}"))),
    }
}

/// A place in a list as clients see it: hexadecimal, not to be understood.
pub(crate) fn cursor(place: &impl Serialize) -> String {
    let text = serde_json::to_vec(place).unwrap_or_else(|error| unreachable!("plain data: {error}"));
    text.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The place that the cursor stands for.
pub(crate) fn place<P: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<P>, Problem> {
    let Some(cursor) = cursor.filter(|cursor| !cursor.is_empty()) else { return Ok(None) };
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let text: Option<Vec<u8>> = cursor.as_bytes().chunks(2).map(digits).collect();
    let place = text.and_then(|text| serde_json::from_slice(&text).ok());
    place.map(Some).ok_or_else(invalid_cursor)
}

pub(crate) fn invalid_cursor() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "after takes a `next` as it was answered")
}

/// A filter's value; Postgres takes no U+0000, and nothing has one.
pub(crate) fn text(name: &str, value: Option<String>) -> Result<Option<String>, Problem> {
    const CHARS_MAX: usize = 700;
    match value.filter(|value| !value.is_empty()) {
        Some(value) if value.contains('\0') || value.chars().count() > CHARS_MAX => {
            Err(Problem::bad_parameter(format!("{name} is at most {CHARS_MAX} characters, without U+0000")))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_the_journey_and_nothing_else_passes_for_one() {
        let place_before = ("KET-01".to_owned(), 0.123_456_789_f64);
        let cursor = cursor(&place_before);
        assert_eq!(place(Some(&cursor)).unwrap(), Some(place_before));
        for hostile in ["x", "zz", "7b", "%00", "é", "2222"] {
            let problem = place::<(String, f64)>(Some(hostile)).unwrap_err();
            assert_eq!(problem.code(), "invalid_cursor", "{hostile}");
        }
    }
}
