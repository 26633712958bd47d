//! The command line, read as glibc's `getopt_long` reads it for CRIU: options and operands in
//! any order, values attached or following, long names cut short as long as one option fits.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::options::{Bad, HasValue, OPTIONS, Opt, Raw};

/// An option as it was written.
#[derive(Debug)]
pub(crate) struct Given {
    opt: &'static Opt,
    on: bool,
    short: bool,
    value: Option<OsString>,
}

/// A command line, read but not obeyed yet.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Options in their order.
    pub(crate) given: Vec<Given>,
    /// What is not an option: the command and what follows it.
    pub(crate) operands: Vec<OsString>,
}

/// What getopt complains about. Shown after `criu: `, and followed by the usage text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("unrecognized option '--{0}'")]
    Unknown(String),
    #[error("option '--{name}' is ambiguous; possibilities:{}", quoted(.possibilities))]
    Ambiguous { name: String, possibilities: Vec<String> },
    #[error("option '--{0}' requires an argument")]
    NeedsValue(String),
    #[error("option '--{0}' doesn't allow an argument")]
    AllowsNoValue(String),
    #[error("invalid option -- '{0}'")]
    UnknownShort(char),
    #[error("option requires an argument -- '{0}'")]
    NeedsValueShort(char),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!(" '--{n}'")).collect()
}

/// An option whose value is not good.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct BadValue {
    /// What to tell.
    pub(crate) text: String,
    /// Whether CRIU shows its usage text before that.
    pub(crate) usage: bool,
}

impl Parsed {
    /// The last value of an option without obeying the others.
    pub(crate) fn last_value(&self, name: &str) -> Option<&OsStr> {
        self.given.iter().rev().find(|g| g.opt.name == name)?.value.as_deref()
    }

    /// Whether an option was given at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|g| g.opt.name == name)
    }
}

impl Given {
    /// Puts the option into `raw`.
    pub(crate) fn apply(&self, raw: &mut Raw) -> Result<(), BadValue> {
        let (text, usage) = match self.opt.apply(raw, self.on, self.value.as_deref()) {
            Ok(()) => return Ok(()),
            Err(Bad::Says(text)) => (text, false),
            Err(Bad::Usage(text)) => (text, true),
            Err(Bad::Value) => {
                let value = self.value.as_deref().unwrap_or_default().to_string_lossy();
                let name = match self.opt.short {
                    Some(c) if self.short => format!("-{}", char::from(c)),
                    _ => format!("--{}", self.opt.name),
                };
                (format!("invalid argument for {name}: {value}"), false)
            }
        };
        Err(BadValue { text, usage })
    }
}

/// Reads arguments (without the program's name).
pub(crate) fn parse<I>(args: I) -> Result<Parsed, Malformed>
where
    I: IntoIterator<Item = OsString>,
{
    let mut args = args.into_iter();
    let mut parsed = Parsed::default();
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => {
                parsed.operands.extend(args);
                break;
            }
            [b'-', b'-', long @ ..] => {
                let given = long_option(long, || args.next())?;
                parsed.given.push(given);
            }
            [b'-', cluster @ ..] if !cluster.is_empty() => {
                short_options(cluster, || args.next(), &mut parsed.given)?;
            }
            _ => parsed.operands.push(arg),
        }
    }
    Ok(parsed)
}

/// `NAME`, `NAME=VALUE`, `no-NAME`, after the dashes.
fn long_option(text: &[u8], next: impl FnOnce() -> Option<OsString>) -> Result<Given, Malformed> {
    let (name, attached) = match text.iter().position(|b| *b == b'=') {
        Some(at) => (&text[..at], Some(OsString::from_vec(text[at + 1..].to_vec()))),
        None => (text, None),
    };
    let (opt, on) = find(&String::from_utf8_lossy(name))?;
    let full = || if on { opt.name.to_owned() } else { format!("no-{}", opt.name) };
    let value = match (opt.has_value(), attached) {
        (HasValue::Never, Some(_)) => return Err(Malformed::AllowsNoValue(full())),
        (HasValue::Always, None) => Some(next().ok_or_else(|| Malformed::NeedsValue(full()))?),
        (_, attached) => attached,
    };
    Ok(Given { opt, on, short: false, value })
}

/// The option called `name` or, if there is none, the only one that begins so.
fn find(name: &str) -> Result<(&'static Opt, bool), Malformed> {
    let spellings = OPTIONS.iter().flat_map(|opt| {
        let no = opt.is_switch().then(|| (format!("no-{}", opt.name), opt, false));
        std::iter::once((opt.name.to_owned(), opt, true)).chain(no)
    });
    let mut fits = Vec::new();
    for (spelling, opt, on) in spellings {
        if spelling == name {
            return Ok((opt, on));
        }
        if spelling.starts_with(name) {
            fits.push((spelling, opt, on));
        }
    }
    match fits.as_slice() {
        [] => Err(Malformed::Unknown(name.to_owned())),
        [(_, opt, on)] => Ok((*opt, *on)),
        _ => Err(Malformed::Ambiguous {
            name: name.to_owned(),
            possibilities: fits.into_iter().map(|(spelling, _, _)| spelling).collect(),
        }),
    }
}

