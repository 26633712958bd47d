// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn shared_memory_and_memfds_stay_shared() {
    Subject::new("shm").check();
}

#[test]
fn sealed_memfds_stay_mapped() {
    Subject::new("shm")
        .args(&["sealed-mapped"])
        .stock_cannot_restore("seals after mapping: busy")
        .check();
}

#[test]
fn descriptors_of_shared_memory_stay() {
    Subject::new("shm_fd").check();
}

#[test]
fn descriptors_of_shared_memory_stay_in_namespaces() {
    Subject::new("shm_fd").flavour("pid,mnt,net,ipc,uts").check();
}
