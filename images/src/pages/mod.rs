//! Memory contents: `pagemap-N`, `pagemap-shmem-N` and the `pages-N` they describe.
//!
//! ```text
//! pagemap := head, pagemap_head { pages_id }, pagemap_entry*
//! pages   := contents of the PRESENT entries, in their order
//! ```
//!
//! Writing goes to a [`PageSink`], reading comes from a [`PageSource`], so that compression or a
//! page server can lie in between. Entries without contents are in the source of the
//! [`Chain::parent`](source::Chain) or wait in a page server (LAZY).

mod convert;
mod dedup;
mod frames;
mod lz4;
mod pagemap;
mod sink;
mod source;
mod writer;

pub use convert::convert;
pub use dedup::dedup;
pub(crate) use dedup::dedup_set;
pub use frames::{
    COMPRESSED_VERSION, Codec, Compressed, Compression, Decoder, Encoder, FRAME, Frame, Frames,
};
pub use pagemap::{PageRange, PagemapReader, PagemapWriter};
pub use sink::{LocalSink, PageImages, PageSink};
pub use source::{Chain, MAX_LAYERS, Origin, PageSource, PagesFile, Segment};
pub use writer::FrameWriter;

use crate::Image;

/// Size of a page in images of this architecture.
///
/// The format has no field for it: on aarch64 it is the page size of the kernel that dumped, of
/// which 4 KiB is the one supported.
pub const PAGE_SIZE: u64 = 4096;

bitflags::bitflags! {
    /// What an entry of a pagemap says of its pages.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct PageFlags: u32 {
        /// Contents are in the parent images.
        const PARENT = 1;
        /// May be delivered on demand.
        const LAZY = 2;
        /// Contents are in the pages image.
        const PRESENT = 4;
        /// What newer writers may add.
        const _ = !0;
    }
}

/// Whose memory a pagemap describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSet {
    /// Private memory of the task with this virtual pid; addresses are virtual.
    Task(u32),
    /// A shared segment (inode number or SysV id); addresses are offsets.
    Shmem(u64),
}

impl PageSet {
    /// The pagemap that describes it.
    #[must_use]
    pub fn image(self) -> Image {
        match self {
            Self::Task(pid) => Image::Pagemap(pid.into()),
            Self::Shmem(id) => Image::PagemapShmem(id),
        }
    }
}
