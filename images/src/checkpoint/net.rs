//! What both sides know of the images of a network namespace.

/// Settings of a link for IPv4, below `net/ipv4/conf/LINK`, by their place in images.
pub const CONF4: [&str; 30] = [
    "accept_local",
    "accept_redirects",
    "accept_source_route",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "bootp_relay",
    "disable_policy",
    "disable_xfrm",
    "force_igmp_version",
    "forwarding",
    "igmpv2_unsolicited_report_interval",
    "igmpv3_unsolicited_report_interval",
    "log_martians",
    "medium_id",
    "promote_secondaries",
    "proxy_arp",
    "proxy_arp_pvlan",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
    "tag",
    "ignore_routes_with_linkdown",
    "drop_gratuitous_arp",
    "drop_unicast_in_l2_multicast",
];

/// The same for IPv6, below `net/ipv6/conf/LINK`.
pub const CONF6: [&str; 42] = [
    "accept_dad",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_from_local",
    "accept_ra_min_hop_limit",
    "accept_ra_mtu",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "accept_ra_rtr_pref",
    "accept_redirects",
    "accept_source_route",
    "autoconf",
    "dad_transmits",
    "disable_ipv6",
    "drop_unicast_in_l2_multicast",
    "drop_unsolicited_na",
    "force_mld_version",
    "force_tllao",
    "forwarding",
    "hop_limit",
    "ignore_routes_with_linkdown",
    "keep_addr_on_down",
    "max_addresses",
    "max_desync_factor",
    "mldv1_unsolicited_report_interval",
    "mldv2_unsolicited_report_interval",
    "mtu",
    "ndisc_notify",
    "optimistic_dad",
    "proxy_ndp",
    "regen_max_retry",
    "router_probe_interval",
    "router_solicitation_delay",
    "router_solicitation_interval",
    "router_solicitations",
    STABLE_SECRET,
    "suppress_frag_ndisc",
    "temp_prefered_lft",
    "temp_valid_lft",
    "use_oif_addrs_only",
    "use_optimistic",
    "use_tempaddr",
];

/// The one of them that is text.
pub const STABLE_SECRET: &str = "stable_secret";

/// First words of the files of `ip addr save`, `ip route save`, `ip rule save`, which the raw
/// images are.
pub const ADDRESSES: u32 = 0x4736_1222;
/// See [`ADDRESSES`].
pub const ROUTES: u32 = 0x4531_1224;
/// See [`ADDRESSES`].
pub const RULES: u32 = 0x7170_6986;

/// Kinds of links that CRIU has no type for, and that are made again from what the kernel tells
/// about them.
pub const PLAIN_KINDS: [&str; 6] = ["dummy", "vlan", "ipvlan", "vxlan", "ifb", "vrf"];

/// The text of a ruleset (of nftables, or of `iptables-save`) without a lock of the network that
/// was in force when it was printed: tables and chains named `CRIU`, jumps to them, and tables
/// that have nothing else.
#[must_use]
pub fn without_lock(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The line that ends what is being left out; where the present table begins, if it was locked.
    let (mut until, mut table, mut locked): (Option<&str>, usize, bool) = (None, 0, false);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if let Some(end) = until {
            if bare == end {
                until = None;
            }
            continue;
        }
        let words: Vec<&str> = bare.split_whitespace().collect();
        match words[..] {
            // Behind it may stand who owns it.
            ["table", _, name, "{", ..] if name.starts_with("CRIU") => until = Some("}"),
            ["chain", "CRIU", "{"] => (until, locked) = (Some("\t}"), true),
            [.., "jump" | "-j", "CRIU"] => locked = true,
            ["-A", "CRIU", ..] | [":CRIU", ..] => {}
            _ => {
                if words.first() == Some(&"table") {
                    (table, locked) = (out.len(), false);
                }
                out.push_str(line);
                if bare == "}" && locked && is_idle(&out[table..]) {
                    out.truncate(table);
                }
            }
        }
    }
    out
}

/// Whether a table of nftables has only chains that let everything pass.
fn is_idle(table: &str) -> bool {
    table.lines().skip(1).map(str::trim).all(|line| {
        let passes = line.starts_with("type filter hook ") && line.ends_with("policy accept;");
        passes || line.is_empty() || line == "}" || line.starts_with("chain ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_out_and_nothing_else() {
        let nft = "table ip filter {\n\tchain CRIU {\n\t\tmeta mark 0x0000c114 accept\n\t\tdrop\n\
            \t}\n\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\
            \t\tcounter packets 0 bytes 0 jump CRIU\n\t\ttcp dport 77 drop\n\t}\n}\n\
            table inet CRIU-12 {\n\tchain input {\n\t\tdrop\n\t}\n}\ntable inet mine {\n}\n";
        let want = "table ip filter {\n\n\tchain INPUT {\n\t\ttype filter hook input priority \
            filter; policy accept;\n\t\ttcp dport 77 drop\n\t}\n}\ntable inet mine {\n}\n";
        assert_eq!(without_lock(nft), want);
        let legacy = "*filter\n:INPUT ACCEPT [8:433]\n:CRIU - [0:0]\n-A INPUT -j CRIU\n\
            -A INPUT -p tcp -j DROP\n-A CRIU -m mark --mark 0xc114 -j ACCEPT\n-A CRIU -j DROP\n\
            COMMIT\n";
        let want = "*filter\n:INPUT ACCEPT [8:433]\n-A INPUT -p tcp -j DROP\nCOMMIT\n";
        assert_eq!(without_lock(legacy), want);
        assert_eq!(without_lock(""), "");
        let only = "table ip6 filter {\n\tchain CRIU {\n\t\tdrop\n\t}\n\n\tchain INPUT {\n\t\ttype \
            filter hook input priority filter; policy accept;\n\t\tjump CRIU\n\t}\n}\n";
        assert_eq!(without_lock(only), "");
        let owned = "table inet CRIU-7-guard { # progname criu\n\tflags owner\n\n\tchain input {\n\t\t\
            type filter hook input priority filter; policy drop;\n\t}\n}\n";
        assert_eq!(without_lock(owned), "");
    }
}
