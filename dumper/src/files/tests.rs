//! Collects the descriptors of real children.

use super::{Ahead, FileTable, Finished};
use crate::proc::{Stat, Status};
use crate::tree::{Inside, State, Task, Thread, Tree};
use crate::{Error, Request};
use images::proto::{FdTypes, FdinfoEntry, FileEntry, GhostFileEntry, RemapFilePathEntry};
use images::{Dir, Image};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// A child that sleeps until it is dropped.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleeper(fds: [OwnedFd; 3]) -> Sleeper {
    let [a, b, c] = fds.map(Stdio::from);
    // Whoever runs the tests may hold a lock on a file that all of them inherit.
    let line = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; exec sleep 1000";
    let child = Command::new("sh").args(["-c", line]).stdin(a).stdout(b).stderr(c).spawn();
    let child = Sleeper(child.expect("sh is there"));
    // Not while its loader still has files open.
    let call = format!("/proc/{}/syscall", child.0.id());
    let asleep = format!("{} ", libc::SYS_clock_nanosleep);
    while !std::fs::read_to_string(&call).is_ok_and(|text| text.starts_with(&asleep)) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child
}

fn task(pid: i32, files_id: u32) -> Task {
    Task {
        pid,
        vpid: pid,
        ppid: 0,
        pgid: pid,
        sid: pid,
        state: State::Alive,
        pidfd: sys::fd::pidfd_open(pid, 0).unwrap(),
        threads: vec![Thread { tid: pid, vtid: pid, inside: Default::default() }],
        files_id,
        stat: Stat::read(pid).unwrap(),
        status: Status::read(pid, pid).unwrap(),
        inside: Inside::default(),
    }
}

/// What a dump of these tasks says about their files.
struct Dumped {
    dir: tempfile::TempDir,
    fds: Vec<Vec<FdinfoEntry>>,
    files: HashMap<u32, FileEntry>,
    finished: Finished,
}

fn try_dump(pids: &[i32], change: impl Fn(&mut Request)) -> Result<Dumped, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut request = Request::new(pids[0], dir.path());
    change(&mut request);
    let tasks = pids.iter().zip(1..).map(|(&pid, n)| task(pid, n)).collect();
    let tree = Tree { tasks };
    let ns = crate::ns::Namespaces::ours()?.collect(&tree, &request)?;
    let ahead = Ahead::start(&tree).map_err(Error::Files)?;
    let mut table = FileTable::new(&request, &tree, ahead, ns.into())?;
    let mut fds = Vec::new();
    for task in &tree.tasks {
        fds.push(table.collect_fds(task)?);
        table.collect_fs(task)?;
        table.exe(task)?;
    }
    let images = Dir::open(dir.path()).unwrap();
    let finished = table.finish(&images)?;
    let files: Vec<FileEntry> = images.read_all(Image::Files).unwrap();
    let count = files.len();
    let files: HashMap<u32, FileEntry> = files.into_iter().map(|f| (f.id, f)).collect();
    assert_eq!(files.len(), count, "ids are unique");
    for fd in fds.iter().flatten() {
        assert_eq!(files[&fd.id].r#type, fd.r#type);
    }
    Ok(Dumped { dir, fds, files, finished })
}

fn dump(pid: i32) -> Dumped {
    try_dump(&[pid], |_| {}).unwrap()
}

impl Dumped {
    fn fd(&self, task: usize, fd: u32) -> &FileEntry {
        &self.files[&self.fds[task].iter().find(|f| f.fd == fd).unwrap().id]
    }

