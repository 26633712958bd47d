// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must hold when things go wrong: a dump that dies leaves its target as it was, a
//! restore that dies leaves nothing, and damaged images are refused in words.

#[path = "../support/mod.rs"]
mod support;

mod broken_images;
mod crowd;
mod full_disk;
mod hostile_images;
mod killed_dumper;
mod killed_pre_dump;
mod killed_restore;
