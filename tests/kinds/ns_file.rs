// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn descriptors_of_namespaces_lead_to_the_same() {
    Subject::new("ns_file").check();
}

#[test]
fn descriptors_lead_to_the_trees_own_namespaces() {
    Subject::new("ns_file").flavour("pid,mnt,uts,ipc").check();
}
