//! A whole checkpoint: every entry that a restore needs, every reference resolved.
//!
//! ```text
//! inventory ── pstree ── core, ids, mm, fs, pagemap (each task), core (each thread)
//!                 │
//!              fdinfo ── files ── remaps, ghosts, memfds, pipe data, tty infos, queues …
//!                 │
//!              namespaces, cgroup, seccomp …
//! ```
//!
//! [`Checkpoint::load`] reads the images of any version CRIU 4.2 reads and gives them the shape of
//! 4.2: who works with a checkpoint never sees an old layout. What cannot be true (a descriptor of
//! a file that does not exist, a page outside of any VMA, two tasks with one pid) is an error that
//! names the image and the field. Payloads (pages, pipe data, ghosts) stay in the images and are
//! referred to by [`Extent`](crate::Extent).

mod files;
mod loader;
mod memory;
pub mod net;
mod ns;
mod range;
mod seccomp;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use files::{BpfmapData, Files, Ghost, GhostBody, PipeData, Remap, SkPacket, TcpStream};
pub use loader::Options;
pub use memory::{Shmem, VmaStatus};
pub use ns::{Ipc, IpcMsg, IpcSem, IpcShm, Namespaces, Net, NsKind};
pub use task::{Live, Task, TaskState, Thread};

use crate::pages::Chain;
use crate::proto::{
    ApparmorEntry, CgroupEntry, CpuinfoEntry, FdinfoEntry, FileLockEntry, InventoryEntry,
    MemfdInodeEntry, SeccompFilter, TaskKobjIdsEntry, TtyDataEntry, TtyInfoEntry,
};
use crate::{Dir, Result};

/// Everything in a directory of images.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it was loaded from.
    pub dir: Dir,
    /// `dir` and its parents.
    pub chain: Chain,
    /// `inventory.img`.
    pub inventory: InventoryEntry,
    /// Ids of the dumper: a task with another namespace id is in a namespace of its own.
    pub root_ids: TaskKobjIdsEntry,
    /// All tasks, parents before children; the first is the root.
    pub tasks: Vec<Task>,
    /// Descriptor tables by `files_id`. [`Live::fdinfo`] shares them.
    pub fdinfo: BTreeMap<u32, Arc<Vec<FdinfoEntry>>>,
    /// Open file descriptions.
    pub files: Files,
    /// How to open files that have no path, by id of the regular file.
    pub remaps: HashMap<u32, Remap>,
    /// Bodies of files that have no path, by ghost id.
    pub ghosts: BTreeMap<u32, Ghost>,
    /// Memfds and shared anonymous memory, by `inode_id`.
    pub memfds: BTreeMap<u64, MemfdInodeEntry>,
    /// Contents of shared memory by shmid (memfds, old anonymous segments, SysV segments).
    pub shmem: BTreeMap<u64, Shmem>,
    /// What is in pipes, by `pipe_id`.
    pub pipe_data: BTreeMap<u32, PipeData>,
    /// What is in FIFOs, by `pipe_id`.
    pub fifo_data: BTreeMap<u32, PipeData>,
    /// What is queued in unix sockets, by id of the receiving file; oldest first.
    pub sk_queues: BTreeMap<u32, Vec<SkPacket>>,
    /// TCP connections, by inode of the socket.
    pub tcp_streams: BTreeMap<u32, TcpStream>,
    /// Terminals, by id.
    pub tty_infos: BTreeMap<u32, TtyInfoEntry>,
    /// Unread input of terminals.
    pub tty_data: Vec<TtyDataEntry>,
    /// Contents of BPF maps, by `map_id`.
    pub bpfmap_data: BTreeMap<u32, BpfmapData>,
    /// File locks, in the order in which they are taken.
    pub file_locks: Vec<FileLockEntry>,
    /// Seccomp filters; see [`Checkpoint::seccomp_chain`].
    pub seccomp: Vec<SeccompFilter>,
    /// Control groups, if tasks were in others than the dumper.
    pub cgroup: Option<CgroupEntry>,
    /// AppArmor policies of a namespace.
    pub apparmor: Option<ApparmorEntry>,
    /// Features of the CPU of the dump.
    pub cpuinfo: Option<CpuinfoEntry>,
    /// Namespaces of the tasks' own.
    pub ns: Namespaces,
    by_pid: HashMap<u32, usize>,
}

impl Checkpoint {
    /// Loads and checks everything. Refuses what only `--deprecated` allows.
    pub fn load(dir: &Dir) -> Result<Self> {
        Self::load_with(dir, Options::default())
    }

    /// Loads and checks everything.
    pub fn load_with(dir: &Dir, options: Options) -> Result<Self> {
        loader::load(dir, options)
    }

    /// The root of the process tree.
    #[must_use]
    pub fn root(&self) -> &Task {
        &self.tasks[0]
    }

    /// The task with this virtual pid.
    #[must_use]
    pub fn task(&self, pid: u32) -> Option<&Task> {
        self.by_pid.get(&pid).map(|i| &self.tasks[*i])
    }

    /// The filters of a thread whose `seccomp_filter` is `last`, in the order in which they are
    /// installed: oldest first.
    pub fn seccomp_chain(&self, last: u32) -> impl Iterator<Item = &SeccompFilter> {
        seccomp::chain(&self.seccomp, last)
    }
}
