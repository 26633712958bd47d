//! Which kernel objects tasks share: address spaces, descriptor tables, fs, signal handlers.

use crate::Error;
use crate::tree::{Task, Tree};
use std::cmp::Ordering;
use sys::fd::{Kcmp, kcmp};

/// Pseudo ids of the dumper itself: what `inventory.root_ids` holds.
pub(crate) const OWN: u32 = 1;
/// The first id of a task.
const FIRST: u32 = 2;

/// Tasks ordered by one kind of object, for finding who shares it.
struct Order {
    kind: Kcmp,
    /// Pids, ascending by the kernel's order of their objects, with the index of their task.
    sorted: Vec<(i32, usize)>,
}

impl Order {
    fn new(kind: Kcmp) -> Self {
        Self { kind, sorted: Vec::new() }
    }

    /// The task that has the same object as `pid`; else `pid` is remembered with `index`.
    fn same(&mut self, pid: i32, index: usize) -> Result<Option<usize>, Error> {
        let (mut low, mut high) = (0, self.sorted.len());
        while low < high {
            let middle = low.midpoint(high);
            match kcmp(self.sorted[middle].0, pid, self.kind, 0, 0)? {
                Ordering::Equal => return Ok(Some(self.sorted[middle].1)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        self.sorted.insert(low, (pid, index));
        Ok(None)
    }
}

/// Gives tasks that share a descriptor table the same `files_id`, and refuses those that share
/// what the images cannot express.
pub(crate) fn assign(tree: &mut Tree) -> Result<(), Error> {
    let mut files = Order::new(Kcmp::Files);
    let mut vm = Order::new(Kcmp::Vm);
    let mut fs = Order::new(Kcmp::Fs);
    for i in 0..tree.tasks.len() {
        let (done, rest) = tree.tasks.split_at_mut(i);
        let task = &mut rest[0];
        if task.is_zombie() {
            continue;
        }
        // Shared signal handlers come only with a shared address space.
        for (order, flag) in
            [(&mut vm, "an address space (CLONE_VM)"), (&mut fs, "cwd and umask (CLONE_FS)")]
        {
            if let Some(other) = order.same(task.pid, i)? {
                return Err(Error::Refused(format!(
                    "tasks {} and {} share {flag}: this has no image",
                    done[other].pid, task.pid
                )));
            }
        }
        task.files_id = match files.same(task.pid, i)? {
            Some(other) => done[other].files_id,
            None => id(task, i),
        };
    }
    Ok(())
}

/// The id of objects that task number `index` does not share.
pub(crate) fn id(_task: &Task, index: usize) -> u32 {
    FIRST + index as u32
}
