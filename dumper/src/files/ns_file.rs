//! Collects descriptors of namespaces.

use super::error::{Why, text};
use super::{FileTable, Open, entry};
use images::checkpoint::NsKind;
use images::proto::{FdTypes, NsFileEntry};

impl FileTable {
    /// The namespace is one that a task of the tree is in, or the dumper's own.
    pub(crate) fn ns_file(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let name = open.link.split(|&b| b == b':').next().unwrap_or_default();
        let kind = NsKind::ALL
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
            .ok_or_else(|| Why::refused(format!("namespace of unknown kind {}", text(name))))?;
        let ns = self
            .ns
            .by_ino(kind, open.stat.st_ino)
            .ok_or_else(|| Why::refused("Can't dump a namespace that no task of the tree is in"))?;
        let mut file = entry(FdTypes::Ns, open.id);
        file.nsf = Some(NsFileEntry {
            id: open.id,
            ns_id: ns.id,
            ns_cflag: kind.clone_flag(),
            flags: open.info.flags,
        });
        self.files.push(file);
        Ok(())
    }
}
