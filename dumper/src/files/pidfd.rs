//! Collects pidfds.

use super::error::Why;
use super::{FileTable, Open, entry, parse};
use images::proto::{FdTypes, PidfdEntry};

impl FileTable {
    pub(crate) fn pidfd(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let pid: i32 = parse::value(open.text, "Pid")
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| Why::field("Pid"))?;
        let nspid = match pid {
            // Dead and reaped. The inode still tells which descriptors are of one process.
            -1 => -1,
            _ => self.virtual_pid(pid).ok_or_else(|| {
                Why::refused(format!("pidfd of process {pid}, which is not in the tree"))
            })?,
        };
        let mut file = entry(FdTypes::Pidfd, open.id);
        file.pidfd = Some(PidfdEntry {
            id: open.id,
            ino: open.stat.st_ino as u32,
            // What pidfd_open takes: PIDFD_NONBLOCK and PIDFD_THREAD.
            flags: open.info.flags & (libc::O_NONBLOCK | libc::O_EXCL) as u32,
            nspid,
            fown: open.fown,
        });
        self.files.push(file);
        Ok(())
    }
}
