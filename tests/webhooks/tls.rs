//! Webhooks over TLS, to a receiver of another make: Python's.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{add, operate};
use crate::support::customer::Client;
use crate::support::servers::{Nats, database_url};
use crate::support::shop::Roles;
use crate::support::{Folder, eventually};

/// A certificate authority, and a certificate of it for `localhost`; nothing where there is no openssl.
async fn certificates(folder: &Path) -> Option<()> {
    std::fs::write(folder.join("extensions"), "subjectAltName=DNS:localhost").expect("written");
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=Authority -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem",
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(arguments.split(' ')).current_dir(folder);
        let Ok(output) = openssl.output().await else {
            eprintln!("skipped: openssl is not there to make certificates");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Some(())
}

/// The receiver, its port, and the requests' headers, a line for each.
async fn receiver(folder: &Path) -> (Child, String, Lines<BufReader<ChildStdout>>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webhooks/receiver.py");
    let mut python = Command::new("python3");
    python.args(["-I", "-S", "-B", script]).current_dir(folder).stdout(Stdio::piped()).kill_on_drop(true);
    let mut python = python.spawn().expect("python3");
    let mut lines = BufReader::new(python.stdout.take().expect("its output")).lines();
    let port = lines.next_line().await.expect("a line").expect("its port");
    (python, port, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_is_told_nothing() {
    let folder = Folder::new();
    let Some(()) = certificates(folder.path()).await else { return };
    let (_python, port, mut lines) = receiver(folder.path()).await;
    let (nats, database) = (Nats::start().await, database_url().await);
    let flags =
        ["command-api", "webhooks", "--webhooks-to-loopback", "true", "--webhooks-retry-first-ms", "100"];
    let url = format!("https://localhost:{port}/hooks?a=b");

    let roles = Roles::start(nats.url(), &database, &flags).await;
    let (id, _) = add(&roles.admin, &url, "product.created").await;
    Client::new(&roles.url, &database).product("tls", 0).await;
    let failed = eventually("it fails", async || {
        let found = operate(&roles.admin, &["deliveries", &id]).await;
        found["data"].get(0).filter(|one| one["attempts"].as_i64() > Some(0)).cloned()
    })
    .await;
    assert!(failed["last_error"].as_str().expect("words").contains("TLS"), "{failed}");
    drop(roles);

    let trusted = folder.path().join("ca.pem");
    let environment = [("SSL_CERT_FILE", trusted.to_str().expect("text"))];
    let _roles = Roles::start_with(nats.url(), &database, &flags, &environment).await;
    let line = lines.next_line().await.expect("a line").expect("a request");
    let request: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(request["path"], "/hooks?a=b");
    assert_eq!(request["headers"]["webhook-id"], failed["id"]);
    assert_eq!(request["headers"]["host"], format!("localhost:{port}"));
}
