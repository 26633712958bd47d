//! What the images say of files, as one value.

use super::{Error, Result};
pub(super) use images::checkpoint::Remap;
use images::checkpoint::{GhostBody, PipeData, TcpStream};
use images::proto::{
    AmberXattrEntry, FdinfoEntry, FileEntry, FileLockEntry, FsEntry, GhostFileEntry,
    MemfdInodeEntry, PipeDataEntry, RegFileEntry, SkPacketEntry, TaskKobjIdsEntry, TtyInfoEntry,
    TunLinkEntry, VmaEntry,
};
use images::{Checkpoint, Extent};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A task, as far as files are concerned.
#[derive(Clone, Debug, Default)]
pub(super) struct TaskFiles {
    /// Virtual pid.
    pub(super) vpid: i32,
    /// Virtual pid of the parent, 0 for the root.
    pub(super) ppid: i32,
    /// Virtual session id.
    pub(super) sid: i32,
    /// Number of its descriptor table (`task_kobj_ids_entry.files_id`).
    pub(super) files_id: u32,
    /// Its namespaces: `CLONE_NEW*` and id.
    pub(super) namespaces: Vec<(u32, u32)>,
    /// cwd, root, umask.
    pub(super) fs: FsEntry,
    /// File id of `/proc/PID/exe`.
    pub(super) exe: u32,
    /// File ids which its mappings refer to (regular files and memfds).
    pub(super) mapped: Vec<u32>,
}

