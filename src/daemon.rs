//! Servers: in the foreground or, with `--daemon`, behind a process that ends when clients may come.

use std::fs::OpenOptions;
use std::os::fd::AsFd;

use anyhow::Context as _;

use crate::hooks::{Scripts, write_pidfile};
use crate::options::Raw;
use crate::place::Place;

/// Tells who waits that the server is there, and runs it; its answer is the exit code.
pub(crate) fn run(raw: &Raw, place: &Place, serve: impl FnOnce() -> u8) -> anyhow::Result<u8> {
    if !raw.detached {
        pidfile(raw, std::process::id().cast_signed())?;
        ready(raw, place)?;
        return Ok(serve());
    }
    let pid = start(serve)?;
    if let Err(e) = pidfile(raw, pid) {
        let _ = sys::task::kill(pid, libc::SIGKILL);
        return Err(e);
    }
    ready(raw, place)?;
    Ok(0)
}

/// Runs a server in a process and session of its own; gives its pid.
pub(crate) fn start(serve: impl FnOnce() -> u8) -> sys::Result<i32> {
    sys::worker::fork(|| {
        let _ = sys::worker::setsid();
        if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
            for fd in 0..3 {
                let _ = sys::fd::dup3(null.as_fd(), fd, false);
            }
        }
        i32::from(serve())
    })
}

fn pidfile(raw: &Raw, pid: i32) -> anyhow::Result<()> {
    let Some(path) = &raw.pidfile else { return Ok(()) };
    write_pidfile(path, pid).with_context(|| format!("Can't write pidfile {}", path.display()))
}

/// Tells whoever waits that clients may connect.
fn ready(raw: &Raw, place: &Place) -> anyhow::Result<()> {
    if let Some(fd) = raw.status_fd {
        let fd = sys::fd::inherited(fd).context("--status-fd")?;
        nix::unistd::write(&fd, b"\0").context("--status-fd")?;
    }
    let told = Scripts::new(&raw.action_scripts, &place.images).run("status-ready", None);
    told.map_err(|code| anyhow::anyhow!("status-ready scripts failed with {code}"))
}
