//! `stats-dump` and `stats-restore`: what was measured, for clients and for people.

use std::path::Path;

use images::proto::{DumpStatsEntry, RestoreStatsEntry, StatsEntry};
use images::{Dir, Image};

/// Writes `stats-dump` into the work directory.
pub(crate) fn write_dump(work: &Path, stats: &DumpStatsEntry) -> images::Result<()> {
    let entry = StatsEntry { dump: Some(*stats), restore: None };
    write(work, Image::StatsDump, &entry)
}

/// Writes `stats-restore` into the work directory.
pub(crate) fn write_restore(work: &Path, stats: &RestoreStatsEntry) -> images::Result<()> {
    let entry = StatsEntry { dump: None, restore: Some(*stats) };
    write(work, Image::StatsRestore, &entry)
}

fn write(work: &Path, image: Image, entry: &StatsEntry) -> images::Result<()> {
    log::info!("Writing stats");
    Dir::open(work)?.write_one(image, entry)
}

/// What `--display-stats` prints about a dump.
pub(crate) fn show_dump(s: &DumpStatsEntry) -> String {
    let mut text = format!(
        "Displaying dump stats:\nFreezing time: {} us\nFrozen time: {} us\n\
         Memory dump time: {} us\nMemory write time: {} us\n",
        s.freezing_time, s.frozen_time, s.memdump_time, s.memwrite_time
    );
    if let Some(time) = s.irmap_resolve {
        text += &format!("IRMAP resolve time: {time} us\n");
    }
    text + &counts(&[
        ("Memory pages scanned", s.pages_scanned),
        ("Memory pages skipped from parent", s.pages_skipped_parent),
        ("Memory pages written", s.pages_written),
        ("Lazy memory pages", s.pages_lazy),
    ])
}

/// What `--display-stats` prints about a restore.
pub(crate) fn show_restore(s: &RestoreStatsEntry) -> String {
    let text = counts(&[
        ("Pages compared", s.pages_compared),
        ("Pages skipped COW", s.pages_skipped_cow),
        ("Pages restored", s.pages_restored.unwrap_or_default()),
    ]);
    format!(
        "Displaying restore stats:\n{text}Restore time: {} us\nForking time: {} us\n",
        s.restore_time, s.forking_time
    )
}

fn counts(rows: &[(&str, u64)]) -> String {
    rows.iter().map(|(name, n)| format!("{name}: {n} ({n:#x})\n")).collect()
}
