// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every kind of state, dumped and restored. One module per kind, one subject per test.

#[path = "../support/mod.rs"]
mod support;

use support::Subject;

mod eventfd;
mod eventpoll;
mod files;
mod inet_sk;
mod memory;
mod pipe;
mod reg_file;
mod task;
mod unix_sk;
