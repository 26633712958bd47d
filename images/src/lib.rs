//! CRIU image files: what a checkpoint is, at rest and in transit.
#![forbid(unsafe_code)]

/// The messages of CRIU's images, as generated from `proto/`.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/criu.rs"));
}
