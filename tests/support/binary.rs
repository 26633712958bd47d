// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two binaries of a matrix: ours, and the stock CRIU it must interchange images with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A `criu` binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criu {
    /// `ours` or `stock`.
    pub name: &'static str,
    /// What is executed.
    pub path: PathBuf,
}

impl Criu {
    /// The binary under test: `CRIU_BIN`, or the one cargo has just built.
    pub fn ours() -> Self {
        let path = std::env::var_os("CRIU_BIN")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_criu")), PathBuf::from);
        Self { name: "ours", path }
    }

    /// Stock CRIU, as `scripts/stock-criu` finds it. `None`, with the reason told, if it cannot.
    pub fn stock() -> Option<Self> {
        static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stock-criu");
            let out = Command::new(script).output().expect("scripts/stock-criu runs");
            if out.status.success() {
                return Some(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
            }
            let why = String::from_utf8_lossy(&out.stderr);
            assert!(!super::in_ci(), "CI needs stock CRIU: {why}");
            super::skip("stock CRIU", &why);
            None
        });
        found.clone().map(|path| Self { name: "stock", path })
    }

    /// Whether the binary under test is stock CRIU itself: a check of the tests.
    pub fn ours_is_stock() -> bool {
        Self::stock().is_some_and(|stock| stock.path == Self::ours().path)
    }
}
