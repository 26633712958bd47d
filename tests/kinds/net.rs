// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Network namespaces.

use crate::Subject;
use crate::support::{Criu, LIMIT, Sandbox, dump, restore, subject, wait_for};
use std::path::Path;

const LINKS: &str = "ip -d -o link | sed -E 's/(forward_delay|gc|hello|tcn|topology_change|hold|\
    message_age)_timer +[0-9.]+//g; s/qdisc [a-z_]+ //; s/state [A-Z]+ //; s/NO-CARRIER,|,LOWER_UP//g; s/(promiscuity|numtx).*//; \
    s/(mtu|link).*addrgenmode/\\1/'; ip -o link | wc -l";

/// A namespace that a shell line fills, and what another prints about it.
fn netns(setup: &'static str, show: &'static str) -> Subject {
    Subject::new("netns").args(&[setup, show]).flavour("net")
}

#[test]
fn loopback_alone() {
    netns("true", "ip -o addr; ip route; ip rule; ip link").check();
}

#[test]
fn pairs_and_bridges() {
    let setup = "set -e; ip link add index 20 v0 address 02:00:00:00:00:10 type veth peer name v1
        ip link add index 9 br0 type bridge; ip link set v1 master br0 mtu 1400
        ip link set v0 mtu 1400 up; ip link set v1 up; ip link set br0 up
        ip link add down0 type veth peer name down1; ip link set down1 arp off";
    netns(setup, LINKS).check();
}

#[test]
fn parameters_of_bridges_and_links() {
    let setup = "set -e; ip link add br0 type bridge forward_delay 400 priority 7
        ip link add v0 txqueuelen 77 type veth peer name v1
        ip link set v0 alias 'an alias' group 9; ip link set v1 master br0
        ip link set dev v1 type bridge_slave hairpin on cost 9; ip link set br0 up";
    netns(setup, "ip -d -o link | sed -E 's/[a-z_]+timer +[0-9.]+//g; s/designated_cost.*group_fwd/group_fwd/; s/qdisc.*state [A-Z]+//; s/NO-CARRIER,|,LOWER_UP//g'")
        .lost_by_stock("bridges and links without their parameters")
        .check();
}

#[test]
fn links_of_kinds_that_stock_has_no_type_for() {
    let setup = "set -e; ip link add v0 type veth peer name v1; ip addr add 10.1.0.1/24 dev v0
        ip link add mv0 link v0 type macvlan mode private
        ip link add vx0 mtu 1300 type vxlan id 5 dstport 4789 local 10.1.0.1; ip link add i0 type ifb
        ip link add d0 type dummy 2>/dev/null || true
        ip link add link v0 name vl0 type vlan id 7 2>/dev/null || true";
    netns(setup, LINKS)
        .stock_cannot_dump("unknown kinds")
        .stock_cannot_restore("unknown kinds")
        .check();
}

#[test]
fn a_tap_that_stays_without_its_program() {
    let setup = "set -e; ip tuntap add mode tap name tap0 user 33
        ip tuntap add mode tun name tun0 vnet_hdr; ip link set tun0 mtu 1280";
    netns(setup, "ip -d -o link | sed 's/addrgenmode.*//'; ip -o tuntap").check();
}

#[test]
fn unknown_links_are_refused_by_name() {
    netns(
        "ip link add v0 type veth peer name v1 && ip link add link v0 name mvt0 type macvtap",
        "true",
    )
    .refused("Unsupported link")
    .check();
}

#[test]
fn addresses_routes_and_rules() {
    let setup = "set -e; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
        ip addr add 10.1.0.1/24 brd + dev v0; ip addr add 10.1.0.7/24 dev v0 label v0:x
        ip addr add 10.2.0.1 peer 10.2.0.2 dev v1
        ip addr add fd00::1/64 dev v0 nodad; ip addr add fd00::9/128 dev lo nodad
        ip route add 10.9.0.0/16 via 10.1.0.2 metric 7; ip route add default via 10.9.0.1 onlink dev v0
        ip route add 10.10.0.0/16 nexthop via 10.1.0.2 weight 2 nexthop via 10.1.0.3
        ip route add unreachable 10.66.0.0/16; ip route add fd07::/48 via fd00::2
        ip rule add from 10.1.0.0/24 lookup 100 prio 99; ip rule add fwmark 5 blackhole";
    let show = "ip -o addr | sed s/valid_lft.*// | grep -v fe80; ip route; ip -6 route | grep -v fe80; ip rule";
    netns(setup, show).check();
}

