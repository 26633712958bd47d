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

/// Its name in [`Error::Hook`](crate::Error::Hook).
pub(crate) const QUERY_EXT_FILES: &str = "query-ext-files";

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

    /// The tree is stopped: more `--external` resources, asked of RPC clients only
    /// (`query-ext-files`). `Err` is the exit code to end with.
    fn query_ext_files(&mut self, _root_pid: i32) -> Result<Vec<String>, i32> {
        Ok(Vec::new())
    }

    /// Whether there is anybody to be told or asked: if not, a frozen tree is spared the time.
    fn anybody(&self) -> bool {
        true
    }

    /// Who wants to know how much memory is written. Asked once, before it is.
    fn progress(&self) -> &dyn Progress {
        &NoHooks
    }
}

/// Hears how memory gets written, from any thread.
pub trait Progress: Sync {
    /// So many more bytes are to be written.
    fn expect(&self, bytes: u64);

    /// So many more bytes are written.
    fn done(&self, bytes: u64);
}

/// No hooks.
#[derive(Clone, Copy, Debug)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn run(&mut self, _: Action, _: i32) -> Result<(), i32> {
        Ok(())
    }
}

impl Progress for NoHooks {
    fn expect(&self, _: u64) {}
    fn done(&self, _: u64) {}
}
