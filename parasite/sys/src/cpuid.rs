//! What this processor can do, by `CPUID` and `XGETBV`.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{__cpuid, __cpuid_count};

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
