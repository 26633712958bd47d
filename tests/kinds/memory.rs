// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn memory_environment_and_auxv_stay() {
    Subject::new("env").check();
}
