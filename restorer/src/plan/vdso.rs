//! Makes the saved vDSO work on the running kernel.
//!
//! The saved task holds addresses of functions in its vDSO (in its GOT, in saved registers), so
//! those have to stay where they are. When the running kernel's vDSO has the same functions at
//! the same offsets, it is moved to the old address and all is well ([`Fit::Move`]). Otherwise
//! the old bytes stay, and each old function becomes a jump into the running kernel's vDSO, which
//! is parked elsewhere for good ([`Fit::Proxy`]).
//!
//! Pure: bytes in, bytes out.

use goblin::elf::Elf;
use std::collections::BTreeMap;

/// Why a vDSO cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// Not an ELF image, or one that is cut short.
    #[error("{which} vdso is no ELF image")]
    Elf {
        /// `saved` or `running`.
        which: &'static str,
        /// What the parser says.
        source: goblin::error::Error,
    },
    /// A function which the task may call is missing here.
    #[error("the running kernel's vdso has no `{name}`, which the saved one has")]
    Missing {
        /// Its name.
        name: String,
    },
    /// There is no room for a jump in the place of a function.
    #[error("saved vdso: `{name}` has {room} bytes, a jump needs {JUMP_LEN}")]
    NoRoom {
        /// Its name.
        name: String,
        /// Bytes up to the next function.
        room: u64,
    },
}

/// Bytes of a jump: `movabs $addr, %rax; jmp *%rax`.
const JUMP_LEN: u64 = 12;

/// How the saved vDSO gets to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The running kernel's vDSO goes to the old address.
    Move,
    /// The old bytes stay, with these jumps written over them.
    Proxy(Vec<Jump>),
}

/// One function that becomes a jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jump {
    /// Offset of the function in the saved vDSO.
    pub at: u64,
    /// Offset of its namesake in the running kernel's vDSO.
    pub to: u64,
}

impl Jump {
    /// The instructions, for a running vDSO that starts at `base`.
    pub(crate) fn code(&self, base: u64) -> [u8; JUMP_LEN as usize] {
        let mut code = [0; JUMP_LEN as usize];
        code[..2].copy_from_slice(&[0x48, 0xb8]);
        code[2..10].copy_from_slice(&(base + self.to).to_le_bytes());
        code[10..].copy_from_slice(&[0xff, 0xe0]);
        code
    }
}

/// The functions that a vDSO exports: offset by name.
type Functions = BTreeMap<String, u64>;

fn functions(image: &[u8], which: &'static str) -> Result<Functions, Error> {
    let elf = Elf::parse(image).map_err(|source| Error::Elf { which, source })?;
    // Linked at 0 on x86-64, but the first segment tells in any case.
    let base = elf.program_headers.iter().map(|p| p.p_vaddr).min().unwrap_or(0);
    let mut found = Functions::new();
    for symbol in elf.dynsyms.iter().filter(|s| s.is_function() && !s.is_import()) {
        let name = elf.dynstrtab.get_at(symbol.st_name).unwrap_or_default();
        // `time` and `__vdso_time` are one function under two names; both may be called.
        if let Some(offset) = symbol.st_value.checked_sub(base)
            && offset < image.len() as u64
            && !name.is_empty()
        {
            found.insert(name.to_owned(), offset);
        }
    }
    Ok(found)
}

/// Decides how the saved vDSO fits the running one.
///
/// `gap`: for each, how far its vvar pages lie before it, in bytes; code reaches its data by
/// relative addresses, so a different gap means a different program.
pub(crate) fn fit(saved: (&[u8], u64), running: (&[u8], u64)) -> Result<Fit, Error> {
    let (saved, saved_gap) = saved;
    let (running, running_gap) = running;
    if saved == running && saved_gap == running_gap {
        return Ok(Fit::Move);
    }
    let old = functions(saved, "saved")?;
    let new = functions(running, "running")?;
    let same = saved.len() == running.len() && saved_gap == running_gap;
    if same && old == new {
        return Ok(Fit::Move);
    }
    let mut jumps = BTreeMap::new();
    for (name, &at) in &old {
        let to = *new.get(name).ok_or_else(|| Error::Missing { name: name.clone() })?;
        jumps.insert(at, Jump { at, to });
    }
    let starts: Vec<u64> = jumps.keys().copied().chain([saved.len() as u64]).collect();
    for pair in starts.windows(2) {
        let room = pair[1] - pair[0];
        if room < JUMP_LEN {
            let name = old.iter().find(|(_, at)| **at == pair[0]).map(|(name, _)| name.clone());
            return Err(Error::NoRoom { name: name.unwrap_or_default(), room });
        }
    }
    Ok(Fit::Proxy(jumps.into_values().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, SeekFrom};

    fn own_vdso() -> Vec<u8> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|l| l.ends_with("[vdso]")).unwrap();
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut mem = std::fs::File::open("/proc/self/mem").unwrap();
        mem.seek(SeekFrom::Start(start)).unwrap();
        let mut bytes = vec![0; (end - start) as usize];
        mem.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_equal_vdso_is_moved() {
        let vdso = own_vdso();
        assert_eq!(fit((&vdso, 0x4000), (&vdso, 0x4000)).unwrap(), Fit::Move);
    }

    #[test]
    fn another_distance_to_the_data_needs_jumps() {
        let vdso = own_vdso();
        let Fit::Proxy(jumps) = fit((&vdso, 0x4000), (&vdso, 0x6000)).unwrap() else {
            panic!("moved although its data lie elsewhere");
        };
        assert!(jumps.len() >= 4, "clock_gettime, gettimeofday, time, getcpu at least: {jumps:?}");
        assert!(jumps.iter().all(|j| j.at == j.to));
        let code = jumps[0].code(0x7fff_0000_0000);
        assert_eq!(code[..2], [0x48, 0xb8]);
        assert_eq!(code[2..10], (0x7fff_0000_0000 + jumps[0].to).to_le_bytes());
    }

    #[test]
    fn garbage_is_refused() {
        let vdso = own_vdso();
        assert!(matches!(fit((b"\x7fELF", 0), (&vdso, 0)), Err(Error::Elf { which: "saved", .. })));
        assert!(matches!(fit((&vdso, 0), (&[], 0)), Err(Error::Elf { which: "running", .. })));
        for cut in (0..vdso.len()).step_by(97) {
            // Any answer but a panic.
            drop(fit((&vdso[..cut], 0), (&vdso, 0)));
        }
    }
}
