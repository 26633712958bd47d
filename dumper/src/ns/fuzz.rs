//! Parsers of what the kernel tells about namespaces, for fuzzing.

use super::{ipc, mnt, net, time, user};
use crate::Request;

/// `/proc/PID/mountinfo`: how many mounts.
pub fn mountinfo(text: &[u8]) -> usize {
    mnt::parse_mountinfo(text).len()
}

/// `/proc/sysvipc/*`: how many objects.
pub fn sysvipc(text: &str) -> usize {
    ipc::parse("shm", text).len()
}

/// `/proc/PID/uid_map`: whether it parses.
pub fn id_map(text: &str) -> bool {
    user::parse(text).is_some()
}

/// `/proc/PID/timens_offsets`.
pub fn time_offsets(text: &str) -> [i128; 2] {
    time::parse(text)
}

/// Answers of rtnetlink about links, routes, rules and what is not saved.
pub fn rtnetlink(bytes: &[u8], request: &Request) {
    net::parse(bytes, request);
}
