// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that are whole and say what cannot be: torn between records, ids of nothing, trees that
//! bite their tails, sizes beyond everything. An error that names the image or what is wrong in
//! it, before there is a process.

use crate::broken_images::Checkpoint;
use crate::support::{Criu, Ended};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

impl Checkpoint {
    /// The image `name` as `crit` shows it, changed by `change`.
    fn edited(&self, name: &str, change: impl FnMut(&str) -> String) -> Vec<u8> {
        self.try_edit(name, change).unwrap_or_else(|| panic!("crit encode {name}"))
    }

    /// As [`Self::edited`]; `None`: a number does not fit.
    fn try_edit(&self, name: &str, mut change: impl FnMut(&str) -> String) -> Option<Vec<u8>> {
        let crit = |verb: &str, input: &std::path::Path, output: &std::path::Path| {
            let mut command = Command::new(&Criu::ours().path);
            let ended = command.arg0("crit").arg(verb).arg("-i").arg(input).arg("-o").arg(output);
            ended.output().expect("crit").status.success()
        };
        let [json, changed, image] =
            ["json", "changed", "image"].map(|n| self.images.join(format!("{name}.{n}")));
        assert!(crit("decode", &self.images.join(name), &json), "crit decode {name}");
        let text = fs::read_to_string(&json).expect("json");
        let new = change(&text);
        if text == new {
            return None;
        }
        fs::write(&changed, new).expect("json");
        crit("encode", &changed, &image).then(|| fs::read(&image).expect("image"))
    }

