//! CRIU image files: what a checkpoint is, at rest and in transit.
//!
//! A [`Dir`] holds images; [`Image`] names one of them and knows how it is framed; [`Writer`] and
//! [`Reader`] move the messages of [`proto`] in and out. Memory lives in [`pages`], and
//! [`Checkpoint`] is all of it, checked.
//!
//! Nothing here opens anything but the directory it was given (and its `parent`s).
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod crit;
mod dir;
mod error;
mod kind;
pub mod manifest;
pub mod page_server;
pub mod pages;
mod reader;
mod required;
mod schema;
mod writer;
pub mod xattr;

pub use checkpoint::{Checkpoint, Options};
pub use dir::{Dir, PARENT};
pub use error::{Error, Result};
pub use kind::{COMMON_MAGIC, Creation, Framing, Head, Image, KINDS, Kind, SERVICE_MAGIC, Status};
pub use reader::{Entries, Extent, Input, MAX_ENTRY_LEN, Reader, Version};
pub use writer::Writer;

/// The messages of CRIU's images, as generated from `proto/`.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/criu.rs"));
}
