//! Settings of terminals.

use super::super::{Error, Result};
use images::proto::{TermiosEntry, TtyInfoEntry};
use std::os::fd::BorrowedFd;

const TCGETS: u64 = 0x5401;
const TCSETS: u64 = 0x5402;
const TIOCSWINSZ: u64 = 0x5414;
const TIOCPKT: u64 = 0x5420;
const TIOCSPTLCK: u64 = 0x4004_5431;
const TIOCEXCL: u64 = 0x540c;
const TIOCSLCKTRMIOS: u64 = 0x5457;
/// `struct termios` of the kernel: four words, the line discipline, 19 control characters.
const TERMIOS: usize = 36;

/// Restores all of a pair; `lock` and `exclusive` last, as they keep others out.
pub(super) fn restore(
    master_info: Option<&TtyInfoEntry>,
    slave_info: Option<&TtyInfoEntry>,
    master: BorrowedFd<'_>,
    slave: BorrowedFd<'_>,
) -> Result<()> {
    // A master shows and sets what the slave has.
    if let Some(info) = slave_info.or(master_info) {
        restore_termios(slave, info)?;
        if let Some(size) = &info.winsize {
            let words = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| (*w as u16).to_ne_bytes()).collect();
            sys::fd::ioctl_bytes(slave, TIOCSWINSZ, &mut bytes)?;
        }
    }
    for (info, fd) in [(slave_info, slave), (master_info, master)] {
        if info.is_some_and(|i| i.exclusive) {
            sys::fd::ioctl_int(fd, TIOCEXCL, 0)?;
        }
    }
    if master_info.is_some_and(|i| i.packet_mode) {
        sys::fd::ioctl_bytes(master, TIOCPKT, &mut 1i32.to_ne_bytes())?;
    }
    if [master_info, slave_info].into_iter().flatten().any(|i| i.locked) {
        sys::fd::ioctl_bytes(master, TIOCSPTLCK, &mut 1i32.to_ne_bytes())?;
    }
    Ok(())
}

/// Restores termios, and which of its bits are locked.
pub(super) fn restore_termios(fd: BorrowedFd<'_>, info: &TtyInfoEntry) -> Result<()> {
    if let Some(termios) = &info.termios {
        let mut new = encode(termios)?;
        let mut now = [0u8; TERMIOS];
        sys::fd::ioctl_bytes(fd, TCGETS, &mut now)?;
        if new != now {
            sys::fd::ioctl_bytes(fd, TCSETS, &mut new)?;
        }
    }
    if let Some(locked) = &info.termios_locked {
        let mut bytes = encode(locked)?;
        if bytes != [0; TERMIOS] {
            sys::fd::ioctl_bytes(fd, TIOCSLCKTRMIOS, &mut bytes)?;
        }
    }
    Ok(())
}

/// Neither echo nor lines nor translations: bytes go through as they are.
pub(super) fn make_raw(fd: BorrowedFd<'_>) -> Result<()> {
    let mut bytes = [0u8; TERMIOS];
    sys::fd::ioctl_bytes(fd, TCGETS, &mut bytes)?;
    // c_iflag, c_oflag and c_lflag; c_cflag keeps CREAD and the size of characters.
    bytes[..8].fill(0);
    bytes[12..16].fill(0);
    sys::fd::ioctl_bytes(fd, TCSETS, &mut bytes).map(|_| ()).map_err(Error::from)
}

fn encode(t: &TermiosEntry) -> Result<[u8; TERMIOS]> {
    let mut bytes = [0u8; TERMIOS];
    for (i, word) in [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag].iter().enumerate() {
        bytes[4 * i..4 * i + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes[16] = t.c_line as u8;
    // The 19 characters lie in the first words as they do in memory; what follows in the other
    // words means nothing.
    let packed: Vec<u8> = t.c_cc.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let controls = packed.get(..19).ok_or_else(|| {
        Error::Refused(format!("termios has {} words of control characters", t.c_cc.len()))
    })?;
    bytes[17..].copy_from_slice(controls);
    Ok(bytes)
}
