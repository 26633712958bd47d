//! The page server: memory contents that come over a connection.
//!
//! ```text
//! dump side ([`Client`])                     page server ([`Server`])
//!   PARENT task 5                   ──►
//!                                   ◄──      yes: its parent images have that task
//!   OPEN2 task 5                    ──►      pagemap-5.img, pages-65537.img
//!                                   ◄──      the same answer
//!   ADD_F PRESENT 0x1000 2, 2 pages ──►      an entry and two pages
//!   ADD_F PARENT  0x3000 9          ──►      an entry
//!   CLOSE                           ──►      all of it is written out
//!                                   ◄──      status
//! ```
//!
//! It is CRIU's protocol, which has neither greeting nor version.

mod client;
mod server;
mod stream;
mod wire;

pub use client::Client;
pub use server::{Server, Settings};
pub use stream::{Stream, Wait};
pub use wire::{Command, HEADER_LEN, Header};

/// What errors call the connection, in the place of the name of an image.
const NAME: &str = "page server";
