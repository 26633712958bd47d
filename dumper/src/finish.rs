//! What becomes of the tasks when the dump is over.

use crate::Leave;
use parasite::{Dying, Frozen};

/// Kills the tasks, leaves them stopped, or lets them run on. The killed ones are still to be
/// waited for.
pub(crate) fn finish(mut frozen: Frozen, leave: Leave) -> Option<Dying> {
    match leave {
        Leave::Dead => return Some(frozen.kill()),
        Leave::Stopped => {
            for process in &mut frozen.processes {
                process.leave_stopped = true;
            }
        }
        Leave::Running => {}
    }
    None
}
