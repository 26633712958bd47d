//! Config files, command lines and the options of requests: the first byte chooses.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the binary")]

use std::ffi::OsString;

use images::proto::{CriuOpts, CriuReq};
use prost::Message;

#[path = "../../src/cli.rs"]
mod cli;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/options.rs"]
mod options;
mod log {
    pub(crate) const DEFAULT_VERBOSITY: u8 = 2;
}
#[path = "../../src/rpc/options.rs"]
mod of_request;
mod rpc {
    pub(crate) mod peer {
        pub(crate) struct Peer {
            pub(crate) pid: i32,
        }

        impl Peer {
            pub(crate) fn dir(&self, fd: i32) -> std::path::PathBuf {
                format!("/proc/{}/fd/{fd}", self.pid).into()
            }
        }
    }
    pub(crate) mod session {
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind {
            Swrk,
            Service,
        }
    }
}

fn request(bytes: &[u8]) {
    let Ok(request) = CriuReq::decode(bytes) else { return };
    let Some(opts) = request.opts else { return };
    // Files are for the first one here.
    let opts = CriuOpts { config_file: None, ..opts };
    for (pid, kind) in [(7, rpc::session::Kind::Swrk), (0, rpc::session::Kind::Service)] {
        let mut raw = options::Raw::new();
        drop(of_request::apply(&mut raw, &opts, &rpc::peer::Peer { pid }, kind));
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, bytes @ ..] = input else { return };
    let text = String::from_utf8_lossy(bytes);
    let mut raw = options::Raw::new();
    match which % 3 {
        0 => drop(config::apply_text(&mut raw, &text)),
        1 => {
            let words = text.split('\n').map(OsString::from);
            if let Ok(parsed) = cli::parse(words) {
                drop(config::apply(&mut raw, &parsed));
            }
        }
        _ => request(bytes),
    }
});
