//! A system of the shop's that is told what happens: well, failing, slow, or down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::eventually;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: String,
}

/// What an event is known by in the log: position, index, type.
pub type Event = (u64, u64, String);

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub fn event(&self) -> Event {
        let body = self.json();
        let number = |name: &str| body[name].as_u64().expect("a number");
        (number("position"), number("index"), body["type"].as_str().expect("a type").to_owned())
    }
}

#[derive(Default)]
struct Inbox {
    got: Mutex<Vec<Received>>,
    /// Answers to come before it says `otherwise`.
    answers: Mutex<VecDeque<Response>>,
    otherwise: Mutex<StatusCode>,
    hangs: Mutex<bool>,
    open: AtomicUsize,
    open_most: AtomicUsize,
    connections: AtomicUsize,
}

pub struct Receiver {
    pub url: String,
    port: u16,
    inbox: Arc<Inbox>,
    server: Option<JoinHandle<()>>,
}

impl Receiver {
    pub async fn start() -> Self {
        // Below those that the system gives to clients, so that it's there again after a while.
        let port = super::servers::free_port();
        let url = format!("http://127.0.0.1:{port}/hooks");
        let mut new = Self { url, port, inbox: Arc::default(), server: None };
        new.up().await;
        new
    }

    /// Listens.
    pub async fn up(&mut self) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await.expect("its port");
        let app = Router::new().fallback(take).with_state(self.inbox.clone());
        let inbox = self.inbox.clone();
        let listener = listener.tap_io(move |_| {
            inbox.connections.fetch_add(1, Ordering::SeqCst);
        });
        self.server = Some(tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") }));
    }

    /// Is not there any more.
    pub async fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// Its next answer.
    pub fn answers(&self, answer: impl IntoResponse) {
        self.inbox.answers.lock().expect("no panic").push_back(answer.into_response());
    }

    /// All answers after those.
    pub fn always(&self, status: u16) {
        *self.inbox.otherwise.lock().expect("no panic") = StatusCode::from_u16(status).expect("a status");
    }

    /// Takes requests and does not answer.
    pub fn hangs(&self) {
        *self.inbox.hangs.lock().expect("no panic") = true;
    }

    /// Most requests at a time since this was asked last.
    pub fn most_at_a_time(&self) -> usize {
        self.inbox.open_most.swap(self.inbox.open.load(Ordering::SeqCst), Ordering::SeqCst)
    }

    /// Connections that were made to it so far.
    pub fn connections(&self) -> usize {
        self.inbox.connections.load(Ordering::SeqCst)
    }

    pub fn got(&self) -> Vec<Received> {
        self.inbox.got.lock().expect("no panic").clone()
    }

    pub fn forget(&self) {
        self.inbox.got.lock().expect("no panic").clear();
    }

    /// What it knows, as a receiver does that goes by the ids: an id stands for one event, an event for one id.
    pub fn events(&self) -> BTreeSet<Event> {
        let mut by_id: BTreeMap<String, (Event, String)> = BTreeMap::new();
        for received in self.got() {
            let new = (received.event(), received.body.clone());
            let known = by_id.entry(received.id()).or_insert_with(|| new.clone());
            assert_eq!(*known, new, "one id, one event, one body");
        }
        let events: BTreeSet<Event> = by_id.values().map(|(event, _)| event.clone()).collect();
        assert_eq!(events.len(), by_id.len(), "one event, one id");
        events
    }

    /// Waits until it has got so many.
    pub async fn has(&self, count: usize) {
        eventually(&format!("{count} webhooks"), async || (self.got().len() >= count).then_some(())).await;
    }

    /// Waits until it knows exactly these events.
    pub async fn knows(&self, wanted: &BTreeSet<Event>) {
        eventually("all that happened has arrived", async || {
            (self.events().len() >= wanted.len()).then_some(())
        })
        .await;
        assert_eq!(self.events(), *wanted);
    }
}

async fn take(State(inbox): State<Arc<Inbox>>, headers: HeaderMap, body: String) -> Response {
    /// One that is open, until it's answered or cut off.
    struct Open(Arc<Inbox>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let open = inbox.open.fetch_add(1, Ordering::SeqCst) + 1;
    inbox.open_most.fetch_max(open, Ordering::SeqCst);
    let _open = Open(inbox.clone());
    inbox.got.lock().expect("no panic").push(Received { headers, body });
    let hangs = *inbox.hangs.lock().expect("no panic");
    if hangs {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    let answer = inbox.answers.lock().expect("no panic").pop_front();
    answer.unwrap_or_else(|| inbox.otherwise.lock().expect("no panic").into_response())
}

/// How many of these a foreign verifier accepts with each of the secrets; nothing without a network.
pub async fn verified(received: &[Received], secrets: &[&str]) -> Option<Vec<usize>> {
    let package = super::python::package("standardwebhooks-1.1.0", "tests/webhooks/requirements.txt").await?;
    let messages: Vec<Value> = received
        .iter()
        .map(|one| {
            let headers: BTreeMap<&str, &str> =
                one.headers.keys().map(|name| (name.as_str(), one.header(name.as_str()))).collect();
            json!({ "headers": headers, "body": one.body })
        })
        .collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webhooks/verify.py");
    let mut python = tokio::process::Command::new("python3");
    python.args(["-I", "-S", "-B", script]).arg(package).args(secrets).kill_on_drop(true);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().expect("python3");
    let mut input = python.stdin.take().expect("its input");
    input.write_all(json!(messages).to_string().as_bytes()).await.expect("written");
    drop(input);
    let output = python.wait_with_output().await.expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}
