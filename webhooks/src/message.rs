//! What an endpoint is sent of an event: no personal data, nothing that opens doors.

use chrono::SecondsFormat;
use domain::RecordedEvent;
use domain::public::{self, Audience};
use infra::feed::Entry;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

/// An event that is worth telling.
#[derive(Debug)]
pub(crate) struct Message {
    pub position: u64,
    pub index: usize,
    pub event: Uuid,
    pub kind: String,
    pub body: String,
}

/// What is sent of it. Fields are added, never taken away.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    /// When it happened.
    timestamp: String,
    data: Map<String, Value>,
    event: Uuid,
    /// `category/id`: with position and index, its place among what happened to one thing.
    stream: &'a str,
    position: u64,
    index: usize,
}

/// The id under which an endpoint knows an event, however often it's sent.
pub(crate) fn id(endpoint: Uuid, event: Uuid) -> String {
    format!("msg_{}", Uuid::new_v5(&endpoint, event.as_bytes()).simple())
}

/// Whether it has the form of an id, and so can be looked for.
pub(crate) fn is_id(text: &str) -> bool {
    text.strip_prefix("msg_").is_some_and(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The commit's events of types that somebody wants.
pub(crate) fn of(entry: &Entry, is_wanted: impl Fn(&str) -> bool) -> Vec<Message> {
    let Ok(commit) = &entry.commit else { return Vec::new() };
    let stream = commit.stream.to_string();
    let wanted = commit.events.iter().enumerate().filter(|(_, event)| is_wanted(&event.kind));
    wanted.filter_map(|(index, event)| message(entry.sequence, index, &stream, event)).collect()
}

fn message(position: u64, index: usize, stream: &str, event: &RecordedEvent) -> Option<Message> {
    let data = public::data(event, Audience::Shop)?;
    let timestamp = event.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let body = Body { kind: &event.kind, timestamp, data, event: event.id, stream, position, index };
    let body = serde_json::to_string(&body).unwrap_or_else(|error| unreachable!("plain data: {error}"));
    Some(Message { position, index, event: event.id, kind: event.kind.clone(), body })
}
