//! Collects eventfds.

use super::error::Why;
use super::{FileTable, Open, entry, parse};
use images::proto::{EventfdFileEntry, FdTypes};

/// Counter and `EFD_SEMAPHORE` (which only newer kernels show).
fn read(text: &[u8]) -> Option<(u64, Option<bool>)> {
    let counter = u64::from_str_radix(parse::value(text, "eventfd-count")?, 16).ok()?;
    let semaphore = parse::value(text, "eventfd-semaphore").map(|v| v == "1");
    Some((counter, semaphore))
}

impl FileTable {
    pub(crate) fn eventfd(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let (counter, semaphore) = read(open.text).ok_or_else(|| Why::field("eventfd-count"))?;
        let mut file = entry(FdTypes::Eventfd, open.id);
        file.efd = Some(EventfdFileEntry {
            id: open.id,
            flags: open.info.flags,
            fown: open.fown,
            counter,
            amber_semaphore: semaphore.filter(|&s| s),
        });
        self.files.push(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_hexadecimal() {
        // Linux 6.18, `eventfd(42, EFD_SEMAPHORE)`; then as before 6.7.
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\n\
            eventfd-count:               2a\neventfd-id: 1\neventfd-semaphore: 1\n";
        assert_eq!(read(text), Some((42, Some(true))));
        assert_eq!(read(b"eventfd-count: ffffffffffffffff\n"), Some((u64::MAX, None)));
        assert_eq!(read(b"pos:\t0\n"), None);
    }
}