    fn images(&self) -> Dir {
        Dir::open(self.dir.path()).unwrap()
    }
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn a_deleted_file_becomes_a_ghost_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"ghostly").unwrap();
    let path = file.path().to_owned();
    let open = || OwnedFd::from(std::fs::File::open(&path).unwrap());
    let child = sleeper([open(), open(), null()]);
    drop(file);
    let got = dump(child.0.id() as i32);
    let remaps: Vec<RemapFilePathEntry> = got.images().read_all(Image::RemapFpath).unwrap();
    assert_eq!(remaps.len(), 2);
    assert_eq!(remaps[0].remap_id, remaps[1].remap_id);
    let mut ghost = got.images().reader(Image::GhostFile(remaps[0].remap_id)).unwrap();
    let entry: GhostFileEntry = ghost.read_one().unwrap();
    assert_eq!((entry.mode, entry.chunks), (0o100_600, None));
    let reg = got.fd(0, 0).reg.as_ref().unwrap();
    assert_eq!(reg.name, path.as_os_str().as_encoded_bytes());
    assert_eq!((reg.size, reg.flags), (Some(7), 0o100_000));
    let refused = try_dump(&[child.0.id() as i32], |r| r.ghost_limit = 100).err().unwrap();
    assert!(refused.to_string().contains("increase limit"), "{refused}");
}

#[test]
fn one_description_in_two_tasks_has_one_id() {
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let other: OwnedFd = std::fs::File::open("/etc/passwd").unwrap().into();
    let copy = || file.as_fd().try_clone_to_owned().unwrap();
    let again = || std::fs::File::open("/etc/passwd").unwrap().into();
    let a = sleeper([copy(), other, null()]);
    let b = sleeper([null(), copy(), again()]);
    let got = try_dump(&[a.0.id() as i32, b.0.id() as i32], |_| {}).unwrap();
    assert_eq!(got.fd(0, 0).id, got.fd(1, 1).id);
    assert_ne!(got.fd(0, 1).id, got.fd(1, 2).id);
    assert_ne!(got.fd(0, 2).id, got.fd(1, 0).id);
    assert_eq!(got.fd(0, 2).reg.as_ref().unwrap().name, b"/dev/null");
}

#[test]
fn a_lost_name_needs_link_remap_and_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    std::fs::write(&one, b"x").unwrap();
    std::fs::hard_link(&one, &two).unwrap();
    let child = sleeper([std::fs::File::open(&one).unwrap().into(), null(), null()]);
    std::fs::remove_file(&one).unwrap();
    let pid = child.0.id() as i32;
    let refused = try_dump(&[pid], |_| {}).err().unwrap();
    assert!(refused.to_string().contains("Use --link-remap"), "{refused}");
    let links = || std::fs::read_dir(dir.path()).unwrap().count();
    let got = try_dump(&[pid], |r| r.link_remap = true).unwrap();
    assert_eq!(links(), 2);
    drop(got.finished);
    assert_eq!(links(), 1);
    try_dump(&[pid], |r| r.link_remap = true).unwrap().finished.keep().unwrap();
    assert_eq!(links(), 2);
}

#[test]
fn a_name_in_use_by_another_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    std::fs::write(&one, b"x").unwrap();
    let child = sleeper([std::fs::File::open(&one).unwrap().into(), null(), null()]);
    std::fs::rename(&one, dir.path().join("x (deleted)")).unwrap();
    dump(child.0.id() as i32);
    std::fs::hard_link(dir.path().join("x (deleted)"), dir.path().join("z")).unwrap();
    std::fs::remove_file(dir.path().join("x (deleted)")).unwrap();
    std::fs::write(dir.path().join("x"), b"y").unwrap();
    std::fs::write(dir.path().join("x (deleted)"), b"y").unwrap();
    let refused = try_dump(&[child.0.id() as i32], |_| {}).err().unwrap();
    assert!(refused.to_string().contains("is another file now"), "{refused}");
}

