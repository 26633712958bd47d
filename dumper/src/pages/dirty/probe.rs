//! Whether and how this kernel tells which pages were written.

use super::Tracking;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use sys::pagemap::{PageRegion, Query, category};
use sys::probe::Pages;
use sys::uffd;

/// `PM_SCAN_WP_MATCHING`: write-protect what was found.
pub const WP_MATCHING: u64 = 1;
/// Features that a userfaultfd of ours has.
pub const FEATURES: u64 = uffd::WP_ASYNC | uffd::WP_UNPOPULATED;

/// Bit of a `pagemap` entry: written since `clear_refs` was told 4.
const SOFT_DIRTY: u64 = 1 << 55;

/// Tries it on pages of our own: soft-dirty bits, else write-protection by userfaultfd. The
/// error tells why there is neither.
pub fn tracking() -> Result<Tracking, String> {
    let soft = soft_dirty().unwrap_or_else(|e| Err(e.to_string()));
    let Err(no_soft) = soft else { return Ok(Tracking::SoftDirty) };
    match write_protect() {
        Ok(true) => Ok(Tracking::WriteProtect),
        Ok(false) => Err(format!("soft-dirty: {no_soft}; userfaultfd: writes are not told")),
        Err(e) => Err(format!("soft-dirty: {no_soft}; userfaultfd: {e}")),
    }
}

/// Tells by name what the kernel has.
fn soft_dirty() -> std::io::Result<Result<(), String>> {
    let page = Pages::new(1).map_err(std::io::Error::other)?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let dirty = || -> std::io::Result<bool> {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, page.range().0 / 4096 * 8)?;
        Ok(u64::from_ne_bytes(entry) & SOFT_DIRTY != 0)
    };
    page.write();
    if !dirty()? {
        return Ok(Err("not in this kernel".into()));
    }
    std::fs::write("/proc/self/clear_refs", "4")?;
    let cleared = !dirty()?;
    page.write();
    Ok(if cleared && dirty()? { Ok(()) } else { Err("bits do not change".into()) })
}

fn write_protect() -> sys::Result<bool> {
    let uffd = uffd::create(uffd::USER_MODE_ONLY).or_else(|_| uffd::create(0))?;
    uffd::enable(uffd.as_fd(), FEATURES)?;
    let page = Pages::new(1)?;
    let (start, end) = page.range();
    page.write();
    uffd::register(uffd.as_fd(), start, end)?;
    let open = |e| sys::Error::io("/proc/self/pagemap", &e);
    let pagemap = File::open("/proc/self/pagemap").map_err(open)?;
    let written = |flags| -> sys::Result<bool> {
        let report = category::WRITTEN | category::WPALLOWED;
        let query =
            Query { start, end, flags, anyof: category::PRESENT, report, ..Query::default() };
        let mut found = [PageRegion::default(); 1];
        sys::pagemap::scan(pagemap.as_fd(), &query, &mut found)?;
        Ok(found[0].categories == report)
    };
    let first = written(WP_MATCHING)?;
    let armed = !written(0)?;
    page.write();
    Ok(first && armed && written(0)?)
}

#[cfg(test)]
mod tests {
    /// What the kernel of these tests has; others have to have one of the two.
    #[test]
    fn one_of_the_ways_works() {
        let way = super::tracking();
        println!("{way:?}");
        assert!(way.is_ok() || !std::path::Path::new("/proc/self/clear_refs").exists(), "{way:?}");
    }
}
