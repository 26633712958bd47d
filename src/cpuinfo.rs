//! `criu cpuinfo dump` and `criu cpuinfo check`.

use anyhow::{Context as _, Result, bail};
use images::proto::{CpuinfoEntry, CpuinfoX86Entry};
use images::{Dir, Image};
use std::path::Path;

/// What is compared (`--cpu-cap`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compare {
    /// FPU features and sizes (`fpu`).
    pub(crate) fpu: bool,
    /// Instructions the saved program may use (`ins`).
    pub(crate) ins: bool,
    /// All feature words alike (`cpu`).
    pub(crate) cpu: bool,
}

/// Writes `cpuinfo.img`.
pub(crate) fn dump(images_dir: &Path) -> Result<()> {
    let entry = dumper::cpuinfo::collect().context("cpu: unknown processor vendor")?;
    Dir::open(images_dir)?.write_one(Image::Cpuinfo, &entry)?;
    Ok(())
}

/// Compares this machine with the one that wrote `cpuinfo.img`.
pub(crate) fn check(images_dir: &Path, compare: Compare) -> Result<()> {
    let saved: CpuinfoEntry = Dir::open(images_dir)?.read_one(Image::Cpuinfo)?;
    let here = dumper::cpuinfo::collect().context("cpu: unknown processor vendor")?;
    let [saved] = &saved.x86_entry[..] else {
        bail!("cpuinfo.img: {} x86 entries, expected 1", saved.x86_entry.len());
    };
    fits(saved, &here.x86_entry[0], compare)
}

/// Bits of word 0 and 4 which the FPU check looks at: FPU, FXSR; OSXSAVE. Word 10: XSAVES.
const FPU_BITS: [(usize, u32); 4] = [(0, 1 << 0), (0, 1 << 24), (4, 1 << 27), (10, 1 << 3)];

/// Words that hold instructions a program can use, as against what only a kernel sees.
const INS_WORDS: [usize; 7] = [0, 1, 4, 6, 9, 11, 18];

fn fits(saved: &CpuinfoX86Entry, here: &CpuinfoX86Entry, compare: Compare) -> Result<()> {
    let words = match saved.capability_ver {
        1 => 12,
        2 => 19,
        other => bail!("cpuinfo.img: capability_ver {other} is unknown"),
    };
    if saved.capability.len() != words {
        bail!("cpuinfo.img: {} words of capability, expected {words}", saved.capability.len());
    }
    if saved.vendor_id != here.vendor_id {
        bail!("cpu: vendor {} in the image, {} here", saved.vendor_id, here.vendor_id);
    }
    let lacking = |word: usize, bits: u32| -> Result<()> {
        let missing = saved.capability[word] & bits & !here.capability[word];
        if missing != 0 {
            bail!("cpu: features {missing:#010x} of word {word} are required by the image");
        }
        Ok(())
    };
    if compare.fpu {
        for (word, bit) in FPU_BITS {
            lacking(word, bit)?;
        }
        let missing = saved.xfeatures_mask() & !here.xfeatures_mask();
        if missing != 0 {
            bail!("cpu: xsave components {missing:#x} are required by the image");
        }
        for (name, want, got) in [
            ("xsave_size", saved.xsave_size, here.xsave_size),
            ("xsave_size_max", saved.xsave_size_max, here.xsave_size_max),
        ] {
            if want.is_some_and(|want| Some(want) != got) {
                bail!("cpu: {name} is {:?} in the image, {:?} here", want, got);
            }
        }
    }
    if compare.ins {
        for word in INS_WORDS.into_iter().filter(|word| *word < words) {
            lacking(word, u32::MAX)?;
        }
    }
    if compare.cpu && saved.capability[..words] != here.capability[..words] {
        bail!("cpu: feature words differ from those of the image");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Compare = Compare { fpu: true, ins: true, cpu: true };

    fn here() -> CpuinfoX86Entry {
        dumper::cpuinfo::collect().unwrap().x86_entry.remove(0)
    }

    #[test]
    fn a_machine_fits_its_own_image() {
        fits(&here(), &here(), ALL).unwrap();
    }

    #[test]
    fn a_missing_instruction_is_named_by_its_word() {
        let mut poorer = here();
        poorer.capability[9] = 0;
        let error = fits(&here(), &poorer, ALL).unwrap_err().to_string();
        assert!(error.contains("word 9"), "{error}");
        // More than the image needs is fine, unless all words are compared.
        fits(&poorer, &here(), Compare { cpu: false, ..ALL }).unwrap();
        fits(&poorer, &here(), ALL).unwrap_err();
    }

    #[test]
    fn another_xsave_size_does_not_fit() {
        let mut other = here();
        other.xsave_size = Some(576);
        fits(&here(), &other, ALL).unwrap_err();
        fits(&here(), &other, Compare { fpu: false, cpu: false, ins: true }).unwrap();
    }
}
