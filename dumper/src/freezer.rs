//! `--freeze-cgroup`: a control group's freezer holds the tasks until they are traced.
//!
//! The freezer is only used for the moment in which the tree is seized, and is put back to what it
//! was before the tasks run on. Tasks of the group that are not of the tree notice no more than a
//! pause. A v1 freezer also keeps tasks from stopping for us, so they are seized while frozen and
//! waited for when it has let them go.

use crate::dump::deadline;
use crate::stop::Stop;
use crate::{Error, Request};
use parasite::{Frozen, Limits};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Holds the tree of `request` still, by way of its freezer if it names one.
pub(crate) fn hold(request: &Request, stop: Stop) -> Result<(Frozen, Option<Freezer>), Error> {
    let limits = Limits { deadline: deadline(request), stop: &|| stop.requested() };
    let mut freezer = request.freeze_cgroup.as_deref().map(Freezer::open).transpose()?;
    let frozen = match &mut freezer {
        Some(freezer) => freezer.freeze_tree(request.pid, &limits)?,
        None => parasite::freeze(request.pid, &limits)?,
    };
    Ok((frozen, freezer))
}

/// How often to look whether all tasks stand still.
const LOOK: Duration = Duration::from_millis(1);
/// A v1 freezer forgets tasks that moved in meanwhile: it is told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A freezer, as it was found. Dropping it puts it back.
#[derive(Debug)]
pub(crate) struct Freezer {
    dir: PathBuf,
    version: Version,
    was_frozen: bool,
    put_back: bool,
}

impl Freezer {
    /// The freezer of the group at `dir`. Nothing is changed yet.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let has = |name: &str| dir.join(name).exists();
        let version = if has("freezer.state") {
            Version::V1
        } else if has("cgroup.freeze") {
            Version::V2
        } else {
            let dir = dir.display();
            return Err(Error::Refused(format!(
                "--freeze-cgroup {dir}: there is no freezer.state and no cgroup.freeze"
            )));
        };
        let mut freezer = Self { dir: dir.to_owned(), version, was_frozen: false, put_back: false };
        freezer.was_frozen = match version {
            // Frozen by itself, not by a group above, which we could not thaw here.
            Version::V1 => freezer.read("freezer.self_freezing")? == "1",
            Version::V2 => freezer.read("cgroup.freeze")? == "1",
        };
        Ok(freezer)
    }

    /// Property and value that a restore ends with.
    pub(crate) fn property(&self) -> (&'static str, &'static str) {
        match (self.version, self.was_frozen) {
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
        }
    }

    /// The directory of the group.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Freezes the tree of `root`, which may reach out of the group.
    pub(crate) fn freeze_tree(&mut self, root: i32, limits: &Limits<'_>) -> Result<Frozen, Error> {
        self.refuse_ourselves(&self.dir)?;
        self.put_back = true;
        self.set(true)?;
        self.wait_frozen(limits)?;
        match self.version {
            Version::V1 => {
                parasite::hold_frozen(root)?;
                self.set(false)?;
                Ok(parasite::freeze(root, limits)?)
            }
            Version::V2 => {
                let frozen = parasite::freeze(root, limits)?;
                self.set(false)?;
                Ok(frozen)
            }
        }
    }

    /// Back to how it was found. Before the tasks run on.
    pub(crate) fn put_back(&mut self) {
        if std::mem::take(&mut self.put_back)
            && let Err(e) = self.set(self.was_frozen)
        {
            log::error!("the freezer could not be put back: {e}");
        }
    }

    /// The tasks are gone: nobody is to be frozen any more.
    pub(crate) fn forget(&mut self) {
        self.put_back = false;
    }

    /// The same for a worker that died, by whoever waited for it.
    pub(crate) fn rescue(&mut self) {
        self.put_back = true;
        self.put_back();
    }

    fn refuse_ourselves(&self, dir: &Path) -> Result<(), Error> {
        let own = [std::process::id(), std::os::unix::process::parent_id()];
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        if let Some(pid) = text.lines().filter_map(|l| l.parse().ok()).find(|p| own.contains(p)) {
            return Err(Error::Refused(format!(
                "--freeze-cgroup {}: criu itself ({pid}) is in this group",
                self.dir.display()
            )));
        }
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            self.refuse_ourselves(&entry.path())?;
        }
        Ok(())
    }

    fn set(&self, frozen: bool) -> Result<(), Error> {
        let (name, value) = match (self.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        let path = self.dir.join(name);
        let call = || format!("write({}, {value})", path.display());
        Ok(fs::write(&path, value).map_err(|e| sys::Error::io(call(), &e))?)
    }

    fn read(&self, name: &str) -> Result<String, Error> {
        let path = self.dir.join(name);
        let text = fs::read_to_string(&path)
            .map_err(|e| sys::Error::io(format_args!("read({})", path.display()), &e))?;
        Ok(text.trim().to_owned())
    }

    fn is_frozen(&self) -> Result<bool, Error> {
        Ok(match self.version {
            Version::V1 => self.read("freezer.state")? == "FROZEN",
            Version::V2 => self.read("cgroup.events")?.lines().any(|l| l == "frozen 1"),
        })
    }

    fn wait_frozen(&self, limits: &Limits<'_>) -> Result<(), Error> {
        let mut told = Instant::now();
        while !self.is_frozen()? {
            if (limits.stop)() {
                return Err(Error::Stopped);
            }
            if limits.deadline.is_some_and(|d| Instant::now() > d) {
                let dir = self.dir.display();
                return Err(Error::Refused(format!(
                    "timeout: --freeze-cgroup {dir}: its tasks do not freeze"
                )));
            }
            if told.elapsed() > TELL_AGAIN {
                self.set(true)?;
                told = Instant::now();
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.put_back();
    }
}
