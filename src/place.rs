//! The directories of a command.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::request::Dirs;

/// Where a command works.
#[derive(Debug)]
pub(crate) struct Place {
    /// The images directory, held open for scripts.
    pub(crate) images: File,
    /// The paths.
    pub(crate) dirs: Dirs,
    /// Held open where the path of the work directory is that of this descriptor.
    _work: File,
}

impl Place {
    /// Opens the images directory and changes to the work directory, by default the same.
    pub(crate) fn enter(images: &Path, work: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let not_a_dir = || std::io::Error::from_raw_os_error(libc::ENOTDIR);
            let opened = File::open(path);
            opened.and_then(|f| if f.metadata()?.is_dir() { Ok(f) } else { Err(not_a_dir()) })
        };
        let image_dir = open(images).map_err(|e| {
            ::log::error!("Can't open dir {}: {e}", images.display());
            anyhow::Error::from(e).context(format!("Couldn't open image dir {}", images.display()))
        })?;
        let work = work.unwrap_or(images);
        let cannot = || format!("Can't change directory to {}", work.display());
        let work_dir = open(work).with_context(cannot)?;
        let dirs = Dirs { images: path_of(&image_dir, images), work: path_of(&work_dir, work) };
        std::env::set_current_dir(&dirs.work).with_context(cannot)?;
        Ok(Self { images: image_dir, dirs, _work: work_dir })
    }
}

/// An absolute path of an open directory: by its name or, where that does not lead there (the
/// directory of an RPC client may be in another mount namespace), by its descriptor.
fn path_of(dir: &File, path: &Path) -> PathBuf {
    let id = |m: &std::fs::Metadata| (m.dev(), m.ino());
    let leads = |name: &PathBuf| matches!((dir.metadata(), name.metadata()), (Ok(a), Ok(b)) if id(&a) == id(&b));
    let by_descriptor = || PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.canonicalize().ok().filter(leads).unwrap_or_else(by_descriptor)
}
