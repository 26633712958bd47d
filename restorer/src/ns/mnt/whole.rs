//! Mounts of which others show parts, kept while files without a name are made: a hard link goes
//! from one place to another within one mount only.

use super::MntPlan;
use super::build::Builder;
use super::plan::Source;
use crate::Error;
use crate::ns::Cx;
use std::os::fd::{AsFd, OwnedFd};

/// A mount, attached nowhere and with nothing on it, and those that show it or a part of it.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) mount: OwnedFd,
    pub(crate) parts: Vec<Part>,
}

/// A mount of the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its id in the images.
    pub(crate) id: u32,
    /// Where it is, in its namespace.
    point: Vec<u8>,
    /// What it shows, below the root of the whole.
    path: Vec<u8>,
}

impl Part {
    /// Where in the whole a path is that leads into this mount.
    fn within(&self, name: &[u8]) -> Option<Vec<u8>> {
        if !super::plan::covers(&self.point, name) {
            return None;
        }
        Some([&self.path, &b"/"[..], &super::plan::below(&self.point, name)].concat())
    }
}

impl Whole {
    /// Where in the whole a path is that leads into one of its mounts.
    pub(crate) fn within(&self, mnt_id: Option<i32>, name: &[u8]) -> Option<Vec<u8>> {
        let id = mnt_id?.cast_unsigned();
        self.parts.iter().find(|p| p.id == id)?.within(name)
    }
}

impl MntPlan {
    /// The mounts of which others are parts, by position, with all that show them.
    fn wholes(&self) -> Vec<(usize, Vec<Part>)> {
        let mounts = &self.trees.mounts;
        let mut out: Vec<(usize, Vec<Part>)> = Vec::new();
        let part = |i: usize, path: &[u8]| {
            let m = &mounts[i];
            Part { id: m.id, point: m.point.clone(), path: path.to_vec() }
        };
        let mut at = std::collections::HashMap::new();
        for (i, m) in mounts.iter().enumerate() {
            let Source::Bind { of, path, deleted: false } = &m.source else { continue };
            let n = *at.entry(*of).or_insert_with(|| {
                out.push((*of, vec![part(*of, b"")]));
                out.len() - 1
            });
            out[n].1.push(part(i, path));
        }
        out
    }
}

impl Builder<'_> {
    /// Copies of them, as long as every mount is alone in the yard.
    pub(super) fn keep_wholes(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        if cx.cp.remaps.is_empty() {
            return Ok(());
        }
        for (i, parts) in self.plan.wholes() {
            let Some(fd) = &self.fds[i] else { continue };
            let copy = sys::mount::clone_tree(fd.as_fd(), false);
            let copy = copy.map_err(|e| self.plan.trees.mounts[i].at(e))?;
            let mount = cx.made.raise(copy.as_fd())?;
            cx.made.wholes.push(Whole { mount, parts });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_the_whole() {
        let part = |id: u32, point: &[u8], path: &[u8]| Part {
            id,
            point: point.to_vec(),
            path: path.to_vec(),
        };
        let whole = Whole {
            mount: std::fs::File::open("/").expect("root").into(),
            parts: vec![part(1, b"/", b""), part(2, b"/mnt/a", b"x/y")],
        };
        assert_eq!(whole.within(Some(1), b"/f"), Some(b"/f".to_vec()));
        assert_eq!(whole.within(Some(2), b"/mnt/a/d/f"), Some(b"x/y/d/f".to_vec()));
        assert_eq!(whole.within(Some(2), b"/mnt/ab/f"), None);
        assert_eq!((whole.within(Some(3), b"/f"), whole.within(None, b"/f")), (None, None));
    }
}
