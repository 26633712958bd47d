//! Config files: one long option per line, without its dashes.
//!
//! Read in this order, later ones winning: `/etc/criu/default.conf`, `~/.criu/default.conf`,
//! `$CRIU_CONFIG_FILE`, `--config FILE`, and then the command line.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::{self, BadValue, Malformed, Parsed};
use crate::options::{self, HasValue, Raw};

/// Why options are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// getopt's complaints.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A value that is not good.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// A line that is no option.
    #[error("Unsupported configuration file format. Please consult man page criu(8)")]
    Line,
}

/// Options of a line, as arguments: `key`, `key value`, `key "value"`, `key=value`, with `#`
/// beginning a comment. `None` for a line without any.
fn arguments(line: &str) -> Result<Option<Vec<OsString>>, Error> {
    let line = line.trim();
    let (key, rest) = match line.find(|c: char| c.is_whitespace() || c == '#') {
        Some(at) => line.split_at(at),
        None => (line, ""),
    };
    let value = value(rest.trim_start())?;
    if key.is_empty() {
        return Ok(None);
    }
    let option = format!("--{key}");
    // An option that may have a value takes it attached only; here nothing else can be meant.
    let attach = options::find(key).is_some_and(|o| o.has_value() == HasValue::Maybe);
    Ok(Some(match value {
        Some(value) if attach => vec![format!("{option}={value}").into()],
        Some(value) => vec![option.into(), value.into()],
        None => vec![option.into()],
    }))
}

/// One word or one quoted text, and nothing but a comment behind it.
fn value(text: &str) -> Result<Option<String>, Error> {
    let (value, rest) = if let Some(quoted) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().ok_or(Error::Line)? {
                (at, '"') => break at + 1,
                (_, '\\') => match chars.next().ok_or(Error::Line)? {
                    (_, '"') => value.push('"'),
                    (_, other) => value.extend(['\\', other]),
                },
                (_, c) => value.push(c),
            }
        };
        (value, &quoted[end..])
    } else {
        let end = text.find(|c: char| c.is_whitespace() || c == '#').unwrap_or(text.len());
        (text[..end].to_owned(), &text[end..])
    };
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return Err(Error::Line);
    }
    let given = !value.is_empty() || text.starts_with('"');
    Ok(given.then_some(value))
}

/// Puts the options of a file into `raw`.
pub(crate) fn apply_text(raw: &mut Raw, text: &str) -> Result<(), Error> {
    for line in text.lines() {
        let Some(arguments) = arguments(line)? else { continue };
        let parsed = cli::parse(arguments)?;
        if let [extra, ..] = parsed.operands.as_slice() {
            log::warn!("config: {line}: {} is ignored", extra.display());
        }
        apply(raw, &parsed)?;
    }
    Ok(())
}

/// Puts the options of a command line into `raw`.
pub(crate) fn apply(raw: &mut Raw, parsed: &Parsed) -> Result<(), Error> {
    for given in &parsed.given {
        given.apply(raw)?;
    }
    Ok(())
}

/// Puts the options of the file at `path` into `raw`.
pub(crate) fn apply_file(raw: &mut Raw, path: &Path) -> Result<io::Result<()>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            log::debug!("Reading configuration file {}", path.display());
            apply_text(raw, &text).map(Ok)
        }
        Err(e) => Ok(Err(e)),
    }
}

/// All options that hold for a command line: those of the config files, then its own.
pub(crate) fn gather(parsed: &Parsed) -> Result<Raw, Error> {
    let mut raw = Raw::new();
    if !parsed.has("no-default-config") && !parsed.has("config") {
        let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".criu/default.conf"));
        for path in [Some(PathBuf::from("/etc/criu/default.conf")), home].into_iter().flatten() {
            match apply_file(&mut raw, &path)? {
                Err(e) if e.kind() != io::ErrorKind::NotFound => unreadable(&path, &e),
                _ => {}
            }
        }
    }
    let from_env = std::env::var_os("CRIU_CONFIG_FILE").filter(|v| !v.is_empty());
    let named = parsed.last_value("config").map(OsString::from);
    for path in [from_env, named].into_iter().flatten().map(PathBuf::from) {
        if let Err(e) = apply_file(&mut raw, &path)? {
            unreadable(&path, &e);
        }
    }
    apply(&mut raw, parsed)?;
    Ok(raw)
}

fn unreadable(path: &Path, e: &io::Error) {
    log::warn!("Can't read configuration file {}: {e}", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Result<Raw, Error> {
        let mut raw = Raw::new();
        apply_text(&mut raw, text).map(|()| raw)
    }

    #[test]
    fn one_option_per_line() {
        let raw =
            raw("# comment\n\nshell-job # why\n  ghost-limit\t2M#x\nexternal \"a \\\"b\\\"\"\n\
             verbosity 4\nno-shell-job\nmanage-cgroups=ignore\n")
            .unwrap();
        assert!(!raw.shell_job);
        assert_eq!(raw.ghost_limit, Some(2 << 20));
        assert_eq!(raw.external, ["a \"b\""]);
        assert_eq!(raw.verbosity, 4);
        assert_eq!(raw.manage_cgroups, Some(options::CgroupMode::Ignore));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for text in
            ["tree \"5", "tree 5 6", "tree \"5\"6", "tree \"", "no-such", "check", "--tree 5"]
        {
            assert!(raw(text).is_err(), "{text}");
        }
    }

    #[test]
    fn later_lines_win() {
        assert_eq!(raw("tree 5\ntree 6").unwrap().tree, Some(6));
    }
}
