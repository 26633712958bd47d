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
    /// Both ends are in a net namespace of their own: its file, and its inode.
    ns: Option<(String, String)>,
}

impl Pair {
    /// `None` if this kernel cannot make it.
    fn of((family, role, state): Which<'_>, own: bool) -> Option<Self> {
        let sandbox = Sandbox::new("tcp");
        let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
        let ns = own.then(|| {
            let file = format!("{dir}/net");
            let made = format!(
                "touch {file} && unshare --net={file} ip link set lo up && stat -Lc %i {file}"
            );
            let ino = sandbox.shell(&made).trim().to_owned();
            (file, ino)
        });
        let args = [&dir[..], family, role, state];
        for program in [tool("tcp_peer"), subject("tcp_stream")] {
            match &ns {
                None => sandbox.start(&program, &args),
                Some((file, _)) => {
                    let net = format!("--net={file}");
                    let mut all = vec![&net[..], program.to_str().expect("utf-8")];
                    all.extend(args);
                    sandbox.start("/usr/bin/nsenter".as_ref(), &all);
                }
            }
        }
        let heard = sandbox.hear(&["ready", "bad", "skip"], LIMIT).expect("ready");
        if heard.starts_with("skip") {
            println!("SKIPPED {family} {state}: {heard}");
            return None;
        }
        let pid = heard.strip_prefix("ready ").unwrap_or_else(|| panic!("{state}: {heard}"));
        Some(Self { pid: pid.to_owned(), sandbox, ns })
    }

    /// A directory for images.
    fn images(&self) -> std::path::PathBuf {
        let images = self.sandbox.path("images");
        fs::create_dir(&images).expect("images");
        images
    }

    /// An action script that refuses.
    fn refusal_of(&self, action: &str) -> String {
        let path = self.sandbox.path("script").display().to_string();
        let text = format!("#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION != {action} ] || exit 3\n");
        fs::write(&path, text).expect("script");
        self.sandbox.shell(&format!("chmod +x {path}"));
        path
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
        let net =
            format!("--net={}", self.ns.as_ref().map_or("/proc/self/ns/net", |(file, _)| file));
        let line = "nft list ruleset; iptables-save; ip6tables-save";
        let rules = self.sandbox.shell(&format!("nsenter {net} sh -c '{line}'"));
        match rules.contains("CRIU") || rules.contains("c114") {
            true => Err(format!("a lock is left: {rules}")),
            false => Ok(()),
        }
    }
}

/// Family, role of the subject, state.
type Which<'a> = (&'a str, &'a str, &'a str);

fn one(by: &Criu, to: &Criu, lock: &str, what: Which<'_>, own: bool) -> Result<(), String> {
    let Some(pair) = Pair::of(what, own) else { return Ok(()) };
    let images = pair.images();
    // Only connections that are alive need the option; stock always does.
    let stock = by.name == "stock" || to.name == "stock";
    let ended = matches!(what.2, "close" | "reset") && !stock;
    let option = if ended { &[][..] } else { &["--tcp-established"] };
    let mut dumping = [option, &["--network-lock", lock]].concat();
    let external = pair.ns.as_ref().map(|(_, ino)| format!("net[{ino}]:net"));
    if let Some(external) = &external {
        dumping.extend(["--external", external]);
    }
    dump(&pair.sandbox, by, &pair.pid, &images, &dumping)?;
    std::thread::sleep(std::time::Duration::from_millis(400));
    match &pair.ns {
        None => restore(&pair.sandbox, to, &images, option)?,
        Some((file, _)) => {
            let dir = images.to_str().expect("utf-8");
            let line = format!(
                "exec {} restore -v4 -o restore.log -D {dir} -d --inherit-fd 'fd[9]:net' {} 9<{file}",
                to.path.display(),
                option.join(" ")
            );
            let ended = pair.sandbox.run("/bin/bash".as_ref(), &["-c", &line], "restore.out");
            if !ended.success() {
                return Err(tail(&images.join("restore.log"), 25));
            }
        }
    }
    let logs = || tail(&images.join("dump.log"), 15) + &tail(&images.join("restore.log"), 15);
    pair.finish().map_err(|e| format!("{e}\n{}", logs()))
}

fn check(lock: &str, what: Which<'_>, lost_by_stock: bool) {
    check_in(lock, what, lost_by_stock, false);
}

