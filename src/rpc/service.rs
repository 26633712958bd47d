//! `criu service`: listens on a unix socket, with a process for each connection.
//!
//! Whoever may connect says the mode of the socket. What is done for a caller who is not root is done with its own ids and
//! groups, so that the kernel itself says which tasks it may dump, which files it may read and
//! write, and as whom tasks may come back. The only thing that the service lends is
//! CAP_CHECKPOINT_RESTORE.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chown, geteuid, getgid, getuid, setgroups, setresgid, setresuid};

use crate::daemon;
use crate::options::Raw;
use crate::place::Place;
use crate::rpc::peer::Peer;
use crate::rpc::session::{Kind, Session};
use crate::rpc::socket::Socket;

/// Where to listen when nothing is said, in the work directory.
const ADDRESS: &str = "./criu_service.socket";

/// CAP_CHECKPOINT_RESTORE.
const CHECKPOINT_RESTORE: u32 = 40;

/// Serves until it is killed; with `--daemon` the answer is that of the process in front.
pub(crate) fn run(raw: &Raw, place: &Place) -> anyhow::Result<u8> {
    if raw.address.is_none() {
        log::warn!("Binding to local dir address!");
    }
    let address = raw.address.as_deref().unwrap_or(ADDRESS);
    let listener =
        listen_at(Path::new(address)).with_context(|| format!("Can't listen at {address}"))?;
    log::info!("The service socket is bound to {address}");
    daemon::run(raw, place, || serve(&listener, raw))
}

/// A socket that is there but that nobody listens at any more is taken over.
fn listen_at(path: &Path) -> anyhow::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    let new = || socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    let fd = new()?;
    // As CRIU since 4.2: for root only, until somebody says otherwise.
    let before = umask(Mode::from_bits_truncate(0o177));
    match bind(fd.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE)
            if connect(new()?.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED) =>
        {
            std::fs::remove_file(path)?;
            bind(fd.as_raw_fd(), &address)?;
        }
        bound => bound?,
    }
    umask(before);
    if getuid() != geteuid() {
        // A program with the set-user-ID bit: it is for whoever started it.
        chown(path, Some(getuid()), Some(getgid()))?;
    }
    say_who_may(path);
    listen(&fd, Backlog::new(16)?)?;
    Ok(UnixListener::from(fd))
}

fn say_who_may(path: &Path) {
    crate::say(&format!(
        "Service socket {} has permissions 0600. Use chmod to make it accessible to other users \
         if needed.\n",
        path.display()
    ));
}

fn serve(listener: &UnixListener, raw: &Raw) -> u8 {
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                // The child of a child: nobody has to wait for the one that serves.
                let between = sys::worker::fork(|| {
                    let worker = sys::worker::fork(|| i32::from(one(connection.into(), raw)));
                    i32::from(worker.is_err())
                });
                if let Err(e) = between.and_then(sys::worker::wait) {
                    log::error!("a connection cannot be served: {e}");
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                log::error!("accept: {e}");
                // Most likely out of descriptors: others will have ended meanwhile.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

/// One connection, in a process of its own.
fn one(connection: OwnedFd, raw: &Raw) -> u8 {
    let session = Socket::new(connection).map_err(Into::into).and_then(|socket| {
        let peer = Peer::of(&socket)?;
        log::info!("Connected with pid {} uid {} gid {}", peer.pid, peer.uid, peer.gid);
        let mut raw = raw.clone();
        if peer.uid != 0 {
            become_caller(&socket, &peer)?;
            raw.unprivileged = true;
        }
        // These are the service's: each request says its own.
        (raw.images_dir, raw.work_dir, raw.log_file) = (None, None, None);
        (raw.pidfile, raw.status_fd, raw.address) = (None, None, None);
        raw.detached = false;
        raw.action_scripts.clear();
        Session::new(socket, raw, Kind::Service)
    });
    let code = match session {
        Ok(session) => session.serve(),
        Err(e) => {
            crate::report(&e);
            crate::FAILURE
        }
    };
    crate::log::close();
    code
}

/// Takes the ids and groups of the caller, for good.
fn become_caller(socket: &Socket, peer: &Peer) -> anyhow::Result<()> {
    let groups: Vec<Gid> = peer.groups(socket)?.into_iter().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(peer.uid), Gid::from_raw(peer.gid));
    sys::task::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0])?;
    setgroups(&groups).context("setgroups")?;
    setresgid(gid, gid, gid).context("setresgid")?;
    setresuid(uid, uid, uid).context("setresuid")?;
    sys::task::prctl(libc::PR_SET_KEEPCAPS, [0; 4])?;
    // What is ours in /proc belongs to the caller now; who has not our capability cannot trace us.
    sys::task::prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0])?;
    let lent = 1 << CHECKPOINT_RESTORE;
    // Where the kernel does not know it there is nothing to lend.
    if sys::task::set_capabilities(lent, lent).is_err() {
        sys::task::set_capabilities(0, 0)?;
    }
    Ok(())
}
