//! Listens on loopback, and hands each request to the API or to the controls.
//!
//! It speaks HTTP without a framework in between, because a simulator has to be able to not answer, and
//! to reset a connection in the middle of a body.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::refusal::Refusal;
use super::reply::{AnswerBody, Ending, Reply};
use super::sim::Sim;
use super::{api, control};

const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a request may take to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
/// How long connections have to end when the simulator does.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A request, read.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The caller is not answered.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut")
    }
}

impl std::error::Error for Cut {}

/// Serves until `end` turns true.
pub async fn serve(listener: TcpListener, sim: Arc<Sim>, end: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, sim.clone(), end.clone()));
                }
                Err(error) => {
                    // Such as too many open files: others may end meanwhile.
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = comes(end.clone()) => break,
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(END_LIMIT, ended).await;
}

/// Waits for the end.
async fn comes(mut end: watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

async fn connection(stream: TcpStream, sim: Arc<Sim>, end: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| Box::pin(answer(request, sim.clone(), reset.clone())));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(ARRIVAL_LIMIT);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut ending = false;
    loop {
        tokio::select! {
            _ = poll_fn(|context| connection.poll_without_shutdown(context)) => break,
            () = comes(end.clone()), if !ending => {
                ending = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let stream = connection.into_parts().io.into_inner();
    if reset.load(Ordering::Relaxed) {
        // Closed like this, the other end sees a reset and not the end of what was sent.
        let _ = stream.set_zero_linger();
    }
}

async fn answer(
    request: Request<Incoming>,
    sim: Arc<Sim>,
    reset: Arc<AtomicBool>,
) -> Result<Response<AnswerBody>, Cut> {
    let reply = match read(request).await {
        Err(refusal) => Reply::refusal(&refusal).header("connection", "close"),
        Ok(asked) if asked.path.starts_with("/_sim") => control::answer(&sim, &asked).await,
        Ok(asked) => api::answer(sim, &asked).await,
    };
    match reply.ending {
        Ending::Cut => return Err(Cut),
        Ending::Half => reset.store(true, Ordering::Relaxed),
        Ending::Whole => {}
    }
    Ok(reply.response())
}

async fn read(request: Request<Incoming>) -> Result<Asked, Refusal> {
    let (head, body) = request.into_parts();
    let wrong = |status, message: &str| Refusal::new(status, "invalid_request_error", message);
    let body = tokio::time::timeout(ARRIVAL_LIMIT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match body {
        Err(_) => return Err(wrong(408, "The request's body did not arrive in time.")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(wrong(413, "Requests have up to 64 KiB."));
        }
        Ok(Err(_)) => return Err(wrong(400, "The request's body can't be read.")),
        Ok(Ok(body)) => body.to_bytes(),
    };
    Ok(Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    })
}
