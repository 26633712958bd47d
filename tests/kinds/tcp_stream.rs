// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP connections whose other end lives on outside of the tree and must not notice.
use crate::support::{
    Criu, LIMIT, Sandbox, directions, dump, restore, subject, tail, tool, wait_for,
};
use std::fs;

/// A connection between a subject, which is dumped, and its peer.
struct Pair {
    sandbox: Sandbox,
    pid: String,
}

impl Pair {
    /// `None` if this kernel cannot make it.
    fn of(family: &str, role: &str, state: &str) -> Option<Self> {
        let sandbox = Sandbox::new("tcp");
        let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
        let args = [&dir, family, role, state];
        sandbox.start(&tool("tcp_peer"), &args);
        sandbox.start(&subject("tcp_stream"), &args);
        let heard = sandbox.hear(&["ready", "bad", "skip"], LIMIT).expect("ready");
        if heard.starts_with("skip") {
            println!("SKIPPED {family} {state}: {heard}");
            return None;
        }
        let pid = heard.strip_prefix("ready ").unwrap_or_else(|| panic!("{state}: {heard}"));
        Some(Self { pid: pid.to_owned(), sandbox })
    }

    /// What both ends say at their end, and that nothing of the lock is left.
    fn finish(&self) -> Result<(), String> {
        self.sandbox.go();
        let heard = self.sandbox.hear(&["ok", "bad"], LIMIT / 2);
        let peer = self.sandbox.path("peer");
        let told = wait_for(LIMIT / 6, || fs::read_to_string(&peer).ok());
        if heard.as_deref() != Some("ok") || told.as_deref() != Some("ok") {
            return Err(format!("subject {heard:?}, peer {told:?}"));
        }
        self.unlocked()
    }

    fn unlocked(&self) -> Result<(), String> {
        let rules = self.sandbox.shell("nft list ruleset; iptables-save; ip6tables-save");
        match rules.contains("CRIU") || rules.contains("c114") {
            true => Err(format!("a lock is left: {rules}")),
            false => Ok(()),
        }
    }
}

fn one(
    by: &Criu,
    to: &Criu,
    lock: &str,
    (family, role, state): (&str, &str, &str),
) -> Result<(), String> {
    let Some(pair) = Pair::of(family, role, state) else { return Ok(()) };
    let images = pair.sandbox.path("images");
    fs::create_dir(&images).expect("images");
    // Only connections that are alive need the option; stock always does.
    let stock = by.name == "stock" || to.name == "stock";
    let ended = matches!(state, "close" | "reset") && !stock;
    let option = if ended { &[][..] } else { &["--tcp-established"] };
    let locked = [option, &["--network-lock", lock]].concat();
    dump(&pair.sandbox, by, &pair.pid, &images, &locked)?;
    std::thread::sleep(std::time::Duration::from_millis(400));
    restore(&pair.sandbox, to, &images, option)?;
    let logs = || tail(&images.join("dump.log"), 15) + &tail(&images.join("restore.log"), 15);
    pair.finish().map_err(|e| format!("{e}\n{}", logs()))
}

fn check(lock: &str, what: (&str, &str, &str), lost_by_stock: bool) {
    let mut failures = vec![];
    for (by, to) in directions(&Criu::ours(), Criu::stock().as_ref()) {
        if lost_by_stock && (by.name == "stock" || to.name == "stock") {
            continue;
        }
        if let Err(e) = one(&by, &to, lock, what) {
            failures.push(format!("=== {what:?} {lock} ({} -> {}): {e}", by.name, to.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_stream_loses_no_byte() {
    check("nftables", ("4", "client", "stream"), false);
    check("iptables", ("4", "server", "stream"), false);
}

#[test]
fn a_stream_of_ipv6_loses_no_byte() {
    check("nftables", ("6", "server", "stream"), false);
    check("iptables", ("6", "client", "stream"), false);
}

#[test]
fn a_stream_of_a_mapped_address_loses_no_byte() {
    check("nftables", ("m", "client", "stream"), false);
    check("iptables", ("m", "server", "stream"), false);
}

#[test]
fn full_queues_stay() {
    check("nftables", ("4", "client", "established"), false);
    check("nftables", ("6", "server", "established"), false);
}

#[test]
fn half_closed_by_the_peer() {
    check("nftables", ("4", "client", "close_wait"), false);
    check("nftables", ("6", "server", "close_wait"), false);
}

#[test]
fn half_closed_with_data_to_be_sent() {
    check("nftables", ("4", "client", "fin_wait1"), false);
    check("nftables", ("6", "server", "fin_wait1"), false);
}

#[test]
fn half_closed() {
    check("nftables", ("4", "client", "fin_wait2"), false);
    check("nftables", ("m", "server", "fin_wait2"), false);
}

#[test]
fn closed_by_both_at_once() {
    check("nftables", ("4", "client", "closing"), false);
    check("nftables", ("6", "server", "closing"), false);
}

#[test]
fn closed_by_both_with_data_to_be_sent() {
    check("nftables", ("4", "client", "last_ack"), false);
    check("nftables", ("m", "server", "last_ack"), false);
}

#[test]
fn closed_by_both_needs_no_option_and_keeps_unread_data() {
    check("nftables", ("4", "client", "close"), false);
    check("nftables", ("6", "server", "close"), false);
}

#[test]
fn reset_by_the_peer_needs_no_option_and_keeps_data_and_error() {
    check("nftables", ("4", "client", "reset"), true);
    check("nftables", ("6", "server", "reset"), true);
}

#[test]
fn on_its_way_to_be_connected() {
    check("nftables", ("4", "client", "syn_sent"), false);
}
