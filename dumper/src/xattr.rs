//! Extended attributes. Some have ids in them: those of the dumper's user namespace for the dumper,
//! those of the tree's in images.

use std::io;

/// Maps an owner as the dumper sees it to what is saved: (uid, gid).
pub(crate) type Owners<'a> = &'a dyn Fn(u32, u32) -> (u32, u32);

/// What an id becomes that the tree's user namespace does not have.
const OVERFLOW: u32 = 65534;

/// `VFS_CAP_REVISION_MASK`, 2 and 3.
const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
/// Bytes of revision 2; a root id follows them in revision 3.
const CAPS: usize = 20;

/// `ACL_USER` and `ACL_GROUP`: entries with an id.
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

/// Names and values, as they are for the tree. `follow`: of what a link leads to.
pub(crate) fn all(
    path: &[u8],
    follow: bool,
    owners: Owners<'_>,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let inside = |(name, value): (Vec<u8>, Vec<u8>)| {
        let value = match &name[..] {
            b"security.capability" => capability(&value, owners),
            b"system.posix_acl_access" | b"system.posix_acl_default" => acl(&value, owners),
            _ => Some(value),
        };
        if value.is_none() {
            let (path, name) = (path.escape_ascii(), name.escape_ascii());
            log::warn!("{path}: {name} is of ids that the tree does not have, and left out");
        }
        Some((name, value?))
    };
    Ok(sys::file::xattrs(path, follow)?.into_iter().filter_map(inside).collect())
}

/// Capabilities that a program gets where `root` is root.
fn capability(value: &[u8], owners: Owners<'_>) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?));
    let (Some(magic), Some(caps)) = (word(0), value.get(4..CAPS)) else {
        return Some(value.to_owned());
    };
    let root = match magic & REVISION {
        REVISION_2 => 0,
        REVISION_3 => word(CAPS)?,
        _ => return Some(value.to_owned()),
    };
    let inside = owners(root, 0).0;
    if inside == OVERFLOW && root != OVERFLOW {
        return None;
    }
    let revision = if inside == 0 { REVISION_2 } else { REVISION_3 };
    let mut new = (magic & !REVISION | revision).to_le_bytes().to_vec();
    new.extend(caps);
    if inside != 0 {
        new.extend(inside.to_le_bytes());
    }
    Some(new)
}

/// A version, then for each entry a tag, what it allows, and an id.
fn acl(value: &[u8], owners: Owners<'_>) -> Option<Vec<u8>> {
    let mut new = value.to_owned();
    for entry in new.get_mut(4..)?.chunks_exact_mut(8) {
        let (head, id) = entry.split_at_mut(4);
        let old = u32::from_le_bytes((&*id).try_into().ok()?);
        let inside = match u16::from_le_bytes([head[0], head[1]]) {
            ACL_USER => owners(old, 0).0,
            ACL_GROUP => owners(0, old).1,
            _ => continue,
        };
        if inside == OVERFLOW && old != OVERFLOW {
            return None;
        }
        id.copy_from_slice(&inside.to_le_bytes());
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 and 1001 outside are 0 and 1 inside.
    fn map(uid: u32, gid: u32) -> (u32, u32) {
        let one = |id: u32| id.checked_sub(1000).filter(|id| *id < 2).unwrap_or(OVERFLOW);
        (one(uid), one(gid))
    }

    fn same(uid: u32, gid: u32) -> (u32, u32) {
        (uid, gid)
    }

    fn caps(revision: u32, root: Option<u32>) -> Vec<u8> {
        let mut value = (revision | 1).to_le_bytes().to_vec();
        value.extend([7; 16]);
        value.extend(root.into_iter().flat_map(u32::to_le_bytes));
        value
    }

    #[test]
    fn capabilities_are_of_a_root() {
        let plain = caps(REVISION_2, None);
        assert_eq!(capability(&plain, &same), Some(plain.clone()));
        assert_eq!(capability(&plain, &map), None);
        assert_eq!(capability(&caps(REVISION_3, Some(1000)), &map), Some(plain));
        let other = caps(REVISION_3, Some(1));
        assert_eq!(capability(&caps(REVISION_3, Some(1001)), &map), Some(other.clone()));
        assert_eq!(capability(&other, &same), Some(other));
        assert_eq!(capability(b"odd", &map), Some(b"odd".to_vec()));
    }

    #[test]
    fn access_lists_name_users_and_groups() {
        let entry =
            |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let list = |user, group| {
            [2u32.to_le_bytes().to_vec(), entry(1, u32::MAX), entry(2, user), entry(8, group)]
                .concat()
        };
        assert_eq!(acl(&list(1000, 1001), &map), Some(list(0, 1)));
        assert_eq!(acl(&list(5, 1001), &map), None);
        assert_eq!(acl(&list(5, 6), &same), Some(list(5, 6)));
    }
}