/// `abc`, where the last one may take the rest or the next argument as its value.
fn short_options(
    cluster: &[u8],
    mut next: impl FnMut() -> Option<OsString>,
    given: &mut Vec<Given>,
) -> Result<(), Malformed> {
    let mut rest = cluster;
    while let [c, tail @ ..] = rest {
        let name = char::from(*c);
        let opt =
            OPTIONS.iter().find(|o| o.short == Some(*c)).ok_or(Malformed::UnknownShort(name))?;
        let attached = || (!tail.is_empty()).then(|| OsString::from_vec(tail.to_vec()));
        let value = match opt.has_value() {
            HasValue::Never => None,
            HasValue::Maybe => attached(),
            HasValue::Always => match attached() {
                Some(value) => Some(value),
                None => Some(next().ok_or(Malformed::NeedsValueShort(name))?),
            },
        };
        given.push(Given { opt, on: true, short: true, value });
        if opt.has_value() != HasValue::Never {
            break;
        }
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{CgroupMode, CpuCap};
    use std::path::Path;

    fn read(line: &str) -> Result<(Raw, Vec<String>), String> {
        let parsed =
            parse(line.split_whitespace().map(OsString::from)).map_err(|e| e.to_string())?;
        let mut raw = Raw::new();
        for given in &parsed.given {
            given.apply(&mut raw).map_err(|e| e.to_string())?;
        }
        let operands = parsed.operands.iter().map(|o| o.to_string_lossy().into_owned());
        Ok((raw, operands.collect()))
    }

    fn raw(line: &str) -> Raw {
        read(line).unwrap_or_else(|e| panic!("{line}: {e}")).0
    }

    fn refused(line: &str, why: &str) {
        assert_eq!(read(line).map(|_| ()), Err(why.to_owned()), "{line}");
    }

    #[test]
    fn options_and_operands_come_in_any_order() {
        let (raw, operands) = read("-t 7 dump -D /img --shell-job extra -- -x --tree").unwrap();
        assert_eq!(raw.tree, Some(7));
        assert_eq!(raw.images_dir.as_deref(), Some(Path::new("/img")));
        assert!(raw.shell_job && !raw.ext_unix_sk);
        assert_eq!(operands, ["dump", "extra", "-x", "--tree"]);
    }

    #[test]
    fn short_options_cluster_and_take_attached_values() {
        let r = raw("-Rjt42 -x -D/img");
        assert!(r.leave_running && r.shell_job && r.ext_unix_sk);
        assert_eq!((r.tree, r.images_dir.as_deref()), (Some(42), Some(Path::new("/img"))));
        assert_eq!(raw("-x7,8").ext_unix_ids, [7, 8]);
    }

    #[test]
    fn verbosity_counts_or_is_set() {
        for (line, want) in [
            ("", 2),
            ("-v", 3),
            ("-vv", 4),
            ("-vvv", 5),
            ("-v -v", 4),
            ("-v4", 4),
            ("-v0 -v", 1),
            ("--verbosity", 3),
            ("--verbosity=4", 4),
            // zdtm.py writes this.
            ("-verbosity=0", 0),
        ] {
            assert_eq!(raw(line).verbosity, want, "{line}");
        }
    }

    #[test]
    fn switches_can_be_taken_back() {
        assert!(!raw("--shell-job --no-shell-job").shell_job);
        assert!(raw("--no-shell-job -j").shell_job);
        assert!(raw("").ghost_fiemap && !raw("--no-ghost-fiemap").ghost_fiemap);
        assert!(!raw("-d --no-daemon").detached);
        refused("--no-tree", "unrecognized option '--no-tree'");
    }

    #[test]
    fn long_names_may_be_cut_short() {
        assert_eq!(raw("--tre 5").tree, Some(5));
        assert!(raw("--shell").shell_job);
        assert!(!raw("-j --no-shell").shell_job);
        assert!(raw("--tls").tls, "a full name that others begin with");
        refused("--tr 5", "option '--tr' is ambiguous; possibilities: '--tree' '--track-mem'");
    }

    #[test]
    fn optional_values_are_attached_only() {
        let (r, operands) = read("--manage-cgroups full --cpu-cap=fpu,^ins").unwrap();
        assert_eq!((r.manage_cgroups, operands), (Some(CgroupMode::Soft), vec!["full".into()]));
        assert_eq!(r.cpu_cap, Some(CpuCap { fpu: true, ..CpuCap::NONE }));
        assert_eq!(raw("--manage-cgroups=full").manage_cgroups, Some(CgroupMode::Full));
    }

    #[test]
    fn what_getopt_refuses() {
        refused("--no-such", "unrecognized option '--no-such'");
        refused("-Z", "invalid option -- 'Z'");
        refused("-t", "option requires an argument -- 't'");
        refused("--tree", "option '--tree' requires an argument");
        refused("--restore-detached=3", "option '--restore-detached' doesn't allow an argument");
    }

    #[test]
    fn values_are_looked_at() {
        refused("-t abc", "invalid argument for -t: abc");
        refused("--tree -5", "invalid argument for --tree: -5");
        refused("--port foo", "invalid argument for --port: foo");
        refused("--ghost-limit 1X", "invalid argument for --ghost-limit: 1X");
        refused("--inherit-fd foo", "Invalid inherit fd argument: foo");
        refused("--manage-cgroups=foo", "Unknown cgroups mode `foo' selected");
        refused("--empty-ns uts", "Unsupported empty namespace: uts");
        refused("-J foo:1", "invalid argument for -J: foo:1");
        assert_eq!(raw("--ghost-limit 3M").ghost_limit, Some(3 << 20));
        assert_eq!(raw("--inherit-fd fd[3]:pipe:[77]").inherit_fd, [(3, "pipe:[77]".to_owned())]);
    }

    #[test]
    fn no_two_options_share_a_name() {
        let mut names: Vec<_> = OPTIONS.iter().map(|o| o.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
    }
}
