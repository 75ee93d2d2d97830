//! A reader of server-sent events, as a browser has one.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

/// How long a message may take.
const LIMIT: Duration = Duration::from_secs(60);

/// One message, or a comment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
    pub retry: Option<u64>,
    pub is_comment: bool,
}

pub struct Events {
    response: Response,
    received: String,
    /// All that came, as it came.
    pub text: String,
}

impl Events {
    /// # Panics
    /// The answer is no stream of events.
    pub async fn open(request: RequestBuilder) -> Self {
        Self::of(request.send().await.expect("an answer"))
    }

    /// # Panics
    /// The answer is no stream of events.
    pub fn of(response: Response) -> Self {
        let header =
            |name: &str| response.headers().get(name).map_or("", |value| value.to_str().expect("text"));
        assert_eq!((response.status().as_u16(), header("content-type")), (200, "text/event-stream"));
        assert_eq!(header("cache-control"), "private, no-store");
        Self { response, received: String::new(), text: String::new() }
    }

    /// The next message that is an event; nothing when the stream has ended, or was cut.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let message = self.next_or_comment().await?;
            if !message.event.is_empty() {
                return Some(message);
            }
        }
    }

    /// The next message, whatever it is.
    pub async fn next_or_comment(&mut self) -> Option<Message> {
        loop {
            if let Some((message, rest)) = self.received.split_once("\n\n") {
                let message = parse(message);
                self.received = rest.to_owned();
                return Some(message);
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk()).await.expect("a message in time");
            let chunk = chunk.ok()??;
            let text = std::str::from_utf8(&chunk).expect("UTF-8");
            self.received.push_str(text);
            self.text.push_str(text);
        }
    }

    /// Everything up to the message of that name, with it.
    pub async fn until(&mut self, event: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("no {event} after {messages:?}"));
            let found = message.event == event;
            messages.push(message);
            if found {
                return messages;
            }
        }
    }
}

fn parse(message: &str) -> Message {
    let mut parsed =
        Message { is_comment: message.lines().all(|line| line.starts_with(':')), ..Message::default() };
    for line in message.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => parsed.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut parsed.event),
            "data" => parsed.data = serde_json::from_str(value).expect("JSON"),
            "retry" => parsed.retry = value.parse().ok(),
            _ => {}
        }
    }
    parsed
}