#[test]
fn tables_and_rules_that_stock_leaves_out() {
    let setup =
        "set -e; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
        ip addr add 10.1.0.1/24 dev v0; ip addr add fd00::1/64 dev v0;
        sleep 1; while ip -6 addr | grep -q tentative; do sleep 0.1; done
        ip route add default via 10.1.0.7 table 100; ip -6 route add default via fd00::7 table 1000
        ip -6 rule add from fd00::/16 lookup 1000 prio 88
        ip rule del lookup default";
    let show = "(ip route show table all; ip -6 route show table all) | grep -v ^multicast | sort; \
        ip rule; ip -6 rule; ip -o addr";
    netns(setup, show).lost_by_stock("tables and rules of IPv6; addresses are tentative").check();
}

#[test]
fn settings() {
    let setup = "set -e; cd /proc/sys/net; echo 1 > ipv4/conf/default/arp_ignore
        echo 1 > ipv4/conf/all/forwarding; ip link add v0 type veth peer name v1
        echo 2 > ipv4/conf/v0/rp_filter; echo 0 > ipv4/conf/v0/accept_redirects
        echo 0 > ipv6/conf/v1/accept_ra; echo 1 > ipv6/conf/default/disable_ipv6
        echo fd00::aaaa > ipv6/conf/v0/stable_secret; echo 77 > unix/max_dgram_qlen
        echo 5 2000 > ipv4/ping_group_range; ip link set v0 up";
    let show = "cd /proc/sys/net; grep -rs . ipv4/conf ipv6/conf unix ipv4/ping_group_range | \
        grep -v addr_gen_mode | sort";
    netns(setup, show).check();
}

#[test]
fn rules_of_nftables() {
    let setup = "set -e; nft add table inet mine
        nft add chain inet mine c '{ type filter hook input priority 0; }'
        nft add rule inet mine c ip saddr 1.2.3.4 counter drop";
    netns(setup, "nft list table inet mine").check();
}

#[test]
fn sets_and_maps_of_nftables() {
    let setup = "set -e; nft add table ip6 mine; nft add chain ip6 mine c
        nft add set ip6 mine s '{ type ipv6_addr; elements = { fd00::1, fd00::2 }; }'
        nft add map ip6 mine m '{ type inet_service : verdict; elements = { 80 : drop }; }'
        nft add rule ip6 mine c ip6 saddr @s tcp dport vmap @m";
    let why = "the sets of its libnftables crash the nft of Debian 12";
    netns(setup, "nft list ruleset").stock_cannot_restore(why).check();
}

#[test]
fn rules_of_iptables() {
    let setup = "iptables-legacy -A INPUT -p tcp --dport 77 -j DROP && \
        iptables-legacy -P FORWARD DROP && ip6tables-legacy -A INPUT -p udp -j ACCEPT";
    let show = "(iptables-legacy-save; ip6tables-legacy-save) | grep -v '^#' | sed 's/\\[.*//' | \
        grep -v '^:[IO]'";
    netns(setup, show).check();
}

#[test]
fn tracked_connections() {
    let setup = "set -e; nft add table inet mine; nft add chain inet mine c '{ type filter hook \
        input priority 0; }'; nft add rule inet mine c ct state established accept
        echo 3600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout
        bash -c 'echo x >/dev/udp/127.0.0.1/999'";
    let show = "cut -d' ' -f1-15 /proc/net/nf_conntrack | sed -E 's/ +[0-9]+ src/ src/; s/ +/ /g' | \
        sort";
    netns(setup, show).stock_cannot_restore("waits for an answer for ever").check();
}

#[test]
fn translated_connections() {
    Subject::new("sk_kept")
        .args(&["nat"])
        .flavour("net")
        .lost_by_stock("waits for an answer for ever; its nftables text is not for Debian 12's nft")
        .check();
}

