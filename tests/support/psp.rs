//! A simulated payment provider, as its callers see it: the real program, spoken to over HTTP.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use reqwest::{Method, RequestBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::customer::Answer;
use super::eventually;
use super::shop::PROGRAM;
use super::warden::{Folder, kill_at_the_end};

/// A running simulator.
pub struct Psp {
    process: Child,
    pub url: String,
    pub folder: Folder,
    http: reqwest::Client,
}

/// A request for 1,000 pence that are held.
pub const HOLD: [(&str, &str); 5] = [
    ("amount", "1000"),
    ("currency", "gbp"),
    ("capture_method", "manual"),
    ("confirm", "true"),
    ("payment_method", "pm_card_visa"),
];

impl Psp {
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_on(Folder::new(), flags).await
    }

    /// Starts one on what the folder holds.
    pub async fn start_on(folder: Folder, flags: &[&str]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(folder.path().join("psp-sim.log"));
        let mut command = Command::new(PROGRAM);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .args(["psp-sim", "--port", "0", "--data-dir"])
            .arg(folder.path().join("psp"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("a log file"))
            .spawn()
            .expect("the program starts");
        kill_at_the_end(process.id());
        let mut output = std::io::BufReader::new(process.stdout.take().expect("its output"));
        let told = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut output, &mut line).expect("its output");
            line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned()
        });
        let url = told.await.expect("no panic");
        // Without a pool, no request is sent on a connection that a fault is about to cut.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        Self { process, url, folder, http }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed()).expect("a process id")
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) -> Folder {
        self.process.kill().expect("it runs");
        self.process.wait().expect("a child");
        std::mem::replace(&mut self.folder, Folder::new())
    }

    /// Stops it cleanly.
    pub fn stop(mut self) -> (Folder, ExitStatus) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        let status = self.process.wait().expect("a child");
        (std::mem::replace(&mut self.folder, Folder::new()), status)
    }

    /// Does nothing any more, and hangs up on nobody, until it is told to go on.
    pub fn pause(&self, is_paused: bool) {
        kill_process(self.pid(), if is_paused { Signal::STOP } else { Signal::CONT }).expect("it runs");
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("psp-sim.log")).expect("a log file")
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth("sk_test_cartulary")
    }

    /// # Errors
    /// No whole answer came.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?;
        Ok(Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    pub fn form(&self, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let request = self.request(Method::POST, path).body(body.finish());
        request.header("Content-Type", "application/x-www-form-urlencoded")
    }

    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.send(self.form(path, form)).await
    }

    pub async fn post_as(&self, key: &str, path: &str, form: &[(&str, &str)]) -> Answer {
        self.send(self.form(path, form).header("Idempotency-Key", key)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn search(&self, query: &str) -> Answer {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        self.get(&format!("/v1/payment_intents/search?query={query}")).await
    }

    /// Tells the simulator what to do; what it says to that.
    pub async fn control(&self, path: &str, body: Value) -> Value {
        let answer = self.send(self.request(Method::POST, path).json(&body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    pub async fn fault(&self, fault: Value) {
        self.control("/_sim/faults", fault).await;
    }

    pub async fn advance_s(&self, seconds: i64) {
        self.control("/_sim/clock", json!({"advance_ms": seconds * 1000})).await;
    }

    /// A payment that is held, under this reference; its id.
    pub async fn hold(&self, attempt_ref: &str) -> String {
        let held = self.post("/v1/payment_intents", &hold(attempt_ref)).await;
        assert_eq!(
            (held.status.as_u16(), &held.body["status"]),
            (200, &json!("requires_capture")),
            "{held:?}"
        );
        held.body["id"].as_str().expect("an id").to_owned()
    }

    /// What the ledger has of this reference.
    pub async fn ledger(&self, attempt_ref: &str) -> Vec<Value> {
        let ledger = self.get(&format!("/_sim/ledger?attempt_ref={attempt_ref}")).await;
        ledger.body["data"].as_array().expect("lines").clone()
    }

    /// What happened to payments of this reference, without how they were made.
    pub async fn moves(&self, attempt_ref: &str) -> Vec<String> {
        let what = |line: &Value| line["what"].as_str().expect("a word").to_owned();
        let lines = self.ledger(attempt_ref).await;
        lines.iter().map(what).filter(|what| what != "created").collect()
    }
}

impl Drop for Psp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// [`HOLD`] under a reference of the caller's.
pub fn hold(attempt_ref: &str) -> Vec<(&str, &str)> {
    [&HOLD[..], &[("metadata[attempt_ref]", attempt_ref)]].concat()
}

/// An endpoint for webhooks, which remembers what it got.
pub struct Endpoint {
    pub url: String,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Inbox {
    got: Mutex<Vec<(HeaderMap, String)>>,
    /// Answers to come before it is well again.
    failures: Mutex<Vec<u16>>,
}

impl Endpoint {
    /// Listens; its first answers are these.
    pub async fn start(failures: &[u16]) -> Self {
        let inbox = Arc::new(Inbox { failures: Mutex::new(failures.to_vec()), ..Inbox::default() });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}/hooks", listener.local_addr().expect("an address"));
        let app = Router::new().route("/hooks", axum::routing::post(take)).with_state(inbox.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, inbox }
    }

    pub fn got(&self) -> Vec<(HeaderMap, String)> {
        self.inbox.got.lock().expect("no panic").clone()
    }

    /// Kinds of the events that came, in that order.
    pub fn kinds(&self) -> Vec<String> {
        self.events().iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
    }

    pub fn events(&self) -> Vec<Value> {
        self.got().iter().map(|(_, body)| serde_json::from_str(body).expect("JSON")).collect()
    }

    /// Waits until so many have come.
    pub async fn has(&self, count: usize) {
        eventually(&format!("{count} webhooks"), async || (self.got().len() >= count).then_some(())).await;
    }
}

async fn take(State(inbox): State<Arc<Inbox>>, headers: HeaderMap, body: String) -> StatusCode {
    inbox.got.lock().expect("no panic").push((headers, body));
    let mut failures = inbox.failures.lock().expect("no panic");
    let status = if failures.is_empty() { 200 } else { failures.remove(0) };
    StatusCode::from_u16(status).expect("a status")
}
