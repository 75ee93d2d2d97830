//! Foreign programs to be held against: packages from PyPI, pinned by their hashes, in `.servers`.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// What pip says where it can't reach its index.
const UNREACHABLE: [&str; 4] =
    ["from versions: none", "NewConnectionError", "Retrying (Retry", "No module named pip"];

/// The folder of the package, which is installed there if it is not yet; none without a network, which is said.
pub async fn package(name: &str, requirements: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join(".servers").join(name);
    if place.is_dir() {
        return Some(place);
    }
    std::fs::create_dir_all(root.join(".servers")).expect("a folder");
    let fresh = tempfile::tempdir_in(root.join(".servers")).expect("a folder");
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
    let mut install = Command::new("python3");
    install.args(pip).args(["--only-binary=:all:", "--retries", "1", "--timeout", "10", "--target"]);
    install.arg(fresh.path()).arg("--requirement").arg(root.join(requirements));
    let output = install.output().await.expect("python3");
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(UNREACHABLE.iter().any(|why| told.contains(why)), "{name} is not installed: {told}");
        eprintln!("skipped: PyPI can't be reached, and {name} is not in .servers");
        return None;
    }
    // Whoever else did the same meanwhile has the same.
    let _ = std::fs::rename(fresh.path(), &place);
    Some(place)
}
