//! What a namespace has and no image holds: told by name.

use crate::Error;
use sys::netlink::{Request, Socket, attribute, messages};

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
const XFRM_MSG_GETSA: u16 = 18;
const XFRM_MSG_GETPOLICY: u16 = 21;

/// Warns of all of it.
pub(super) fn tell(route: &mut Socket, id: u32) -> Result<(), Error> {
    let qdiscs = list(route, &Request::new("RTM_GETQDISC", RTM_GETQDISC).body(&[0; 20]))?;
    for message in messages(&qdiscs).filter(|m| m.kind == RTM_NEWQDISC) {
        if let Some((index, qdisc)) = set_by_somebody(message.body) {
            let link = sys::net::device_name(index).unwrap_or_default();
            let link = String::from_utf8_lossy(&link).into_owned();
            log::warn!("net namespace {id}: qdisc {qdisc} of link {link} is not saved (tc)");
        }
    }
    let hops = list(route, &Request::new("RTM_GETNEXTHOP", RTM_GETNEXTHOP).body(&[0; 8]))?;
    let count = messages(&hops).filter(|m| m.kind == RTM_NEWNEXTHOP).count();
    if count > 0 {
        log::warn!(
            "net namespace {id}: {count} nexthop objects are not saved; routes by them get hops of \
             their own"
        );
    }
    // No IPsec in this kernel.
    let Ok(mut xfrm) = Socket::open(libc::NETLINK_XFRM) else { return Ok(()) };
    for (name, kind, what) in [
        ("XFRM_MSG_GETSA", XFRM_MSG_GETSA, "associations"),
        ("XFRM_MSG_GETPOLICY", XFRM_MSG_GETPOLICY, "policies"),
    ] {
        let count = messages(&list(&mut xfrm, &Request::new(name, kind))?).count();
        if count > 0 {
            log::warn!("net namespace {id}: {count} IPsec {what} are not saved (ip xfrm)");
        }
    }
    Ok(())
}

fn list(socket: &mut Socket, request: &Request) -> Result<Vec<u8>, Error> {
    match socket.dump(request) {
        // Not in this kernel.
        Err(e) if matches!(e.errno(), libc::EOPNOTSUPP | libc::EINVAL) => Ok(Vec::new()),
        list => Ok(list?),
    }
}

/// Link and name of a queueing discipline that is not the kernel's choice: only those have a
/// number. `struct tcmsg`: family, index, handle, parent.
pub(super) fn set_by_somebody(body: &[u8]) -> Option<(u32, String)> {
    const TCMSG: usize = 20;
    const TCA_KIND: u16 = 1;
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let (index, handle) = (word(4)?, word(8)?);
    let kind = attribute(body.get(TCMSG..)?, TCA_KIND)?;
    let kind = String::from_utf8_lossy(kind.text()).into_owned();
    (handle != 0).then(|| (index, format!("{kind} {:x}:", handle >> 16)))
}
