//! A Postgres cluster's files: made once, whole or not at all, and what a crash leaves in them.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::{Identity, works_in};
use super::user::{self, User};
use super::{Error, folder};

const VERSION_MIN: u32 = 15;

/// What the names of unfinished clusters begin with.
const UNFINISHED: &str = "cluster.new-";

/// In the order of preference: upper and lower case of all letters where the system knows them.
const LOCALES: [&str; 2] = ["C.UTF-8", "C"];

/// Makes the cluster beside its place, then moves it there: a crash in between leaves none.
pub(super) async fn make(
    cluster: &Path,
    programs: &Path,
    user: Option<&User>,
    password: &str,
) -> Result<(), Error> {
    let folder = cluster.parent().unwrap_or(Path::new("/"));
    remove_unfinished(folder);
    let password_file = folder.join("initdb-password");
    folder::write_secret(&password_file, password.as_bytes())?;
    if let Some(user) = user {
        user.own(&password_file)?;
    }
    let mut outcome = Ok(());
    for locale in LOCALES {
        // An initdb that outlived its platform may still write to the name that it was given.
        let new = folder.join(format!("{UNFINISHED}{}", folder::random_text::<24>()?));
        fs::create_dir(&new).map_err(Error::file(&new))?;
        if let Some(user) = user {
            user.own(&new)?;
        }
        outcome = initdb(&new, &password_file, locale, programs, user).await;
        if outcome.is_ok() {
            outcome = folder::rename(&new, cluster);
            break;
        }
    }
    fs::remove_file(&password_file).map_err(Error::file(&password_file))?;
    outcome
}

async fn initdb(
    new: &Path,
    password_file: &Path,
    locale: &str,
    programs: &Path,
    user: Option<&User>,
) -> Result<(), Error> {
    let mut command = user::command(user, &programs.join("initdb"), new)?;
    command.arg("--pgdata").arg(new).arg("--pwfile").arg(password_file).args(["--locale", locale]);
    command.args(["--auth=scram-sha-256", "--username=cartulary", "--encoding=UTF8"]);
    command.args(["--data-checksums", "--no-instructions"]);
    let output = command.process_group(0).kill_on_drop(true).current_dir("/").output().await;
    let reason = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::NotStarted { server: "Postgres", reason: format!("initdb: {reason}"), log: String::new() })
}

fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            // What stays is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes the process ids that a killed Postgres left, for the cluster and for its socket, where Postgres
/// itself would take them for a running one: while its parent has not waited for it, or when the id has
/// gone to another process.
pub(super) fn remove_stale_pids(cluster: &Path) {
    let entries = fs::read_dir(cluster).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_socket = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(".s.PGSQL.") && name.ends_with(".lock")
    };
    for path in entries.filter(of_socket).chain([cluster.join("postmaster.pid")]) {
        let recorded = || fs::read_to_string(&path).ok()?.lines().next()?.trim().parse::<u32>().ok();
        let Some(pid) = recorded() else { continue };
        let exists = fs::exists(format!("/proc/{pid}")).unwrap_or(false);
        let zombie = exists && Identity::of(pid).is_none();
        // Where the process can't be looked at, Postgres has to judge.
        let another = fs::read_link(format!("/proc/{pid}/cwd")).is_ok() && !works_in(pid, cluster);
        if zombie || another {
            tracing::info!(pid, "removing the process id that a killed Postgres left");
            // If it can't be removed, Postgres says what is wrong.
            let _ = fs::remove_file(path);
        }
    }
}

/// The folder with `postgres` and `initdb`: on the PATH, or where Debian puts them.
pub(super) fn programs() -> Result<PathBuf, Error> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain(debian_folders());
    // The programs look for their own files beside where they really are.
    let real = |folder: PathBuf| Some(folder.join("postgres").canonicalize().ok()?.parent()?.to_owned());
    let suitable = |folder: &PathBuf| {
        folder.join("initdb").exists() && version(&folder.join("postgres")) >= Some(VERSION_MIN)
    };
    folders.filter_map(real).find(suitable).ok_or(Error::NotInstalled("Postgres 15 or later"))
}

/// `/usr/lib/postgresql/17/bin`, and the like; the latest first.
fn debian_folders() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder)
}

fn version(program: &Path) -> Option<u32> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15
fn major(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|it: char| it.is_ascii_digit()))?;
    number.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major(""), None);
    }

    #[test]
    fn only_a_running_postgres_keeps_its_process_id() {
        let cluster = tempfile::tempdir().unwrap();
        let files = ["postmaster.pid", ".s.PGSQL.5432.lock"].map(|name| cluster.path().join(name));
        let kept = |pid: u32| {
            files.iter().for_each(|file| fs::write(file, format!("{pid}\n/data\n")).unwrap());
            remove_stale_pids(cluster.path());
            assert_eq!(files[0].exists(), files[1].exists());
            files[0].exists()
        };
        let sleep = |folder: &Path| {
            std::process::Command::new("sleep").arg("60").current_dir(folder).spawn().unwrap()
        };
        let (mut running, mut another) = (sleep(cluster.path()), sleep(Path::new("/")));
        assert!(kept(running.id()));
        assert!(!kept(another.id()));
        running.kill().unwrap();
        while Identity::of(running.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(!kept(running.id()), "nobody has waited for it yet, so it is a zombie");
        running.wait().unwrap();
        another.kill().unwrap();
        another.wait().unwrap();
    }
}
