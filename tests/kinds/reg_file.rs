// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

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
