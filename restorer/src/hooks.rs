//! The moments of a restore at which the caller may act (action scripts, RPC notifications).

use std::os::fd::BorrowedFd;

/// CRIU's names for the moments of a restore, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Images are read, nothing is made yet.
    PreRestore,
    /// The root task exists in its namespaces, which are not filled yet.
    SetupNamespaces,
    /// Namespaces are filled.
    PostSetupNamespaces,
    /// All tasks are rebuilt and stopped.
    PostRestore,
    /// The network is unlocked: the point of no return.
    NetworkUnlock,
    /// Right before the tasks run.
    PreResume,
    /// The tasks run.
    PostResume,
}

impl Action {
    /// The name in `CRTOOLS_SCRIPT_ACTION` and in RPC notifications.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreRestore => "pre-restore",
            Self::SetupNamespaces => "setup-namespaces",
            Self::PostSetupNamespaces => "post-setup-namespaces",
            Self::PostRestore => "post-restore",
            Self::NetworkUnlock => "network-unlock",
            Self::PreResume => "pre-resume",
            Self::PostResume => "post-resume",
        }
    }
}

/// Name of the hook that is called `text`.
pub(crate) fn name(text: &str) -> &'static str {
    let all = [
        Action::PreRestore,
        Action::SetupNamespaces,
        Action::PostSetupNamespaces,
        Action::PostRestore,
        Action::NetworkUnlock,
        Action::PreResume,
        Action::PostResume,
    ];
    all.iter().map(|a| a.name()).find(|n| *n == text).unwrap_or(ORPHAN_PTS_MASTER)
}

/// Name of [`Hooks::orphan_pts_master`].
pub(crate) const ORPHAN_PTS_MASTER: &str = "orphan-pts-master";

/// Called at each [`Action`].
pub trait Hooks {
    /// Acts; `root_pid` once it is known. `Err` is the exit code to end with.
    fn run(&mut self, action: Action, root_pid: Option<i32>) -> Result<(), i32>;

    /// The master of a pseudo terminal made anew: the tasks have its slave, whose old master was
    /// outside of the tree (`orphan-pts-master`). Before `PostRestore`; `Err` is the exit code to
    /// end with.
    fn orphan_pts_master(&mut self, master: BorrowedFd<'_>) -> Result<(), i32> {
        let _ = master;
        Ok(())
    }

    /// This process leads the restore from now on: a fork of the one that asked for it.
    fn leads(&mut self) {}

    /// What a process that was forked to become a task does first, with the task's number in the
    /// images. Asked once, before there are any.
    fn in_task(&self) -> fn(u32) {
        |_| ()
    }

    /// Who wants to know how much memory is restored. Asked once, before it is.
    fn progress(&self) -> &dyn Progress {
        &NoHooks
    }
}

/// Hears how memory gets restored, from any thread.
pub trait Progress: Sync {
    /// So many more bytes are to be restored.
    fn expect(&self, bytes: u64);

    /// So many more bytes are restored.
    fn done(&self, bytes: u64);
}

/// No hooks.
#[derive(Clone, Copy, Debug)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn run(&mut self, _: Action, _: Option<i32>) -> Result<(), i32> {
        Ok(())
    }
}

impl Progress for NoHooks {
    fn expect(&self, _: u64) {}
    fn done(&self, _: u64) {}
}
