//! Collects descriptors of namespaces.

use super::error::{Why, text};
use super::{FileTable, Open, entry};
use images::checkpoint::NsKind;
use images::proto::{FdTypes, NsFileEntry};

impl FileTable {
    /// The namespace is one that a task of the tree is in, the dumper's own, or one of the network.
    pub(crate) fn ns_file(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let name = open.link.split(|&b| b == b':').next().unwrap_or_default();
        let kind = NsKind::ALL
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
            .ok_or_else(|| Why::refused(format!("namespace of unknown kind {}", text(name))))?;
        let id = self.ns.id_of(kind, open.own, open.pid)?;
        let refused = || Why::refused("Can't dump a namespace that no task of the tree is in");
        let ns_id = id.ok_or_else(refused)?;
        let mut file = entry(FdTypes::Ns, open.id);
        file.nsf = Some(NsFileEntry {
            id: open.id,
            ns_id,
            ns_cflag: kind.clone_flag(),
            flags: open.info.flags,
        });
        self.files.push(file);
        Ok(())
    }
}
