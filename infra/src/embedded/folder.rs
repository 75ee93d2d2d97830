//! The data folder: who uses it, where its servers listen, and what only its owner may read.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::process::Identity;

const ADDRESSES: &str = "addresses.json";

/// Locked by the process that uses the folder, and says which one that is.
const LOCK: &str = "lock";

/// A data folder in use by this process, until it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    lock: File,
}

/// Where an instance listens, for scripts and for the command line's other verbs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub http: String,
    /// Of the admin API.
    #[serde(default)]
    pub admin: String,
    /// With the password.
    pub nats: String,
    /// With the password.
    pub postgres: String,
    pub pid: u32,
}

impl DataFolder {
    /// Opens the folder, and makes it where there is none.
    ///
    /// # Errors
    /// It can't be made or written to, or another process uses it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Postgres' user, if it's another one, must be able to reach what's inside.
        let path = make(path, 0o755)?;
        let lock_path = path.join(LOCK);
        let file = File::options().create(true).read(true).write(true).truncate(false).open(&lock_path);
        let mut lock = file.map_err(Error::file(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = holder(&path).map_or("?".to_owned(), |holder| holder.pid.to_string());
                return Err(Error::InUse { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(Error::file(lock_path)(error)),
        }
        let holder = json(&Identity::of(std::process::id()));
        let written = lock.set_len(0).and_then(|()| lock.write_all(&holder));
        written.map_err(Error::file(lock_path))?;
        let folder = Self { path, lock };
        // What an instance wrote that was killed is no longer true.
        folder.remove_addresses();
        Ok(folder)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A key of 256 bits, in hexadecimal digits, that is made once and kept in the folder under this name.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn key(&self, name: &str) -> Result<String, Error> {
        kept::<32>(&self.path.join(name))
    }

    /// Tells scripts that the instance is ready, and where.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_addresses(&self, addresses: &Addresses) -> Result<(), Error> {
        write_secret_json(&self.path.join(ADDRESSES), addresses)
    }

    /// At a clean stop.
    pub fn remove_addresses(&self) {
        // It may not be there, and if it stays, its process id tells that it's outdated.
        let _ = fs::remove_file(self.path.join(ADDRESSES));
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // Closing it is not enough: a child that is just being forked holds it open, too, until
        // its program begins.
        let _ = self.lock.unlock();
    }
}

impl Addresses {
    /// Of the instance that uses the folder.
    ///
    /// # Errors
    /// None does; [`Error::Stale`] if the one that did was killed.
    pub fn read(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(ADDRESSES);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::NotRunning(data_dir.to_owned()),
            _ => Error::file(&path)(error),
        })?;
        let addresses: Self =
            serde_json::from_slice(&text).map_err(|error| Error::file(&path)(error.into()))?;
        // The process id alone might be that of a later process by now.
        match holder(data_dir) {
            Some(holder) if holder.pid == addresses.pid && holder.runs() => Ok(addresses),
            _ => Err(Error::Stale { path, pid: addresses.pid }),
        }
    }
}

/// Which process locked the folder last.
fn holder(data_dir: &Path) -> Option<Identity> {
    serde_json::from_slice(&fs::read(data_dir.join(LOCK)).ok()?).ok()
}

/// The canonical path of a folder, which is made with these permissions where there is none.
pub(super) fn make(path: &Path, mode: u32) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        fs::create_dir_all(path).map_err(Error::file(path))?;
        // Whatever the umask says.
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::file(path))?;
    }
    path.canonicalize().map_err(Error::file(path))
}

/// A password that is made once and kept in the folder.
pub(super) fn password(folder: &Path) -> Result<String, Error> {
    kept::<24>(&folder.join("password"))
}

/// A secret of so many bytes that is made once and kept there.
fn kept<const BYTES: usize>(path: &Path) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(secret) if !secret.is_empty() => return Ok(secret),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::file(path)(error)),
        _ => {}
    }
    let secret = random_text::<BYTES>()?;
    write_secret(path, secret.as_bytes())?;
    Ok(secret)
}

/// So many random bytes in hexadecimal digits.
pub(super) fn random_text<const BYTES: usize>() -> Result<String, Error> {
    let mut bytes = [0; BYTES];
    let source = Path::new("/dev/urandom");
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(Error::file(source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn write_secret_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    write_secret(path, &json(value))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("plain data: {error}"))
}

/// Writes a file that only its owner may read: all of it, or the old one stays.
pub(super) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&new);
    let mut file = file.map_err(Error::file(&new))?;
    let written = file
        // It may be there from a write that was interrupted.
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all());
    written.map_err(Error::file(&new))?;
    rename(&new, path)
}

/// Renames for good: a power cut does not undo it.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    let renamed = fs::rename(from, to).and_then(|()| File::open(folder)?.sync_all());
    renamed.map_err(Error::file(to))
}
