// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn eventfd_keeps_its_counter_and_flags() {
    Subject::new("eventfd").check();
}

#[test]
fn eventfd_stays_a_semaphore() {
    Subject::new("eventfd")
        .args(&["semaphore"])
        .lost_by_stock("no EFD_SEMAPHORE in its images")
        .check();
}

#[test]
fn eventfd_counts_beyond_32_bits() {
    Subject::new("eventfd").args(&["big"]).stock_cannot_restore("its counter has 32 bits").check();
}
