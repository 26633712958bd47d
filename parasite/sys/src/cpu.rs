//! What the processor says about its register state.

/// Where one xsave component lies in the standard (not compacted) layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// Offset from the start of the area.
    pub offset: usize,
    /// Length; 0 when the processor lacks the component.
    pub len: usize,
}

/// Place of xsave component `index` (2 and up), by `CPUID(0xd, index)`.
#[cfg(target_arch = "x86_64")]
pub fn xsave_component(index: u32) -> Component {
    #[allow(unused_unsafe, reason = "safe in newer toolchains")]
    // SAFETY: every x86-64 processor has CPUID; leaf 0xd answers zeroes where unsupported.
    let leaf = unsafe { core::arch::x86_64::__cpuid_count(0xd, index) };
    // Bit 0 of ecx: a supervisor component, which is not in user areas.
    if leaf.ecx & 1 != 0 {
        return Component::default();
    }
    Component { offset: leaf.ebx as usize, len: leaf.eax as usize }
}
