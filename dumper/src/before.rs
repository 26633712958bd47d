//! What is asked and made before the tree is held, so that it is held for less time.

use crate::ns::Namespaces;
use crate::task::cgroup::Sets;
use crate::task::core;
use crate::task::lsm::Lsm;
use crate::{Error, Request, inventory, mm};

/// What a dump knows before it looks at the tree.
#[derive(Debug)]
pub(crate) struct Before {
    /// Name of this dump.
    pub(crate) run_id: String,
    /// Our own namespaces.
    pub(crate) namespaces: Namespaces,
    /// Our own control groups.
    pub(crate) sets: Sets,
    /// Knows the kernel's own file systems.
    pub(crate) collector: mm::Collector,
}

impl Before {
    /// Asks what does not depend on the tree, and warms up what is shown of it.
    pub(crate) fn ask(request: &Request) -> Result<Self, Error> {
        // Begins with what takes longest, beside all the rest.
        let collector = mm::Collector::new(request)?;
        core::all_cpus()?;
        Lsm::detect();
        sys::worker::cpus();
        sys::cpuid::xsave_component(0);
        show(request.pid);
        parasite::look_ahead(request.pid);
        let before = Self {
            run_id: inventory::run_id()?,
            namespaces: Namespaces::ours()?,
            sets: Sets::ours(request)?,
            collector,
        };
        keep_heap();
        sys::vm::populate_own();
        Ok(before)
    }
}

/// Entries of `/proc` that are looked at beforehand.
const SOME: usize = 256;

/// The kernel makes what it shows in a directory of `/proc` when it is looked at for the first
/// time.
fn show(pid: i32) {
    for shown in ["fd", "fdinfo", "map_files", "ns"] {
        let entries = std::fs::read_dir(format!("/proc/{pid}/{shown}")).into_iter().flatten();
        entries.take(SOME).for_each(drop);
    }
}

/// Has the allocator keep so much memory that small trees need no more from the kernel: what is
/// given back once in one piece is what it keeps from then on.
fn keep_heap() {
    const KEPT: usize = 1 << 20;
    for _ in 0..2 {
        std::hint::black_box(vec![1u8; KEPT]);
    }
}
