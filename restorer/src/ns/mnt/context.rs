//! Contexts of SELinux in the options of mounts, which may have commas in quotes.

/// The options of a list.
pub(super) fn split(options: &[u8]) -> Vec<&[u8]> {
    let mut quoted = false;
    let end = move |b: &u8| {
        quoted ^= *b == b'"';
        *b == b',' && !quoted
    };
    options.split(end).collect()
}

/// A value without the quotes around it.
pub(super) fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)
}

/// The options with another context, if they have one.
pub(super) fn replaced(options: &[u8], context: &str) -> Vec<u8> {
    let one = |option: &[u8]| {
        if option.starts_with(b"context=") {
            return format!("context=\"{context}\"").into_bytes();
        }
        option.to_vec()
    };
    split(options).into_iter().map(one).collect::<Vec<_>>().join(&b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_part_nothing() {
        // Linux 6.12 with SELinux.
        let options = br#"context="u:r:t:s0:c1,c2",size=64k,mode=755"#;
        let all = split(options);
        assert_eq!(all, [&br#"context="u:r:t:s0:c1,c2""#[..], b"size=64k", b"mode=755"]);
        assert_eq!(unquoted(&all[0][8..]), b"u:r:t:s0:c1,c2");
        assert_eq!(unquoted(b"64k"), b"64k");
        let new = br#"context="u:r:n:s0:c7,c8",size=64k,mode=755"#;
        assert_eq!(replaced(options, "u:r:n:s0:c7,c8"), new);
        assert_eq!(replaced(b"seclabel,size=1k", "u:r:n:s0"), b"seclabel,size=1k");
    }
}
