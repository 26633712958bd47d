//! Finds the pages of a task that exist: `PAGEMAP_SCAN` (6.7) in one walk over the whole
//! address space, the `pagemap` file area by area on older kernels.

use super::Error;
use super::dirty::{Since, Way};
use super::select::{Area, Selection, Selector};
use crate::mm::kind::Content;
use images::pages::PAGE_SIZE;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use sys::pagemap::{PageRegion, Query, category};

/// How to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// `PAGEMAP_SCAN`, or the file where the kernel does not have it.
    #[default]
    Best,
    /// The file, always.
    File,
}

/// Regions asked for at a time.
const REGIONS: usize = 4096;
/// Pages whose entries are read at a time.
const WINDOW: usize = 1 << 17;

/// What is asked about the pages of an area. Whether a page is a file's takes a look at the page
/// itself, which is most of what the walk costs (1 GiB: 13 ms, else 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// All there are: no other can be there.
    All,
    /// Those that are no file's.
    Own,
    /// Guard pages: the rest is not saved.
    Guards,
}

impl Look {
    fn of(area: &Area) -> Self {
        match area.content {
            Content::Private { .. } if area.file => Self::Own,
            Content::Private { .. } => Self::All,
            Content::Nothing | Content::All => Self::Guards,
        }
    }

    /// A few pages may be asked about together with those before, at which one looks as `self` does.
    fn does_for(self, other: Self) -> bool {
        self == other || self == Self::Own || (self == Self::All && other == Self::Guards)
    }

    /// `None` if there is nothing to ask. `watched` is what is reported of pages.
    fn query(self, start: u64, end: u64, watched: u64, guard: u64) -> Option<Query> {
        // The zero page is nobody's own.
        let nobodys = match self {
            Self::All => category::PFNZERO,
            Self::Own => category::FILE | category::PFNZERO,
            Self::Guards if guard == 0 => return None,
            Self::Guards => 0,
        };
        let anyof =
            if self == Self::Guards { guard } else { category::PRESENT | category::SWAPPED };
        Some(Query {
            start,
            end,
            flags: 0,
            inverted: nobodys,
            mask: nobodys,
            anyof,
            report: watched | guard,
        })
    }
}

/// Areas side by side that are looked at in one walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    start: u64,
    end: u64,
    look: Look,
}

/// An area that is shorter is not worth a walk of its own.
const SHORT: u64 = 2 << 20;

fn stretches(areas: &[Area]) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for area in areas {
        let look = Look::of(area);
        let short = area.end - area.start < SHORT;
        match all.last_mut() {
            Some(last) if last.look == look || (short && last.look.does_for(look)) => {
                last.end = area.end;
            }
            _ => {
                let look = if short { Look::Own } else { look };
                all.push(Stretch { start: area.start, end: area.end, look });
            }
        }
    }
    all
}

/// Looks at address spaces, one after the other.
#[derive(Debug, Default)]
pub struct Scanner {
    method: Method,
    /// The kernel knows no `PAGE_IS_GUARD`.
    no_guard: bool,
    regions: Vec<PageRegion>,
    window: Vec<u8>,
}

impl Scanner {
    /// A scanner that looks like this.
    pub fn new(method: Method) -> Self {
        Self { method, ..Self::default() }
    }

    /// Which pages of `pid` are saved; `areas` ascend. `since` tells what is known of changes.
    pub fn scan(
        &mut self,
        pid: i32,
        areas: &[Area],
        since: &Since<'_>,
    ) -> Result<Selection, Error> {
        let open = |source| Error::Pagemap { pid, source };
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(open)?;
        if self.method == Method::Best {
            match self.by_ioctl(&pagemap, areas, since) {
                Ok(selection) => return Ok(selection),
                Err(e) if e.errno() == libc::ENOTTY => self.method = Method::File,
                Err(e) => return Err(e.into()),
            }
        }
        self.by_file(&pagemap, areas, since).map_err(open)
    }

    fn by_ioctl(
        &mut self,
        pagemap: &File,
        areas: &[Area],
        since: &Since<'_>,
    ) -> sys::Result<Selection> {
        self.regions.resize(REGIONS, PageRegion::default());
        let mut selector = Selector::new(areas, since.covered);
        // What is reported of pages that were not written, and of those that were.
        let (watched, clean) = match since.way.filter(|_| since.is_known()) {
            Some(Way::WriteProtect(_)) => {
                (category::WPALLOWED | category::WRITTEN, category::WPALLOWED)
            }
            Some(Way::SoftDirty) => (category::SOFT_DIRTY, 0),
            // Equal for none.
            None => (0, u64::MAX),
        };
        for stretch in stretches(areas) {
            let mut at = stretch.start;
            while at < stretch.end {
                let guard = if self.no_guard { 0 } else { category::GUARD };
                let Some(query) = stretch.look.query(at, stretch.end, watched, guard) else {
                    break;
                };
                let found = sys::pagemap::scan(pagemap.as_fd(), &query, &mut self.regions);
                let (n, walked) = match found {
                    Err(e) if e.errno() == libc::EINVAL && guard != 0 => {
                        self.no_guard = true;
                        continue;
                    }
                    other => other?,
                };
                for region in &self.regions[..n] {
                    if region.categories & category::GUARD != 0 {
                        selector.guard(region.start, region.end);
                    } else {
                        let clean = region.categories & watched == clean;
                        selector.pages(region.start, region.end, clean);
                    }
                }
                if n < self.regions.len() {
                    break;
                }
                // Where the walk ended is told right only if there was no room for more: else it may
                // be where a buffer of the kernel's own was full before (6.18).
                let behind = self.regions.last().map_or(walked, |last| last.end.max(walked));
                if behind <= at {
                    let call = format_args!("ioctl(PAGEMAP_SCAN): stuck at {walked:#x}");
                    return Err(sys::Error::new(call, libc::EIO));
                }
                at = behind;
            }
        }
        Ok(selector.finish())
    }

