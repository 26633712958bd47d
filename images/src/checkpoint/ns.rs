//! Namespaces of the tasks' own: where a task's id differs from that of the dumper.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;

use crate::checkpoint::loader::{Loader, invalid};
use crate::checkpoint::{Files, Task, net};
use crate::proto::{
    InventoryEntry, IpcMsg as IpcMsgHead, IpcMsgEntry, IpcSemEntry, IpcShmEntry, IpcVarEntry,
    MntEntry, NetDeviceEntry, NetnsEntry, PidnsEntry, TaskKobjIdsEntry, TimensEntry, UsernsEntry,
    UtsnsEntry,
};
use crate::{Error, Extent, Image, Result};

/// A kind of namespace. The number is its clone flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum NsKind {
    /// `CLONE_NEWTIME`.
    Time = 0x80,
    /// `CLONE_NEWNS`.
    Mnt = 0x2_0000,
    /// `CLONE_NEWCGROUP`.
    Cgroup = 0x200_0000,
    /// `CLONE_NEWUTS`.
    Uts = 0x400_0000,
    /// `CLONE_NEWIPC`.
    Ipc = 0x800_0000,
    /// `CLONE_NEWUSER`.
    User = 0x1000_0000,
    /// `CLONE_NEWPID`.
    Pid = 0x2000_0000,
    /// `CLONE_NEWNET`.
    Net = 0x4000_0000,
}

impl NsKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Time,
        Self::Mnt,
        Self::Cgroup,
        Self::Uts,
        Self::Ipc,
        Self::User,
        Self::Pid,
        Self::Net,
    ];

    /// As `/proc/PID/ns` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Mnt => "mnt",
            Self::Cgroup => "cgroup",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Net => "net",
        }
    }

    /// The clone flag.
    #[must_use]
    pub fn clone_flag(self) -> u32 {
        self as u32
    }

    /// The id of this kind; 0 if there is none.
    #[must_use]
    pub fn id(self, ids: &TaskKobjIdsEntry) -> u32 {
        let id = match self {
            Self::Time => ids.time_ns_id,
            Self::Mnt => ids.mnt_ns_id,
            Self::Cgroup => ids.cgroup_ns_id,
            Self::Uts => ids.uts_ns_id,
            Self::Ipc => ids.ipc_ns_id,
            Self::User => ids.user_ns_id,
            Self::Pid => ids.pid_ns_id,
            Self::Net => ids.net_ns_id,
        };
        id.unwrap_or(0)
    }

    /// Whether a task with `ids` is in another namespace than one with `base`.
    ///
    /// Time and cgroup namespaces came late: without an id on either side there is none.
    #[must_use]
    pub fn differs(self, ids: &TaskKobjIdsEntry, base: &TaskKobjIdsEntry) -> bool {
        let (id, base) = (self.id(ids), self.id(base));
        let late = matches!(self, Self::Time | Self::Cgroup);
        id != base && !(late && (id == 0 || base == 0))
    }
}

/// All namespaces with images, by their ids.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// UTS namespaces.
    pub uts: BTreeMap<u32, UtsnsEntry>,
    /// IPC namespaces.
    pub ipc: BTreeMap<u32, Ipc>,
    /// Mount namespaces: their mounts, in the order of the image.
    pub mnt: BTreeMap<u32, Vec<MntEntry>>,
    /// Network namespaces.
    pub net: BTreeMap<u32, Net>,
    /// User namespaces.
    pub user: BTreeMap<u32, UsernsEntry>,
    /// External pid namespaces.
    pub pid: BTreeMap<u32, PidnsEntry>,
    /// Clocks; id 0 for tasks that shared the time namespace of the dumper.
    pub time: BTreeMap<u32, TimensEntry>,
}

/// An IPC namespace.
#[derive(Debug)]
pub struct Ipc {
    /// Sysctls.
    pub var: IpcVarEntry,
    /// Shared memory segments.
    pub shm: Vec<IpcShm>,
    /// Message queues.
    pub msg: Vec<IpcMsg>,
    /// Semaphore sets.
    pub sem: Vec<IpcSem>,
}

/// A SysV shared memory segment.
#[derive(Debug)]
pub struct IpcShm {
    /// Its id, owner and size.
    pub entry: IpcShmEntry,
    /// Its contents in old images; otherwise they are in
    /// [`Checkpoint::shmem`](super::Checkpoint::shmem) under its id.
    pub body: Option<Extent>,
}

/// A SysV message queue.
#[derive(Debug)]
pub struct IpcMsg {
    /// Its id, owner and limits.
    pub entry: IpcMsgEntry,
    /// `(type, bytes)` of each message, oldest first.
    pub messages: Vec<(u64, Extent)>,
}

/// A SysV semaphore set.
#[derive(Debug)]
pub struct IpcSem {
    /// Its id and owner.
    pub entry: IpcSemEntry,
    /// Values, as little-endian u16.
    pub values: Extent,
}

