//! What the bits of the kernel's own `vm_flags` mean: learned from mappings whose flags are known
//! both ways, as their places differ between kernels. Pure.

use super::smaps::VmFlags;

/// A mapping as the kernel has it, and as it shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its `vm_flags`.
    pub bits: u64,
    /// The same in codes.
    pub codes: VmFlags,
}

/// Codes that nobody asks for: they may be told wrong when they cannot be told from each other.
const UNASKED: VmFlags = VmFlags::MAY_READ
    .with(VmFlags::MAY_WRITE)
    .with(VmFlags::MAY_EXEC)
    .with(VmFlags::MAY_SHARE)
    .with(VmFlags::SOFTDIRTY);

/// Bits that came together in all samples, and the codes that came with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    bits: u64,
    codes: VmFlags,
}

/// What bits mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    groups: Vec<Group>,
    known: u64,
}

/// In which of the samples something is.
fn members(samples: &[Sample], has: impl Fn(&Sample) -> bool) -> Vec<bool> {
    samples.iter().map(has).collect()
}

impl Meaning {
    /// Solves it: the bit of a code is one that is set in the very samples that have the code.
    /// `None` if there is no such bit for one of them.
    ///
    /// A bit that is set elsewhere than every code means none of them. (It may have a code that
    /// this program does not know, or none.)
    pub fn learn(samples: &[Sample]) -> Option<Self> {
        let mut sets: Vec<(Vec<bool>, Group)> = Vec::new();
        for bit in (0..u64::BITS).map(|n| 1 << n) {
            let set = members(samples, |s| s.bits & bit != 0);
            match sets.iter_mut().find(|(known, _)| *known == set) {
                Some((_, group)) => group.bits |= bit,
                None if set.contains(&true) => {
                    sets.push((set, Group { bits: bit, ..Group::default() }));
                }
                None => {}
            }
        }
        for code in VmFlags::all() {
            let set = members(samples, |s| s.codes.has(code));
            if set.contains(&true) {
                let (_, group) = sets.iter_mut().find(|(known, _)| *known == set)?;
                group.codes = group.codes.with(code);
            }
        }
        let groups: Vec<_> = sets.into_iter().map(|(_, group)| group).collect();
        let known = groups.iter().map(|g| g.bits).sum();
        Some(Self { groups, known })
    }

    /// The codes of these bits. `None` if one of them was in no sample, or if it is not known which
    /// of several codes is the one of a bit.
    pub fn codes(&self, bits: u64) -> Option<VmFlags> {
        if bits & !self.known != 0 {
            return None;
        }
        let mut codes = VmFlags::default();
        for group in &self.groups {
            let part = bits & group.bits;
            if part == group.bits {
                codes = codes.with(group.codes);
            } else if part != 0 && !UNASKED.has(group.codes) {
                return None;
            }
        }
        Some(codes)
    }
}

#[cfg(test)]
mod tests;
