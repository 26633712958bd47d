//! `criu`: checkpoint and restore of process trees.
//!
//! This package is the only code that knows command lines, config files, logs, scripts and exit
//! codes: options become a [`dumper::Request`] or a [`restorer::Request`] (see [`request`]), and
//! the engines know nothing else.
#![forbid(unsafe_code)]

mod cgroup_props;
mod check;
mod cli;
mod config;
mod cpuinfo;
mod daemon;
mod generate;
mod hooks;
mod log;
mod options;
mod page_server;
mod place;
mod progress;
mod request;
mod rpc;
mod run;
mod stats;
mod usage;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{Malformed, Parsed};
use crate::options::Raw;
use crate::place::Place;
use crate::request::Command;
use crate::run::Done;

/// The CRIU whose command line and images these are: clients look at it to know what works.
const CRIU_VERSION: &str = "4.2";

/// What everything that goes wrong ends with, unless CRIU has another code for it.
const FAILURE: u8 = 1;

/// What CRIU's -1 is to a shell.
const DEPRECATED: u8 = 255;

fn main() -> ExitCode {
    log::start();
    log_panics();
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| "criu".into());
    let mut args: Vec<OsString> = args.collect();
    let verb = args.first().is_some_and(|a| a == "crit");
    let code = if verb || name.as_bytes().ends_with(b"crit") {
        args.drain(..usize::from(verb));
        u8::try_from(images::crit::main(args)).unwrap_or(FAILURE)
    } else {
        real_main(&name, args)
    };
    log::close();
    ExitCode::from(code)
}

fn real_main(name: &OsStr, args: Vec<OsString>) -> u8 {
    match plan(name, args) {
        Ok(Plan::Done(code)) => code,
        Ok(Plan::Run { command, raw, operands }) => prepare(command, &raw, &operands)
            .unwrap_or_else(|e| {
                report(&e);
                e.downcast_ref().map_or(FAILURE, |failed: &run::Failed| failed.code)
            }),
        Err(e) => {
            report(&e);
            FAILURE
        }
    }
}

/// Writes to standard output, whether anybody listens or not.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A panic is an error like others to those who read the log.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no message");
        ::log::error!("panic at {place}: {text}");
        log::close();
    }));
}

/// Trees may have more files open than we are allowed to by default, and more memory than a file of
/// ours may have.
fn raise_file_limit() {
    use nix::sys::resource::{
        RLIM_INFINITY,
        Resource::{RLIMIT_FSIZE, RLIMIT_NOFILE},
        getrlimit, setrlimit,
    };
    // An image behind that limit would end us by a signal.
    if setrlimit(RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && let Ok((_, hard)) = getrlimit(RLIMIT_FSIZE)
    {
        let _ = setrlimit(RLIMIT_FSIZE, hard, hard);
    }
    let most =
        std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|n| n.trim().parse().ok());
    if most.is_some_and(|most| setrlimit(RLIMIT_NOFILE, most, most).is_ok()) {
        return;
    }
    if let Ok((_, hard)) = getrlimit(RLIMIT_NOFILE) {
        let _ = setrlimit(RLIMIT_NOFILE, hard, hard);
    }
}

/// Logs an error with all its causes, and the usage text before it where CRIU shows that.
fn report(e: &anyhow::Error) {
    if e.is::<run::Failed>() {
        return;
    }
    if let Some(request::Error::Usage(_)) = e.downcast_ref() {
        say(&usage::short());
    }
    ::log::error!("{}", with_causes(e));
}

