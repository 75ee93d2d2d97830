//! The data folder: who uses it, where its servers listen, and what only its owner may read.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::process::Identity;

const ADDRESSES: &str = "addresses.json";

/// A data folder in use by this process, until it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// Where an instance listens, for scripts and for the command line's other verbs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub http: String,
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
        fs::create_dir_all(path).map_err(Error::file(path))?;
        let path = path.canonicalize().map_err(Error::file(path))?;
        let lock_path = path.join("lock");
        let file = File::options().create(true).read(true).write(true).truncate(false).open(&lock_path);
        let mut lock = file.map_err(Error::file(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&lock_path).unwrap_or_default();
                return Err(Error::InUse { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(Error::file(lock_path)(error)),
        }
        let written = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        written.map_err(Error::file(lock_path))?;
        let folder = Self { path, _lock: lock };
        // What an instance wrote that was killed is no longer true.
        folder.remove_addresses();
        Ok(folder)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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

impl Addresses {
    /// Of the instance that uses the folder.
    ///
    /// # Errors
    /// None does.
    pub fn read(data_dir: &Path) -> Result<Self, Error> {
        let not_running = || Error::NotRunning(data_dir.to_owned());
        let text = fs::read(data_dir.join(ADDRESSES)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => not_running(),
            _ => Error::file(data_dir.join(ADDRESSES))(error),
        })?;
        let addresses: Self = serde_json::from_slice(&text).map_err(|_| not_running())?;
        Identity::of(addresses.pid).map(|_| addresses).ok_or_else(not_running)
    }
}

/// A password that is made once and kept in the folder.
pub(super) fn password(folder: &Path) -> Result<String, Error> {
    let path = folder.join("password");
    if let Ok(password) = fs::read_to_string(&path)
        && !password.is_empty()
    {
        return Ok(password);
    }
    let mut bytes = [0; 24];
    let random = Path::new("/dev/urandom");
    File::open(random).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes)).map_err(Error::file(random))?;
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(&path, password.as_bytes())?;
    Ok(password)
}

pub(super) fn write_secret_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("plain data: {error}"));
    write_secret(path, &text)
}

/// Writes a file that only its owner may read: all of it, or the old one stays.
pub(super) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(Error::file(&new))?;
    let written = file
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    written.map_err(Error::file(path))
}
