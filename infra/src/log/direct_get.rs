//! Batch direct get: all messages of one subject after a sequence, in one round trip (ADR-31).
//!
//! The client library reads message by message; a cold aggregate of a thousand commits would
//! cost a thousand round trips.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode};
use futures_util::StreamExt;

use super::memory::stored;
use super::subjects::{STREAM, stream_of};
use super::{PageOfStream, ReadError, Stored, Unavailable};
use crate::nats::{Connection, Unanswered};

const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Reads the subject's first messages after the sequence `after`, in order, at most `most` of them.
pub(super) async fn page(
    connection: &Connection,
    subject: &str,
    after: u64,
    most: usize,
) -> Result<PageOfStream, ReadError> {
    let api = format!("$JS.API.DIRECT.GET.{STREAM}");
    let since = connection.now();
    let page = ask(&connection.client, &api, subject, after, most);
    tokio::select! {
        biased;
        page = tokio::time::timeout(TIME_LIMIT, page) => {
            page.map_err(|_| Unavailable::because("a read took longer than 5 s"))?
        }
        why = connection.unanswered(since, &api) => Err(Unavailable::because(match why {
            Unanswered::Lost => "the connection was lost".to_owned(),
            Unanswered::Denied => format!("the user of nats-server may not read from {api}"),
        }).into()),
    }
}

async fn ask(
    client: &Client,
    api: &str,
    subject: &str,
    after: u64,
    most: usize,
) -> Result<PageOfStream, ReadError> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(Unavailable::because)?;
    let request = serde_json::json!({ "seq": after + 1, "next_by_subj": subject, "batch": most });
    let sent = client.publish_with_reply(api.to_owned(), inbox, request.to_string().into()).await;
    sent.map_err(Unavailable::because)?;
    let mut commits = Vec::new();
    loop {
        let answer = answers.next().await.ok_or_else(|| Unavailable::because("the connection was closed"))?;
        match answer.status {
            None => commits.push(message(&answer)?),
            // End of batch, with the number of messages that did not fit in: the server sends fewer
            // than were asked for if they are large.
            Some(status) if status.as_u16() == 204 => {
                let more = header::<u64>(&answer, "Nats-Num-Pending").unwrap_or(0) > 0;
                return Ok(PageOfStream { more: more && !commits.is_empty(), commits });
            }
            Some(StatusCode::NOT_FOUND) => return Ok(PageOfStream { commits, more: false }),
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
    stored(sequence, &message.payload, || stream_of(&header::<String>(message, "Nats-Subject")?))
}

fn header<T: std::str::FromStr>(message: &Message, name: &str) -> Option<T> {
    let headers: &HeaderMap = message.headers.as_ref()?;
    headers.get(name)?.as_str().parse().ok()
}