/// A network namespace. What the kernel's messages say is theirs: `None` without an image, as
/// for a namespace that somebody else fills.
#[derive(Debug, Default)]
pub struct Net {
    /// Sysctls; absent if they are not to be touched.
    pub netns: Option<NetnsEntry>,
    /// Links.
    pub devices: Vec<NetDeviceEntry>,
    /// Addresses: messages of rtnetlink.
    pub addresses: Vec<u8>,
    /// Routes, those of IPv6 last.
    pub routes: Vec<u8>,
    /// Rules; `None`: those that every namespace has.
    pub rules: Option<Vec<u8>>,
    /// Text for `nft -f`.
    pub nftables: String,
    /// Text for `iptables-restore`.
    pub iptables: String,
    /// Text for `ip6tables-restore`.
    pub ip6tables: String,
    /// Tracked connections: messages of nfnetlink.
    pub conntrack: Vec<u8>,
    /// Expected connections.
    pub expectations: Vec<u8>,
}

/// Reads the images of all namespaces that differ from those of the dumper.
pub(super) fn load(
    loader: &Loader,
    inventory: &InventoryEntry,
    root_ids: &TaskKobjIdsEntry,
    tasks: &[Task],
    files: &Files,
) -> Result<Namespaces> {
    let mut ns = Namespaces::default();
    let all_ids = || tasks.iter().filter_map(|t| t.ids.as_ref());
    let own = |kind: NsKind| -> BTreeSet<u32> {
        all_ids().filter(|ids| kind.differs(ids, root_ids)).map(|ids| kind.id(ids)).collect()
    };
    // Before `ns_per_id` there was one of each, named by the pid of the root.
    let old = (inventory.ns_per_id != Some(true)).then(|| tasks[0].pid);
    let number = |id: u32| old.unwrap_or(id);

    for id in own(NsKind::Uts) {
        ns.uts.insert(id, loader.one(Image::Utsns(number(id)))?);
    }
    for id in own(NsKind::Ipc) {
        ns.ipc.insert(id, ipc(loader, number(id))?);
    }
    for id in own(NsKind::Mnt) {
        ns.mnt.insert(id, mounts(loader, id)?);
    }
    for id in own(NsKind::User) {
        ns.user.insert(id, loader.one(Image::Userns(id))?);
    }
    for id in own(NsKind::Pid) {
        match loader.opt(Image::Pidns(id))? {
            Some(external) => _ = ns.pid.insert(id, external),
            None if tasks[0].pid != 1 => {
                let reason =
                    format_args!("pid {}: init of the pid namespace is missing", tasks[0].pid);
                return invalid(Image::Pstree, reason);
            }
            None => {}
        }
    }
    for id in own(NsKind::Time) {
        ns.time.insert(id, loader.one(Image::Timens(id))?);
    }
    if ns.time.is_empty()
        && let Some(time) = loader.opt(Image::Timens(0))?
    {
        ns.time.insert(0, time);
    }
    let mut networks = own(NsKind::Net);
    networks.extend(socket_namespaces(files).filter(|id| *id != NsKind::Net.id(root_ids)));
    for id in networks {
        ns.net.insert(id, network(loader, id)?);
    }
    Ok(ns)
}

/// Network namespaces in which no task may live any more.
fn socket_namespaces(files: &Files) -> impl Iterator<Item = u32> {
    let ids = files.iter().flat_map(|f| {
        [
            f.isk.as_ref().and_then(|s| s.ns_id),
            f.usk.as_ref().and_then(|s| s.ns_id),
            f.psk.as_ref().and_then(|s| s.ns_id),
            f.nlsk.as_ref().and_then(|s| s.ns_id),
            f.tunf.as_ref().and_then(|s| s.ns_id),
            f.nsf.as_ref().filter(|n| n.ns_cflag == NsKind::Net as u32).map(|n| n.ns_id),
        ]
    });
    ids.flatten().filter(|id| *id != 0)
}

fn network(loader: &Loader, id: u32) -> Result<Net> {
    let text = |image| -> Result<String> {
        let bytes = raw(loader, image)?.unwrap_or_default();
        String::from_utf8(bytes).or_else(|_| invalid(image, "is no text"))
    };
    let messages = |image, magic| Ok(saved(loader, image, magic)?.unwrap_or_default());
    let mut routes: Vec<u8> = messages(Image::Route(id), net::ROUTES)?;
    routes.extend(messages(Image::Route6(id), net::ROUTES)?);
    Ok(Net {
        netns: loader.opt(Image::Netns(id))?,
        devices: loader.all(Image::Netdev(id))?,
        addresses: messages(Image::Ifaddr(id), net::ADDRESSES)?,
        routes,
        rules: saved(loader, Image::Rule(id), net::RULES)?,
        nftables: text(Image::Nftables(id))?,
        iptables: text(Image::Iptables(id))?,
        ip6tables: text(Image::Ip6tables(id))?,
        conntrack: raw(loader, Image::NetnsCt(id))?.unwrap_or_default(),
        expectations: raw(loader, Image::NetnsExp(id))?.unwrap_or_default(),
    })
}

