//! BTF, the kernel's own description of its types: where the members of a structure are.
//!
//! Pure: bytes in, numbers out, whatever the bytes are. Only what is asked for is looked at: the
//! 150000 types of a kernel are gone through once, which takes one millisecond.

const MAGIC: u16 = 0xeb9f;
const INT: u32 = 1;
const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const TYPE_TAG: u32 = 18;
/// Structures within structures, or names of names, are not deeper.
const DEEPEST: usize = 16;
/// Nor have they more members in all.
const MEMBERS: usize = 1 << 16;

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A structure.
    Struct,
    /// A function.
    Func,
}

/// Types and their names.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins: type n at n - 1, as 0 is `void`.
    starts: Vec<u32>,
}

/// The first twelve bytes of a type.
#[derive(Clone, Copy, Debug)]
struct Head {
    name: u32,
    kind: u32,
    vlen: usize,
    /// Members may have widths in bits.
    flag: bool,
    /// Bytes, or another type.
    size_or_type: u32,
    /// Where what follows is.
    rest: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn head(types: &[u8], at: usize) -> Option<Head> {
    let [name, info, size_or_type] =
        [u32_at(types, at)?, u32_at(types, at + 4)?, u32_at(types, at + 8)?];
    Some(Head {
        name,
        kind: info >> 24 & 0x1f,
        vlen: (info & 0xffff) as usize,
        flag: info >> 31 != 0,
        size_or_type,
        rest: at + 12,
    })
}

impl<'a> Btf<'a> {
    /// Finds where each type begins. `None` if this is no BTF, or has kinds not known here.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let word = |at| u32_at(bytes, at).map(|n| n as usize);
        let body = bytes.get(word(4)?..)?;
        let part = |at: usize, len: usize| body.get(at..at.checked_add(len)?);
        let types = part(word(8)?, word(12)?)?;
        let strings = part(word(16)?, word(20)?)?;
        let mut starts = Vec::with_capacity(types.len() / 24);
        let mut at = 0;
        while at < types.len() {
            let head = head(types, at)?;
            starts.push(u32::try_from(at).ok()?);
            let (each, fixed) = match head.kind {
                INT | 14 | 17 => (0, 4),
                3 => (0, 12),
                STRUCT | UNION | 15 | 19 => (12, 0),
                6 | 13 => (8, 0),
                PTR | 7..=FUNC | 16 | TYPE_TAG => (0, 0),
                _ => return None,
            };
            at = head.rest + fixed + each * head.vlen;
        }
        Some(Self { types, strings, starts })
    }

    fn head(&self, id: u32) -> Option<Head> {
        let start = *self.starts.get(usize::try_from(id.checked_sub(1)?).ok()?)?;
        head(self.types, start as usize)
    }

    fn is_called(&self, name_at: u32, name: &str) -> bool {
        let text = self.strings.get(name_at as usize..).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Numbers of these types, all in one pass; 0 for what is not there, or more than once.
    pub fn find<const N: usize>(&self, wanted: [(Kind, &str); N]) -> [u32; N] {
        let mut found = [0; N];
        let mut twice = [false; N];
        for (i, start) in self.starts.iter().enumerate() {
            let Some(head) = head(self.types, *start as usize) else { continue };
            let kind = match head.kind {
                STRUCT => Kind::Struct,
                FUNC => Kind::Func,
                _ => continue,
            };
            for (n, (_, name)) in wanted.iter().enumerate().filter(|(_, w)| w.0 == kind) {
                if self.is_called(head.name, name) {
                    twice[n] |= found[n] != 0;
                    found[n] = i as u32 + 1;
                }
            }
        }
        std::array::from_fn(|n| if twice[n] { 0 } else { found[n] })
    }

    /// Offset in bytes of a member of eight bytes, a number or a pointer, that may be in structures
    /// and unions without a name.
    pub fn word(&self, id: u32, name: &str) -> Option<i16> {
        let (bits, id) = self.member(id, name, DEEPEST, &mut { MEMBERS })?;
        let is_word = bits % 64 == 0 && self.is_word(id);
        is_word.then(|| i16::try_from(bits / 8).ok()).flatten()
    }

    /// Offset in bits and type of a member. `left` is how many may be looked at.
    fn member(&self, id: u32, name: &str, deepest: usize, left: &mut usize) -> Option<(u32, u32)> {
        let head = self.head(id).filter(|h| matches!(h.kind, STRUCT | UNION))?;
        for n in 0..head.vlen {
            *left = left.checked_sub(1)?;
            let at = head.rest + 12 * n;
            let [called, id, offset] =
                [u32_at(self.types, at)?, u32_at(self.types, at + 4)?, u32_at(self.types, at + 8)?];
            if head.flag && offset >> 24 != 0 {
                continue;
            }
            if called != 0 && self.is_called(called, name) {
                return Some((offset, id));
            }
            if called == 0 && deepest > 0 {
                let inner = self.bare(id).and_then(|id| self.member(id, name, deepest - 1, left));
                if let Some((more, id)) = inner {
                    return Some((offset.checked_add(more)?, id));
                }
            }
        }
        None
    }

    /// The type behind other names and qualifiers.
    fn bare(&self, mut id: u32) -> Option<u32> {
        for _ in 0..DEEPEST {
            let head = self.head(id)?;
            match head.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = head.size_or_type,
                _ => return Some(id),
            }
        }
        None
    }

    fn is_word(&self, id: u32) -> bool {
        match self.bare(id).and_then(|id| self.head(id)) {
            Some(head) => head.kind == PTR || (head.kind == INT && head.size_or_type == 8),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
