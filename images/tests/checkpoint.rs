//! Loads golden checkpoints of stock criu, whole and damaged.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use images::checkpoint::{GhostBody, Remap, TaskState};
use images::pages::{PageFlags, PageImages, PageRange, PageSet, PagemapReader};
use images::proto::{
    CoreEntry, FdTypes, FdinfoEntry, FileEntry, FsEntry, GhostFileEntry, InventoryEntry,
    IpcSemEntry, MmEntry, MntEntry, PstreeEntry, RemapFilePathEntry, SeccompEntry,
    TaskKobjIdsEntry, VmaEntry,
};
use images::{Checkpoint, Dir, Image};
use support::{Copy, Rng, copy};

const ROOT: u32 = 4283;
const THREAD: u32 = 4365;
const CHILD: u32 = 4366;
const ZOMBIE: u32 = 4367;
const STOPPED: u32 = 4368;

#[test]
fn the_tiny_one_loads() {
    let copy = copy("tiny");
    let checkpoint = Checkpoint::load(&copy.dir).unwrap();
    assert_eq!(checkpoint.tasks.len(), 1);
    let root = checkpoint.root();
    let live = root.live.as_ref().unwrap();
    assert_eq!(root.tc().comm, b"tiny");
    assert_eq!(live.fdinfo.iter().map(|f| f.fd).collect::<Vec<_>>(), [0, 1, 2]);
    let mut byte = [0];
    let vdso = live.mm.vmas.iter().find(|v| v.status & 8 != 0).unwrap();
    live.pages.read_at(vdso.start + 1, &mut byte).unwrap();
    assert_eq!(&byte, b"E", "an ELF file");
}

#[test]
fn the_zoo_loads() {
    let copy = copy("zoo");
    let c = Checkpoint::load(&copy.dir).unwrap();
    let states: Vec<_> = c.tasks.iter().map(|t| (t.pid, t.parent, t.state)).collect();
    use TaskState::{Alive, Dead, Stopped};
    assert_eq!(states[0], (ROOT, None, Alive));
    assert!(states.contains(&(CHILD, Some(0), Alive)));
    assert!(states.contains(&(ZOMBIE, Some(0), Dead)));
    assert!(states.contains(&(STOPPED, Some(0), Stopped)));
    assert_eq!(c.root().threads.iter().map(|t| t.tid).collect::<Vec<_>>(), [ROOT, THREAD]);
    assert_eq!(c.task(ZOMBIE).unwrap().tc().exit_code, 3 << 8);
    assert!(c.files.iter().any(|f| f.reg.as_ref().is_some_and(|r| r.name.contains(&0xe9))));

    let pipe = c.pipe_data.values().next().unwrap();
    assert_eq!(c.dir.read_extent(pipe.data).unwrap(), b"hello pipe");
    let fifo = c.fifo_data.values().next().unwrap();
    assert_eq!(c.dir.read_extent(fifo.data).unwrap(), b"fifodata");
    let packet = &c.sk_queues.values().next().unwrap()[0];
    assert_eq!(c.dir.read_extent(packet.data).unwrap(), b"queued");
    assert_eq!(packet.entry.scm[0].rights.len(), 1);
    let received = c.tcp_streams.values().find(|s| s.inq.len > 0).unwrap();
    assert_eq!(c.dir.read_extent(received.inq).unwrap(), b"tcp data");
    assert_eq!(c.tty_data[0].data, b"typed");

    assert_eq!(c.ghosts.len(), 2);
    let GhostBody::Whole(body) = c.ghosts[&1].body else { panic!("not chunked") };
    assert_eq!(c.dir.read_extent(body).unwrap(), b"ghost body");
    assert!(matches!(&c.ghosts[&2].body, GhostBody::Chunks(chunks) if !chunks.is_empty()));
    assert!(c.remaps.values().any(|r| *r == Remap::Ghost(1)));

    assert_eq!(c.memfds.len(), 2);
    let size = |shmid: u32| c.shmem[&u64::from(shmid)].size;
    assert!(c.memfds.values().all(|m| size(m.shmid) == m.size));

    let filter = c.task(CHILD).unwrap().leader().thread_core().seccomp_filter.unwrap();
    assert_eq!(c.seccomp_chain(filter).count(), 2);
    assert!(c.ns.time.contains_key(&0));
}

