//! An answer that is kept: its bytes as they are sent, and packed, for who can unpack them.

use std::io::Write;
use std::sync::OnceLock;

use axum::body::Bytes;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::answer::{Answer, Asked};

/// What is smaller goes into one packet as it is.
const PACKED_FROM: usize = 1_400;

/// Ends the tag of what is packed.
pub(crate) const PACKED: &str = "-gzip";

/// A resource in JSON, at one moment.
#[derive(Debug)]
pub(crate) struct Representation {
    /// For the `ETag`.
    version: String,
    json: Bytes,
    /// Made when somebody asks for it.
    gzip: OnceLock<Bytes>,
}

impl Representation {
    /// The version of what is shown may be made of how it is shown.
    pub fn new(body: &impl Serialize, version: impl FnOnce(&[u8]) -> String) -> Self {
        let json = serde_json::to_vec(body).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        Self { version: version(&json), json: json.into_boxed_slice().into(), gzip: OnceLock::new() }
    }

    /// What it takes in memory at most, or so.
    pub fn bytes(&self) -> usize {
        2 * self.json.len() + self.version.len()
    }

    /// About what everybody may see.
    pub fn shared(&self, log_position: u64, asked: &Asked) -> Response {
        self.answer(asked, |body| Answer::shared(body, log_position, asked))
    }

    /// About what concerns one person.
    pub fn private(&self, log_position: u64, asked: &Asked) -> Response {
        self.answer(asked, |body| Answer::private(body, log_position, asked))
    }

    fn answer<'a>(&'a self, asked: &Asked, answer: impl FnOnce(Coded<'a>) -> Answer<Coded<'a>>) -> Response {
        let packed = asked.takes_gzip() && self.json.len() >= PACKED_FROM;
        // Other bytes, another strong tag; what If-Match compares is before the first dash.
        let version = format!("{}{}", self.version, if packed { PACKED } else { "" });
        let mut response = answer(Coded { shown: self, packed }).etag(version, asked).into_response();
        response.headers_mut().append(VARY, HeaderValue::from(ACCEPT_ENCODING));
        response
    }

    fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| {
            let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
            let packed = packer.write_all(&self.json).and_then(|()| packer.finish());
            packed.unwrap_or_else(|error| unreachable!("memory takes all: {error}")).into_boxed_slice().into()
        })
    }
}

/// A body in the coding that it's asked for in; packed only if it is sent.
struct Coded<'a> {
    shown: &'a Representation,
    packed: bool,
}

impl IntoResponse for Coded<'_> {
    fn into_response(self) -> Response {
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !self.packed {
            return ([json], self.shown.json.clone()).into_response();
        }
        let gzip = (CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        ([json, gzip], self.shown.gzip().clone()).into_response()
    }
}

/// Whether gzip is among what the client can unpack (RFC 9110, 12.5.3).
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(',')).filter_map(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().to_ascii_lowercase();
        let weight = weight.strip_prefix("q=").unwrap_or("1").parse::<f32>().ok()?;
        name.trim().eq_ignore_ascii_case("gzip").then_some(weight)
    });
    codings.next().is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_asks_for_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        for yes in
            ["gzip", "gzip, deflate, br, zstd", "br;q=1.0, GZIP;q=0.8", "identity; q=0.5,gzip ; q=0.001"]
        {
            assert!(takes(yes), "{yes}");
        }
        for no in ["", "br", "gzip;q=0", "gzip; Q=0.000, *", "x-gzip-not", "gzip;q=much", ";;,=,"] {
            assert!(!takes(no), "{no}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
