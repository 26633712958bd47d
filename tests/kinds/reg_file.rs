// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;
use crate::support::{Criu, LIMIT, Sandbox, directions, dump, restore, wait_for};

#[test]
fn files_keep_position_flags_and_descriptors() {
    Subject::new("reg_file").check();
}

#[test]
fn deleted_files_come_back_deleted_with_content() {
    Subject::new("ghost").check();
}

#[test]
fn deleted_files_keep_their_extended_attributes() {
    Subject::new("ghost_xattr").lost_by_stock("its images have no field for them").check();
}

#[test]
fn files_opened_by_a_deleted_name_find_their_other_name() {
    Subject::new("link_remap").dump_args(&["--link-remap"]).check();
}

#[test]
fn nameless_files_come_back_nameless() {
    Subject::new("tmpfile").check();
}

/// A program that was replaced since: by its size, and by its build-id.
#[test]
fn files_that_are_others_now_are_refused() {
    let grown = "printf x >>sleep";
    // The note of the build-id: 4, 20, 3, "GNU\0", then the id.
    let rebuilt = r"python3 - <<'E'
b = bytearray(open('sleep', 'rb').read())
b[b.index(b'\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0') + 16] ^= 1
open('sleep', 'r+b').write(b)
E";
    for (_, to) in directions(&Criu::ours(), Criu::stock().as_ref()) {
        for (change, by_size, word) in [(grown, false, "size"), (rebuilt, true, "build-id")] {
            let sandbox = Sandbox::new("validation");
            sandbox.shell("cp /usr/bin/sleep .");
            sandbox.start(&sandbox.path("sleep"), &["1000"]);
            let pid = wait_for(LIMIT, || sandbox.called("sleep").last().map(u32::to_string));
            let pid = pid.expect("sleep");
            let images = sandbox.make_images();
            dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
            sandbox.empty().expect("dumped");
            sandbox.shell(change);
            let said = restore(&sandbox, &to, &images, &[]).expect_err(word);
            assert!(said.to_lowercase().contains(&format!("bad {word}")), "{}: {said}", to.name);
            sandbox.empty().expect("nothing is left");
            let again = restore(&sandbox, &to, &images, &["--file-validation", "filesize"]);
            assert_eq!(again.is_ok(), by_size, "{}: {again:?}", to.name);
        }
    }
}
