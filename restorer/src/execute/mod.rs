//! The plan, carried out.
//!
//! The coordinator (the `criu restore` process) makes the root task, which makes its children and
//! so on. All move from stage to stage together, by a shared page. Every process comes to its end
//! in the blob, asleep; the coordinator, which traces them all by then, puts registers and lets
//! them go. Until then the death of the coordinator kills them all.

pub(crate) mod arena;
mod ask;
mod cgroup;
pub(crate) mod coordinator;
mod enter_blob;
mod fill;
mod finish;
mod fork;
mod guard;
mod premap;
mod progress;
mod root;
mod scripts;
mod stage;
mod task;

pub(crate) use coordinator::run;
