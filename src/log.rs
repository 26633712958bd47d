//! The log: CRIU's levels and line formats behind the `log` crate.
//!
//! What is logged before the log is open is kept, and written out (as the level allows) once
//! it is. From then on every line is one write(2) on an `O_APPEND` descriptor and nothing is
//! locked, so that forked children log through their copy of this without asking anybody.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, RwLock};
use std::time::{Duration, SystemTime};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Errors and warnings: what CRIU logs when nothing is said.
pub(crate) const DEFAULT_VERBOSITY: u8 = 2;

/// From this verbosity on, lines carry the time since the start.
const TIMESTAMPS_FROM: u8 = 3;

/// Low numbers belong to the tasks being restored: the log is kept above them.
const LOWEST_FD: RawFd = 1000;

/// As much of the first error as CRIU hands to its RPC clients.
const FIRST_ERROR_MAX: usize = 1024;

/// Crates whose lines are ours; libraries do not write into a CRIU log.
const OURS: [&str; 7] = ["criu", "dumper", "restorer", "parasite", "images", "sys", "parasite_abi"];

struct Logger {
    verbosity: AtomicU8,
    /// Only written when the log is opened, which happens while there is one thread: the
    /// readers of a forked child never wait.
    target: RwLock<Option<&'static Target>>,
    /// Not by the monotonic clock, which is another in a task with a time namespace.
    start: OnceLock<SystemTime>,
    /// The only process whose lines carry no pid; 0 while none do.
    main_pid: AtomicI32,
    early: Mutex<Vec<Early>>,
    first_error: Mutex<Option<String>>,
}

/// Where lines go.
struct Target {
    fd: OwnedFd,
    /// By which a task being restored knows that the number is still the log's and not that of
    /// one of its own files.
    file: (u64, u64),
}

/// A line that waits for the log to be opened.
struct Early {
    level: Level,
    at: Duration,
    text: String,
}

static LOGGER: Logger = Logger {
    verbosity: AtomicU8::new(DEFAULT_VERBOSITY),
    target: RwLock::new(None),
    start: OnceLock::new(),
    main_pid: AtomicI32::new(0),
    early: Mutex::new(Vec::new()),
    first_error: Mutex::new(None),
};

/// Starts keeping what is logged. The clock of the log starts here.
pub(crate) fn start() {
    LOGGER.start.get_or_init(SystemTime::now);
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}

/// Sets how much is logged: 0 nothing, 1 errors, 2 warnings, 3 information, 4 debug.
pub(crate) fn set_verbosity(verbosity: u8) {
    LOGGER.verbosity.store(verbosity, Relaxed);
    log::set_max_level(match verbosity {
        // Errors reach us in any case: the first one is kept even if none is written.
        0 | 1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    });
}

/// Opens the log (a file made anew, standard output for `-`, standard error for `None`) and
/// writes to it what was logged so far.
pub(crate) fn open(path: Option<&Path>) -> io::Result<()> {
    let fd = match path {
        None => high(io::stderr().as_fd())?,
        Some(path) if path == Path::new("-") => high(io::stdout().as_fd())?,
        Some(path) => high(
            OpenOptions::new()
                .write(true)
                .create(true)
                .mode(0o600)
                .custom_flags(libc::O_TRUNC | libc::O_APPEND)
                .open(path)?
                .as_fd(),
        )?,
    };
    replace(fd)?;
    flush_early();
    Ok(())
}

/// Lines go to `fd` from now on.
fn replace(fd: OwnedFd) -> io::Result<()> {
    let file = identity(&fd)?;
    // Stays for ever, as lines may be on their way to it; there is one for each RPC request.
    let target: &'static Target = Box::leak(Box::new(Target { fd, file }));
    if let Ok(mut place) = LOGGER.target.write() {
        *place = Some(target);
    }
    Ok(())
}

fn target() -> Option<&'static Target> {
    LOGGER.target.read().ok().and_then(|t| *t)
}

/// The last thing a process does with its log. What was kept for a log that never got opened
/// goes to standard error.
pub(crate) fn close() {
    flush_early();
}

/// The log's descriptor, once it is open.
pub(crate) fn fd() -> Option<RawFd> {
    target().map(|t| t.fd.as_raw_fd())
}

/// Where the tasks of a restore have logs of their own.
struct PerTask {
    dir: OwnedFd,
    /// Of the log itself; each task's has the task's number behind it.
    name: OsString,
}

static PER_TASK: OnceLock<PerTask> = OnceLock::new();

/// From now on each task of a restore logs to `PATH.PID` (`--log-pid`).
pub(crate) fn per_task(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name().map(OsString::from) else { return Ok(()) };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = File::open(dir.unwrap_or_else(|| Path::new(".")))?;
    let _ = PER_TASK.set(PerTask { dir: high(dir.as_fd())?, name });
    Ok(())
}

/// This process has just been forked to become a task with this number in the images.
pub(crate) fn in_task(pid: u32) {
    let Some(PerTask { dir, name }) = PER_TASK.get() else { return };
    let mut file = name.clone();
    file.push(format!(".{pid}"));
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_APPEND;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let opened = openat(dir, file.as_os_str(), flags | OFlag::O_CLOEXEC, mode);
    match opened.map_err(io::Error::from).and_then(|fd| replace(high(fd.as_fd())?)) {
        // It needs no pid in its lines.
        Ok(()) => LOGGER.main_pid.store(0, Relaxed),
        // As in a user namespace that has no right to the directory. No reason to fail.
        Err(e) => log::warn!("{}: {e}: task {pid} logs here", file.display()),
    }
}

