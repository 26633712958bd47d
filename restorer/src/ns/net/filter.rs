//! Packet filters: text for `nft -f` and `iptables-restore`.
//!
//! A lock of the network that is in the text (CRIU dumps its own) is taken out: this restore
//! has a lock of its own.

use crate::Error;
use images::checkpoint::Net;
use images::checkpoint::net::without_lock;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

/// Restores the three images; in a thread that is in the namespace.
pub(super) fn restore(net: &Net) -> Result<(), Error> {
    let legacy = ["iptables-legacy-restore", "iptables-restore"];
    let legacy6 = ["ip6tables-legacy-restore", "ip6tables-restore"];
    feed(&["nft"], &["-f", "-"], "nftables", &without_lock(&net.nftables))?;
    feed(&legacy, &[], "iptables", &without_lock(&net.iptables))?;
    feed(&legacy6, &[], "iptables", &without_lock(&net.ip6tables))
}

/// Gives the text to the first of the programs that is there.
fn feed(names: &[&str], args: &[&str], package: &str, text: &str) -> Result<(), Error> {
    if text.trim().is_empty() {
        return Ok(());
    }
    for name in names {
        let mut command = Command::new(name);
        // The namespace is ours alone: the lock of the host's rules is not needed, and may be out
        // of reach.
        command.args(args).env("XTABLES_LOCKFILE", "/dev/null");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed =
            |e: &std::io::Error| Error::from(sys::Error::io(format_args!("exec({name})"), e));
        let mut child = match command.spawn() {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            child => child.map_err(|e| failed(&e))?,
        };
        let mut stdin = child.stdin.take();
        let written = stdin.as_mut().map_or(Ok(()), |to| to.write_all(text.as_bytes()));
        drop(stdin);
        let out = child.wait_with_output().map_err(|e| failed(&e))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(Error::NetNs(format!("{name}: {}: {}", out.status, said.trim())));
        }
        return written.map_err(|e| failed(&e));
    }
    Err(Error::NetNs(format!(
        "the images have packet filter rules, and `{}` (package {package}), which restores them, \
         is not installed",
        names[0]
    )))
}