    fn by_file(
        &mut self,
        pagemap: &File,
        areas: &[Area],
        since: &Since<'_>,
    ) -> std::io::Result<Selection> {
        self.window.resize(WINDOW * 8, 0);
        let judge = Judge::new(zero_pfn(), since);
        let mut selector = Selector::new(areas, since.covered);
        for area in areas {
            if !area.populated || !matches!(area.content, Content::Private { .. }) {
                continue;
            }
            let mut at = area.start;
            while at < area.end {
                let pages = ((area.end - at) / PAGE_SIZE).min(WINDOW as u64);
                let window = &mut self.window[..pages as usize * 8];
                pagemap.read_exact_at(window, at / PAGE_SIZE * 8)?;
                entries(window, at, judge, &mut selector);
                at += pages * PAGE_SIZE;
            }
        }
        Ok(selector.finish())
    }
}

/// What one entry of the `pagemap` file says of its page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Skip,
    Take { clean: bool },
    Guard,
}

/// Reads entries of the `pagemap` file.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    zero: Option<u64>,
    /// These bits of an entry, and what they are if its page was not written.
    watched: u64,
    clean: u64,
}

impl Judge {
    fn new(zero: Option<u64>, since: &Since<'_>) -> Self {
        const SOFT_DIRTY: u64 = 1 << 55;
        const UFFD_WP: u64 = 1 << 57;
        let (watched, clean) = match since.way.filter(|_| since.is_known()) {
            Some(Way::WriteProtect(_)) => (UFFD_WP, UFFD_WP),
            Some(Way::SoftDirty) => (SOFT_DIRTY, 0),
            None => (0, 1),
        };
        Self { zero, watched, clean }
    }

    fn page(self, entry: u64) -> Page {
        match judge(entry, self.zero) {
            Page::Take { .. } => Page::Take { clean: entry & self.watched == self.clean },
            other => other,
        }
    }
}

fn judge(entry: u64, zero: Option<u64>) -> Page {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    const GUARD: u64 = 1 << 58;
    const PFN: u64 = (1 << 55) - 1;
    let there = entry & (PRESENT | SWAPPED) != 0;
    let zero = entry & PRESENT != 0 && Some(entry & PFN) == zero;
    // A guard page has the swap bit set too.
    if entry & (PRESENT | GUARD) == GUARD {
        Page::Guard
    } else if !there || entry & FILE != 0 || zero {
        Page::Skip
    } else {
        Page::Take { clean: false }
    }
}

/// Feeds entries of the `pagemap` file, for pages from `start` on, to `selector`.
pub fn entries(window: &[u8], start: u64, judge: Judge, selector: &mut Selector<'_>) {
    let mut from = (start, Page::Skip);
    let mut at = start;
    let mut put = |(start, page), end| match page {
        Page::Take { clean } => selector.pages(start, end, clean),
        Page::Guard => selector.guard(start, end),
        Page::Skip => {}
    };
    for entry in window.as_chunks::<8>().0 {
        let page = judge.page(u64::from_ne_bytes(*entry));
        if page != from.1 {
            put(from, at);
            from = (at, page);
        }
        at += PAGE_SIZE;
    }
    put(from, at);
}

/// Reads a piece of a `pagemap` file as if it were of one private mapping at `start`.
pub fn pagemap(window: &[u8], start: u64) -> Vec<(u64, u64)> {
    let start = start % (1 << 47) / PAGE_SIZE * PAGE_SIZE;
    let area = Area {
        start,
        end: start + (window.len() / 8) as u64 * PAGE_SIZE,
        content: Content::Private { lazy: true },
        file: false,
        readable: true,
        populated: true,
        trackable: false,
        tracked: false,
    };
    let areas = [area];
    let mut selector = Selector::new(&areas, &[]);
    entries(window, start, Judge::new(None, &Since::NOTHING), &mut selector);
    selector.finish().runs.iter().map(|r| (r.start, r.end())).collect()
}

/// Number of the page frame that stands for all untouched anonymous memory; `None` when the
/// kernel does not let us see page frame numbers.
fn zero_pfn() -> Option<u64> {
    static PFN: OnceLock<Option<u64>> = OnceLock::new();
    *PFN.get_or_init(|| {
        // So large that malloc gets it fresh from mmap, whatever came before: reading maps the
        // zero page, twice the same frame.
        let fresh = vec![0u8; 64 << 20];
        let file = File::open("/proc/self/pagemap").ok()?;
        let frame = |byte: &u8| {
            std::hint::black_box(*byte);
            let page = std::ptr::from_ref(byte) as u64 / PAGE_SIZE;
            let mut entry = [0; 8];
            file.read_exact_at(&mut entry, page * 8).ok()?;
            Some(u64::from_ne_bytes(entry) & ((1 << 55) - 1))
        };
        let (one, two) = (frame(&fresh[1 << 18])?, frame(&fresh[1 << 19])?);
        (one != 0 && one == two).then_some(one)
    })
}

#[cfg(test)]
mod tests;