#[test]
fn sockets_know_their_peers() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &a, b"queued").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let child = sleeper([a.into(), b.into(), tcp.into()]);
    let got = dump(child.0.id() as i32);
    let (a, b) = (got.fd(0, 0).usk.as_ref().unwrap(), got.fd(0, 1).usk.as_ref().unwrap());
    assert_eq!((a.peer, b.peer, a.state), (b.ino, a.ino, 1));
    let tcp = got.fd(0, 2).isk.as_ref().unwrap();
    assert_eq!((tcp.state, tcp.src_port, &tcp.src_addr[..]), (10, port.into(), &[0x0100_007f][..]));
    let mut queue = got.images().reader(Image::SkQueues).unwrap();
    let packet: images::proto::SkPacketEntry = queue.read_one().unwrap();
    assert_eq!((packet.id_for, packet.length), (b.id, 6));
}

#[test]
fn half_of_a_connection_is_refused() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = sleeper([a.into(), null(), null()]);
    let refused = try_dump(&[child.0.id() as i32], |_| {}).err().unwrap();
    let text = refused.to_string();
    assert!(text.contains("half of stream unix connection") && text.contains("fd 0"), "{text}");
    drop(b);
    // Another test's child may have a copy until it has executed its program.
    let pid = child.0.id() as i32;
    while try_dump(&[pid], |_| {}).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let got = dump(pid);
    assert_eq!(got.fd(0, 0).usk.as_ref().unwrap().peer, 0);
}

#[test]
fn connections_are_refused_with_the_option_that_helps() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let child = sleeper([stream.into(), null(), null()]);
    let refused = try_dump(&[child.0.id() as i32], |_| {}).err().unwrap().to_string();
    assert!(refused.contains("consider using --tcp-established"), "{refused}");
    let child = sleeper([tcp.into(), null(), null()]);
    let refused = try_dump(&[child.0.id() as i32], |_| {}).err().unwrap().to_string();
    assert!(refused.contains("--skip-in-flight"), "{refused}");
}

#[test]
fn locks_are_refused() {
    let file = tempfile::tempfile().unwrap();
    let lock = nix::fcntl::FlockArg::LockExclusive;
    let locked = nix::fcntl::Flock::lock(file.try_clone().unwrap(), lock).unwrap();
    let child = sleeper([file.into(), null(), null()]);
    let refused = try_dump(&[child.0.id() as i32], |_| {}).err().unwrap().to_string();
    assert!(refused.contains("--file-locks"), "{refused}");
    drop(locked);
}

#[test]
fn epolls_and_their_targets() {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let (r, w) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    epoll.add(&r, EpollEvent::new(EpollFlags::EPOLLIN, 7)).unwrap();
    // In the child the pipe is number 0, not what it was added as.
    let child = sleeper([r, epoll.0, w]);
    let got = dump(child.0.id() as i32);
    let target = got.fd(0, 1).epfd.as_ref().unwrap().tfd[0];
    assert_eq!((target.tfd, target.data), (0, 7));
    assert_eq!(got.fd(0, 0).r#type, i32::from(FdTypes::Pipe));
}

/// Not a test: dumps the files of the processes in `FILES_PIDS` into `FILES_DIR`.
#[test]
fn of_given_pids() {
    let (Ok(pids), Ok(to)) = (std::env::var("FILES_PIDS"), std::env::var("FILES_DIR")) else {
        return;
    };
    let pids: Vec<i32> = pids.split_whitespace().map(|p| p.parse().unwrap()).collect();
    let start = std::time::Instant::now();
    let got = try_dump(&pids, |r| {
        r.link_remap = std::env::var("FILES_LINK").is_ok();
        r.shell_job = std::env::var("FILES_JOB").is_ok();
    })
    .unwrap_or_else(|e| panic!("{e}"));
    println!("{:?}", start.elapsed());
    let out = images::Dir::open(&to).unwrap();
    for (n, fds) in got.fds.iter().enumerate() {
        let mut w = out.writer(Image::Fdinfo(n as u32 + 1)).unwrap();
        fds.iter().for_each(|f| w.write(f).unwrap());
        w.finish().unwrap();
    }
    for f in std::fs::read_dir(got.dir.path()).unwrap() {
        let f = f.unwrap();
        std::fs::copy(f.path(), std::path::Path::new(&to).join(f.file_name())).unwrap();
    }
}
