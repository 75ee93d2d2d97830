//! The simulator's wire format, held against a foreign client: Stripe's own package for Python.

use std::path::Path;

use tokio::process::Command;

use crate::support::psp::Psp;
use crate::support::python;

#[tokio::test(flavor = "multi_thread")]
async fn stripes_own_client_finds_what_it_expects() {
    let requirements = "tests/psp_sim/stripe-requirements.txt";
    let Some(client) = python::package("stripe-16.1.0", requirements).await else { return };
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
