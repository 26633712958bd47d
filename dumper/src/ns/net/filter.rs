//! Packet filters, as text: what `nft list ruleset` and `iptables-save` print.
//!
//! Whether there is anything to save is asked over netlink, so that a namespace without rules
//! needs no program. Tables of legacy iptables are those of `/proc/net/ip_tables_names`; those
//! of the other iptables are tables of nftables.

use super::write_raw;
use crate::Error;
use images::checkpoint::net::without_lock;
use images::{Dir, Image};
use std::process::Command;
use sys::netlink::{Request, Socket, attribute, messages};

/// Whether the programs that are needed are there.
pub(super) fn check() -> Result<(), Error> {
    if nft_tables()? {
        run(&NFT, true)?;
    }
    for tool in legacy() {
        run(&tool, true)?;
    }
    Ok(())
}

/// Writes the three images: empty ones where there are no rules.
pub(super) fn dump(id: u32, dir: &Dir) -> Result<(), Error> {
    let text = if nft_tables()? { without_lock(&run(&NFT, false)?) } else { String::new() };
    write_raw(dir, Image::Nftables(id), text.as_bytes())?;
    let mut texts = [String::new(), String::new()];
    for tool in legacy() {
        texts[usize::from(tool.six)] = without_lock(&run(&tool, false)?);
    }
    write_raw(dir, Image::Iptables(id), texts[0].as_bytes())?;
    write_raw(dir, Image::Ip6tables(id), texts[1].as_bytes())
}

/// A program that prints rules.
struct Tool {
    names: &'static [&'static str],
    args: &'static [&'static str],
    package: &'static str,
    six: bool,
}

const NFT: Tool =
    Tool { names: &["nft"], args: &["list", "ruleset"], package: "nftables", six: false };

/// Whether nftables has any table but that of a network lock.
fn nft_tables() -> Result<bool, Error> {
    const NFT_MSG_GETTABLE: u16 = 10 << 8 | 1;
    const NFTA_TABLE_NAME: u16 = 1;
    let mut netfilter = Socket::open(libc::NETLINK_NETFILTER)?;
    let request = Request::new("NFT_MSG_GETTABLE", NFT_MSG_GETTABLE).body(&[0; 4]);
    let list = match netfilter.dump(&request) {
        Ok(list) => list,
        // No nftables in this kernel.
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::EOPNOTSUPP) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    Ok(messages(&list).any(|m| {
        let name = attribute(m.after(4), NFTA_TABLE_NAME);
        !name.is_some_and(|n| n.text().starts_with(b"CRIU"))
    }))
}

/// Programs for the tables of legacy iptables that are in use.
fn legacy() -> Vec<Tool> {
    let used = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        std::fs::read(path).is_ok_and(|names| !names.is_empty())
    };
    let mut all = Vec::new();
    if used("ip_tables_names") {
        let names = &["iptables-legacy-save", "iptables-save"];
        all.push(Tool { names, args: &[], package: "iptables", six: false });
    }
    if used("ip6_tables_names") {
        let names = &["ip6tables-legacy-save", "ip6tables-save"];
        all.push(Tool { names, args: &[], package: "iptables", six: true });
    }
    all
}

/// What it prints; `look`: only whether it is there.
fn run(tool: &Tool, look: bool) -> Result<String, Error> {
    for name in tool.names {
        let mut command = Command::new(name);
        command.args(if look { &["--version"] } else { tool.args });
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(sys::Error::io(format_args!("exec({name})"), &e).into()),
            Ok(_) if look => return Ok(String::new()),
            Ok(out) if out.status.success() => {
                return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
            }
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stderr);
                let text = format!("{name}: {}: {}", out.status, said.trim());
                return Err(Error::Failed { text, errno: libc::EIO });
            }
        }
    }
    Err(Error::Refused(format!(
        "the network namespace has packet filter rules, and `{}` (package {}), which saves them, \
         is not installed",
        tool.names[0], tool.package
    )))
}
