//! Bytes as text, as Python's codecs do it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Longest line of quoted-printable.
const MAX_LINE: usize = 76;

/// Base64 in lines of 76 characters, each with a newline; nothing for nothing.
pub(crate) fn base64(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 57 * 77 + 80);
    for line in bytes.chunks(57) {
        for group in line.chunks(3) {
            let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
            let word = byte(0) << 16 | byte(1) << 8 | byte(2);
            for i in 0..4 {
                let digit = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
                out.push(if i <= group.len() { digit } else { b'=' });
            }
        }
        out.push(b'\n');
    }
    out
}

/// Reads base64; what is not of the alphabet is skipped. `None` if bits are missing.
pub(crate) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut digits) = (0u32, 0);
    for byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if digits >= 2 => break,
            _ => continue,
        };
        word = word << 6 | u32::from(digit);
        digits += 1;
        if digits == 4 {
            out.extend_from_slice(&word.to_be_bytes()[1..]);
            (word, digits) = (0, 0);
        }
    }
    match digits {
        0 => {}
        2 => out.push((word >> 4) as u8),
        3 => out.extend_from_slice(&[(word >> 10) as u8, (word >> 2) as u8]),
        _ => return None,
    }
    Some(out)
}

/// Quoted-printable as Python's `quopri` writes it.
pub(crate) fn quoted(bytes: &[u8]) -> Vec<u8> {
    let text = quoted_lines(bytes);
    // Mixed line ends do not survive: then quote everything.
    if from_quoted(&text) == bytes { text } else { bytes.iter().flat_map(|b| hex(*b)).collect() }
}

fn hex(byte: u8) -> [u8; 3] {
    let digit = |n: u8| b"0123456789ABCDEF"[usize::from(n)];
    [b'=', digit(byte >> 4), digit(byte & 15)]
}

fn quoted_lines(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|b| *b == b'\n');
    let crlf = first.is_some_and(|i| i > 0 && bytes[i - 1] == b'\r');
    let newline: &[u8] = if crlf { b"\r\n" } else { b"\n" };
    let mut out = Vec::new();
    let mut column = 0;
    let mut i = 0;
    while let Some(&c) = bytes.get(i) {
        let next = bytes.get(i + 1).copied();
        let lone_dot = c == b'.' && column == 0 && matches!(next, None | Some(b'\n' | b'\r' | 0));
        let blank = matches!(c, b'\t' | b' ');
        let control = c < 33 && !blank && !matches!(c, b'\r' | b'\n');
        if c > 126 || c == b'=' || lone_dot || (blank && next.is_none()) || control {
            if column + 3 >= MAX_LINE {
                out.push(b'=');
                out.extend_from_slice(newline);
                column = 0;
            }
            out.extend(hex(c));
            column += 3;
            i += 1;
        } else if c == b'\n' || (c == b'\r' && next == Some(b'\n')) {
            column = 0;
            if let Some(&last @ (b' ' | b'\t')) = out.last() {
                out.pop();
                out.extend(hex(last));
            }
            out.extend_from_slice(newline);
            i += if c == b'\r' { 2 } else { 1 };
        } else {
            if next.is_some_and(|n| n != b'\n') && column + 1 >= MAX_LINE {
                out.push(b'=');
                out.extend_from_slice(newline);
                column = 0;
            }
            out.push(c);
            column += 1;
            i += 1;
        }
    }
    out
}

/// Reads quoted-printable; what is damaged stands for itself.
pub(crate) fn from_quoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while let Some(&c) = text.get(i) {
        i += 1;
        if c != b'=' {
            out.push(c);
            continue;
        }
        let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (text.get(i), digit(i), digit(i + 1)) {
            (None, ..) => {}
            (Some(b'\n' | b'\r'), ..) => {
                i += text[i..].iter().position(|b| *b == b'\n').map_or(text.len() - i, |n| n + 1);
            }
            (Some(b'='), ..) => {
                out.push(b'=');
                i += 1;
            }
            (_, Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            _ => out.push(b'='),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_python() {
        assert_eq!(base64(b""), b"");
        assert_eq!(base64(b"hello pipe"), b"aGVsbG8gcGlwZQ==\n");
        assert_eq!(base64(b"cafe\0a"), b"Y2FmZQBh\n");
        let long = base64(&[0; 60]);
        assert_eq!(long.split(|b| *b == b'\n').map(<[u8]>::len).collect::<Vec<_>>(), [76, 4, 0]);
        for len in 0..200 {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37) as u8).collect();
            assert_eq!(from_base64(&base64(&bytes)).unwrap(), bytes);
        }
        assert_eq!(from_base64(b"A"), None);
    }

    #[test]
    fn quoted_printable_is_that_of_python() {
        let check = |bytes: &[u8], want: &[u8]| assert_eq!(quoted(bytes), want);
        check(b"\0abs\xfftract", b"=00abs=FFtract");
        check(b"a\tb\t", b"a\tb=09");
        check(b"x \ny", b"x=20\ny");
        check(b"r\r\n", b"r\r\n");
        check(b".", b"=2E");
        check(b"\n.\n", b"\n=2E\n");
        let long = [b"/".as_slice(), &[b'x'; 107]].concat();
        let mut want = vec![b'x'; 108];
        want[0] = b'/';
        want.splice(75..75, *b"=\n");
        check(&long, &want);
    }

    #[test]
    fn whatever_is_quoted_comes_back() {
        let mut seed = 1u32;
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"\r\n =.\tx\0\xff"[(seed >> 24) as usize % 9]
                })
                .collect();
            assert_eq!(from_quoted(&quoted(&bytes)), bytes);
        }
    }
}
