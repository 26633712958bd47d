//! What happens at the moments of a dump or restore: RPC notifications, action scripts, the
//! pidfile, a progress line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use nix::poll::{PollFd, PollFlags, poll};

use crate::progress::Progress;
use crate::rpc::Client;

/// CRIU's exit code of a dump whose script failed, and what it makes of its own -1.
const SCRIPT_FAILED: i32 = 255;

/// How often a script's process looks whether it is still wanted, in ms.
const PATROL: u8 = 50;

/// What this program does at each moment.
#[derive(Debug)]
pub(crate) struct Hooks<'a> {
    client: Option<&'a Client>,
    scripts: Scripts<'a>,
    pidfile: Option<PathBuf>,
    progress: Progress,
}

impl<'a> Hooks<'a> {
    /// Hooks of a dump.
    pub(crate) fn for_dump(scripts: Scripts<'a>, client: Option<&'a Client>) -> Self {
        Self { client, scripts, pidfile: None, progress: Progress::new("dump") }
    }

    /// Hooks of a restore, which also writes the root's pid to `pidfile`.
    pub(crate) fn for_restore(
        scripts: Scripts<'a>,
        client: Option<&'a Client>,
        pidfile: Option<PathBuf>,
    ) -> Self {
        Self { client, scripts, pidfile, progress: Progress::new("restore") }
    }

    /// Tells the client, then the scripts. `told_pid` is for the client, who is told it only
    /// where CRIU does.
    fn all(&self, action: &str, told_pid: Option<i32>, root_pid: Option<i32>) -> Result<(), i32> {
        if let Some(client) = self.client {
            client.notify(action, told_pid)?;
        }
        self.scripts.run(action, root_pid)
    }

    /// A client that has gone cannot be told the result: better nothing happens to the tasks.
    fn client_waits(&self) -> Result<(), i32> {
        match self.client {
            Some(client) if client.has_gone() => {
                log::error!("the RPC client has hung up");
                Err(1)
            }
            _ => Ok(()),
        }
    }
}

impl dumper::Hooks for Hooks<'_> {
    fn run(&mut self, action: dumper::Action, root_pid: i32) -> Result<(), i32> {
        self.all(action.name(), None, Some(root_pid))?;
        match action {
            dumper::Action::PostDump => self.client_waits(),
            _ => Ok(()),
        }
    }

    fn anybody(&self) -> bool {
        self.client.is_some() || !self.scripts.paths.is_empty()
    }

    fn query_ext_files(&mut self, _: i32) -> Result<Vec<String>, i32> {
        self.client.map_or(Ok(Vec::new()), Client::query_ext_files)
    }

    fn progress(&self) -> &dyn dumper::Progress {
        &self.progress
    }
}

impl restorer::Hooks for Hooks<'_> {
    fn run(&mut self, action: restorer::Action, root_pid: Option<i32>) -> Result<(), i32> {
        use restorer::Action;
        let told_pid = match action {
            Action::SetupNamespaces | Action::PostRestore => root_pid,
            _ => None,
        };
        let ran = self.all(action.name(), told_pid, root_pid);
        match action {
            // Too late to go back.
            Action::NetworkUnlock | Action::PreResume | Action::PostResume => return Ok(()),
            _ => ran?,
        }
        if action == Action::PostRestore {
            self.client_waits()?;
        }
        // Here, so that a restore that cannot write it fails while nothing runs yet.
        if action == Action::PostRestore
            && let (Some(path), Some(pid)) = (&self.pidfile, root_pid)
        {
            return write_pidfile(path, pid).map_err(|e| {
                log::error!("Can't write pidfile {}: {e}", path.display());
                1
            });
        }
        Ok(())
    }

    fn orphan_pts_master(&mut self, master: BorrowedFd<'_>) -> Result<(), i32> {
        self.client.map_or(Ok(()), |client| client.give_pts_master(master))
    }

    fn in_task(&self) -> fn(u32) {
        crate::log::in_task
    }

    fn leads(&mut self) {
        crate::log::name_children();
        self.scripts.front = Some(sys::arena::getppid());
    }

    fn progress(&self) -> &dyn restorer::Progress {
        &self.progress
    }
}