    fn one(&self, start: &str) -> &str {
        let found = self.names.iter().find(|n| n.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in {:?}", self.names))
    }
}

/// Sets the `nth` number called `field`, from the end if negative.
fn set(text: &str, field: &str, nth: isize, value: u64) -> String {
    let key = format!("\"{field}\": ");
    let places: Vec<usize> = text.match_indices(&key).map(|(at, _)| at + key.len()).collect();
    let count = places.len().cast_signed();
    let at = places[(if nth < 0 { count + nth } else { nth }).cast_unsigned()];
    let end = at + text[at..].find([',', '}', ']', '\n']).expect("end of a number");
    let value =
        if text[at..].starts_with('"') { format!("\"{value:#x}\"") } else { value.to_string() };
    format!("{}{value}{}", &text[..at], &text[end..])
}

#[test]
fn images_that_cannot_be_are_refused_in_words() {
    if Criu::ours_is_stock() {
        return crate::support::skip("hostile images", "stock may crash");
    }
    let checkpoint = Checkpoint::make("hostile");
    let root = checkpoint.crowd.pid.parse::<u64>().expect("pid");
    // Image, field, which of them, value.
    let cases = [
        ("pstree", "ppid", 0, root),
        ("pstree", "ppid", -1, 4_000_000),
        ("pstree", "ppid", 0, root + 1),
        ("pstree", "pid", -1, root),
        ("pstree", "pid", -1, 0xffff_ffff),
        ("pstree", "sid", -1, 4_000_000),
        ("fdinfo", "id", -1, 4_000_000),
        ("fdinfo", "fd", -1, 0xffff_ffff),
        ("fs-", "cwd_id", 0, 4_000_000),
        ("fs-", "root_id", 0, 0),
        ("mm-", "exe_file_id", 0, 4_000_000),
        ("mm-", "end", 1, 0x1000),
        ("mm-", "end", 1, u64::MAX - 4095),
        ("mm-", "start", 1, 0x1001),
        ("mm-", "shmid", 0, 4_000_000),
        ("pagemap-", "nr_pages", 0, 1 << 40),
        ("pagemap-", "vaddr", 0, 0x1234),
        ("pagemap-", "vaddr", -1, 0x10_0000),
        ("pagemap-", "pages_id", 0, 4_000_000),
        ("core-", "task_state", 0, 77),
        ("core-", "sched_policy", 0, 77),
        ("core-", "xstate_bv", 0, 1 << 40),
        ("ids-", "files_id", 0, 4_000_000),
        ("pstree", "sid", 0, 0xffff_ffff),
        ("core-", "fs_base", 0, 1 << 62),
        ("core-", "gs", 0, 0x7fff_ff00),
        ("core-", "mxcsr", 0, 0x7fff_ff00),
        ("core-", "futex_rla_len", 0, 0x7fff_ff00),
        ("core-", "sched_nice", 0, 0x7fff_ff00),
        ("core-", "ss_flags", 0, 0x7fff_ff00),
        ("core-", "uid", 0, 0xffff_ffff),
        ("core-", "fsgid", 0, 0xffff_ffff),
        ("core-", "secbits", 0, 0x7fff_ff00),
        ("core-", "rseq_abi_pointer", 0, 0x7fff_ff00),
        ("fs-", "umask", 0, 0x7fff_ff00),
        ("files", "signum", 0, 0x7fff_ff00),
        ("files", "state", 0, 0x7fff_ff00),
        ("files", "so_snd_tmo_usec", 0, 0x7fff_ff00),
        ("mm-", "mm_end_code", 0, 0xffff_ffff),
        ("mm-", "mm_brk", 0, 1 << 62),
        ("mm-", "pgoff", 0, 0x7fff_ff00),
        ("mm-", "dumpable", 0, 0x7fff_ff00),
        // MADV_REMOVE would cut holes into what is mapped.
        ("mm-", "madv", 0, 1 << 9),
        ("pipes-data", "pipe_id", 0, 4_000_000),
        ("pipes-data", "size", 0, 0xffff_ffff),
        ("fifo-data", "pipe_id", 0, 4_000_000),
    ];
    for (start, field, nth, value) in cases {
        let name = match start {
            // The root's: others may be of threads, which have less.
            "core-" => format!("core-{root}.img"),
            _ => checkpoint.one(start).to_owned(),
        };
        let what = format!("{name}: {field} number {nth} = {value:#x}");
        let image = checkpoint.edited(&name, |text| set(text, field, nth, value));
        let ended = checkpoint.with(&name, Some(&image));
        assert!(ended.clean_failure(), "{what}: {ended:?}\n{}", checkpoint.log());
        checkpoint.nothing_left(&what);
        checkpoint.nothing_was_made(&what);
    }
}

/// Names of the numbers in an image, each once.
fn numbers(json: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in json.match_indices("\": ") {
        let value = json[at + 3..].trim_start_matches('"');
        let name = json[..at].rsplit('"').next().unwrap_or_default();
        if value.starts_with(|c: char| c.is_ascii_digit()) && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// To look for what is accepted and should not be: `AMBER_LOOK=1`.
#[test]
fn every_number_of_every_image() {
    if Criu::ours_is_stock() || std::env::var_os("AMBER_LOOK").is_none() {
        return crate::support::skip("every number", "a tool: AMBER_LOOK=1");
    }
    let checkpoint = Checkpoint::make("every-number");
    let mut kinds = std::collections::HashSet::new();
    let data = ["pages-", "stats", "manifest", "tmpfs-dev", "ghost-file"];
    for name in checkpoint.names.iter().filter(|n| !data.iter().any(|d| n.starts_with(d))) {
        if !kinds.insert(name.split(['-', '.']).next()) {
            continue;
        }
        let mut fields = Vec::new();
        let _ = checkpoint.try_edit(name, |text| {
            fields = numbers(text);
            text.to_owned()
        });
        for field in fields {
            for value in [0x7fff_ff00, 0xffff_ffff, 1 << 62] {
                let what = format!("{name}: {field} = {value:#x}");
                let edit = |text: &str| set(text, &field, 0, value);
                let Some(image) = checkpoint.try_edit(name, edit) else { continue };
                let ended = checkpoint.with(name, Some(&image));
                if ended.success() {
                    println!("ACCEPTED {what}");
                    checkpoint.end_tree();
                    continue;
                }
                let log = checkpoint.log();
                if !ended.clean_failure() {
                    println!("NOT CLEAN {what}: {ended:?}\n{log}");
                }
                let error = log.lines().find(|l| l.contains("Error (")).unwrap_or_default();
                let late = if log.contains("stage ") { "LATE " } else { "" };
                println!("{late}{what}: {error}");
                checkpoint.nothing_left(&what);
            }
        }
    }
}

#[test]
fn images_torn_between_records_are_refused_or_whole() {
    if Criu::ours_is_stock() {
        return crate::support::skip("torn images", "stock hangs on torn images");
    }
    let checkpoint = Checkpoint::make("torn-records");
    for name in &checkpoint.names {
        let whole = checkpoint.original(name);
        let ends = records(&whole);
        // All of the few, some of the many.
        let step = (ends.len() / 8).max(1);
        for end in ends.into_iter().step_by(step).filter(|&end| end < whole.len()) {
            let what = format!("{name} of {} bytes cut to {end}", whole.len());
            let ended: Ended = checkpoint.with(name, Some(&whole[..end]));
            if ended.success() {
                // Fewer tasks, or less in a queue: nothing tells that there were more.
                checkpoint.end_tree();
                continue;
            }
            assert!(ended.clean_failure(), "{what}: {ended:?}\n{}", checkpoint.log());
            checkpoint.nothing_left(&what);
        }
    }
}

/// Where records end, the heads of the image included.
fn records(image: &[u8]) -> Vec<usize> {
    let mut ends = vec![4, 8];
    let mut at = 8;
    while let Some(len) = image.get(at..at + 4) {
        at += 4 + u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize;
        if at > image.len() {
            break;
        }
        ends.push(at);
    }
    ends.retain(|&end| end <= image.len());
    ends
}
