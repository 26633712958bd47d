//! The build-id note of an ELF file: tells whether a binary is still the one that was dumped.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How much of a file is looked at.
const WINDOW: u64 = 1 << 20;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// The note's bytes as words in memory order, as images have them; `None` without a note.
pub(crate) fn of(file: &File) -> Option<Vec<u32>> {
    let mut head = [0u8; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if &head[..4] != b"\x7fELF" {
        return None;
    }
    let wide = head[4] == 2;
    let (table, size, count) = if wide {
        (word(&head, 32, true)?, half(&head, 54)?, half(&head, 56)?)
    } else {
        (word(&head, 28, false)?, half(&head, 42)?, half(&head, 44)?)
    };
    let len = usize::from(size) * usize::from(count);
    // Real files have a dozen headers; others may claim gigabytes.
    if len as u64 > WINDOW {
        return None;
    }
    let mut headers = vec![0u8; len];
    file.read_exact_at(&mut headers, table).ok()?;
    headers
        .chunks_exact(usize::from(size).max(1))
        .filter_map(|h| segment(h, wide))
        .filter(|(offset, len)| *offset < WINDOW && *len <= WINDOW)
        .find_map(|(offset, len)| {
            let mut notes = vec![0u8; len as usize];
            file.read_exact_at(&mut notes, offset).ok()?;
            note(&notes)
        })
}

/// Offset and length of a PT_NOTE segment.
fn segment(header: &[u8], wide: bool) -> Option<(u64, u64)> {
    if word(header, 0, false)? != PT_NOTE.into() {
        return None;
    }
    let (offset, len) = if wide { (8, 32) } else { (4, 16) };
    Some((word(header, offset, wide)?, word(header, len, wide)?))
}

fn note(mut notes: &[u8]) -> Option<Vec<u32>> {
    loop {
        let name_len = word(notes, 0, false)? as usize;
        let len = word(notes, 4, false)? as usize;
        let kind = word(notes, 8, false)?;
        let body = 12 + name_len.checked_next_multiple_of(4)?;
        let end = body.checked_add(len.checked_next_multiple_of(4)?)?;
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        if kind == NT_GNU_BUILD_ID.into() && name == b"GNU\0" {
            let bytes = notes.get(body..body + len)?;
            let words = bytes.chunks(4).map(|c| {
                let mut word = [0u8; 4];
                word[..c.len()].copy_from_slice(c);
                u32::from_ne_bytes(word)
            });
            return Some(words.collect());
        }
        notes = notes.get(end..)?;
    }
}

fn word(bytes: &[u8], at: usize, wide: bool) -> Option<u64> {
    if wide {
        return Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    }
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?).into())
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn headers_of_gigabytes_are_not_read() {
        // Found by fuzzing: 0xe9e9 headers of 0xe9e9 bytes.
        let mut bytes = b"\x7fELF".to_vec();
        bytes.resize(64, 0xe9);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.set_len(8 << 30).unwrap();
        assert_eq!(of(&file), None);
    }
}
