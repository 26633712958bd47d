//! What was done to control groups, so that a restore that fails can take it back.

use super::property;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the groups of a failed restore may take to be empty.
const EMPTY: Duration = Duration::from_secs(2);

/// Directories that were made, and properties as they were in those that existed. Dropping it
/// takes all of it back, the last first.
#[derive(Debug, Default)]
pub(super) struct Journal {
    done: Vec<Done>,
    made: HashSet<PathBuf>,
}

#[derive(Debug)]
enum Done {
    Made(PathBuf),
    Wrote { file: PathBuf, before: String },
    Owned { file: PathBuf, uid: u32, gid: u32, mode: u32 },
}

impl Journal {
    /// A directory was made.
    pub(super) fn made(&mut self, path: PathBuf) {
        self.made.insert(path.clone());
        self.done.push(Done::Made(path));
    }

    /// Remembers a property that is going to be written.
    pub(super) fn writes(&mut self, file: &Path) {
        if !self.is_new(file)
            && let Ok(before) = property::value(file)
        {
            self.done.push(Done::Wrote { file: file.to_owned(), before });
        }
    }

    /// Remembers who owns a property that is going to have another owner or mode.
    pub(super) fn gives(&mut self, file: &Path, now: &fs::Metadata) {
        if !self.is_new(file) {
            let (uid, gid, mode) = (now.uid(), now.gid(), now.mode() & 0o7777);
            self.done.push(Done::Owned { file: file.to_owned(), uid, gid, mode });
        }
    }

    /// All of it stays.
    pub(super) fn keep(&mut self) {
        self.done.clear();
    }

    /// It goes with its directory.
    fn is_new(&self, file: &Path) -> bool {
        file.parent().is_some_and(|dir| self.made.contains(dir))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let until = Instant::now() + EMPTY;
        let mut again = Vec::new();
        for done in std::mem::take(&mut self.done).into_iter().rev() {
            if done.undo(until).is_err() {
                again.push(done);
            }
        }
        // Some limits depend on others.
        for done in again {
            if let Err(e) = done.undo(until) {
                log::error!("cgroups: {} stays as it is: {e}", done.path().display());
            }
        }
    }
}

impl Done {
    fn path(&self) -> &Path {
        match self {
            Self::Made(path) => path,
            Self::Wrote { file, .. } | Self::Owned { file, .. } => file,
        }
    }

    fn undo(&self, until: Instant) -> io::Result<()> {
        match self {
            Self::Made(path) => remove(path, until),
            Self::Wrote { file, before } => property::put_back(file, before),
            Self::Owned { file, uid, gid, mode } => {
                chown(file, Some(*uid), Some(*gid))?;
                fs::set_permissions(file, fs::Permissions::from_mode(*mode))
            }
        }
    }
}

/// Removes a group once it is empty.
fn remove(path: &Path, until: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}
