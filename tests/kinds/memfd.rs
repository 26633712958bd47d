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
