//! The moments of a dump at which the caller may act (action scripts, RPC notifications).

/// CRIU's names for the moments of a dump, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Before anything is touched.
    PreDump,
    /// The tree is stopped; the network is about to be locked.
    NetworkLock,
    /// The dump failed or leaves the tasks running: the network is unlocked.
    NetworkUnlock,
    /// Images are complete, the tasks still stopped. A failure leaves them running.
    PostDump,
}

impl Action {
    /// The name in `CRTOOLS_SCRIPT_ACTION` and in RPC notifications.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreDump => "pre-dump",
            Self::NetworkLock => "network-lock",
            Self::NetworkUnlock => "network-unlock",
            Self::PostDump => "post-dump",
        }
    }
}

/// Called at each [`Action`].
pub trait Hooks {
    /// Acts; `Err` is the exit code to end with.
    fn run(&mut self, action: Action, root_pid: i32) -> Result<(), i32>;

    /// Hears how much memory is through, in bytes, now and then while it is moved.
    fn progress(&mut self, _done: u64, _total: u64) {}
}

/// No hooks.
#[derive(Clone, Copy, Debug)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn run(&mut self, _: Action, _: i32) -> Result<(), i32> {
        Ok(())
    }
}