/// An image without framing.
fn raw(loader: &Loader, image: Image) -> Result<Option<Vec<u8>>> {
    let Some(mut file) = loader.dir.open_raw(image)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(&image.file_name(), "read"))?;
    Ok(Some(bytes))
}

/// What `ip … save` wrote, without its first word.
fn saved(loader: &Loader, image: Image, magic: u32) -> Result<Option<Vec<u8>>> {
    let Some(mut bytes) = raw(loader, image)? else { return Ok(None) };
    if bytes.is_empty() {
        return Ok(None);
    }
    if !bytes.starts_with(&magic.to_le_bytes()) {
        return invalid(image, format_args!("does not begin with {magic:#x}"));
    }
    Ok(Some(bytes.split_off(4)))
}

fn ipc(loader: &Loader, number: u32) -> Result<Ipc> {
    let var = loader.one(Image::IpcnsVar(number))?;

    let mut shm = Vec::new();
    let mut reader = loader.reader(Image::IpcnsShm(number))?;
    while let Some(entry) = reader.read_opt::<IpcShmEntry>()? {
        let body = match entry.in_pagemaps {
            Some(true) => None,
            _ => Some(reader.skip_payload(padded(entry.size, 4))?),
        };
        let body = body.map(|extent| Extent { len: entry.size, ..extent });
        shm.push(IpcShm { entry, body });
    }

    let mut msg = Vec::new();
    let mut reader = loader.reader(Image::IpcnsMsg(number))?;
    while let Some(entry) = reader.read_opt::<IpcMsgEntry>()? {
        let mut messages = Vec::new();
        for _ in 0..entry.qnum {
            let head: IpcMsgHead = reader.read_one()?;
            let len = u64::from(head.msize);
            let extent = reader.skip_payload(padded(len, 8))?;
            messages.push((head.mtype, Extent { len, ..extent }));
        }
        msg.push(IpcMsg { entry, messages });
    }

    let mut sem = Vec::new();
    let mut reader = loader.reader(Image::IpcnsSem(number))?;
    while let Some(entry) = reader.read_opt::<IpcSemEntry>()? {
        let len = u64::from(entry.nsems) * 2;
        let extent = reader.skip_payload(padded(len, 8))?;
        sem.push(IpcSem { entry, values: Extent { len, ..extent } });
    }
    Ok(Ipc { var, shm, msg, sem })
}

fn padded(len: u64, to: u64) -> u64 {
    len.checked_next_multiple_of(to).unwrap_or(len)
}

/// Reads the mounts of a namespace, which have to be one tree.
fn mounts(loader: &Loader, id: u32) -> Result<Vec<MntEntry>> {
    let image = Image::Mountpoints(id);
    let mut mounts: Vec<MntEntry> = loader.all(image)?;
    let mut parents: HashMap<u32, u32> = HashMap::new();
    for mount in &mut mounts {
        let MntEntry { mnt_id, parent_mnt_id, .. } = *mount;
        if parents.insert(mnt_id, parent_mnt_id).is_some() {
            return invalid(image, format_args!("mnt_id {mnt_id} for the second time"));
        }
        if !mount.mountpoint.starts_with(b"/") {
            let path = String::from_utf8_lossy(&mount.mountpoint);
            return invalid(
                image,
                format_args!("mnt_id {mnt_id}: mountpoint {path:?} is relative"),
            );
        }
        if mount.ext_mount == Some(true) && mount.ext_key.is_none() {
            mount.ext_key = Some(String::from_utf8_lossy(&mount.root).into_owned());
        }
    }
    let roots: Vec<u32> =
        parents.iter().filter(|(_, p)| !parents.contains_key(p)).map(|(id, _)| *id).collect();
    match roots.len() {
        1 => {}
        0 => return invalid(image, "no root mount"),
        n => return invalid(image, format_args!("{n} root mounts")),
    }
    check_circles(image, &parents)?;
    Ok(mounts)
}

fn check_circles(image: Image, parents: &HashMap<u32, u32>) -> Result<()> {
    let mut good: HashSet<u32> = HashSet::new();
    for start in parents.keys() {
        let mut path = Vec::new();
        let mut on_path = HashSet::new();
        let mut at = *start;
        while let Some(parent) = parents.get(&at) {
            if good.contains(&at) {
                break;
            }
            if !on_path.insert(at) {
                let reason = format_args!("mnt_id {at} is mounted on itself");
                return invalid(image, reason);
            }
            path.push(at);
            at = *parent;
        }
        good.extend(path);
    }
    Ok(())
}
