//! Extended attributes in the archives of a tmpfs: records in front of an entry.
//!
//! `SCHILY.xattr.NAME` with the value as it is, as GNU tar has it; `LIBARCHIVE.xattr.NAME` with the
//! value in base64, as bsdtar has it, where a line ends within the value: readers that take records
//! for lines (ours is one) would not find the end.

use crate::crit::text::{base64, from_base64};

const PLAIN: &str = "SCHILY.xattr.";
const ENCODED: &str = "LIBARCHIVE.xattr.";

/// Key and value of a record.
#[must_use]
pub fn record(name: &str, value: &[u8]) -> (String, Vec<u8>) {
    if !value.contains(&b'\n') {
        return (format!("{PLAIN}{name}"), value.to_owned());
    }
    let mut encoded = base64(value);
    encoded.retain(|b| *b != b'\n');
    (format!("{ENCODED}{name}"), encoded)
}

/// Name and value; `None` if the record is of something else.
#[must_use]
pub fn from_record(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if let Some(name) = key.strip_prefix(PLAIN.as_bytes()) {
        return Some((name.to_owned(), value.to_owned()));
    }
    let name = key.strip_prefix(ENCODED.as_bytes())?;
    Some((name.to_owned(), from_base64(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_any_bytes() {
        for value in [&b""[..], b"plain", b"\0\xff", b"two\nlines", b"\n", &[b'\n'; 100]] {
            let (key, kept) = record("trusted.overlay.origin", value);
            assert!(!kept.contains(&b'\n'));
            let read = from_record(key.as_bytes(), &kept);
            assert_eq!(read, Some((b"trusted.overlay.origin".to_vec(), value.to_vec())));
        }
        assert_eq!(from_record(b"mtime", b"1.5"), None);
    }
}