#[test]
fn neighbours_that_somebody_wrote_down() {
    let setup =
        "set -e; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
        ip addr add 10.1.0.1/24 dev v0; ip addr add fd00::1/64 dev v0 nodad
        ip neigh add 10.1.0.9 lladdr 02:00:00:00:00:99 dev v0 nud permanent
        ip neigh add fd00::9 lladdr 02:00:00:00:00:98 dev v0 nud permanent
        ip neigh add proxy 10.1.0.8 dev v0
        ip link add br0 type bridge; ip link set v1 master br0; ip link set br0 up
        bridge fdb add 02:00:00:00:00:77 dev v1 master static";
    let show =
        "ip neigh show nud permanent | sort; ip neigh show proxy; bridge fdb | grep 00:77 | sort";
    netns(setup, show).lost_by_stock("no room in its images").check();
}

#[test]
fn what_is_not_saved_is_told() {
    // The warnings are looked for in the log of the dump.
    let setup = "set -e; ip link add v0 type veth peer name v1; ip link set v0 up
        tc qdisc add dev v0 root handle 5: tbf rate 1mbit burst 32k latency 50ms
        ip xfrm policy add dir out src 10.1.0.0/24 dst 10.2.0.0/24 tmpl proto esp mode tunnel";
    netns(setup, "true")
        .between(
            "grep -q 'qdisc tbf 5: of link v0 is not saved' images0/dump.log && \
            grep -q '1 IPsec policies are not saved' images0/dump.log",
        )
        .lost_by_stock("without a word")
        .check();
}

#[test]
fn nested_namespaces_and_their_sockets() {
    Subject::new("netns_nested").flavour("net").check();
}

#[test]
fn a_namespace_of_a_user_namespace() {
    let setup = "set -e; ip link add v0 type veth peer name v1; ip link add br0 type bridge
        ip link set v1 master br0; ip link set v0 up; ip link set v1 up; ip addr add 10.1.0.1/24 dev v0
        echo 0 5 > /proc/sys/net/ipv4/ping_group_range; echo 1 > /proc/sys/net/ipv4/conf/v0/arp_ignore
        nft add table inet mine; ip rule add fwmark 5 blackhole";
    let show = "ip -o link | sed -E 's/qdisc.*//; s/NO-CARRIER,|,LOWER_UP//g'; ip -4 -o addr; ip route; ip rule; \
        nft list table inet mine; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/conf/v0/arp_ignore";
    Subject::new("netns").args(&[setup, show]).flavour("uns").check();
}

#[test]
fn a_pair_whose_other_end_is_outside() {
    let setup = "ip link add v0 type veth peer name outside netns 1 && ip addr add 10.1.0.1/24 dev v0 \
        && ip link set v0 up";
    netns(setup, "ip -4 -o addr; ip link show v0 | grep -o link-netnsid; ip -o link | wc -l")
        .prepare("ip link add br0 type bridge && ip link set br0 up")
        // Stock does not wait for the links of the old namespace to be gone.
        .between("for _ in $(seq 200); do ip link show outside >/dev/null 2>&1 || exit 0; sleep 0.05; done; exit 1")
        .restore_args(&["--external", "veth[v0]:outside@br0"])
        .check();
    netns(setup, "ip -4 -o addr; ip link show v0 | grep -o link-netnsid; ip -o link | wc -l")
        .prepare("ip link add br0 type bridge && ip link set br0 up")
        .restore_args(&["--external", "veth[v0]:outside@br0"])
        .lost_by_stock("fails while the old link is still there")
        .check();
}

#[test]
fn a_pair_by_its_old_option() {
    let setup = "ip link add v0 type veth peer name outside netns 1 && ip addr add 10.1.0.1/24 dev v0 \
        && ip link set v0 up";
    netns(setup, "ip -4 -o addr; ip link show v0 | grep -o link-netnsid; ip -o link | wc -l")
        .prepare("ip link add br0 type bridge && ip link set br0 up")
        .between("for _ in $(seq 200); do ip link show outside >/dev/null 2>&1 || exit 0; sleep 0.05; done; exit 1")
        .restore_args(&["--veth-pair", "v0=outside@br0"])
        .check();
}

