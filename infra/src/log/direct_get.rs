//! Batch direct get: all messages of one subject after a sequence, in one round trip (ADR-31).
//!
//! The client library reads message by message; a cold aggregate of a thousand commits would
//! cost a thousand round trips.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode};
use futures_util::StreamExt;

use super::memory::stored;
use super::subjects::STREAM;
use super::{ReadError, Stored, Unavailable};

/// Messages asked for at a time. The server answers with fewer if they are large.
const BATCH: usize = 1_000;

const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Reads the subject's messages after the sequence `after`, in order.
pub(super) async fn load(client: &Client, subject: &str, mut after: u64) -> Result<Vec<Stored>, ReadError> {
    let mut found = Vec::new();
    loop {
        let batch = tokio::time::timeout(TIME_LIMIT, batch(client, subject, after, &mut found));
        let more = batch.await.map_err(|_| Unavailable::because("a read took longer than 5 s"))??;
        match found.last() {
            Some(last) if more && last.sequence > after => after = last.sequence,
            _ => return Ok(found),
        }
    }
}

/// Reads one batch; true if the server has more.
async fn batch(
    client: &Client,
    subject: &str,
    after: u64,
    found: &mut Vec<Stored>,
) -> Result<bool, ReadError> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(Unavailable::because)?;
    let request = serde_json::json!({ "seq": after + 1, "next_by_subj": subject, "batch": BATCH });
    let api = format!("$JS.API.DIRECT.GET.{STREAM}");
    let sent = client.publish_with_reply(api, inbox, request.to_string().into()).await;
    sent.map_err(Unavailable::because)?;
    loop {
        let answer = answers.next().await.ok_or_else(|| Unavailable::because("the connection was closed"))?;
        match answer.status {
            None => found.push(message(&answer)?),
            // End of batch, with the number of messages that did not fit in.
            Some(status) if status.as_u16() == 204 => {
                return Ok(header::<u64>(&answer, "Nats-Num-Pending").unwrap_or(0) > 0);
            }
            Some(StatusCode::NOT_FOUND) => return Ok(false),
            Some(StatusCode::NO_RESPONDERS) => {
                return Err(Unavailable::because(format!("no stream {STREAM} answers")).into());
            }
            Some(status) => {
                let said = answer.description.as_deref().unwrap_or_default();
                return Err(Unavailable::because(format!("a read was answered {status} {said}")).into());
            }
        }
    }
}

fn message(message: &Message) -> Result<Stored, ReadError> {
    let sequence = header(message, "Nats-Sequence")
        .ok_or_else(|| Unavailable::because("a message came without its sequence"))?;
    stored(sequence, &message.payload)
}

fn header<T: std::str::FromStr>(message: &Message, name: &str) -> Option<T> {
    let headers: &HeaderMap = message.headers.as_ref()?;
    headers.get(name)?.as_str().parse().ok()
}
