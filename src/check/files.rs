//! Probes of files and descriptors.

use super::{Answer, file_has, why, yes};
use nix::fcntl::OFlag;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use sys::probe;

pub(super) fn getowner_uids() -> Answer {
    sys::fd::owner_uids(dev_null()?.as_fd()).map(drop).map_err(why)
}

pub(super) fn fdinfo_ext() -> Answer {
    let event = nix::sys::eventfd::EventFd::new().map_err(why)?;
    let path = format!("/proc/self/fdinfo/{}", event.as_fd().as_raw_fd());
    file_has(&path, "eventfd-count:")?;
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty());
    let epoll = epoll.map_err(why)?;
    let flags = nix::sys::epoll::EpollFlags::EPOLLIN;
    epoll.add(&event, nix::sys::epoll::EpollEvent::new(flags, 7)).map_err(why)?;
    file_has(&format!("/proc/self/fdinfo/{}", epoll.0.as_raw_fd()), "tfd:")?;
    let signals = nix::sys::signalfd::SignalFd::new(&nix::sys::signal::SigSet::empty());
    let signals = signals.map_err(why)?;
    file_has(&format!("/proc/self/fdinfo/{}", signals.as_fd().as_raw_fd()), "sigmask:")
}

pub(super) fn vmsplice() -> Answer {
    let (_read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(why)?;
    yes(probe::vmsplice_unaligned(write.as_fd()), "vmsplice takes whole pages only")
}

pub(super) fn tty_ioctls() -> Answer {
    let ptmx = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").map_err(why)?;
    for request in [0x8004_5439, 0x8004_5438, 0x8004_5440] {
        let mut word = [0; 4]; // TIOCGPTLCK, TIOCGPKT, TIOCGEXCL
        sys::fd::ioctl_bytes(ptmx.as_fd(), request, &mut word).map_err(why)?;
    }
    Ok(())
}

pub(super) fn timerfd() -> Answer {
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).map_err(why)?;
    file_has(&format!("/proc/self/fdinfo/{}", timer.as_fd().as_raw_fd()), "clockid:")?;
    let mut ticks = 1u64.to_ne_bytes();
    // TFD_IOC_SET_TICKS
    sys::fd::ioctl_bytes(timer.as_fd(), 0x4008_5400, &mut ticks).map(drop).map_err(why)
}

pub(super) fn fdinfo_lock() -> Answer {
    let fd = sys::fd::memfd_create(b"criu-check", libc::MFD_CLOEXEC).map_err(why)?;
    let lock = nix::fcntl::Flock::lock(File::from(fd), nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, e)| why(e))?;
    file_has(&format!("/proc/self/fdinfo/{}", lock.as_raw_fd()), "lock:")
}

pub(super) fn move_mount_set_group() -> Answer {
    // Bad descriptors with a known flag are EBADF or EFAULT; an unknown flag is EINVAL.
    match probe::call(libc::SYS_move_mount, [-1, 0, -1, 0, 0x100, 0]) {
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::ENOSYS) => Err(why(e)),
        _ => Ok(()),
    }
}

pub(super) fn openat2() -> Answer {
    match probe::call(libc::SYS_openat2, [-1, 0, 0, 0, 0, 0]) {
        Err(e) if e.errno() == libc::ENOSYS => Err(why(e)),
        _ => Ok(()),
    }
}

pub(super) fn fdinfo_has(fd: &OwnedFd, word: &str) -> Answer {
    file_has(&format!("/proc/self/fdinfo/{}", fd.as_raw_fd()), word)
}

pub(super) fn dev_null() -> Result<OwnedFd, String> {
    File::open("/dev/null").map(OwnedFd::from).map_err(why)
}

pub(super) fn apparmor_stacking() -> Answer {
    file_has("/sys/kernel/security/apparmor/features/domain/stack", "yes")
}

pub(super) fn tun_ns() -> Answer {
    let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(why)?;
    // SIOCGSKNS; answered before a device is made.
    sys::file::ioctl_fd(tun.as_fd(), 0x894c).map(drop).map_err(why)
}
