//! Addresses, routes and rules: the kernel's messages back to back, behind the number with which
//! `ip … save` begins its files.

use super::write_raw;
use crate::Error;
use images::checkpoint::net::{ADDRESSES, ROUTES, RULES};
use images::{Dir, Image};
use sys::netlink::{Request, Socket, attribute, messages, plain_route};

const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;

/// Writes the four images.
pub(super) fn dump(route: &mut Socket, id: u32, dir: &Dir) -> Result<(), Error> {
    let ask = |name, kind, family: i32, len| {
        let mut body = vec![0; len];
        body[0] = family as u8;
        Request::new(name, kind).body(&body)
    };
    let write = |image, magic: u32, body: &[u8]| {
        write_raw(dir, image, &[&magic.to_le_bytes()[..], body].concat())
    };
    let addresses = route.dump(&ask("RTM_GETADDR", RTM_GETADDR, libc::AF_UNSPEC, 8))?;
    write(Image::Ifaddr(id), ADDRESSES, &addresses)?;
    let families = [(libc::AF_INET, Image::Route(id)), (libc::AF_INET6, Image::Route6(id))];
    for (family, image) in families {
        let routes = route.dump(&ask("RTM_GETROUTE", RTM_GETROUTE, family, 12));
        // Without IPv6 another family's are listed, or none.
        let routes = if family == libc::AF_INET6 { routes.unwrap_or_default() } else { routes? };
        write(image, ROUTES, &kept_routes(&routes, family))?;
    }
    let mut rules = route.dump(&ask("RTM_GETRULE", RTM_GETRULE, libc::AF_INET, 12))?;
    let six = route.dump(&ask("RTM_GETRULE", RTM_GETRULE, libc::AF_INET6, 12));
    rules.extend(further_rules(&six.unwrap_or_default()));
    write(Image::Rule(id), RULES, &rules)
}

const RTA_TABLE: u16 = 15;
const RTA_PRIORITY: u16 = 6;
const RTMSG: usize = 12;

/// Routes that the kernel does not make by itself whenever there is an address: all that are not
/// in the table `local`, of all other tables.
pub(super) fn kept_routes(list: &[u8], family: i32) -> Vec<u8> {
    const LOCAL: u32 = 255;
    const CLONED: u32 = 0x200;
    let mut out = Vec::new();
    for message in messages(list) {
        let [got, _, _, _, table, protocol, _, kind, f0, f1, f2, f3, ..] = *message.body else {
            continue;
        };
        let rest = message.after(RTMSG);
        let table = attribute(rest, RTA_TABLE).map_or_else(|| u32::from(table), |a| a.u32());
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        // "Unreachable" behind everything, by which the kernel ends an IPv6 table.
        const UNREACHABLE: u8 = 7;
        const KERNEL: u8 = 2;
        let last = || attribute(rest, RTA_PRIORITY).is_some_and(|a| a.u32() == u32::MAX);
        let end = kind == UNREACHABLE && protocol == KERNEL && last();
        if i32::from(got) == family && table != LOCAL && flags & CLONED == 0 && !end {
            out.extend(plain_route(message.raw));
        }
    }
    out
}

/// Rules of IPv6 besides those that every namespace has. CRIU leaves them all out; with these,
/// its restore makes them too.
pub(super) fn further_rules(list: &[u8]) -> Vec<u8> {
    const FRA_PRIORITY: u16 = 6;
    const FRA_TABLE: u16 = 15;
    let mut out = Vec::new();
    for message in messages(list) {
        let rest = message.after(12);
        let number = |kind| attribute(rest, kind).map_or(0, |a| a.u32());
        let ours = message.body.first() == Some(&(libc::AF_INET6 as u8));
        if ours && !matches!((number(FRA_PRIORITY), number(FRA_TABLE)), (0, 255) | (32766, 254)) {
            out.extend(message.raw);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::netlink::{HEADER, attributes};

    fn message(body: &[u8]) -> Vec<u8> {
        let mut out = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend([24, 0, 2, 0]);
        out.extend([0; 8]);
        out.extend(body);
        out
    }

    fn route(table: u8, flags: u32, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 16, 0, 0, table, 3, 0, 1];
        body.extend(flags.to_ne_bytes());
        body.extend(attributes);
        message(&body)
    }

    #[test]
    fn local_and_cloned_routes_are_the_kernels() {
        let kept = route(254, 0, &[]);
        let other = route(0, 0, &[8, 0, 15, 0, 0, 4, 0, 0]);
        let list = [&kept[..], &route(255, 0, &[]), &route(254, 0x200, &[]), &other].concat();
        assert_eq!(kept_routes(&list, 2), [kept, other].concat());
        assert!(kept_routes(&list, 10).is_empty());
    }

    #[test]
    fn routes_lose_the_state_of_their_links_and_numbers_of_objects() {
        // RTA_NH_ID 5, RTA_MULTIPATH with a hop that is down, RTA_OIF 3.
        let attributes_in = [
            &[8, 0, 30, 0, 5, 0, 0, 0][..],
            &[12, 0, 9, 0, 8, 0, 0x14, 0, 2, 0, 0, 0],
            &[8, 0, 4, 0, 3, 0, 0, 0],
        ]
        .concat();
        let got = kept_routes(&route(254, 0x10 | 4, &attributes_in), 2);
        let got = messages(&got).next().unwrap();
        assert_eq!(got.body[8..12], [4, 0, 0, 0]);
        let all: Vec<_> = attributes(got.after(RTMSG)).map(|a| (a.kind, a.value)).collect();
        assert_eq!(all, [(9, &[8, 0, 4, 0, 2, 0, 0, 0][..]), (4, &[3, 0, 0, 0][..])]);
        // Cut anywhere: no panic.
        let whole = route(254, 0, &attributes_in);
        for cut in 0..whole.len() {
            kept_routes(&whole[..cut], 2);
        }
    }

    #[test]
    fn default_rules_of_ipv6_are_left_out() {
        let rule = |priority: u32, table: u32| {
            let mut body = vec![10; 1];
            body.resize(12, 0);
            body.extend([8, 0, 6, 0]);
            body.extend(priority.to_ne_bytes());
            body.extend([8, 0, 15, 0]);
            body.extend(table.to_ne_bytes());
            message(&body)
        };
        let list = [rule(0, 255), rule(99, 100), rule(32766, 254)].concat();
        assert_eq!(further_rules(&list), rule(99, 100));
    }
}