#[test]
fn the_namespaces_load() {
    let copy = copy("ns");
    let c = Checkpoint::load(&copy.dir).unwrap();
    assert_eq!(c.root().pid, 1);
    let [uts] = c.ns.uts.values().collect::<Vec<_>>()[..] else { panic!("one UTS namespace") };
    assert_eq!(uts.nodename, "amber-host");
    let [ipc] = c.ns.ipc.values().collect::<Vec<_>>()[..] else { panic!("one IPC namespace") };
    let (kind, body) = ipc.msg[0].messages[0];
    assert_eq!((kind, c.dir.read_extent(body).unwrap()), (7, b"hello queue".to_vec()));
    assert_eq!(c.dir.read_extent(ipc.sem[0].values).unwrap(), [5, 0, 6, 0, 7, 0]);
    let id = ipc.shm[0].entry.desc.id;
    assert_eq!(c.shmem[&id.into()].size, 8192);
    let [net] = c.ns.net.values().collect::<Vec<_>>()[..] else { panic!("one net namespace") };
    assert_eq!(net.devices.iter().map(|d| &*d.name).collect::<Vec<_>>(), ["lo", "br0"]);
    let [mnt] = c.ns.mnt.values().collect::<Vec<_>>()[..] else { panic!("one mount namespace") };
    assert_eq!(mnt.len(), 2);
}

#[test]
fn namespaces_that_cannot_be_are_refused() {
    let change = |f: fn(&mut Vec<MntEntry>), want: &str| {
        refused("ns", |c| c.change(Image::Mountpoints(13), f), want);
    };
    change(Vec::clear, "mountpoints-13.img: no root mount");
    change(|v| v[1].mnt_id = v[0].mnt_id, "for the second time");
    change(|v| v[0].mountpoint = b"proc".to_vec(), "is relative");
    change(|v| v.iter_mut().for_each(|m| m.parent_mnt_id = 1), "2 root mounts");
    change(
        |v| {
            let id = v[0].mnt_id;
            v[0].parent_mnt_id = v[1].mnt_id;
            v[1].parent_mnt_id = id;
        },
        "no root mount",
    );
    change(
        |v| {
            let (mut a, mut b) = (v[0].clone(), v[0].clone());
            (a.mnt_id, a.parent_mnt_id) = (1001, 1002);
            (b.mnt_id, b.parent_mnt_id) = (1002, 1001);
            v.extend([a, b]);
        },
        "is mounted on itself",
    );
    let queue = |c: &Copy| {
        let mut writer = c.dir.writer(Image::IpcnsSem(11)).unwrap();
        writer.write(&IpcSemEntry { nsems: u32::MAX, ..Default::default() }).unwrap();
        writer.finish().unwrap();
    };
    refused("ns", queue, "ipcns-sem-11.img: ");
    refused("ns", |c| c.dir.remove_file("utsns-12.img").unwrap(), "utsns-12.img: no such image");
    refused("ns", |c| c.dir.remove_file("ipcns-var-11.img").unwrap(), "no such image");
    refused("ns", |c| c.dir.remove_file("ipcns-shm-11.img").unwrap(), "no SysV segment has id 0");
}

/// Damages a golden checkpoint and says what loading it has to complain about.
fn refused(name: &str, damage: impl FnOnce(&Copy), want: &str) {
    let copy = copy(name);
    damage(&copy);
    let message = Checkpoint::load(&copy.dir).unwrap_err().to_string();
    assert!(message.contains(want), "{message:?} does not tell of {want:?}");
}

#[test]
fn inventories_that_cannot_be_are_refused() {
    let change = |f: fn(&mut InventoryEntry), want: &str| {
        refused("tiny", |c| c.change(Image::Inventory, |v| f(&mut v[0])), want);
    };
    change(|i| i.img_version = 0, "pre-dump");
    change(|i| i.img_version = 1, "img_version");
    change(|i| i.img_version = 3, "img_version 3 is not known");
    change(|i| i.fdinfo_per_id = None, "fdinfo_per_id");
    change(|i| i.root_ids = None, "root_ids");
    change(|i| i.root_cg_set = Some(7), "cg_set 1");
    change(|i| i.root_ids.as_mut().unwrap().files_id = 2, "files_id 2");
    change(|i| i.root_ids.as_mut().unwrap().uts_ns_id = Some(99), "utsns-4.img: no such image");
    change(|i| i.root_ids.as_mut().unwrap().mnt_ns_id = None, "mountpoints-6.img");
    refused("tiny", |c| c.dir.remove_file("inventory.img").unwrap(), "inventory.img: no such");
}