/// Makes the log standard output and standard error, for a program that is executed next.
pub(crate) fn become_stdio() -> sys::Result<()> {
    let Some(log) = target() else { return Ok(()) };
    sys::fd::dup3(log.fd.as_fd(), 1, false)?;
    sys::fd::dup3(log.fd.as_fd(), 2, false)
}

/// Whether the log goes to a file of its own, so that a terminal is free for other things.
pub(crate) fn is_a_file() -> bool {
    target().is_some_and(|t| {
        nix::sys::stat::fstat(&t.fd).is_ok_and(|st| st.st_mode & libc::S_IFMT == libc::S_IFREG)
    })
}

/// Lines of forked processes carry their pids from now on.
pub(crate) fn name_children() {
    LOGGER.main_pid.store(pid(), Relaxed);
}

/// The first error that was logged: what an RPC client is told.
pub(crate) fn first_error() -> Option<String> {
    LOGGER.first_error.lock().ok()?.clone()
}

/// Forgets the first error: another request begins.
pub(crate) fn forget_first_error() {
    if let Ok(mut first) = LOGGER.first_error.lock() {
        *first = None;
    }
}

fn flush_early() {
    let lines = LOGGER.early.lock().map(|mut kept| std::mem::take(&mut *kept));
    for line in lines.unwrap_or_default() {
        LOGGER.write(line.level, line.at, &line.text);
    }
}

fn high(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Fails with EINVAL where RLIMIT_NOFILE is lower than that.
    sys::fd::dup_above(fd, LOWEST_FD)
        .or_else(|_| sys::fd::dup_above(fd, 3))
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

fn identity(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let st = nix::sys::stat::fstat(fd)?;
    Ok((st.st_dev, st.st_ino))
}

fn pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        OURS.contains(&metadata.target().split("::").next().unwrap_or_default())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = body(record);
        if record.level() == Level::Error {
            self.keep_first_error(record.args());
        }
        let at = self.start.get().and_then(|start| start.elapsed().ok()).unwrap_or_default();
        if target().is_none()
            && let Ok(mut early) = self.early.lock()
        {
            early.push(Early { level: record.level(), at, text });
            return;
        }
        self.write(record.level(), at, &text);
    }

    fn flush(&self) {}
}

impl Logger {
    fn write(&self, level: Level, at: Duration, text: &str) {
        let verbosity = self.verbosity.load(Relaxed);
        if level as u8 > verbosity {
            return;
        }
        let main = self.main_pid.load(Relaxed);
        let pid = Some(pid()).filter(|pid| main != 0 && *pid != main);
        let line = line(verbosity, at, pid, text);
        // A log that cannot be written to is no reason to fail.
        let _ = match target() {
            Some(t) if self.may_be_another(pid) && identity(&t.fd).ok() != Some(t.file) => return,
            Some(t) => nix::unistd::write(&t.fd, line.as_bytes()),
            None => nix::unistd::write(io::stderr(), line.as_bytes()),
        };
    }

    /// In a task, whose own files may have come to the log's number.
    fn may_be_another(&self, pid: Option<i32>) -> bool {
        pid.is_some() || PER_TASK.get().is_some()
    }

    fn keep_first_error(&self, text: &fmt::Arguments<'_>) {
        // Never waits: after a fork the lock may be held by a thread that does not exist here.
        if let Ok(mut first) = self.first_error.try_lock()
            && first.is_none()
        {
            *first = Some(text.to_string().chars().take(FIRST_ERROR_MAX).collect());
        }
    }
}

/// What tools that read CRIU logs look for: `Error (FILE:LINE): `, `Warn  (FILE:LINE): `.
fn body(record: &Record<'_>) -> String {
    let label = match record.level() {
        Level::Error => "Error",
        Level::Warn => "Warn ",
        _ => return record.args().to_string(),
    };
    let file = record.file().unwrap_or("?");
    format!("{label} ({file}:{}): {}", record.line().unwrap_or(0), record.args())
}

fn line(verbosity: u8, at: Duration, pid: Option<i32>, text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 32);
    if verbosity >= TIMESTAMPS_FROM {
        let _ = write!(line, "({:02}.{:06}) ", at.as_secs(), at.subsec_micros());
    }
    if let Some(pid) = pid {
        let _ = write!(line, "{pid:6}: ");
    }
    line.push_str(text.trim_end_matches('\n'));
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verbosity: u8, pid: Option<i32>, want: &str) {
        assert_eq!(line(verbosity, Duration::from_micros(1_002_003), pid, "text"), want);
    }

    #[test]
    fn times_appear_from_information_on() {
        check(2, None, "text\n");
        check(3, None, "(01.002003) text\n");
    }

    #[test]
    fn children_are_named() {
        check(4, Some(42), "(01.002003)     42: text\n");
    }

    #[test]
    fn errors_and_warnings_name_their_place() {
        let show = |level| {
            body(
                &Record::builder()
                    .level(level)
                    .file(Some("src/x.rs"))
                    .line(Some(7))
                    .args(format_args!("boom"))
                    .build(),
            )
        };
        assert_eq!(show(Level::Error), "Error (src/x.rs:7): boom");
        assert_eq!(show(Level::Warn), "Warn  (src/x.rs:7): boom");
        assert_eq!(show(Level::Info), "boom");
    }
}
