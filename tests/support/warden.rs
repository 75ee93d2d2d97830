//! Ends what the tests started, however they end: a shell whose standard input is the tests' end
//! of a pipe. When the pipe closes, it kills the recorded process groups and removes the folders.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
groups= folders=
while read -r kind value; do
    case $kind in
        group) groups="$groups $value" ;;
        folder) folders="$folders $value" ;;
    esac
done
for group in $groups; do kill -9 "-$group" 2>/dev/null; done
sleep 0.2
rm -rf $folders
"#;

static WARDEN: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    let mut shell = Command::new("sh");
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let shell = shell.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Mutex::new(shell.spawn().expect("a shell"))
});

fn tell(kind: &str, value: &str) {
    let mut warden = WARDEN.lock().unwrap_or_else(PoisonError::into_inner);
    let pipe = warden.stdin.as_mut().expect("a pipe");
    writeln!(pipe, "{kind} {value}").expect("the warden listens");
}

/// Kills this process, and its group, when the tests end.
pub fn kill_at_the_end(pid: u32) {
    tell("group", &pid.to_string());
}

/// A folder that goes when it's dropped, or when the tests end.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("cartulary-test-").tempdir().expect("a folder");
        let path = folder.keep();
        // Postgres runs as a user of its own, who must be able to enter.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        tell("folder", &path.display().to_string());
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is still in use goes with the warden.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
