//! Answers of the kernel over netlink: the first byte chooses what is looked for.
#![no_main]

use dumper::parse::files;
use sys::netlink;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, bytes @ ..] = input else { return };
    match which % 4 {
        0 => {
            for message in netlink::messages(bytes) {
                for attribute in netlink::attributes(message.after(4)) {
                    let _ = (attribute.u32(), attribute.u16(), attribute.u8(), attribute.text());
                }
            }
        }
        1 => drop(files::netlink_diag(bytes)),
        2 => drop(files::unix_diag(bytes)),
        _ => drop(files::inet_diag(bytes)),
    }
});
