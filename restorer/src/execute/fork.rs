//! Making processes with chosen numbers.
#![expect(unsafe_code, reason = "fork has no safe form")]

use crate::execute::stage::Board;
use crate::facts::Facts;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use sys::task::Forked;

/// How often a process is made anew because somebody else took its number.
const TRIES: usize = 1000;

/// How numbers are chosen.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// `clone3` takes them (5.5).
    SetTid,
    /// The kernel is told the last one that it gave, by its `ns_last_pid`.
    LastPid(File),
}

impl Numbers {
    /// As this kernel can; what is opened for it is not below `least`.
    pub(crate) fn of(facts: &Facts, least: RawFd) -> sys::Result<Self> {
        if facts.set_tid {
            return Ok(Self::SetTid);
        }
        let path = "/proc/sys/kernel/ns_last_pid";
        let file = File::options().write(true).open(path);
        let file = file.map_err(|e| sys::Error::io(format_args!("open({path})"), &e))?;
        log::debug!("clone3 takes no numbers: they are chosen by {path}");
        Ok(Self::LastPid(sys::fd::dup_above(file.as_fd(), least)?.into()))
    }

    /// The descriptor of `ns_last_pid`, if it is needed.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        match self {
            Self::SetTid => None,
            Self::LastPid(file) => Some(file.as_raw_fd()),
        }
    }
}

/// Forks a process with pid `pid` (0 for any) which runs `child`, which does not return, and nothing
/// else. Its parent gets `exit_signal` at its end. `reap`: has the parent wait for one that ends at
/// once, as somebody else took the number.
///
/// All processes of a restore are single-threaded copies of the coordinator until they enter the
/// blob, so everything works in them as it does in the coordinator.
pub(crate) fn fork(
    numbers: &Numbers,
    board: &Board,
    (flags, exit_signal): (u64, i32),
    pid: i32,
    reap: impl Fn(i32),
    child: impl FnOnce(),
) -> sys::Result<i32> {
    let last_pid = match numbers {
        Numbers::SetTid => None,
        Numbers::LastPid(file) => Some(file),
    };
    let wanted = [pid];
    let set_tid = if pid == 0 { &[] } else { &wanted[..] };
    for _ in 0..TRIES {
        let made = match last_pid {
            // SAFETY: the coordinator is single-threaded by contract of `restore`, and so are its
            // descendants up to here: the child finds no lock that another thread held.
            None => unsafe { sys::task::fork_with(flags, set_tid, exit_signal) }?,
            Some(file) => {
                let chosen = board.choose();
                tell(file, pid)?;
                // SAFETY: as above.
                let made = unsafe { sys::task::fork_plain(flags, exit_signal) }?;
                if matches!(made, Forked::Parent(_)) {
                    drop(chosen);
                } else {
                    // The parent's to give back.
                    std::mem::forget(chosen);
                }
                made
            }
        };
        match made {
            Forked::Child => {
                if last_pid.is_none() || pid == 0 || std::process::id().cast_signed() == pid {
                    child();
                }
                sys::arena::exit_now(1)
            }
            Forked::Parent(made) if last_pid.is_none() || pid == 0 || made == pid => {
                return Ok(made);
            }
            Forked::Parent(made) => {
                log::debug!("somebody took {pid}, so {made} was forked: once more");
                // It has a number itself until then.
                reap(made);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Err(sys::Error::new(format_args!("clone() as {pid} by ns_last_pid"), libc::EEXIST))
}

/// Waits for a child that ends at once.
pub(crate) fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL));
}

/// The next process gets `pid`, if nobody else makes one before.
fn tell(file: &File, pid: i32) -> sys::Result<()> {
    if pid == 0 {
        return Ok(());
    }
    let last = pid - 1;
    file.write_all_at(last.to_string().as_bytes(), 0)
        .map_err(|e| sys::Error::io(format_args!("write(ns_last_pid, {last})"), &e))
}
