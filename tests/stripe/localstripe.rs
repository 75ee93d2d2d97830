//! The adapter's wire format, held against a server that others wrote: localstripe, as far as it goes. It knows
//! neither keys nor faults, and so says nothing about money that is moved twice.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::servers::free_port;
use crate::support::shop::Shop;
use crate::support::{Folder, eventually};

/// What pip says where it can't reach its index.
const UNREACHABLE: [&str; 4] =
    ["from versions: none", "NewConnectionError", "Retrying (Retry", "No module named pip"];

/// The folder of the server's code, which is installed there if it is not yet; none without a network.
async fn code() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join(".servers/localstripe-1.15.4");
    if place.is_dir() {
        return Some(place);
    }
    std::fs::create_dir_all(root.join(".servers")).expect("a folder");
    let fresh = tempfile::tempdir_in(root.join(".servers")).expect("a folder");
    let mut install = Command::new("python3");
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
    install.args(["--retries", "1", "--timeout", "10", "--target"]).arg(fresh.path());
    install.arg("--requirement").arg(root.join("tests/stripe/localstripe.txt"));
    let output = install.output().await.expect("python3");
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(UNREACHABLE.iter().any(|why| told.contains(why)), "localstripe is not installed: {told}");
        return None;
    }
    // Whoever else did the same meanwhile has the same.
    let _ = std::fs::rename(fresh.path(), &place);
    Some(place)
}

async fn serve(code: &Path) -> (Child, String) {
    let port = free_port();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stripe/localstripe.py");
    let mut python = Command::new("python3");
    python.args(["-I", "-S", "-B"]).arg(script).arg(code).arg(port.to_string());
    python.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let server = python.spawn().expect("python3");
    let url = format!("http://127.0.0.1:{port}");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    eventually("localstripe answers", async || http.get(&url).send().await.ok().map(drop)).await;
    (server, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_goes_there_and_back() {
    let Some(code) = code().await else {
        eprintln!("skipped: PyPI can't be reached, and localstripe is not in .servers");
        return;
    };
    let (_server, url) = serve(&code).await;
    let flags = ["--no-seed", "--stripe-api-key", "sk_test_of_the_tests", "--stripe-url", &url];
    let shop = Shop::start_with(Folder::new(), &flags).await;
    let sku = shop.product("local", 10).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let charges = async || {
        let request =
            http.request(Method::GET, format!("{url}/v1/charges")).bearer_auth("sk_test_of_the_tests");
        request.send().await.expect("an answer").json::<Value>().await.expect("JSON")
    };
    let order = shop.check_out_by(&shop.cart(&sku, 2).await, "stripe", "pm_card_visa").await;
    assert_eq!(shop.settled(&order).await["status"], "confirmed");
    let charge = eventually("it is captured", async || {
        let charge = charges().await["data"][0].clone();
        (charge["captured"] == true).then_some(charge)
    })
    .await;
    assert_eq!((&charge["amount"], &charge["currency"]), (&json!(2500), &json!("gbp")), "{charge}");
    let asked = shop.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    eventually("it is given back", async || {
        (charges().await["data"][0]["amount_refunded"] == 2500).then_some(())
    })
    .await;
    eventually("it is cancelled", async || {
        (shop.get(&format!("/v1/orders/{order}")).await.body["status"] == "cancelled").then_some(())
    })
    .await;
}
