//! What was done to control groups, so that a restore that fails can take it back.

use super::property;
use crate::execute::guard::Front;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the groups of a failed restore may take to be empty.
const EMPTY: Duration = Duration::from_secs(2);

/// Directories that were made, and properties as they were in those that existed. Dropping it
/// takes all of it back, the last first.
#[derive(Debug, Default)]
pub(super) struct Journal<'a> {
    done: Vec<Done>,
    made: HashSet<PathBuf>,
    /// Learns of everything beforehand, and takes it back if this process cannot.
    front: Option<&'a Front>,
}

#[derive(Debug, PartialEq, Eq)]
enum Done {
    Made(PathBuf),
    Wrote { file: PathBuf, before: String },
    Owned { file: PathBuf, uid: u32, gid: u32, mode: u32 },
}

/// Takes back what a process did that was killed, as it told its front.
pub(crate) fn take_back(told: &[Vec<u8>]) {
    let mut journal = Journal::default();
    journal.done.extend(told.iter().filter_map(|words| Done::decode(words)));
}

impl<'a> Journal<'a> {
    /// One of which the front knows.
    pub(super) fn told_to(front: &'a Front) -> Self {
        let mut journal = Self::default();
        journal.front = Some(front);
        journal
    }

    fn add(&mut self, done: Done) {
        // A hierarchy that only we have mounted cannot be reached from there.
        if let Some(front) = self.front.filter(|_| !done.path().starts_with("/proc/self")) {
            front.does(&done.encode());
        }
        self.done.push(done);
    }

    /// Has `make` make a directory.
    pub(super) fn makes(
        &mut self,
        path: &Path,
        make: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.add(Done::Made(path.to_owned()));
        let made = make();
        if made.is_ok() {
            self.made.insert(path.to_owned());
        } else {
            self.done.pop();
        }
        made
    }

    /// Remembers a property that is going to be written.
    pub(super) fn writes(&mut self, file: &Path) {
        if !self.is_new(file)
            && let Ok(before) = property::value(file)
        {
            self.add(Done::Wrote { file: file.to_owned(), before });
        }
    }

    /// Remembers who owns a property that is going to have another owner or mode.
    pub(super) fn gives(&mut self, file: &Path, now: &fs::Metadata) {
        if !self.is_new(file) {
            let (uid, gid, mode) = (now.uid(), now.gid(), now.mode() & 0o7777);
            self.add(Done::Owned { file: file.to_owned(), uid, gid, mode });
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

impl Drop for Journal<'_> {
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

    /// As words with a zero byte between, which none of them has.
    fn encode(&self) -> Vec<u8> {
        let path = self.path().as_os_str().as_bytes();
        let (kind, rest) = match self {
            Self::Made(_) => ("made", String::new()),
            Self::Wrote { before, .. } => ("wrote", before.clone()),
            Self::Owned { uid, gid, mode, .. } => ("owned", format!("{uid} {gid} {mode}")),
        };
        [kind.as_bytes(), path, rest.as_bytes()].join(&0)
    }

    fn decode(words: &[u8]) -> Option<Self> {
        let mut words = words.splitn(3, |byte| *byte == 0);
        let kind = words.next()?;
        let file = PathBuf::from(OsStr::from_bytes(words.next()?));
        let rest = std::str::from_utf8(words.next()?).ok()?;
        match kind {
            b"made" => Some(Self::Made(file)),
            b"wrote" => Some(Self::Wrote { file, before: rest.to_owned() }),
            b"owned" => {
                let mut numbers = rest.split(' ').map_while(|n| n.parse().ok());
                let mut next = || numbers.next();
                Some(Self::Owned { file, uid: next()?, gid: next()?, mode: next()? })
            }
            _ => None,
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
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_reads_what_it_was_told() {
        let file = || PathBuf::from(OsStr::from_bytes(b"/sys/fs/cgroup/a b\n\xff"));
        let all = [
            Done::Made(file()),
            Done::Wrote { file: file(), before: "1 2\n3".into() },
            Done::Wrote { file: file(), before: String::new() },
            Done::Owned { file: file(), uid: u32::MAX, gid: 5, mode: 0o644 },
        ];
        for done in all {
            let words = done.encode();
            assert_eq!(Done::decode(&words), Some(done));
            assert_eq!(Done::decode(&words[..4]), None);
        }
    }

    #[test]
    fn what_was_told_is_taken_back() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, file) = (temp.path().join("group"), temp.path().join("limit"));
        fs::create_dir(&dir).unwrap();
        fs::write(&file, "new").unwrap();
        let never = temp.path().join("never");
        let told = [
            Done::Made(dir.clone()),
            Done::Wrote { file: file.clone(), before: "old".into() },
            Done::Made(dir.join("below, and not made any more")),
            Done::Made(never),
        ];
        take_back(&told.map(|done| done.encode()));
        assert!(!dir.exists());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    }
}
