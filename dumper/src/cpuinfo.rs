//! `cpuinfo.img`: what the processor can do.
//!
//! | field | from |
//! |---|---|
//! | `vendor_id`, `cpu_family`, `model`, `stepping`, `model_id` | `CPUID` leaves 0, 1, 0x8000_0002.. |
//! | `capability` | 19 words of feature bits in Linux' order, `capability_ver` 2 |
//! | `xfeatures_mask`, `xsave_size`, `xsave_size_max` | leaf 0xd |

use images::proto::{CpuinfoEntry, CpuinfoX86Entry, cpuinfo_x86_entry::Vendor};
use sys::cpuid::cpuid;

/// Where Linux keeps feature words: number of the word, leaf, subleaf, register.
const WORDS: [(usize, u32, u32, usize); 15] = [
    (0, 0x1, 0, 3),
    (1, 0x8000_0001, 0, 3),
    (2, 0x8086_0001, 0, 3),
    (4, 0x1, 0, 2),
    (5, 0xc000_0001, 0, 3),
    (6, 0x8000_0001, 0, 2),
    (9, 0x7, 0, 1),
    (10, 0xd, 1, 0),
    (11, 0x7, 0, 2),
    (12, 0xf, 1, 3),
    (13, 0x8000_0008, 0, 1),
    (14, 0x6, 0, 0),
    (15, 0x8000_000a, 0, 3),
    (17, 0x8000_0007, 0, 1),
    (18, 0x7, 0, 3),
];

/// Components of the xsave area which images have room for. CRIU leaves SSE (bit 1) out: every
/// x86-64 has it.
const XFEATURES: u64 = 0b10_1111_1101;

/// Describes this machine's processor; `None` for vendors other than Intel and AMD.
pub fn collect() -> Option<CpuinfoEntry> {
    let [_, b, c, d] = cpuid(0, 0);
    let name: Vec<u8> = [b, d, c].iter().flat_map(|w| w.to_le_bytes()).collect();
    let vendor = match &name[..] {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" => Vendor::Amd,
        _ => return None,
    };
    let signature = cpuid(1, 0)[0];
    let (mut family, mut model) = ((signature >> 8) & 0xf, (signature >> 4) & 0xf);
    if family >= 6 {
        model |= (signature >> 12) & 0xf0;
    }
    if family == 0xf {
        family += (signature >> 20) & 0xff;
    }
    let [xlow, size, size_max, xhigh] = cpuid(0xd, 0);
    let xfeatures = (u64::from(xhigh) << 32 | u64::from(xlow)) & XFEATURES;
    Some(CpuinfoEntry {
        x86_entry: vec![CpuinfoX86Entry {
            vendor_id: vendor.into(),
            cpu_family: family,
            model,
            stepping: signature & 0xf,
            capability_ver: 2,
            capability: capability(vendor, family),
            model_id: Some(model_id()),
            xfeatures_mask: Some(xfeatures),
            xsave_size: Some(size),
            xsave_size_max: Some(size_max),
        }],
        ..CpuinfoEntry::default()
    })
}

fn capability(vendor: Vendor, family: u32) -> Vec<u32> {
    let mut words = vec![0; 19];
    for (word, leaf, subleaf, register) in WORDS {
        words[word] = cpuid(leaf, subleaf)[register];
    }
    // Word 3 is Linux' own: REP_GOOD (16) on processors whose `rep movs` is fast, NOPL (20) and
    // CPUID (25) on every 64-bit one.
    let rep_good = match vendor {
        Vendor::Intel => family == 6,
        _ => family >= 0x10,
    };
    words[3] = u32::from(rep_good) << 16 | 1 << 20 | 1 << 25;
    words
}

/// The brand string, without the blanks and zeros around it.
fn model_id() -> String {
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|leaf| cpuid(leaf, 0))
        .flat_map(u32::to_le_bytes)
        .collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_what_every_x86_64_has() {
        let entry = super::collect().unwrap();
        let cpu = &entry.x86_entry[0];
        assert_eq!(cpu.capability.len(), 19);
        let (fpu, fxsr, sse2) = (1 << 0, 1 << 24, 1 << 26);
        assert_eq!(cpu.capability[0] & (fpu | fxsr | sse2), fpu | fxsr | sse2);
        assert!(cpu.xsave_size.unwrap() <= cpu.xsave_size_max.unwrap());
    }
}