#[test]
fn trees_that_cannot_be_are_refused() {
    let change = |f: fn(&mut Vec<PstreeEntry>), want: &str| {
        refused("zoo", |c| c.change(Image::Pstree, f), want);
    };
    change(|v| v.clear(), "no pstree_entry");
    change(|v| v[0].ppid = 1, "ppid 1 of the root");
    change(|v| v[0].ppid = CHILD, "of the root");
    change(|v| v[1].ppid = 0, "second root");
    change(|v| v[1].ppid = v[1].pid, "is no task before it");
    change(|v| v[1].ppid = v[2].pid, "is no task before it");
    change(|v| v[1].pid = ROOT, "is not the first of its threads");
    change(|v| v[1] = v[0].clone(), "second root");
    change(|v| v[1].threads.push(ROOT), "one of pid 4283 already");
    change(|v| v[0].threads.clear(), "not the first of its threads");
    change(|v| v[0].threads.push(0), "tid 0 is no pid");
    change(|v| v[0].threads.push(5), "core-5.img: no such image");
    refused("zoo", |c| c.dir.remove_file("pstree.img").unwrap(), "pstree.img: no such image");
}

#[test]
fn cores_that_cannot_be_are_refused() {
    let leader = |f: fn(&mut CoreEntry), want: &str| {
        refused("zoo", |c| c.change(Image::Core(ROOT), |v| f(&mut v[0])), want);
    };
    leader(|c| c.tc = None, "no `tc`");
    leader(|c| c.tc.as_mut().unwrap().task_state = 6, "task_state 6 is not known");
    leader(|c| c.tc.as_mut().unwrap().task_state = 2, "the root task is a zombie");
    leader(|c| c.tc.as_mut().unwrap().sigactions.truncate(61), "61 entries, not 62");
    leader(|c| c.tc.as_mut().unwrap().sigactions.clear(), "0 entries, not 62");
    leader(|c| c.tc.as_mut().unwrap().timers = None, "--deprecated");
    leader(|c| c.tc.as_mut().unwrap().rlimits = None, "--deprecated");
    leader(|c| c.thread_core = None, "no `thread_core`");
    leader(|c| c.thread_info = None, "no `thread_info`");
    leader(|c| c.mtype = 2, "mtype ARM");
    leader(|c| c.mtype = 77, "mtype 77 is not known");
    leader(|c| c.thread_info.as_mut().unwrap().fpregs.st_space.clear(), "st_space");
    leader(
        |c| {
            let xsave = c.thread_info.as_mut().unwrap().fpregs.xsave.as_mut().unwrap();
            xsave.ymmh_space.truncate(3);
        },
        "xsave.ymmh_space has 3 words, not 64",
    );
    leader(|c| c.thread_core.as_mut().unwrap().creds = None, "creds-4283.img: no such image");
    leader(|c| c.thread_core.as_mut().unwrap().pdeath_sig = Some(65), "pdeath_sig");
    let thread = |f: fn(&mut CoreEntry), want: &str| {
        refused("zoo", |c| c.change(Image::Core(THREAD), |v| f(&mut v[0])), want);
    };
    thread(|c| c.tc = Some(Default::default()), "`tc` in the core of a thread");
    thread(|c| c.ids = Some(Default::default()), "`ids` in the core of a thread");
}

#[test]
fn seccomp_chains_that_cannot_be_are_refused() {
    let index = |c: &mut CoreEntry| c.thread_core.as_mut().unwrap().seccomp_filter = Some(2);
    refused(
        "zoo",
        |c| c.change(Image::Core(CHILD), |v| index(&mut v[0])),
        "seccomp_filter 2: there are 2 filters",
    );
    refused("zoo", |c| c.dir.remove_file("seccomp.img").unwrap(), "there are 0 filters");
    let change = |f: fn(&mut SeccompEntry), want: &str| {
        refused("zoo", |c| c.change(Image::Seccomp, |v| f(&mut v[0])), want);
    };
    change(|s| s.seccomp_filters[0].prev = Some(1), "filter 0: prev 1 is not before");
    change(|s| s.seccomp_filters[1].prev = Some(1), "filter 1: prev 1 is not before");
    change(|s| s.seccomp_filters[0].filter.truncate(7), "7 bytes");
}

