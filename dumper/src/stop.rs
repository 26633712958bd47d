//! Being told to stop while working.

use crate::Error;

/// Says when the dump should give up: whoever asked for it is gone.
///
/// The dump runs in a process of its own (see [`crate::guard`]). When the process in front of
/// it dies, by whatever signal, the kernel gives the worker a new parent: asking for the
/// parent is one cheap system call and needs no signal handler. Copies are cheap; ask in
/// every loop that can take long.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    front: u32,
}

impl Stop {
    /// Watches process `front`, the parent of this one.
    pub fn watching(front: u32) -> Self {
        Self { front }
    }

    /// Watches the present parent of this process.
    pub fn watching_parent() -> Self {
        Self::watching(std::os::unix::process::parent_id())
    }

    /// The dump should end, undoing what it did.
    pub fn requested(self) -> bool {
        std::os::unix::process::parent_id() != self.front
    }

    /// [`Error::Stopped`] when the dump should end.
    pub fn check(self) -> Result<(), Error> {
        if self.requested() { Err(Error::Stopped) } else { Ok(()) }
    }
}
