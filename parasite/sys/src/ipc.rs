//! System V IPC of the calling thread's namespace.

use crate::Result;
use crate::error::check;

/// `SHM_LOCKED`, `SHM_DEST` and the like are beyond these bits of a mode.
pub const MODE: u32 = 0o777;
const MSG_COPY: i32 = 0o40000;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shared memory.
    Shm,
    /// Message queues.
    Msg,
    /// Semaphore sets.
    Sem,
}

/// Makes an object that must not exist: `size` is the length of a segment, the number of
/// semaphores of a set, nothing for a queue. Answers its id.
pub fn create(kind: Kind, key: i32, size: usize, mode: i32) -> Result<i32> {
    let flags = mode | libc::IPC_CREAT | libc::IPC_EXCL;
    let ret = match kind {
        // SAFETY: integers in, integer out.
        Kind::Shm => unsafe { libc::shmget(key, size, flags) },
        // SAFETY: integers in, integer out.
        Kind::Msg => unsafe { libc::msgget(key, flags) },
        // SAFETY: integers in, integer out.
        Kind::Sem => unsafe { libc::semget(key, size as i32, flags) },
    };
    check(ret.into(), || format!("{kind:?} get({key:#x}, {size}, {flags:#o})")).map(|r| r as i32)
}

/// Sets owner and permissions; of a queue also how many bytes it may hold.
pub fn set(kind: Kind, id: i32, uid: u32, gid: u32, mode: u32, qbytes: u64) -> Result<()> {
    let ret = match kind {
        Kind::Shm => {
            // SAFETY: all zero is a valid shmid_ds.
            let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
            (ds.shm_perm.uid, ds.shm_perm.gid, ds.shm_perm.mode) = (uid, gid, mode as _);
            // SAFETY: `ds` outlives the call.
            unsafe { libc::shmctl(id, libc::IPC_SET, &mut ds) }
        }
        Kind::Msg => {
            // SAFETY: all zero is a valid msqid_ds.
            let mut ds: libc::msqid_ds = unsafe { std::mem::zeroed() };
            (ds.msg_perm.uid, ds.msg_perm.gid, ds.msg_perm.mode) = (uid, gid, mode as _);
            ds.msg_qbytes = qbytes;
            // SAFETY: `ds` outlives the call.
            unsafe { libc::msgctl(id, libc::IPC_SET, &mut ds) }
        }
        Kind::Sem => {
            // SAFETY: all zero is a valid semid_ds.
            let mut ds: libc::semid_ds = unsafe { std::mem::zeroed() };
            (ds.sem_perm.uid, ds.sem_perm.gid, ds.sem_perm.mode) = (uid, gid, mode as _);
            // SAFETY: for IPC_SET the fourth argument is a pointer to a semid_ds, which outlives
            // the call.
            unsafe { libc::semctl(id, 0, libc::IPC_SET, &raw mut ds) }
        }
    };
    check(ret.into(), || format!("{kind:?} ctl({id}, IPC_SET)")).map(|_| ())
}

/// How many bytes a queue may hold.
pub fn queue_bytes(id: i32) -> Result<u64> {
    // SAFETY: all zero is a valid msqid_ds.
    let mut ds: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: `ds` outlives the call.
    let ret = unsafe { libc::msgctl(id, libc::IPC_STAT, &mut ds) };
    check(ret.into(), || format!("msgctl({id}, IPC_STAT)")).map(|_| ds.msg_qbytes)
}

/// Message number `index` of a queue, which it stays in: type and content. `max`: the longest
/// that a message can be. `ENOMSG`: there are not so many.
pub fn peek_message(id: i32, index: usize, max: usize) -> Result<(i64, Vec<u8>)> {
    let mut buf = vec![0u8; 8 + max];
    let flags = MSG_COPY | libc::IPC_NOWAIT;
    // SAFETY: the buffer has room for the type and `max` bytes.
    let ret =
        unsafe { libc::msgrcv(id, buf.as_mut_ptr().cast(), max, index as libc::c_long, flags) };
    let len = check(ret as libc::c_long, || format!("msgrcv({id}, MSG_COPY {index})"))?;
    let kind = i64::from_ne_bytes(std::array::from_fn(|i| buf[i]));
    buf.drain(..8);
    buf.truncate(len as usize);
    Ok((kind, buf))
}

/// Appends a message to a queue; never waits.
pub fn send_message(id: i32, kind: i64, body: &[u8]) -> Result<()> {
    let mut buf = kind.to_ne_bytes().to_vec();
    buf.extend_from_slice(body);
    // SAFETY: the buffer holds the type and `body.len()` bytes.
    let ret = unsafe { libc::msgsnd(id, buf.as_ptr().cast(), body.len(), libc::IPC_NOWAIT) };
    check(ret.into(), || format!("msgsnd({id}, {} bytes)", body.len())).map(|_| ())
}

/// The values of a set of `count` semaphores.
pub fn semaphores(id: i32, count: usize) -> Result<Vec<u16>> {
    let mut values = vec![0u16; count];
    // SAFETY: the kernel writes a u16 for each semaphore of the set; callers know their number.
    let ret = unsafe { libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr()) };
    check(ret.into(), || format!("semctl({id}, GETALL)")).map(|_| values)
}

/// Sets all values of a set of as many semaphores.
pub fn set_semaphores(id: i32, values: &[u16]) -> Result<()> {
    // SAFETY: the kernel reads a u16 for each semaphore of the set; callers know their number.
    let ret = unsafe { libc::semctl(id, 0, libc::SETALL, values.as_ptr()) };
    check(ret.into(), || format!("semctl({id}, SETALL)")).map(|_| ())
}

/// A segment that is attached until the value is dropped.
#[derive(Debug)]
pub struct Attached {
    at: *mut u8,
    len: usize,
}

/// Attaches a segment of `len` bytes.
pub fn attach(id: i32, len: usize, read_only: bool) -> Result<Attached> {
    let flags = if read_only { libc::SHM_RDONLY } else { 0 };
    // SAFETY: the kernel chooses a free place.
    let at = unsafe { libc::shmat(id, std::ptr::null(), flags) };
    check(at as libc::c_long, || format!("shmat({id})"))?;
    Ok(Attached { at: at.cast(), len })
}

impl Attached {
    /// Where it is.
    pub fn address(&self) -> u64 {
        self.at as u64
    }

    /// Writes into it.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "within");
        let to = self.at.wrapping_add(at);
        // SAFETY: the range lies within the segment, which is mapped writable as long as the
        // value lives; `bytes` is memory of our own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: attached by us at this place, and nobody has a reference into it.
        unsafe { libc::shmdt(self.at.cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_peeked_in_order() {
        let id = create(Kind::Msg, libc::IPC_PRIVATE, 0, 0o600).unwrap();
        send_message(id, 7, b"seven").unwrap();
        send_message(id, 3, b"").unwrap();
        let first = peek_message(id, 0, 100);
        let second = peek_message(id, 1, 100);
        let third = peek_message(id, 2, 100);
        // SAFETY: removes what was made above.
        unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        match first {
            // The kernel is built without.
            Err(e) if e.errno() == libc::ENOSYS => return,
            first => assert_eq!(first.unwrap(), (7, b"seven".to_vec())),
        }
        assert_eq!(second.unwrap(), (3, vec![]));
        assert_eq!(third.unwrap_err().errno(), libc::ENOMSG);
    }
}
