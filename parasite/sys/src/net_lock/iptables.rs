//! The rules, through `iptables-restore`: one call, however many there are.

use super::{Connection, MARK, What, failed};
use crate::{Error, Result};
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const V4: &str = "iptables-restore";
const V6: &str = "ip6tables-restore";

/// Where a program is, also for callers whose PATH has no `sbin`.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut dirs = std::env::split_paths(&path).chain(usual);
    dirs.find_map(|dir| Some(dir.join(program)).filter(|p| p.exists()))
}

/// Whether rules can be made at all.
pub(super) fn installed() -> bool {
    find(V4).is_some()
}

/// Adds the rules.
pub(super) fn add(ns: Option<BorrowedFd<'_>>, what: &What) -> Result<()> {
    match what {
        What::Connections(list) => {
            for v4 in [true, false] {
                let lines = rules(list, v4, "-I");
                if !lines.is_empty() {
                    run(ns, v4, &lines)?;
                }
            }
        }
        What::Everything => {
            let lines = [
                ":CRIU - [0:0]".to_owned(),
                "-I INPUT -j CRIU".to_owned(),
                "-I OUTPUT -j CRIU".to_owned(),
                format!("-A CRIU -m mark --mark {MARK:#x} -j ACCEPT"),
                "-A CRIU -j DROP".to_owned(),
            ];
            run(ns, true, &lines)?;
            if has_v6() {
                run(ns, false, &lines)?;
            }
        }
    }
    Ok(())
}

/// Removes the rules; those that are not there are no error.
pub(super) fn remove(ns: Option<BorrowedFd<'_>>, what: &What) -> Result<()> {
    // Whole namespaces are new most of the time: no need to run a program.
    if *what == What::Everything && !may_have_rules(ns) {
        return Ok(());
    }
    for v4 in [true, false] {
        let lines = match what {
            What::Connections(list) => rules(list, v4, "-D"),
            What::Everything if !v4 && !has_v6() => Vec::new(),
            // The first empties the chain.
            What::Everything => {
                [":CRIU - [0:0]", "-D INPUT -j CRIU", "-D OUTPUT -j CRIU", "-X CRIU"]
                    .map(str::to_owned)
                    .to_vec()
            }
        };
        if lines.is_empty() || run(ns, v4, &lines).is_ok() {
            continue;
        }
        // All or nothing: some of them are not there.
        if let What::Connections(_) = what {
            for line in lines {
                let _ = run(ns, v4, &[line]);
            }
        }
    }
    Ok(())
}

/// Rules for packets to and from each connection of a family.
fn rules(list: &[Connection], v4: bool, action: &str) -> Vec<String> {
    let rule = |chain, from: std::net::SocketAddr, to: std::net::SocketAddr| {
        format!(
            "{action} {chain} -p tcp -m mark ! --mark {MARK:#x} -s {} --sport {} -d {} --dport {} \
             -j DROP",
            from.ip(),
            from.port(),
            to.ip(),
            to.port()
        )
    };
    let of_family = list.iter().filter(|c| c.is_v4() == v4);
    of_family.flat_map(|c| [rule("INPUT", c.peer, c.own), rule("OUTPUT", c.own, c.peer)]).collect()
}

/// Whether any rule of iptables may be there, of either kind.
pub(super) fn may_have_rules(ns: Option<BorrowedFd<'_>>) -> bool {
    let look = || {
        let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
        let legacy = names.is_ok_and(|n| n.contains("filter"));
        legacy || super::nft::has_iptables().unwrap_or(true)
    };
    match ns {
        Some(ns) => crate::netlink::in_net_ns(ns, look).unwrap_or(true),
        None => look(),
    }
}

fn has_v6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

fn run(ns: Option<BorrowedFd<'_>>, v4: bool, lines: &[String]) -> Result<()> {
    let text = format!("*filter\n{}\nCOMMIT\n", lines.join("\n"));
    let program = if v4 { V4 } else { V6 };
    let path = find(program).ok_or_else(|| Error::new(program, libc::ENOENT))?;
    // Waits for others that change rules; old ones cannot.
    let once = || match feed(&path, &["-w", "--noflush"], &text) {
        Err(e) if e.errno() == libc::EINVAL => feed(&path, &["--noflush"], &text),
        done => done,
    };
    match ns {
        Some(ns) => crate::netlink::in_net_ns(ns, once)?,
        None => once(),
    }
}

/// Runs a program with `text` as its input.
fn feed(path: &Path, args: &[&str], text: &str) -> Result<()> {
    let call = || format!("{} {}", path.display(), args.join(" "));
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(call(), &e))?;
    if let Some(mut input) = child.stdin.take() {
        // It may end without reading all: its exit code tells.
        let _ = input.write_all(text.as_bytes());
    }
    let out = child.wait_with_output().map_err(|e| failed(call(), &e))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    Err(Error::new(format_args!("{} [{said}]", call()), libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_criu() {
        let address = |text: &str| text.parse().unwrap();
        let v4 = Connection::new(address("127.0.0.1:7000"), address("10.0.0.2:48350"));
        let mapped = Connection::new(address("[::ffff:1.2.3.4]:1"), address("[::ffff:1.2.3.5]:2"));
        let v6 = Connection::new(address("[::1]:7000"), address("[::1]:4"));
        let all = [v4, mapped, v6];
        let got = rules(&all, true, "-I");
        assert_eq!(
            got[0],
            "-I INPUT -p tcp -m mark ! --mark 0xc114 -s 10.0.0.2 --sport 48350 -d 127.0.0.1 \
             --dport 7000 -j DROP"
        );
        assert_eq!((got.len(), rules(&all, false, "-D").len()), (4, 2));
    }
}
