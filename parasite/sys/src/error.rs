use std::fmt;

/// A failed system call: the call as strace would print it, and its errno.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    call: String,
    errno: i32,
}

/// What the wrappers return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The last call of this thread failed: takes `errno` from it.
    pub fn last(call: impl fmt::Display) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Self { call: call.to_string(), errno }
    }

    /// A call that failed with a known errno.
    pub fn new(call: impl fmt::Display, errno: i32) -> Self {
        Self { call: call.to_string(), errno }
    }

    /// A failed `std::io` operation.
    pub fn io(call: impl fmt::Display, e: &std::io::Error) -> Self {
        Self { call: call.to_string(), errno: e.raw_os_error().unwrap_or(libc::EIO) }
    }

    /// The errno, positive.
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, std::io::Error::from_raw_os_error(self.errno))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Turns libc's `-1 and errno` into a [`Result`]; `call` is built only on failure.
pub(crate) fn check(ret: libc::c_long, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    if ret == -1 { Err(Error::last(call())) } else { Ok(ret) }
}
