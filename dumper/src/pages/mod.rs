//! Contents of memory.

use crate::mm::Mm;
use crate::stop::Stop;
use crate::tree::Tree;
use crate::{Error, Request, Stats};
use images::Dir;

/// Writes the pages of all tasks (`pagemap-PID.img`, `pages-N.img`).
/// `mms` holds one [`Mm`] for each of [`Tree::alive`], in that order.
pub fn dump(
    _tree: &Tree,
    _mms: &[Mm],
    _request: &Request,
    _dir: &Dir,
    _stop: Stop,
    _stats: &mut Stats,
) -> Result<(), Error> {
    Err(Error::NotYet("pages".into()))
}
