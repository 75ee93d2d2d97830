//! What every command's request brings beside its body, and what every answer carries.

use std::fmt::Display;
use std::time::Duration;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{IF_MATCH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::CommandId;
use domain::commit::Hash;
use infra::execute::Request;
use infra::http::{IDEMPOTENCY_KEY, PREFERENCE_APPLIED, Problem, etag, log_position, preference};
use infra::writer::Priority;
use serde::Serialize;
use uuid::Uuid;

/// Namespace of the ids of HTTP commands.
const NAMESPACE: Uuid = Uuid::from_u128(0x6361_7274_756c_6172_792f_636f_6d6d_616e);

/// Longest that `Prefer: wait` waits.
const WAIT_MAX_S: u64 = 30;

/// Says that the answer is that of an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// On whose behalf commands are given, until there are accounts.
const CALLER: &str = "anonymous";

/// The command's headers, and the place that it was sent to.
#[derive(Debug)]
pub(crate) struct Asked {
    method: Method,
    path: String,
    key: Option<String>,
    if_match: IfMatch,
    trace_parent: Option<String>,
    /// How long the caller would like to wait until it's all settled.
    pub wait: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfMatch {
    Absent,
    Any,
    Version(u64),
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wait = preference(&parts.headers, "wait").and_then(|seconds| seconds.parse().ok());
        Ok(Self {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            key: idempotency_key(&parts.headers)?,
            if_match: if_match(&parts.headers)?,
            trace_parent: trace_parent(&parts.headers),
            wait: wait.map(|seconds: u64| Duration::from_secs(seconds.min(WAIT_MAX_S))),
        })
    }
}

impl Asked {
    /// The command's identity; a command without a key has one of its own each time.
    pub fn request(&self, body: &impl Serialize) -> Request {
        let id = match &self.key {
            // No part can hold a line break, so no two scopes look alike.
            Some(key) => {
                let scope = format!("{CALLER}\n{}\n{}\n{key}", self.method, self.path);
                Uuid::new_v5(&NAMESPACE, scope.as_bytes())
            }
            None => Uuid::now_v7(),
        };
        let body = serde_json::to_string(body).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        Request {
            command_id: CommandId(id),
            hash: Hash::of(format!("{}\n{}\n{body}", self.method, self.path).as_bytes()),
            actor: CALLER.to_owned(),
            correlation: CommandId(id),
            causation: None,
            trace_parent: self.trace_parent.clone(),
            occurred_at: None,
            priority: Priority::Normal,
            expected_version: match self.if_match {
                IfMatch::Version(version) => Some(version),
                IfMatch::Any | IfMatch::Absent => None,
            },
        }
    }

    /// For commands that create or move money.
    ///
    /// # Errors
    /// 400 without an Idempotency-Key.
    pub fn with_key(self) -> Result<Self, Problem> {
        if self.key.is_some() {
            return Ok(self);
        }
        let detail =
            "send an Idempotency-Key of your choice, and the same one when you send this command again";
        Err(Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", detail))
    }

    /// For updates that must not overwrite what the caller hasn't seen.
    ///
    /// # Errors
    /// 428 without If-Match.
    pub fn with_version(self) -> Result<Self, Problem> {
        if self.if_match != IfMatch::Absent {
            return Ok(self);
        }
        let detail = "send If-Match with the ETag that you have last seen";
        Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail))
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if (1..=255).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(Some(key.to_owned()));
    }
    let detail = "an Idempotency-Key is 1 to 255 visible ASCII characters";
    Err(Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_invalid", detail))
}

/// Of a product's `"<product version>-<stock version>"`, the first part counts.
fn if_match(headers: &HeaderMap) -> Result<IfMatch, Problem> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(IfMatch::Absent) };
    let value = value.to_str().unwrap_or_default().trim();
    if value == "*" {
        return Ok(IfMatch::Any);
    }
    let tag = value.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    let version = tag.and_then(|tag| tag.split('-').next()?.parse().ok());
    version.map(IfMatch::Version).ok_or_else(|| {
        Problem::bad_parameter("If-Match takes an ETag as it was answered, such as \"3\" or \"3-7\"")
    })
}

/// W3C Trace Context: hexadecimal digits and dashes.
fn trace_parent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let plain = value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (value.len() <= 55 && plain).then(|| value.to_owned())
}

/// An answer to a command.
#[derive(Debug)]
pub(crate) struct Answer<B> {
    pub status: StatusCode,
    pub log_position: u64,
    /// The answer is that of an earlier request with the same key.
    pub repeated: bool,
    pub etag: Option<String>,
    pub location: Option<String>,
    /// How long the answer waited because the caller preferred it.
    pub waited: Option<Duration>,
    pub body: B,
}

impl<B> Answer<B> {
    pub fn new(status: StatusCode, log_position: u64, repeated: bool, body: B) -> Self {
        Self { status, log_position, repeated, etag: None, location: None, waited: None, body }
    }

    pub fn etag(mut self, version: impl Display) -> Self {
        self.etag = Some(version.to_string());
        self
    }

    pub fn location(mut self, path: String) -> Self {
        self.location = Some(path);
        self
    }
}

impl<B: Serialize> IntoResponse for Answer<B> {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let headers = response.headers_mut();
        headers.extend([log_position(self.log_position)]);
        headers.extend(self.etag.map(etag));
        if self.repeated {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(location) = self.location.and_then(|path| HeaderValue::try_from(path).ok()) {
            headers.insert(LOCATION, location);
        }
        if let Some(waited) = self.waited {
            let applied = HeaderValue::try_from(format!("wait={}", waited.as_secs()));
            headers.extend(applied.ok().map(|value| (PREFERENCE_APPLIED, value)));
        }
        response
    }
}
