//! Ends what the tests started, however they end: a shell whose standard input is the tests' end
//! of a pipe. When the pipe closes, it ends the recorded processes and the servers in the folders,
//! and removes the folders.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

/// A process is known by its id and its start time, which is field 22 of `/proc/<pid>/stat`; each
/// leads a group of its own. Servers are asked first: a killed Postgres leaves shared memory.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
processes= mounts=
while read -r kind value; do
    case $kind in
        process) processes="$processes $value" ;;
        folder) set -- "$@" "$value" ;;
        mount) mounts="$mounts $value" ;;
    esac
done
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
send() {
    for process in $2; do
        if [ "$(started "${process%:*}")" = "${process#*:}" ]; then kill "-$1" "-${process%:*}"; sent=1; fi
    done
}
send KILL "$processes"
servers=$(find "$@" -name server.json -exec sed -n 's/.*"pid":\([0-9]*\),"started":\([0-9]*\).*/\1:\2/p' {} +)
send INT "$servers"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
    sent=; send CONT "$servers"
    [ "$sent" ] || break
    sleep 0.2
done
send KILL "$servers"
for mount in $mounts; do umount -l "$mount" 2>/dev/null; done
rm -rf -- "$@"
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

/// Kills this process, and its group, when the tests end. Servers in a [`Folder`] need none of this.
pub fn kill_at_the_end(pid: u32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    // One that has ended already needs no killing.
    if let Some(started) = fields.split_whitespace().nth(19) {
        tell("process", &format!("{pid}:{started}"));
    }
}

/// Takes down what is mounted there when the tests end, if something is.
pub fn unmount_at_the_end(place: &Path) {
    tell("mount", &place.display().to_string());
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