#[test]
fn an_empty_namespace_stays_empty() {
    // What it has is somebody else's, who fills the new one.
    netns(
        "ip link add v0 type veth peer name v1 && ip link set lo up",
        "if [ -e empty ]; then ip -o link show type veth | wc -l; else echo 0; fi",
    )
    .between("touch empty")
    .dump_args(&["--empty-ns", "net"])
    .restore_args(&["--empty-ns", "net"])
    .check();
}

#[test]
fn a_macvlan_upon_a_link_outside() {
    let setup = "nsenter -t 1 -n ip link add mv0 link up0 netns $PPID type macvlan mode bridge";
    let show = "ip -d -o link show mv0 | sed -E 's/qdisc.*qlen/qlen/; s/addrgen.*//'";
    netns(setup, show)
        .prepare("ip link add up0 type veth peer name up1")
        .between("for _ in $(seq 200); do ip link show mv0 >/dev/null 2>&1 || exit 0; sleep 0.05; done; exit 1")
        .restore_args(&["--external", "macvlan[mv0]:up0"])
        .stock_cannot_restore("its request is refused by this kernel: its own image, too")
        .check();
}

/// A namespace that has a name outlives the tree: nobody answers its peers until the restore.
#[test]
fn a_namespace_with_a_name_stays_locked_until_the_restore() {
    let sandbox = Sandbox::new("net_lock");
    sandbox.shell("mount -t tmpfs none /mnt; touch /mnt/net; unshare --net=/mnt/net true");
    let rules = || sandbox.shell("nsenter --net=/mnt/net nft list ruleset");
    let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
    let program = subject("eventfd");
    let args = ["--net=/mnt/net", program.to_str().expect("utf-8"), &dir];
    sandbox.start(Path::new("/usr/bin/nsenter"), &args);
    let pid = sandbox.ready();
    let images = sandbox.make_images();
    let lock = ["--network-lock", "nftables"];
    dump(&sandbox, &Criu::ours(), &pid, &images, &lock).expect("dump");
    assert!(rules().contains("CRIU-"), "{}", rules());
    restore(&sandbox, &Criu::ours(), &images, &["--join-ns", "net:/mnt/net"]).expect("restore");
    assert_eq!(rules(), "");
    sandbox.go();
    assert_eq!(sandbox.hear(&["ok", "bad"], LIMIT).as_deref(), Some("ok"));
}

/// Whenever a restore fails: no link, no bridge port, no rule of it is left outside.
#[test]
fn a_restore_that_fails_leaves_no_link_and_no_rule() {
    let setup = "ip link add v0 type veth peer name outside netns 1 && ip addr add 10.1.0.1/24 dev v0 \
        && ip link set v0 up && nft add table inet mine";
    let sandbox = Sandbox::new("netns");
    sandbox.shell("ip link add br0 type bridge && ip link set br0 up");
    let show = "ip -4 -o addr; nft list ruleset";
    let pid = sandbox.start_subject("net", "netns", &[setup, show]);
    let images = sandbox.make_images();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    let outside = || sandbox.shell("ip -o link | cut -d: -f2; nft list ruleset; ls /proc/self/ns");
    wait_for(LIMIT, || (!outside().contains("outside")).then_some(())).expect("the old link goes");
    let before = outside();
    let script = sandbox.path("fail.sh");
    std::fs::write(&script, "#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION != $(cat ${0%/*}/when) ]\n")
        .expect("sh");
    sandbox.shell("chmod +x fail.sh");
    let script = script.to_str().expect("utf-8");
    let args = ["--external", "veth[v0]:outside@br0", "--action-script", script];
    for when in ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore"] {
        std::fs::write(sandbox.path("when"), when).expect("when");
        let said = restore(&sandbox, &Criu::ours(), &images, &args).expect_err(when);
        assert!(said.contains(when), "{when}: {said}");
        sandbox.empty().expect("no task");
        // The kernel takes a namespace apart when it finds the time.
        let same = wait_for(LIMIT, || (outside() == before).then_some(()));
        assert!(same.is_some(), "{when}: {before} became {}", outside());
    }
    restore(&sandbox, &Criu::ours(), &images, &args[..2]).expect("restore");
    assert!(outside().contains("outside"));
    sandbox.finish();
}
