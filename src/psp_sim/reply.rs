//! Answers on their way to the caller: whole, cut in the middle, or never coming.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;
use tokio::time::Sleep;

use super::refusal::Refusal;
use super::sim::Sim;

/// How long the first half of a body has to get out before the connection is reset.
const HALF_WAY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Whole,
    /// The connection is reset in the middle of the body.
    Half,
    /// The connection is closed, and there is no answer.
    Cut,
}

/// An answer as it is to be sent.
pub struct Reply {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    pub ending: Ending,
    receipt: Option<Receipt>,
}

/// Notes in the ledger whether an answer was handed over, at the latest when it's dropped.
pub struct Receipt {
    sim: Arc<Sim>,
    record: u64,
    whole: bool,
}

impl Receipt {
    pub fn new(sim: Arc<Sim>, record: u64) -> Self {
        Self { sim, record, whole: false }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.sim.answered(self.record, self.whole);
    }
}

impl Reply {
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec_pretty(body).unwrap_or_else(|_| unreachable!("answers are JSON"));
        Self {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body: body.into(),
            ending: Ending::Whole,
            receipt: None,
        }
    }

    pub fn html(body: String) -> Self {
        let content_type = "text/html; charset=utf-8";
        Self { content_type, body: body.into(), ..Self::json(200, &()) }
    }

    /// Goes on at another page.
    pub fn elsewhere(url: String) -> Self {
        Self::json(303, &()).header("location", url)
    }

    pub fn refusal(refusal: &Refusal) -> Self {
        let answer = refusal.answer();
        Self::json(answer.status, &answer.body)
    }

    pub fn cut() -> Self {
        Self::json(500, &()).ending(Ending::Cut)
    }

    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn receipt(mut self, receipt: Option<Receipt>) -> Self {
        self.receipt = receipt;
        self
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn response(self) -> Response<AnswerBody> {
        let half = (self.ending == Ending::Half).then(|| Box::pin(tokio::time::sleep(HALF_WAY)));
        let length = self.body.len() as u64;
        let body = AnswerBody { bytes: Some(self.body), length, half, receipt: self.receipt };
        let mut response = Response::new(body);
        *response.status_mut() = hyper::StatusCode::from_u16(self.status).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

/// A body that knows when it was taken.
pub struct AnswerBody {
    bytes: Option<Bytes>,
    length: u64,
    /// When a body that is to be cut in the middle is.
    half: Option<Pin<Box<Sleep>>>,
    receipt: Option<Receipt>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(bytes) = self.bytes.take() {
            if self.half.is_some() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.slice(..bytes.len() / 2)))));
            }
            if let Some(mut receipt) = self.receipt.take() {
                receipt.whole = true;
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match &mut self.half {
            None => Poll::Ready(None),
            Some(time) => {
                time.as_mut().poll(context).map(|()| Some(Err(io::ErrorKind::ConnectionReset.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.half.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
