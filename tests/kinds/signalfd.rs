// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn signalfd_keeps_its_mask() {
    Subject::new("signalfd").check();
}