/// An error and its causes in one line, each said once: some errors tell their cause themselves.
fn with_causes(e: &anyhow::Error) -> String {
    let mut text = e.to_string();
    for cause in e.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What a command line comes down to.
enum Plan {
    /// Nothing more to do.
    Done(u8),
    /// A command, its options, and what followed it.
    Run { command: Command, raw: Box<Raw>, operands: Vec<OsString> },
}

fn plan(name: &OsStr, args: Vec<OsString>) -> anyhow::Result<Plan> {
    let parsed = match cli::parse(args) {
        Ok(parsed) => parsed,
        Err(e) => return Ok(Plan::Done(malformed(name, &e))),
    };
    if parsed.has("help") {
        say(&usage::full());
        return Ok(Plan::Done(0));
    }
    let raw = match config::gather(&parsed) {
        Ok(raw) => raw,
        Err(config::Error::Malformed(e)) => return Ok(Plan::Done(malformed(name, &e))),
        Err(config::Error::BadValue(e)) if e.usage => {
            return Err(request::Error::Usage(e.text).into());
        }
        Err(e) => return Err(e.into()),
    };
    log::set_verbosity(raw.verbosity);
    if raw.help {
        say(&usage::full());
        return Ok(Plan::Done(0));
    }
    if raw.version {
        say(&format!("Version: {CRIU_VERSION}\n"));
        return Ok(Plan::Done(0));
    }
    command(parsed, raw)
}

/// getopt writes its complaints itself, wherever the log goes.
fn malformed(name: &OsStr, e: &Malformed) -> u8 {
    let name = Path::new(name).file_name().unwrap_or(name);
    eprintln!("{}: {e}", name.display());
    say(&usage::short());
    FAILURE
}

/// Finds the command among the operands.
fn command(parsed: Parsed, raw: Raw) -> anyhow::Result<Plan> {
    let usage = |text: String| anyhow::Error::from(request::Error::Usage(text));
    let mut operands = parsed.operands.into_iter();
    let Some(word) = operands.next() else {
        say(&usage::short());
        return Ok(Plan::Done(FAILURE));
    };
    let word = word.to_string_lossy().into_owned();
    if word == "generate" {
        let kind = operands.next().unwrap_or_default();
        say(&generate::text(&kind.to_string_lossy()).map_err(usage)?);
        return Ok(Plan::Done(0));
    }
    let command = if word == "cpuinfo" {
        match operands.next().as_deref().map(OsStr::to_string_lossy).as_deref() {
            Some("dump") => Command::CpuinfoDump,
            Some("check") => Command::CpuinfoCheck,
            Some(other) => return Err(usage(format!("unknown cpuinfo sub-command: {other}"))),
            None => return Err(usage("cpuinfo requires an action: dump or check".into())),
        }
    } else {
        Command::named(&word).ok_or_else(|| usage(format!("unknown command: {word}")))?
    };
    let operands: Vec<_> = operands.collect();
    if command == Command::Swrk && operands.is_empty() {
        eprintln!("Usage: criu swrk <fd>");
        return Ok(Plan::Done(FAILURE));
    }
    if command == Command::Restore && raw.exec_cmd {
        if operands.is_empty() {
            return Err(usage("--exec-cmd requires a command".into()));
        }
    } else if command != Command::Swrk && !operands.is_empty() {
        return Err(usage(format!("excessive parameter for command {word}")));
    }
    Ok(Plan::Run { command, raw: Box::new(raw), operands })
}

/// Opens the directories and the log, and runs the command.
fn prepare(command: Command, raw: &Raw, operands: &[OsString]) -> anyhow::Result<u8> {
    // A client is told when it asks for something.
    if command != Command::Swrk
        && let Some(why) = lacks_privileges(raw)
    {
        say(why);
        return Ok(FAILURE);
    }
    for fd in &raw.close {
        // As CRIU: a descriptor that is not open is no reason to complain.
        let _ = u32::try_from(*fd).map(|fd| sys::fd::close_range(fd, fd));
    }
    match command {
        Command::Exec => {
            ::log::error!("The \"exec\" action is deprecated by the Compel library.");
            return Ok(DEPRECATED);
        }
        Command::Show => {
            ::log::error!("The \"show\" action is deprecated by the CRIT utility.");
            ::log::error!("To view an image use the \"crit decode -i $name --pretty\" command.");
            return Ok(DEPRECATED);
        }
        _ => {}
    }
    request::validate(command, raw)?;
    raise_file_limit();
    if command == Command::Swrk {
        return rpc::swrk(raw, operands);
    }
    let images = raw.images_dir.clone().unwrap_or_else(|| ".".into());
    let place = Place::enter(&images, raw.work_dir.as_deref())?;
    open_log(raw)?;
    if raw.leave_stopped && raw.detached && raw.shell_job && command == Command::Restore {
        ::log::warn!("Stopped and detached shell job will get SIGHUP from OS.");
    }
    request::refuse_unbuilt(command, raw)?;
    match command {
        Command::Service => return rpc::service(raw, &place),
        Command::PageServer => return page_server::run(raw, &place),
        _ => {}
    }
    Ok(match run::run(command, raw, &place, None)? {
        Done::Code(code) => code,
        Done::Restored(root) => run::after_restore(raw, root, operands),
    })
}

/// Opens the log where `raw` says, and writes its first lines.
fn open_log(raw: &Raw) -> anyhow::Result<()> {
    log::open(raw.log_file.as_deref()).with_context(|| {
        let path = raw.log_file.clone().unwrap_or_else(|| "standard error".into());
        format!("Can't create log file {}", path.display())
    })?;
    greet();
    Ok(())
}

/// Why we cannot have the rights we need, in CRIU's words.
fn lacks_privileges(raw: &Raw) -> Option<&'static str> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok())
        .unwrap_or(0);
    if held & (CAP_SYS_ADMIN | CAP_CHECKPOINT_RESTORE) == 0 {
        return Some(
            "CRIU needs to have the CAP_SYS_ADMIN or the CAP_CHECKPOINT_RESTORE capability: \n\
             setcap cap_checkpoint_restore+eip criu\n",
        );
    }
    if !raw.unprivileged {
        return Some(
            "Running as non-root requires '--unprivileged'\n\
             Please consult the documentation for limitations when running as non-root\n",
        );
    }
    None
}

/// The first lines of a log, by which tools know where it is from.
fn greet() {
    ::log::info!("Version: {CRIU_VERSION} (gitid 0)");
    ::log::info!("Amber {}", env!("CARGO_PKG_VERSION"));
    if let Ok(uts) = nix::sys::utsname::uname() {
        ::log::info!(
            "Running on {} {} {} {} {}",
            uts.nodename().display(),
            uts.sysname().display(),
            uts.release().display(),
            uts.version().display(),
            uts.machine().display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let e = anyhow::anyhow!("fd 7: EBADF").context("task 4: fd 7: EBADF").context("outer");
        assert_eq!(with_causes(&e), "outer: task 4: fd 7: EBADF");
    }
}
