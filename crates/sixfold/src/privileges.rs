//! From root to the `postgres` user: PostgreSQL refuses to run as root, and so should what feeds it.
//!
//! Order matters: directories are handed over first, then groups, then the user; nothing afterwards
//! can go back.

#![expect(unsafe_code, reason = "changing the process's user is a foreign call")]

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Whether this process may become somebody else.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl User {
    /// Looks the user up in `/etc/passwd`.
    pub fn find(name: &str) -> anyhow::Result<User> {
        let text = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        match text.lines().find_map(|line| parse(line, name)) {
            Some(user) => Ok(user),
            None => bail!(
                "there is no user `{name}` to run PostgreSQL as (it refuses root); install \
                 postgresql-15, which creates `postgres`, or name another with --user"
            ),
        }
    }

    /// Whether the user may pass through every directory on the way to `path`.
    pub fn reaches(&self, path: &Path) -> bool {
        let Ok(path) = std::path::absolute(path) else { return false };
        path.ancestors().filter_map(|dir| fs::metadata(dir).ok()).all(|meta| {
            let mode = meta.permissions().mode();
            match (meta.uid() == self.uid, meta.gid() == self.gid) {
                (true, _) => mode & 0o100 != 0,
                (_, true) => mode & 0o010 != 0,
                _ => mode & 0o001 != 0,
            }
        })
    }

    /// Makes `dir` and all in it the user's. Cheap when the top is already.
    pub fn own(&self, dir: &Path) -> anyhow::Result<()> {
        let meta =
            fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
        if meta.uid() == self.uid && meta.gid() == self.gid {
            return Ok(());
        }
        self.own_tree(dir)
    }

    fn own_tree(&self, path: &Path) -> anyhow::Result<()> {
        let what = || format!("cannot hand {} over to user {}", path.display(), self.name);
        if fs::symlink_metadata(path).with_context(what)?.is_dir() {
            for entry in fs::read_dir(path).with_context(what)? {
                self.own_tree(&entry.with_context(what)?.path())?;
            }
        }
        // The top last, so that an interrupted hand-over is begun again.
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).with_context(what)
    }

    /// Makes one file or directory the user's.
    pub fn own_one(&self, path: &Path) -> anyhow::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot hand {} over to user {}", path.display(), self.name))
    }

    /// Becomes the user, for good.
    pub fn become_for_good(&self) -> anyhow::Result<()> {
        let name = CString::new(self.name.as_str()).context("a user's name has no zero byte")?;
        // SAFETY: plain system calls; `name` outlives the call. No other thread runs yet, and the C
        // library applies the change to all threads anyway.
        unsafe {
            ensure!(libc::initgroups(name.as_ptr(), self.gid) == 0, self.failed("its groups"));
            ensure!(libc::setgid(self.gid) == 0, self.failed("its group"));
            ensure!(libc::setuid(self.uid) == 0, self.failed("the user"));
            // A change of user hides /proc/self from the process itself; undo that.
            ensure!(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) == 0, self.failed("prctl"));
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> String {
        let error = std::io::Error::last_os_error();
        format!("cannot become user {} ({what}): {error}", self.name)
    }
}

fn parse(line: &str, name: &str) -> Option<User> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(User { name: name.to_owned(), uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let line = "postgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash";
        let user = User { name: "postgres".to_owned(), uid: 101, gid: 104 };
        assert_eq!(parse(line, "postgres"), Some(user));
        assert_eq!(parse(line, "post"), None);
        assert_eq!(User::find("root").expect("there").uid, 0);
        let error = User::find("no-such-user").expect_err("absent").to_string();
        assert!(error.contains("postgresql-15"), "{error}");
    }

    #[test]
    fn a_closed_directory_is_not_reached_by_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let inside = dir.path().join("x");
        fs::create_dir(&inside).expect("made");
        let stranger = User { name: "stranger".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("set");
        assert!(!stranger.reaches(&inside));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("set");
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).expect("set");
        assert!(stranger.reaches(&inside));
    }
}
