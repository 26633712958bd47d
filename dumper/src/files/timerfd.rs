//! Collects timerfds.

use super::error::Why;
use super::{FileTable, Open, entry, ident, parse};
use images::proto::{FdTypes, TimerfdEntry};

impl FileTable {
    pub(crate) fn timerfd(&mut self, open: &Open<'_>) -> Result<(), Why> {
        // A periodic timer with an unread expiration stands still, showing no time left, until
        // somebody looks: then the kernel counts the periods that passed. Without this look
        // such a timer would be restored as disarmed.
        sys::file::timerfd_look(open.own)?;
        let (_, text) = ident::own_texts(open.own)?;
        let timer = parse::timerfd(&text).ok_or_else(|| Why::field("clockid … it_interval"))?;
        if !matches!(timer.clockid, 0 | 1 | 7) {
            return Err(Why::refused(format!("Can't dump timerfd of clock {}", timer.clockid)));
        }
        let mut file = entry(FdTypes::Timerfd, open.id);
        file.tfd = Some(TimerfdEntry {
            id: open.id,
            flags: open.info.flags,
            fown: open.fown,
            clockid: timer.clockid,
            ticks: timer.ticks,
            settime_flags: timer.settime_flags,
            vsec: timer.value.0,
            vnsec: timer.value.1,
            isec: timer.interval.0,
            insec: timer.interval.1,
        });
        self.files.push(file);
        Ok(())
    }
}
