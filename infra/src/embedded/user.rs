//! Whom Postgres runs as: it refuses to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::Error;

/// A user without privileges.
#[derive(Debug)]
pub(super) struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// `None` when this process is not root, and so is good enough itself. Else whoever owns the
    /// cluster that is there, or the user that the system has for this.
    pub fn for_cluster(cluster: &Path) -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let users = fs::read_to_string(path).map_err(Error::file(path))?;
        let owner = fs::metadata(cluster).map(|it| it.uid()).ok().filter(|uid| *uid != 0);
        let user = match owner {
            Some(owner) => Self::find(&users, |user| user.uid == owner),
            None => Self::find(&users, |user| user.name == "postgres")
                .or_else(|| Self::find(&users, |user| user.name == "nobody")),
        };
        user.map(Some).ok_or_else(|| {
            Error::NotEnterable(match owner {
                Some(uid) => {
                    format!("{} belongs to user {uid}, whom /etc/passwd does not know", cluster.display())
                }
                None => {
                    "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody`; \
                         run it as another user"
                        .to_owned()
                }
            })
        })
    }

    fn find(users: &str, wanted: impl Fn(&Self) -> bool) -> Option<Self> {
        let mut users = users.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(Self { name: name.to_owned(), uid, gid })
        });
        users.find(wanted)
    }

    pub fn own(&self, path: &Path) -> Result<(), Error> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(Error::file(path))
    }

    /// The topmost folder on the way to the path that this user can't enter.
    fn closed_folder(&self, path: &Path) -> Option<PathBuf> {
        let closed = |folder: &&Path| {
            let Ok(metadata) = folder.metadata() else { return false };
            let shift = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
                (true, _) => 6,
                (false, true) => 3,
                (false, false) => 0,
            };
            (metadata.permissions().mode() >> shift) & 1 == 0
        };
        path.ancestors().skip(1).filter(closed).last().map(Path::to_owned)
    }
}

/// A command as the unprivileged user. Where a folder on the way to its data is closed to that
/// user (root's home, say), it's given the one capability of passing through.
pub(super) fn command(user: Option<&User>, program: &Path, data: &Path) -> Result<Command, Error> {
    let Some(user) = user else { return Ok(Command::new(program)) };
    let Some(closed) = user.closed_folder(data).or_else(|| user.closed_folder(program)) else {
        let mut command = Command::new(program);
        // The standard library then leaves root's other groups, too.
        command.uid(user.uid).gid(user.gid);
        return Ok(command);
    };
    let pass_through = || {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
        command.args([
            "--clear-groups",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
            "--",
        ]);
        command
    };
    // A container may not have that capability to give; that shows in trying.
    let tried = pass_through().arg("stat").args([program, data]).as_std_mut().output();
    if tried.is_ok_and(|output| output.status.success()) {
        let mut command = pass_through();
        command.arg(program);
        return Ok(command);
    }
    Err(Error::NotEnterable(format!(
        "Postgres does not run as root, and its user `{}` can't enter {}; take a data folder that it can reach, \
         such as --data-dir /var/lib/cartulary",
        user.name,
        closed.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_fields() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nbroken\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        let user = User::find(users, |user| user.name == "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(User::find(users, |user| user.uid == 7).is_none());
    }

    #[test]
    fn a_folder_is_closed_to_who_may_not_enter() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = User { name: "stranger".to_owned(), uid: 64_000, gid: 64_000 };
        assert_eq!(stranger.closed_folder(&inside), Some(folder.path().to_owned()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(stranger.closed_folder(&inside), None);
    }
}
