//! What tasks in a user namespace ask of the coordinator, which is outside and has rights there:
//! one question at a time, by the shared page. It answers while it waits for reports.

use crate::execute::stage::{ASK, Board, alone};
use crate::files::Outside;
use crate::ns::pid::Pids;
use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use sys::shared::{futex_wait, futex_wake};

/// How long a task waits until it wakes the coordinator once more, which may just have looked.
const AGAIN: Duration = Duration::from_millis(1);

/// [`word::STATE`].
mod state {
    pub(super) const IDLE: u32 = 0;
    pub(super) const ASKED: u32 = 1;
    pub(super) const ANSWERED: u32 = 2;
}

/// Words from [`ASK`] on.
mod word {
    /// 1 while somebody asks.
    pub(super) const BUSY: usize = 0;
    pub(super) const STATE: usize = 1;
    /// The pid of who asks, in its own pid namespace.
    pub(super) const PID: usize = 2;
    pub(super) const FD: usize = 3;
    pub(super) const LEVEL: usize = 4;
    pub(super) const NAME: usize = 5;
    pub(super) const VALUE: usize = 6;
    /// The answer: 0, or an error number.
    pub(super) const ERRNO: usize = 7;
}

impl Board {
    fn of_ask(&self, word: usize) -> &AtomicU32 {
        &self.page().words()[ASK + word]
    }

    /// Coordinator: whether a task waits for [`Self::answer`].
    pub(crate) fn is_asked(&self) -> bool {
        self.of_ask(word::STATE).load(Ordering::Acquire) == state::ASKED
    }

    /// Coordinator: does what a task asks for, if any does.
    pub(crate) fn answer(&self, pids: &Pids) {
        if !self.is_asked() {
            return;
        }
        let get = |w: usize| self.of_ask(w).load(Ordering::Relaxed);
        let int = |w: usize| get(w).cast_signed();
        let act = || -> Result<(), crate::Error> {
            let task = sys::fd::pidfd_open(pids.real(get(word::PID))?, 0)?;
            let fd = sys::fd::pidfd_getfd(task.as_fd(), int(word::FD))?;
            let value = get(word::VALUE).to_ne_bytes();
            Ok(sys::fd::setsockopt(fd.as_fd(), int(word::LEVEL), int(word::NAME), &value)?)
        };
        let errno = act().map_or_else(|e| e.errno().cast_unsigned(), |()| 0);
        self.of_ask(word::ERRNO).store(errno, Ordering::Relaxed);
        self.of_ask(word::STATE).store(state::ANSWERED, Ordering::Release);
        futex_wake(self.of_ask(word::STATE));
    }
}

impl Outside for Board {
    fn set_option(&self, fd: RawFd, level: i32, name: i32, value: i32) -> sys::Result<()> {
        let _alone = alone(self.of_ask(word::BUSY));
        let put = |w: usize, value: i32| {
            self.of_ask(w).store(value.cast_unsigned(), Ordering::Relaxed);
        };
        put(word::PID, std::process::id().cast_signed());
        put(word::FD, fd);
        put(word::LEVEL, level);
        put(word::NAME, name);
        put(word::VALUE, value);
        let now = self.of_ask(word::STATE);
        now.store(state::ASKED, Ordering::Release);
        while now.load(Ordering::Acquire) == state::ASKED {
            self.wake();
            futex_wait(now, state::ASKED, Some(AGAIN));
        }
        let errno = self.of_ask(word::ERRNO).load(Ordering::Relaxed).cast_signed();
        now.store(state::IDLE, Ordering::Relaxed);
        match errno {
            0 => Ok(()),
            errno => {
                let call = format_args!("setsockopt({fd}, {level}, {name}, {value}) from outside");
                Err(sys::Error::new(call, errno))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered() {
        let board = Board::new().unwrap();
        let (fd, _other) = sys::net::socketpair(libc::SOCK_DGRAM).unwrap();
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let ask = |level, name| {
            let child = || match board.set_option(raw, level, name, 1) {
                Ok(()) => 0,
                Err(e) => e.errno(),
            };
            let pid = sys::worker::fork(child).unwrap();
            while !board.is_asked() {
                std::thread::sleep(Duration::from_millis(1));
            }
            board.answer(&Pids::default());
            libc::WEXITSTATUS(sys::worker::wait(pid).unwrap())
        };
        assert_eq!(ask(libc::SOL_SOCKET, libc::SO_PASSCRED), 0);
        let mut value = [0; 4];
        sys::fd::getsockopt(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, &mut value).unwrap();
        assert_eq!(value, 1u32.to_ne_bytes());
        assert_eq!(ask(libc::SOL_SOCKET, 4711), libc::ENOPROTOOPT);
    }
}
