//! The simulator's wire format, held against a foreign client: Stripe's own package for Python.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::psp::Psp;

/// What pip says where it can't reach its index.
const UNREACHABLE: [&str; 4] =
    ["from versions: none", "NewConnectionError", "Retrying (Retry", "No module named pip"];

/// The folder of the client, which is installed there if it is not yet; none without a network.
async fn client() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join(".servers/stripe-16.1.0");
    if place.is_dir() {
        return Some(place);
    }
    std::fs::create_dir_all(root.join(".servers")).expect("a folder");
    let fresh = tempfile::tempdir_in(root.join(".servers")).expect("a folder");
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
    let mut install = Command::new("python3");
    install.args(pip).args(["--only-binary=:all:", "--retries", "1", "--timeout", "10", "--target"]);
    install.arg(fresh.path()).arg("--requirement").arg(root.join("tests/psp_sim/stripe-requirements.txt"));
    let output = install.output().await.expect("python3");
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(UNREACHABLE.iter().any(|why| told.contains(why)), "the client is not installed: {told}");
        return None;
    }
    // Whoever else did the same meanwhile has the same.
    let _ = std::fs::rename(fresh.path(), &place);
    Some(place)
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_own_client_finds_what_it_expects() {
    let Some(client) = client().await else {
        eprintln!("skipped: PyPI can't be reached, and Stripe's client is not in .servers");
        return;
    };
    let psp = Psp::start(&[]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/psp_sim/contract.py");
    // Alone with the standard library and the client, whatever else is installed.
    let mut python = Command::new("python3");
    python.args(["-I", "-S", "-B"]).arg(script).arg(client).arg(&psp.url).kill_on_drop(true);
    let output = python.output().await.expect("python3");
    let told =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && told.contains("ok"), "{told}");
}
