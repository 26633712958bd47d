use super::*;

const GETLINK: u16 = 18;

#[test]
fn the_loopback_device_is_listed_and_asked_for() {
    let mut route = Socket::open(libc::NETLINK_ROUTE).unwrap();
    let links = route.dump(&Request::new("RTM_GETLINK", GETLINK).body(&[0; 16])).unwrap();
    let lo = messages(&links).find(|m| m.body[4] == 1).unwrap();
    assert_eq!((lo.kind, attribute(lo.after(16), 3).unwrap().text()), (16, &b"lo"[..]));
    let one = Request::new("RTM_GETLINK", GETLINK).body(&[0; 16]).text(3, b"lo");
    let answer = route.ask(&one).unwrap();
    assert_eq!(messages(&answer).count(), 1);
    assert_eq!(messages(&answer).next().unwrap().body[4], 1);
}

#[test]
fn errors_have_the_request_and_the_kernels_words() {
    let mut route = Socket::open(libc::NETLINK_ROUTE).unwrap();
    let ask = |name: &str| {
        Request::new("RTM_GETLINK", GETLINK).about(name).body(&[0; 16]).text(3, name.as_bytes())
    };
    let e = route.ask(&ask("none-such")).unwrap_err();
    assert_eq!(e.errno(), libc::ENODEV);
    assert!(e.to_string().starts_with("RTM_GETLINK(none-such)"), "{e}");
    // More results than requests fit one call.
    let many: Vec<Request> =
        (0..250).map(|i| ask(if i % 2 == 0 { "lo" } else { "none-such" })).collect();
    let results = route.orders(&many).unwrap();
    assert_eq!(results.len(), 250);
    assert!(results.iter().enumerate().all(|(i, r)| r.is_ok() == (i % 2 == 0)));
    // Of a type that does not exist.
    let e = route.order(&Request::new("RTM_NONE", 4000).body(&[0; 16])).unwrap_err();
    assert_eq!(e.errno(), libc::EOPNOTSUPP);
    // A name that is too long.
    let wrong = Request::new("RTM_GETLINK", GETLINK).body(&[0; 16]).text(3, &[b'x'; 40]);
    let e = route.ask(&wrong).unwrap_err().to_string();
    assert!(e.contains('['), "{e}");
}

#[test]
fn lists_that_are_refused_are_errors() {
    let mut diag = Socket::open(libc::NETLINK_SOCK_DIAG).unwrap();
    let e = diag.dump(&Request::new("SOCK_DIAG_BY_FAMILY", 20).body(&[250, 0, 0, 0])).unwrap_err();
    assert!(e.errno() > 0, "{e}");
}

#[test]
fn nested_attributes_are_read_as_written() {
    let written = Attributes::default().text(3, b"eth0").nested(18, |info| {
        info.text(1, b"veth").nested(2, |data| data.u32(5, 7).be32(6, 7).u8(7, 1))
    });
    let all: Vec<u16> = attributes(written.bytes()).map(|a| a.kind).collect();
    assert_eq!(all, [3, 18]);
    let info = attribute(written.bytes(), 18).unwrap();
    assert_eq!(attribute(info.value, 1).unwrap().text(), b"veth");
    let data = attribute(info.value, 2).unwrap();
    let numbers: Vec<u32> = attributes(data.value).map(|a| a.u32()).collect();
    assert_eq!(numbers, [7, 7 << 24, 0]);
    assert_eq!(attributes(data.value).last().unwrap().u8(), 1);
}

#[test]
fn cut_messages_end_the_list() {
    assert_eq!(messages(&[]).count(), 0);
    let mut done = Vec::new();
    Request::new("NLMSG_DONE", MSG_DONE).body(&[0; 4]).write(1, 0, &mut done);
    assert_eq!(messages(&done).count(), 1);
    assert_eq!(messages(&done[..19]).count(), 0);
    assert_eq!(messages(&[0; 64]).count(), 0);
    assert_eq!(attributes(&[3, 0, 0, 0]).count(), 0);
    assert_eq!(attributes(&[0; 8]).count(), 0);
}
