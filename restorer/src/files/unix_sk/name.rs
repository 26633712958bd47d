//! Names of unix sockets.

use super::super::ghost::take_away;
use super::super::open::Files;
use super::super::path::{directory, lookup, open_name, os, show, split, unlink};
use super::super::{At, Result, failed};
use images::proto::{FilePermsEntry, UnixSkEntry};
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The node of a socket in the file system, open by `O_PATH`.
#[derive(Debug)]
pub(super) struct Node(OwnedFd);

impl Node {
    /// Owner and mode of the node.
    pub(super) fn set_perms(&self, files: &Files<'_>, perms: &FilePermsEntry) -> Result<()> {
        let path = Files::self_path(self.0.as_raw_fd());
        let flags = nix::fcntl::AtFlags::empty();
        let (uid, gid) = (perms.uid.into(), perms.gid.into());
        nix::unistd::fchownat(&files.proc, &path[..], Some(uid), Some(gid), flags)
            .map_err(|e| failed(format_args!("fchownat({}, {})", perms.uid, perms.gid), e))?;
        let mode = nix::sys::stat::Mode::from_bits_truncate(perms.mode);
        let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
        nix::sys::stat::fchmodat(&files.proc, &path[..], mode, follow)
            .map_err(|e| failed(format_args!("fchmodat({:#o})", perms.mode), e))
    }
}

/// A `sockaddr_un`.
pub(super) fn of(name: &[u8]) -> Vec<u8> {
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    bytes.extend(name);
    if name.first().is_some_and(|b| *b != 0) && bytes.len() < 110 {
        bytes.push(0);
    }
    bytes
}

/// The address at which a socket of ours is reached: an abstract name, or the handle of its
/// node below `/proc`, where `connect` goes for it.
pub(super) fn address(e: &UnixSkEntry, node: Option<&Node>) -> Vec<u8> {
    match node {
        Some(Node(fd)) => of(Files::self_path(fd.as_raw_fd()).as_bytes()),
        None => of(&e.name),
    }
}

/// Whether an address is a handle below `/proc`.
pub(super) fn is_handle(address: &[u8]) -> bool {
    address[2..].starts_with(b"self/fd/")
}

/// Connects, with the working directory in which the address means something.
pub(super) fn connect(files: &Files<'_>, fd: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    if is_handle(address) {
        return files.in_proc(|| Ok(sys::net::connect(fd, address)?));
    }
    Ok(sys::net::connect(fd, address)?)
}

/// Binds to the socket's name. A path that is taken is freed: by a socket's node for good, as
/// it is one of a former run; if the name is to be gone again, only for the moment.
pub(super) fn bind(
    files: &Files<'_>,
    e: &UnixSkEntry,
    fd: BorrowedFd<'_>,
    deleted: bool,
) -> Result<Option<Node>> {
    if e.name.first() == Some(&0) {
        sys::net::bind(fd, &of(&e.name))?;
        return Ok(None);
    }
    // A name ends at its first NUL, whatever length it was bound with.
    let end = e.name.iter().position(|b| *b == 0).unwrap_or(e.name.len());
    let name = &e.name[..end];
    let full = match &e.name_dir {
        Some(dir) if !name.starts_with(b"/") => [dir, &b"/"[..], name].concat(),
        _ => name.to_vec(),
    };
    let mut made = Vec::new();
    let view = files.view(e.mnt_id, split(&full).0)?;
    let (dir, last) = if deleted {
        files.parents(view.as_fd(), &full, &mut made)?
    } else {
        let (dir, last) = split(&full);
        (directory(view.as_fd(), dir).at(|| format!("{:?}", show(dir)))?, last)
    };
    let aside = [last, format!(".cr.{}.aside", e.ino).as_bytes()].concat();
    let mut moved = false;
    if let Some(there) = lookup(dir.as_fd(), last) {
        if deleted || there.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            rename(&dir, last, &aside)?;
            moved = true;
        } else {
            unlink(dir.as_fd(), last, false).map_err(|x| failed("unlinkat", x))?;
        }
    }
    let bound = files.in_directory(e, &view, || Ok(sys::net::bind(fd, &of(&e.name))?));
    let node =
        bound.and_then(|()| open_name(dir.as_fd(), last, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0));
    if deleted || (moved && node.is_ok()) {
        unlink(dir.as_fd(), last, false).ok();
    }
    if moved {
        rename(&dir, &aside, last)?;
    }
    if deleted {
        take_away(made)?;
    }
    let node = files.raise_owned(node?)?;
    Ok(Some(Node(node)))
}

fn rename(dir: &OwnedFd, from: &[u8], to: &[u8]) -> Result<()> {
    nix::fcntl::renameat(dir, os(from), dir, os(to))
        .map_err(|e| failed(format_args!("renameat({:?}, {:?})", show(from), show(to)), e))
}

impl Files<'_> {
    /// Runs `act` with `/proc` as working directory.
    pub(in super::super) fn in_proc<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.with_cwd(self.proc.as_fd(), act)
    }

    /// Runs `act` in the directory from which a relative name was bound.
    fn in_directory<T>(
        &self,
        e: &UnixSkEntry,
        view: &OwnedFd,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let absolute = e.name.starts_with(b"/");
        match &e.name_dir {
            _ if absolute
                && sys::mount::id_of(view.as_fd(), c"")?
                    != sys::mount::id_of(self.root()?, c"")? =>
            {
                // The path means something from another root.
                let enter = |fd: BorrowedFd<'_>| {
                    nix::unistd::fchdir(fd).map_err(|e| failed("fchdir", e))?;
                    nix::unistd::chroot(".").map_err(|e| failed("chroot", e))
                };
                enter(view.as_fd())?;
                let done = act();
                enter(self.root()?)?;
                done
            }
            Some(dir) => {
                let fd = super::super::path::directory(view.as_fd(), dir)
                    .at(|| format!("{:?}", show(dir)))?;
                self.with_cwd(fd.as_fd(), act)
            }
            None if absolute => act(),
            None => self.with_cwd(view.as_fd(), act),
        }
    }

    fn with_cwd<T>(&self, dir: BorrowedFd<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        nix::unistd::fchdir(dir).map_err(|e| failed("fchdir", e))?;
        let done = act();
        nix::unistd::fchdir(self.root()?).map_err(|e| failed("fchdir(/)", e))?;
        done
    }
}
