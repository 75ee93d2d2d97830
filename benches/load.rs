//! Load over HTTP: connections that each send one request after the other. Requests are bytes and
//! answers are only counted, so that the generator leaves the machine to what it measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Makes a request of its number.
pub type Requests = Arc<dyn Fn(u64) -> String + Send + Sync>;

/// What came of it.
#[derive(Debug, Default)]
pub struct Load {
    pub answered: u64,
    pub took: Duration,
    /// Sorted.
    pub latencies: Vec<Duration>,
}

impl Load {
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    pub fn p50_ms(&self) -> f64 {
        self.percentile_ms(50)
    }

    /// So many of a hundred answers came within this time.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// How long to go on.
#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    Answered(u64),
}

/// `POST` with a key of its own for each number.
pub fn post(path: &str, body: &str, run: u128) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nidempotency-key: {run:x}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// `PUT` of a body.
pub fn put(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "PUT {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// `GET` of what is true at the position.
pub fn get_at(path: &str, position: u64) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nmin-log-position: {position}\r\n\r\n")
}

/// The same, as a browser asks for it.
pub fn get_packed_at(path: &str, position: u64) -> String {
    get_at(path, position).replacen("\r\nhost:", "\r\naccept-encoding: gzip, deflate, br, zstd\r\nhost:", 1)
}

/// `GET`.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")
}

/// Sends requests over so many connections at a time. Every answer has to be a good one.
pub async fn run(address: &str, connections: usize, until: Until, requests: Requests) -> Load {
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (address, next, requests) = (address.to_owned(), next.clone(), requests.clone());
        clients.spawn(async move {
            let mut connection = Connection::open(&address).await;
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let enough = match until {
                    Until::Elapsed(limit) => began.elapsed() >= limit,
                    Until::Answered(count) => number >= count,
                };
                if enough {
                    return latencies;
                }
                let sent = Instant::now();
                connection.send(&requests(number)).await;
                latencies.push(sent.elapsed());
            }
        });
    }
    let mut load = Load::default();
    while let Some(latencies) = clients.join_next().await {
        load.latencies.extend(latencies.expect("every answer is good"));
    }
    load.took = began.elapsed();
    load.answered = load.latencies.len() as u64;
    load.latencies.sort_unstable();
    load
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the API listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    /// Sends the request and reads its answer; returns its position in the log, if it has one.
    pub async fn send(&mut self, request: &str) -> Option<u64> {
        self.exchange(request).await.0
    }

    /// The same, and the answer's body.
    pub async fn ask(&mut self, request: &str) -> (Option<u64>, String) {
        let (position, head) = self.exchange(request).await;
        (position, String::from_utf8_lossy(&self.buffer[head..]).into_owned())
    }

    /// The answer's position, and where its body begins.
    async fn exchange(&mut self, request: &str) -> (Option<u64>, usize) {
        self.stream.write_all(request.as_bytes()).await.expect("the API reads");
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("the API answers");
            assert!(read > 0, "the API closed the connection");
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(head) = response.parse(&self.buffer).expect("HTTP") else {
                continue;
            };
            let length =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
            if self.buffer.len() < head + length.unwrap_or(0_usize) {
                continue;
            }
            let position =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("log-position"));
            let position = position.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
            let good = matches!(response.code, Some(200..300));
            assert!(good, "{request}\n{}", String::from_utf8_lossy(&self.buffer));
            return (position, head);
        }
    }
}
