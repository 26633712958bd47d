//! Collects signalfds.

use super::error::Why;
use super::{FileTable, Open, entry, parse};
use images::proto::{FdTypes, SignalfdEntry};

impl FileTable {
    pub(crate) fn signalfd(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let sigmask = parse::value(open.text, "sigmask")
            .and_then(|v| u64::from_str_radix(v, 16).ok())
            .ok_or_else(|| Why::field("sigmask"))?;
        let mut file = entry(FdTypes::Signalfd, open.id);
        file.sgfd =
            Some(SignalfdEntry { id: open.id, flags: open.info.flags, fown: open.fown, sigmask });
        self.files.push(file);
        Ok(())
    }
}
