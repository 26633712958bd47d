//! Why an image could not be read or written.

use std::io;

/// Result of working with images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be read or written. Every message begins with the file's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the kernel on the image or its directory.
    #[error("{file}: {call}: {source}")]
    Io {
        /// Name of the image or path of the directory.
        file: String,
        /// What was tried.
        call: &'static str,
        /// Why it did not work.
        source: io::Error,
    },
    /// The image is needed and is not there.
    #[error("{file}: no such image")]
    Absent {
        /// Name of the image.
        file: String,
    },
    /// The head is that of something else.
    #[error("{file}: magic is {got:#010x}, expected {want:#010x} ({what})")]
    Magic {
        /// Name of the image.
        file: String,
        /// What is in the file.
        got: u32,
        /// What should be.
        want: u32,
        /// Name of the magic.
        what: &'static str,
    },
    /// The file ends inside a head, a record or a payload.
    #[error("{file}: {what} {index} is cut short: {got} of {want} bytes")]
    Truncated {
        /// Name of the image.
        file: String,
        /// `entry`, `size of entry`, `payload of entry`.
        what: &'static str,
        /// Which one, from 0.
        index: u64,
        /// Bytes that are there.
        got: u64,
        /// Bytes that should be.
        want: u64,
    },
    /// A record claims a length that no honest image has.
    #[error("{file}: entry {index} of {len} bytes is over the limit of {max}")]
    TooLong {
        /// Name of the image.
        file: String,
        /// Which one, from 0.
        index: u64,
        /// Length it claims.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A record is no such message.
    #[error("{file}: entry {index} is no {message}: {source}")]
    Decode {
        /// Name of the image.
        file: String,
        /// Which one, from 0.
        index: u64,
        /// Message it should be.
        message: &'static str,
        /// Where decoding stopped.
        source: prost::DecodeError,
    },
    /// A record lacks a field that every version writes.
    #[error("{file}: entry {index} ({message}) has no `{field}`")]
    Missing {
        /// Name of the image.
        file: String,
        /// Which one, from 0.
        index: u64,
        /// Message it should be.
        message: &'static str,
        /// Path of the field.
        field: String,
    },
    /// The image has to have an entry and ends before.
    #[error("{file}: no {message} in it")]
    Empty {
        /// Name of the image.
        file: String,
        /// Message that should be there.
        message: &'static str,
    },
    /// The caller asks for a message that does not belong into the image.
    #[error("{file}: {message} does not belong in this image")]
    Foreign {
        /// Name of the image.
        file: String,
        /// The message.
        message: &'static str,
    },
    /// What an entry says cannot be so.
    #[error("{file}: {reason}")]
    Invalid {
        /// Name of the image.
        file: String,
        /// Which entry and field, and what is wrong with it.
        reason: String,
    },
}

impl Error {
    /// The nearest there is to an errno.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(nix::libc::EIO),
            Self::Absent { .. } => nix::libc::ENOENT,
            _ => nix::libc::EINVAL,
        }
    }

    /// An entry of `file` says what cannot be so.
    pub fn invalid(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { file: file.into(), reason: reason.into() }
    }

    /// Makes a mapper for errors of a kernel call on `file`.
    pub(crate) fn io<E: Into<io::Error>>(file: &str, call: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { file: file.to_owned(), call, source: source.into() }
    }
}
