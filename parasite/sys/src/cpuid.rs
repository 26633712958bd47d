//! What this processor can do, by `CPUID` and `XGETBV`.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Registers eax, ebx, ecx, edx after `CPUID` of a leaf and subleaf; zeros where the processor
/// does not know the leaf.
#[cfg(target_arch = "x86_64")]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let max = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > max {
        return [0; 4];
    }
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Components of the xsave area that the processor may know.
const COMPONENTS: usize = 63;

/// Offset and length of component `index` in the standard layout of the xsave area; `None` for
/// what has no place of its own there (x87 and SSE, what only the kernel uses, what this
/// processor lacks).
///
/// Asked once: in a virtual machine every `CPUID` is a visit to the hypervisor, tens of
/// microseconds. Call it before tasks are held.
pub fn xsave_component(index: u32) -> Option<(usize, usize)> {
    static PLACES: OnceLock<[Option<(usize, usize)>; COMPONENTS]> = OnceLock::new();
    let places = PLACES.get_or_init(|| {
        let [low, _, _, high] = cpuid(0xd, 0);
        let known = u64::from(high) << 32 | u64::from(low);
        std::array::from_fn(|i| {
            if i < 2 || known >> i & 1 == 0 {
                return None;
            }
            // Bit 0 of ecx: only the kernel uses it.
            let r = __cpuid_count(0xd, i as u32);
            (r.ecx & 1 == 0).then_some((r.ebx as usize, r.eax as usize))
        })
    });
    *places.get(index as usize)?
}