impl TaskFiles {
    /// The file ids in a list of mappings.
    pub(super) fn mapped_ids(vmas: &[VmaEntry]) -> Vec<u32> {
        // FILE_PRIVATE, FILE_SHARED; in both, memfds included, `shmid` is the file id.
        let of_file = |v: &&VmaEntry| v.status & 0xc0 != 0;
        let mut ids: Vec<u32> = vmas.iter().filter(of_file).map(|v| v.shmid as u32).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A file that had no name left.
#[derive(Clone, Debug)]
pub(super) struct Ghost {
    /// Its entry.
    pub(super) entry: GhostFileEntry,
    /// Where its contents are: offset in the file, place in the image.
    pub(super) body: Vec<(u64, Extent)>,
    /// Its extended attributes.
    pub(super) xattrs: Vec<AmberXattrEntry>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct FileSet {
    /// Parents before children; only tasks that live.
    pub(super) tasks: Vec<TaskFiles>,
    /// Those of the dumper: `CLONE_NEW*` and id.
    pub(super) namespaces: Vec<(u32, u32)>,
    /// Descriptor tables by number.
    pub(super) tables: BTreeMap<u32, Arc<Vec<FdinfoEntry>>>,
    /// Open file descriptions other than regular ones, by id.
    pub(super) files: BTreeMap<u32, FileEntry>,
    /// Regular files by id; FIFOs, terminals and tun devices refer to them too.
    pub(super) regs: BTreeMap<u32, RegFileEntry>,
    /// Remaps by file id.
    pub(super) remaps: BTreeMap<u32, Remap>,
    /// Ghosts by id.
    pub(super) ghosts: BTreeMap<u32, Ghost>,
    /// Contents of pipes by `pipe_id`.
    pub(super) pipes: HashMap<u32, (PipeDataEntry, Extent)>,
    /// Contents of FIFOs by `pipe_id`.
    pub(super) fifos: HashMap<u32, (PipeDataEntry, Extent)>,
    /// Queues of unix sockets, by id of the receiver.
    pub(super) packets: HashMap<u32, Vec<(SkPacketEntry, Extent)>>,
    /// Ends of terminals, by id.
    pub(super) ttys: BTreeMap<u32, TtyInfoEntry>,
    /// Unread input of terminals, by id of the end.
    pub(super) tty_data: HashMap<u32, Vec<u8>>,
    /// File locks; none when they are not to be restored.
    pub(super) locks: Vec<FileLockEntry>,
    /// TCP connections, by inode of the socket.
    pub(super) tcp_streams: BTreeMap<u32, TcpStream>,
    /// Memory files, by `inode_id`.
    pub(super) memfds: BTreeMap<u64, MemfdInodeEntry>,
    /// Tun links, by namespace and name.
    pub(super) tuns: HashMap<(u32, String), TunLinkEntry>,
    /// Places of mounts in their namespaces, by id.
    pub(super) mount_points: HashMap<u32, Vec<u8>>,
}

impl FileSet {
    /// Takes out of a checkpoint what files need.
    pub(super) fn of(cp: &Checkpoint) -> Self {
        let mut set = Self { namespaces: namespaces(&cp.root_ids), ..Self::default() };
        for task in &cp.tasks {
            let (Some(live), Some(ids)) = (&task.live, &task.ids) else { continue };
            set.tables.entry(ids.files_id).or_insert_with(|| live.fdinfo.clone());
            set.tasks.push(TaskFiles {
                vpid: task.pid as i32,
                ppid: task.ppid as i32,
                sid: task.sid as i32,
                files_id: ids.files_id,
                namespaces: namespaces(ids),
                fs: live.fs,
                exe: live.mm.exe_file_id,
                mapped: TaskFiles::mapped_ids(&live.mm.vmas),
            });
        }
        for (id, net) in &cp.ns.net {
            for link in &net.devices {
                if let Some(tun) = &link.tun {
                    set.tuns.insert((*id, link.name.clone()), *tun);
                }
            }
        }
        for mount in cp.ns.mnt.values().flatten() {
            set.mount_points.insert(mount.mnt_id, mount.mountpoint.clone());
        }
        for entry in cp.files.iter() {
            match &entry.reg {
                Some(reg) => {
                    let mut reg = reg.clone();
                    mend_name(&mut reg);
                    set.regs.insert(entry.id, reg);
                }
                None => _ = set.files.insert(entry.id, entry.clone()),
            }
        }
        set.remaps = cp.remaps.iter().map(|(id, remap)| (*id, *remap)).collect();
        for (id, ghost) in &cp.ghosts {
            let body = match &ghost.body {
                GhostBody::None => Vec::new(),
                GhostBody::Whole(extent) => vec![(0, *extent)],
                GhostBody::Chunks(chunks) => chunks.clone(),
            };
            let entry = ghost.entry.clone();
            set.ghosts.insert(*id, Ghost { entry, body, xattrs: ghost.xattrs.clone() });
        }
        let data = |(id, p): (&u32, &PipeData)| (*id, (p.entry, p.data));
        set.pipes = cp.pipe_data.iter().map(data).collect();
        set.fifos = cp.fifo_data.iter().map(data).collect();
        for (id, queue) in &cp.sk_queues {
            let packets = queue.iter().map(|p| (p.entry.clone(), p.data)).collect();
            set.packets.insert(*id, packets);
        }
        set.ttys = cp.tty_infos.iter().map(|(id, t)| (*id, t.clone())).collect();
        for data in &cp.tty_data {
            set.tty_data.entry(data.tty_id).or_default().extend(&data.data);
        }
        set.locks.clone_from(&cp.file_locks);
        set.tcp_streams = cp.tcp_streams.iter().map(|(ino, s)| (*ino, s.clone())).collect();
        set.memfds = cp.memfds.iter().map(|(id, m)| (*id, m.clone())).collect();
        set
    }

    /// The entry of a description that is not a regular file.
    pub(super) fn file(&self, id: u32) -> Result<&FileEntry> {
        self.files.get(&id).ok_or_else(|| Error::Refused(format!("files.img: no file {id}")))
    }

    /// The entry of a regular file.
    pub(super) fn reg(&self, id: u32) -> Result<&RegFileEntry> {
        self.regs.get(&id).ok_or_else(|| Error::Refused(format!("files.img: no regular file {id}")))
    }
}

fn namespaces(ids: &TaskKobjIdsEntry) -> Vec<(u32, u32)> {
    let all = [
        (libc::CLONE_NEWPID, ids.pid_ns_id),
        (libc::CLONE_NEWNET, ids.net_ns_id),
        (libc::CLONE_NEWIPC, ids.ipc_ns_id),
        (libc::CLONE_NEWUTS, ids.uts_ns_id),
        (libc::CLONE_NEWNS, ids.mnt_ns_id),
        (libc::CLONE_NEWUSER, ids.user_ns_id),
        (libc::CLONE_NEWCGROUP, ids.cgroup_ns_id),
        (0x80, ids.time_ns_id),
    ];
    all.into_iter().filter_map(|(flag, id)| Some((flag as u32, id?))).collect()
}

/// CRIU writes `/proc/PID` of a live task as `/proc/PID/` and a byte that means nothing.
fn mend_name(reg: &mut RegFileEntry) {
    let is_dir = reg.mode.is_some_and(|m| m & libc::S_IFMT == libc::S_IFDIR);
    let Some(rest) = reg.name.strip_prefix(b"/proc/").filter(|_| is_dir) else { return };
    let mut parts = rest.split(|b| *b == b'/');
    let pid = parts.next().is_some_and(|p| !p.is_empty() && p.iter().all(u8::is_ascii_digit));
    let odd = parts.next().is_some_and(|p| p.len() == 1 && !p[0].is_ascii_graphic());
    if pid && odd && parts.next().is_none() {
        reg.name.truncate(reg.name.len() - 2);
    }
}
