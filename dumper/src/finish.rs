//! What becomes of the tasks when the dump is over.

use crate::Leave;
use parasite::Frozen;

/// Kills the tasks, leaves them stopped, or lets them run on.
pub(crate) fn finish(mut frozen: Frozen, leave: Leave) {
    match leave {
        Leave::Dead => frozen.kill(),
        Leave::Stopped => {
            for process in &mut frozen.processes {
                process.leave_stopped = true;
            }
        }
        Leave::Running => {}
    }
}