#[test]
fn descriptors_that_cannot_be_are_refused() {
    let change = |f: fn(&mut Vec<FdinfoEntry>), want: &str| {
        refused("zoo", |c| c.change(Image::Fdinfo(2), f), want);
    };
    change(|v| v[1].fd = v[0].fd, "fd 0 for the second time");
    change(|v| v[0].id = 999, "fd 0: no file of type REG has id 999");
    change(|v| v[0].r#type = FdTypes::Pipe as i32, "no file of type PIPE");
    change(|v| v[0].r#type = 99, "type 99 is not known");
    change(|v| v[0].fd = u32::MAX, "is no descriptor");
}

#[test]
fn files_that_cannot_be_are_refused() {
    let change = |f: fn(&mut Vec<FileEntry>), want: &str| {
        refused("zoo", |c| c.change(Image::Files, f), want);
    };
    fn one(v: &mut [FileEntry], kind: FdTypes) -> &mut FileEntry {
        v.iter_mut().find(|f| f.r#type() == kind).unwrap()
    }
    change(|v| v.push(v[0].clone()), "for the second time");
    change(|v| v[0].id += 1000, "has contents with id");
    change(|v| v[0].r#type = FdTypes::Pipe as i32, "type is PIPE, contents are REG");
    change(|v| v[0].r#type = 0, "type 0 is not known");
    change(|v| v[0].reg = None, "has no contents");
    change(|v| one(v, FdTypes::Pipe).reg = Some(Default::default()), "of several types");
    change(|v| v.retain(|f| f.r#type() != FdTypes::Pipe), "no file of type PIPE");
    change(
        |v| one(v, FdTypes::Fifo).fifo.as_mut().unwrap().regf_id = Some(999),
        "fifo.regf_id: no regular file has id 999",
    );
    change(|v| one(v, FdTypes::Tty).tty.as_mut().unwrap().tty_info_id = 999, "no terminal has id");
    change(|v| one(v, FdTypes::Tty).tty.as_mut().unwrap().regf_id = None, "--deprecated");
    change(|v| one(v, FdTypes::Memfd).memfd.as_mut().unwrap().inode_id = 99, "memfd.img has no 99");
    change(|v| one(v, FdTypes::Unixsk).usk.as_mut().unwrap().peer = 1, "no unix socket has ino 1");
    change(|v| one(v, FdTypes::Inetsk).isk.as_mut().unwrap().src_addr.clear(), "src_addr");
    refused("zoo", |c| c.dir.remove_file("files.img").unwrap(), "no file of type");
    refused("zoo", |c| c.dir.remove_file("tty-info.img").unwrap(), "no terminal has id");
    refused("zoo", |c| c.dir.remove_file("memfd.img").unwrap(), "memfd.img has no");
    let fs = |f: fn(&mut FsEntry), want: &str| {
        refused("zoo", |c| c.change(Image::Fs(ROOT), |v| f(&mut v[0])), want);
    };
    fs(|f| f.cwd_id = 999, "fs-4283.img: cwd_id");
    fs(|f| f.root_id = 999, "fs-4283.img: root_id");
}

#[test]
fn remaps_and_ghosts_that_cannot_be_are_refused() {
    let change = |f: fn(&mut RemapFilePathEntry), want: &str| {
        refused("zoo", |c| c.change(Image::RemapFpath, |v| f(&mut v[0])), want);
    };
    change(|r| r.orig_id = 999, "orig_id: no regular file has id 999");
    change(|r| (r.remap_id, r.remap_type) = (999, Some(0)), "remap_id: no regular file has id 999");
    change(|r| (r.remap_id, r.remap_type) = (999, None), "remap_id: no regular file has id 999");
    change(
        |r| (r.remap_id, r.remap_type) = (0x8000_00ff, None),
        "ghost-file-ff.img: no such image",
    );
    change(|r| r.remap_id = 0xabc, "ghost-file-abc.img: no such image");
    change(|r| r.remap_type = Some(9), "remap_type 9 is not known");
    let ghost = |c: &Copy, size| {
        let mut writer = c.dir.writer(Image::GhostFile(2)).unwrap();
        let entry =
            GhostFileEntry { mode: 0o100_644, chunks: Some(true), size, ..Default::default() };
        writer.write(&entry).unwrap();
        writer.write(&images::proto::GhostChunkEntry { len: 5, off: u64::MAX - 2 }).unwrap();
        writer.write_payload(b"12345").unwrap();
        writer.finish().unwrap();
    };
    refused("zoo", |c| ghost(c, Some(u64::MAX)), "beyond the size");
    refused("zoo", |c| ghost(c, None), "no `size`");
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let change = |f: fn(&mut MmEntry), want: &str| {
        refused("zoo", |c| c.change(Image::Mm(ROOT), |v| f(&mut v[0])), want);
    };
    change(|m| m.exe_file_id = 999, "exe_file_id");
    change(|m| m.vmas.swap(0, 1), "is not behind the one before");
    change(|m| m.vmas[1].start = m.vmas[0].start, "is not behind the one before");
    change(|m| m.vmas[0].end = m.vmas[0].start, "is no range of pages");
    change(|m| m.vmas[0].start += 1, "is no range of pages");
    change(|m| m.vmas[0].shmid = 999, "shmid: no regular file has id 999");
    change(|m| m.vmas[0].shmid = u64::MAX, "is no id");
    change(|m| m.vmas.clear(), "is in no private VMA");
    change(|m| m.vmas.retain(|v| v.status & 8 == 0), "is in no private VMA");
    change(|m| m.vmas.iter_mut().for_each(|v| v.status |= 0x4000), "no memfd");
    change(|m| m.vmas.iter_mut().for_each(|v| v.status = 0x501), "no SysV segment");
    change(|m| m.vmas[0].status = 1, "no kind of mapping");
    change(|m| m.aios.push(Default::default()), "no ring");
    refused("zoo", |c| c.dir.remove_file("pages-3.img").unwrap(), "pages-3.img: no such image");
    refused("zoo", |c| c.dir.remove_file("pagemap-4283.img").unwrap(), "no such image");
    let short = |c: &Copy| {
        c.dir.open_file_rw("pages-3.img").unwrap().unwrap().set_len(4096).unwrap();
    };
    refused("zoo", short, "pages-3.img: contents from page 0 is cut short");
    let shmem = |c: &Copy| {
        for image in c.dir.images().unwrap() {
            if matches!(image, Image::PagemapShmem(_)) {
                c.dir.remove_file(&image.file_name()).unwrap();
            }
        }
    };
    refused("zoo", shmem, "pagemap-shmem-");
}

#[test]
fn a_root_without_ids_is_refused_unless_they_are_in_its_core() {
    refused("tiny", |c| c.dir.remove_file("ids-4282.img").unwrap(), "ids-4282.img: no such image");
    let copy = copy("tiny");
    let ids: TaskKobjIdsEntry = copy.dir.read_one(Image::Ids(4282)).unwrap();
    copy.dir.remove_file("ids-4282.img").unwrap();
    copy.change(Image::Core(4282), |v: &mut Vec<CoreEntry>| v[0].ids = Some(ids));
    Checkpoint::load(&copy.dir).unwrap();
}

#[test]
fn old_layouts_read_like_new_ones() {
    let copy = copy("tiny");
    let pid = 4282;
    fn put<M: prost::Message + prost::Name>(dir: &Dir, image: Image, entries: &[M]) {
        let mut writer = dir.writer(image).unwrap();
        entries.iter().for_each(|e| writer.write(e).unwrap());
        writer.finish().unwrap();
    }
    let new = Checkpoint::load(&copy.dir).unwrap();
    copy.change(Image::Core(pid), |v: &mut Vec<CoreEntry>| {
        let core = &mut v[0];
        let tc = core.tc.as_mut().unwrap();
        put(&copy.dir, Image::Sigacts(pid), &std::mem::take(&mut tc.sigactions));
        tc.signals_s = None;
        let timers = tc.timers.take().unwrap();
        put(&copy.dir, Image::Itimers(pid), &[timers.real, timers.virt, timers.prof]);
        put(&copy.dir, Image::Rlimit(pid), &tc.rlimits.take().unwrap().rlimits);
        let thread = core.thread_core.as_mut().unwrap();
        put(&copy.dir, Image::Creds(pid), &[thread.creds.take().unwrap()]);
        thread.signals_p = None;
        tc.cg_set = thread.cg_set.take();
    });
    copy.change(Image::Mm(pid), |v: &mut Vec<MmEntry>| {
        put(&copy.dir, Image::Vmas(pid), &std::mem::take(&mut v[0].vmas));
    });
    let files: Vec<FileEntry> = copy.dir.read_all(Image::Files).unwrap();
    let regs: Vec<_> = files.into_iter().map(|f| f.reg.unwrap()).collect();
    put(&copy.dir, Image::RegFiles, &regs);
    copy.dir.remove_file("files.img").unwrap();
    // And the heads of version 1.
    copy.change(Image::Inventory, |v: &mut Vec<InventoryEntry>| v[0].img_version = 1);
    for image in copy.dir.images().unwrap() {
        let path = copy.temp.path().join(image.file_name());
        let bytes = std::fs::read(&path).unwrap();
        if bytes.starts_with(&images::COMMON_MAGIC.to_le_bytes()) {
            std::fs::write(&path, &bytes[4..]).unwrap();
        }
    }

    let message = Checkpoint::load(&copy.dir).unwrap_err().to_string();
    assert!(message.contains("--deprecated"), "{message}");
    let old = Checkpoint::load_with(&copy.dir, images::Options { deprecated: true }).unwrap();
    let (new, old) = (new.root(), old.root());
    let mut new_tc = new.tc().clone();
    new_tc.cg_set = old.tc().cg_set;
    assert_eq!(*old.tc(), new_tc);
    assert_eq!(old.leader().thread_core(), new.leader().thread_core());
    assert_eq!(old.live.as_ref().unwrap().mm, new.live.as_ref().unwrap().mm);
}

#[test]
fn big_images_take_time_in_proportion() {
    let copy = copy("tiny");
    // As many mappings as the kernel allows at most by default, each with a page of its own.
    let (n, base) = (65_000, 0x10_0000_0000_u64);
    copy.change(Image::Mm(4282), |v: &mut Vec<MmEntry>| {
        let template = v[0].vmas.iter().find(|v| v.status == 0x201).copied().unwrap();
        let at = v[0].vmas.partition_point(|v| v.start < base);
        let vmas = (0..n).map(|i| {
            let start = base + i * 0x2000;
            VmaEntry { start, end: start + 0x1000, flags: 0x22, ..template }
        });
        v[0].vmas.splice(at..at, vmas.collect::<Vec<_>>());
    });
    let old: Vec<PageRange> = PagemapReader::open(&copy.dir, PageSet::Task(4282))
        .unwrap()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut sink = PageImages::new(copy.dir.clone()).create(PageSet::Task(4282)).unwrap();
    let new =
        (0..n).map(|i| PageRange { vaddr: base + i * 0x2000, pages: 1, flags: PageFlags::LAZY });
    let (low, high): (Vec<_>, Vec<_>) = old.into_iter().partition(|r| r.vaddr < base);
    for range in low.into_iter().chain(new).chain(high) {
        sink.reserve(range.vaddr, range.pages, range.flags).unwrap();
    }
    sink.file().set_len(sink.len_bytes()).unwrap();
    sink.close().unwrap();
    let start = std::time::Instant::now();
    let c = Checkpoint::load(&copy.dir).unwrap();
    assert!(c.root().live.as_ref().unwrap().pages.segments().len() > 65_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn damaged_bits_never_panic() {
    let mut rng = Rng(0x1234_5678_9abc_def1);
    for name in ["tiny", "zoo", "ns"] {
        let copy = copy(name);
        let images: Vec<Image> = copy.dir.images().unwrap();
        let framed: Vec<_> = images.iter().filter(|i| i.kind().magic != 0).collect();
        for _ in 0..400 {
            let image = framed[rng.below(framed.len())];
            let path = copy.temp.path().join(image.file_name());
            let whole = std::fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            for _ in 0..=rng.below(3) {
                let bit = rng.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            if rng.below(4) == 0 {
                bytes.truncate(rng.below(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            _ = Checkpoint::load(&copy.dir);
            std::fs::write(&path, &whole).unwrap();
        }
        Checkpoint::load(&copy.dir).unwrap();
    }
}
