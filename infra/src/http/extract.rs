//! What requests bring, or a problem that says what is wrong with it and where.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use domain::text::pointer_step;
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::{BODY_BYTES_MAX, Problem};

/// Most that is read of a body that's too large anyway.
const BODY_BYTES_READ_MAX: usize = 64 * 1024 * 1024;

/// A JSON body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

/// The variable parts of the path; what is none of the resource's names is not found.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// The parameters behind the `?`.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        check_content(request.headers())?;
        let body = receive(request.into_body()).await?;
        parse(&body).map(Self)
    }
}

/// Reads the body. Of one that's too large, the rest is read too, up to a limit: who is cut off
/// in the middle of sending sees a broken connection instead of the answer.
async fn receive(mut body: Body) -> Result<Vec<u8>, Problem> {
    let mut received = Vec::new();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let not_whole =
            |_| Problem::new(StatusCode::BAD_REQUEST, "body_not_received", "the body did not arrive whole");
        let Ok(data) = frame.map_err(not_whole)?.into_data() else { continue };
        bytes += data.len();
        if bytes > BODY_BYTES_READ_MAX {
            break;
        }
        if bytes <= BODY_BYTES_MAX {
            received.extend_from_slice(&data);
        }
    }
    if bytes > BODY_BYTES_MAX {
        let detail = format!("a body is at most {BODY_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
    }
    Ok(received)
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let extracted = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        let path = extracted.map_err(|rejection| {
            let detail = format!("nothing has this name: {}", rejection.body_text());
            Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
        })?;
        Ok(Self(path.0))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let extracted = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let query =
            extracted.map_err(|rejection: QueryRejection| Problem::bad_parameter(rejection.body_text()))?;
        Ok(Self(query.0))
    }
}

/// Reads a whole number that can't be negative, and says so in words that people use.
///
/// # Errors
/// It's something else.
pub fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| D::Error::custom(format!("must be a whole number from 0 to {}", u32::MAX)))
}

fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let unsupported =
        |detail| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
    if media_type != "application/json" && media_type != "application/merge-patch+json" {
        return Err(unsupported("send JSON, with Content-Type: application/json"));
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(unsupported("send the body without Content-Encoding"));
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let not_json = |error: &serde_json::Error| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON: {error}"))
    };
    let value = parsed.map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => Problem::invalid_field(pointer, error.to_string()),
            _ => not_json(&error),
        }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", pointer_step(key)),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => String::new(),
    };
    path.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_wrong_type_is_pointed_at() {
        let problem = parse::<BTreeMap<String, Vec<u32>>>(br#"{"a/b": [1, 1.5]}"#).unwrap_err();
        assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(serde_json::to_value(&problem).unwrap()["errors"][0]["pointer"], "/a~1b/1");
    }

    #[test]
    fn what_is_no_json_is_a_bad_request() {
        let deep = "[".repeat(10_000);
        for body in ["", "{", "1 2", "\u{0}", deep.as_str()] {
            let problem = parse::<serde_json::Value>(body.as_bytes()).unwrap_err();
            assert_eq!(
                (problem.status(), problem.code()),
                (StatusCode::BAD_REQUEST, "invalid_json"),
                "{body:.9}"
            );
        }
        assert!(parse::<String>(b"\"\xff\"").is_err());
    }

    #[test]
    fn numbers_that_are_not_whole_are_refused() {
        #[derive(Debug, Deserialize)]
        struct Body {
            #[serde(deserialize_with = "whole_number")]
            quantity: u32,
        }
        let body = parse::<Body>(br#"{"quantity": 7}"#).unwrap();
        assert_eq!(body.quantity, 7);
        for quantity in ["-1", "1.5", "9223372036854775808", "1e99", "\"1\"", "null", "4294967296"] {
            let problem = parse::<Body>(format!(r#"{{"quantity": {quantity}}}"#).as_bytes()).unwrap_err();
            let problem = serde_json::to_value(&problem).unwrap();
            assert_eq!(problem["errors"][0]["pointer"], "/quantity", "{quantity}");
            assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("whole number"), "{quantity}");
        }
    }
}