/// Writes a pid as clients expect it: a new file, no newline.
pub(crate) fn write_pidfile(path: &Path, pid: i32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pid.to_string().as_bytes())
}

/// The `--action-script` programs.
#[derive(Debug)]
pub(crate) struct Scripts<'a> {
    /// In the order they are run: the last one given comes first.
    paths: Vec<PathBuf>,
    images: &'a std::fs::File,
    /// Our parent, without which nobody waits for a script.
    front: Option<i32>,
}

impl<'a> Scripts<'a> {
    /// `paths` in the order they were given; `images` is the directory they may look into.
    pub(crate) fn new(paths: &[PathBuf], images: &'a std::fs::File) -> Self {
        Self { paths: paths.iter().rev().cloned().collect(), images, front: None }
    }

    /// Runs all of them, also after one failed.
    pub(crate) fn run(&self, action: &str, root_pid: Option<i32>) -> Result<(), i32> {
        if self.paths.is_empty() {
            return Ok(());
        }
        log::info!("Running {action} scripts");
        let mut failed = false;
        for path in &self.paths {
            log::info!("\t[{}]", path.display());
            failed |= !self.run_one(path, action, root_pid);
        }
        if failed {
            log::error!("One of more action scripts failed");
            return Err(SCRIPT_FAILED);
        }
        Ok(())
    }

    fn run_one(&self, path: &Path, action: &str, root_pid: Option<i32>) -> bool {
        let fd = self.images.as_fd().as_raw_fd();
        let images = format!("/proc/{}/fd/{fd}", std::process::id());
        let mut command = Command::new(path);
        command.env("CRTOOLS_SCRIPT_ACTION", action).env("CRTOOLS_IMAGE_DIR", images);
        if let Some(pid) = root_pid {
            command.env("CRTOOLS_INIT_PID", pid.to_string());
        }
        match command.spawn().and_then(|script| self.wait(script)) {
            Ok(status) if status.success() => true,
            Ok(status) => {
                log::error!("Script {} failed: {status}", path.display());
                false
            }
            Err(e) => {
                log::error!("Script {} cannot be run: {e}", path.display());
                false
            }
        }
    }
}

impl Scripts<'_> {
    /// Waits for the end of a script; when the front is killed meanwhile, it is asked to end.
    fn wait(&self, mut script: Child) -> io::Result<ExitStatus> {
        let pid = script.id().cast_signed();
        // Without pidfds (before 5.3) a script is waited for as long as it runs.
        let (Some(front), Ok(end)) = (self.front, sys::fd::pidfd_open(pid, 0)) else {
            return script.wait();
        };
        let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        // Interrupted: as if the time were over.
        while poll(&mut fds, PATROL).unwrap_or(0) == 0 {
            if sys::arena::getppid() != front {
                let _ = sys::task::kill(pid, libc::SIGTERM);
                return Err(io::Error::other("nobody waits for the restore any more"));
            }
        }
        script.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_run_last_first_and_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, code: i32| {
            let path = dir.path().join(name);
            let text = format!(
                "#!/bin/sh\necho {name} $CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID \
                 $(readlink $CRTOOLS_IMAGE_DIR) >> {}/out\nexit {code}\n",
                dir.path().display()
            );
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).mode(0o755).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            path
        };
        let paths = [script("a", 0), script("b", 3)];
        let images = std::fs::File::open(dir.path()).unwrap();
        let result = Scripts::new(&paths, &images).run("pre-dump", Some(42));
        assert_eq!(result, Err(255));
        let at = dir.path().display();
        let out = std::fs::read_to_string(dir.path().join("out")).unwrap();
        assert_eq!(out, format!("b pre-dump 42 {at}\na pre-dump 42 {at}\n"));
    }

    #[test]
    fn a_pidfile_is_made_anew_and_ends_without_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_pidfile(&path, 42).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"42");
        let again = write_pidfile(&path, 42).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }
}