fn check_in(lock: &str, what: Which<'_>, lost_by_stock: bool, own: bool) {
    let mut failures = vec![];
    for (by, to) in directions(&Criu::ours(), Criu::stock().as_ref()) {
        if lost_by_stock && (by.name == "stock" || to.name == "stock") {
            continue;
        }
        if let Err(e) = one(&by, &to, lock, what, own) {
            failures.push(format!("=== {what:?} {lock} ({} -> {}): {e}", by.name, to.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_stream_in_a_namespace_of_its_own_loses_no_byte() {
    check_in("nftables", ("4", "server", "stream"), false, true);
    check_in("iptables", ("6", "client", "stream"), false, true);
}

#[test]
fn a_refused_dump_harms_no_connection() {
    let pair = Pair::of(("4", "client", "stream"), false).expect("IPv4");
    let images = pair.images();
    let said = dump(&pair.sandbox, &Criu::ours(), &pair.pid, &images, &[]).expect_err("refused");
    assert!(said.contains("consider using --tcp-established option"), "{said}");
    // Refused when the lock is there already.
    let script = ["--tcp-established", "--action-script", &pair.refusal_of("post-dump")];
    dump(&pair.sandbox, &Criu::ours(), &pair.pid, &images, &script).expect_err("refused");
    pair.finish().expect("both go on");
}

#[test]
fn a_killed_dump_leaves_no_lock() {
    let pair = Pair::of(("4", "client", "stream"), false).expect("IPv4");
    let images = pair.images();
    let script = pair.sandbox.path("script").display().to_string();
    let there = pair.sandbox.path("there");
    let text = format!(
        "#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION != post-dump ] || {{ touch {}; sleep 1000; }}\n",
        there.display()
    );
    fs::write(&script, text).expect("script");
    pair.sandbox.shell(&format!("chmod +x {script}"));
    let mut command = pair.sandbox.command(&Criu::ours().path, "dump.out");
    command.args(["dump", "--tcp-established", "-t", &pair.pid, "-D"]).arg(&images);
    let child = command.args(["--action-script", &script]).spawn().expect("nsenter");
    wait_for(LIMIT, || there.exists().then_some(())).expect("post-dump");
    assert!(pair.sandbox.shell("nft list ruleset").contains("CRIU-"));
    pair.sandbox.shell("kill -9 $(pgrep -x criu | head -1)");
    pair.sandbox.wait(child, LIMIT);
    pair.finish().expect("both go on");
}

#[test]
fn a_connection_left_running_goes_on() {
    let pair = Pair::of(("6", "server", "stream"), false).expect("IPv6");
    let options = ["--tcp-established", "--leave-running"];
    dump(&pair.sandbox, &Criu::ours(), &pair.pid, &pair.images(), &options).expect("dump");
    pair.finish().expect("both go on");
}

#[test]
fn a_failed_restore_leaves_the_lock_for_the_next() {
    let pair = Pair::of(("4", "client", "stream"), false).expect("IPv4");
    let images = pair.images();
    let lock = ["--tcp-established", "--network-lock", "nftables"];
    let ours = Criu::ours();
    dump(&pair.sandbox, &ours, &pair.pid, &images, &lock).expect("dump");
    let before = pair.sandbox.shell("nft list ruleset");
    assert!(before.contains("CRIU-"), "{before}");
    restore(&pair.sandbox, &ours, &images, &[]).expect_err("refused");
    let script = ["--tcp-established", "--action-script", &pair.refusal_of("post-restore")];
    restore(&pair.sandbox, &ours, &images, &script).expect_err("refused");
    assert_eq!(pair.sandbox.shell("nft list ruleset"), before);
    restore(&pair.sandbox, &ours, &images, &["--tcp-established"]).expect("restore");
    pair.finish().expect("both go on");
}

#[test]
fn connections_are_closed_when_asked_to() {
    for (dumping, lock_left) in [(&["--tcp-close"][..], false), (&["--tcp-established"], true)] {
        let pair = Pair::of(("4", "client", "stream"), false).expect("IPv4");
        let images = pair.images();
        let ours = Criu::ours();
        dump(&pair.sandbox, &ours, &pair.pid, &images, dumping).expect("dump");
        let rules = pair.sandbox.shell("iptables-save");
        assert_eq!(rules.contains("c114"), lock_left, "{rules}");
        if !lock_left {
            let said = restore(&pair.sandbox, &ours, &images, &[]).expect_err("refused");
            assert!(said.contains("--tcp-close"), "{said}");
        }
        restore(&pair.sandbox, &ours, &images, &["--tcp-close"]).expect("restore");
        pair.unlocked().expect("no lock is left");
        let connections = format!("ss -tnap | grep -c 'pid={},' || true", pair.pid);
        assert_eq!(pair.sandbox.shell(&connections).trim(), "0");
    }
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

/// Nobody is at the other end any more, so what answers there is a reset: it must not reach the
/// connection before it is in its state again. By this route acknowledgements are not delayed.
#[test]
fn closed_by_both_though_answers_come_at_once() {
    for (family, local) in [("4", "127.0.0.1"), ("6", "::1")] {
        let pair = Pair::of((family, "server", "close"), false).expect("this family");
        let images = pair.images();
        let route = format!("table local local {local} dev lo");
        pair.sandbox.shell(&format!("ip -{family} route replace {route} quickack 1"));
        dump(&pair.sandbox, &Criu::ours(), &pair.pid, &images, &[]).expect("dump");
        restore(&pair.sandbox, &Criu::ours(), &images, &[]).expect("restore");
        pair.finish().expect("the same state");
    }
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

/// Both ends are in the tree.
fn both_ends(args: &[&'static str]) -> crate::Subject {
    const UP: &str = "ip link set lo up";
    const TCP: [&str; 1] = ["--tcp-established"];
    let subject = crate::Subject::new("tcp_full").flavour("host").prepare(UP).args(args);
    subject.dump_args(&TCP).restore_args(&TCP)
}

#[test]
fn full_buffers_with_an_open_window_run_dry_again() {
    for family in ["4", "6"] {
        both_ends(&[family]).check();
    }
}

/// By short segments, what was granted for long ones takes much more memory than there is.
#[test]
fn segments_are_as_long_as_before() {
    for family in ["4", "6", "m"] {
        both_ends(&[family, "mss"]).lost_by_stock("its segments become as short as can be").check();
    }
}

/// There, nobody may make buffers larger than `net.core.wmem_max` says.
#[test]
fn full_buffers_in_a_user_namespace_run_dry_again() {
    for family in ["4", "6"] {
        let why = "cannot put back what was not sent: EPIPE";
        both_ends(&[family, "mss"]).flavour("uns").stock_cannot_restore(why).check();
    }
}
