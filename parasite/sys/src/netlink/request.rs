//! Writing: requests and their attributes.

use super::{HEADER, REQUEST};
use std::fmt;

/// Attributes being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// One more attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, |to| to.extend(value));
        self
    }

    /// A number in the machine's byte order.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as all of netfilter has it.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A byte.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }

    /// Text, to which the NUL is added.
    #[must_use]
    pub fn text(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, |to| {
            to.extend(value);
            to.push(0);
        });
        self
    }

    /// Attributes inside of one, which is marked as such.
    #[must_use]
    pub fn nested(self, kind: u16, write: impl FnOnce(Self) -> Self) -> Self {
        const NESTED: u16 = 0x8000;
        self.attr(kind | NESTED, &write(Self::default()).0)
    }

    /// Attributes that stand ready.
    #[must_use]
    pub fn raw(mut self, attributes: &[u8]) -> Self {
        self.0.extend(attributes);
        self
    }

    /// As they are sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        value(&mut self.0);
        let len = (self.0.len() - at) as u16;
        self.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A message to the kernel.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    name: &'static str,
    about: String,
    pub(super) kind: u16,
    pub(super) flags: u16,
    body: Attributes,
}

impl Request {
    /// A message of type `kind`; `name` is for errors, like `RTM_NEWLINK`.
    #[must_use]
    pub fn new(name: &'static str, kind: u16) -> Self {
        Self { name, about: String::new(), kind, flags: 0, body: Attributes::default() }
    }

    /// A message of the kernel's (from a dump, or an image) that is sent back to it.
    #[must_use]
    pub fn from_message(name: &'static str, kind: u16, body: &[u8]) -> Self {
        Self::new(name, kind).body(body)
    }

    /// What it is about, for errors.
    #[must_use]
    pub fn about(mut self, about: impl fmt::Display) -> Self {
        self.about = about.to_string();
        self
    }

    /// More flags: [`CREATE`](super::CREATE) and its like.
    #[must_use]
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// The fixed struct (or all that follows the header).
    #[must_use]
    pub fn body(mut self, fixed: &[u8]) -> Self {
        self.body.0.extend(fixed);
        let padded = self.body.0.len().next_multiple_of(4);
        self.body.0.resize(padded, 0);
        self
    }

    /// One more attribute.
    #[must_use]
    pub fn attr(self, kind: u16, value: &[u8]) -> Self {
        self.attributes(|a| a.attr(kind, value))
    }

    /// A number in the machine's byte order.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attributes(|a| a.u32(kind, value))
    }

    /// Text, to which the NUL is added.
    #[must_use]
    pub fn text(self, kind: u16, value: &[u8]) -> Self {
        self.attributes(|a| a.text(kind, value))
    }

    /// Attributes inside of one.
    #[must_use]
    pub fn nested(self, kind: u16, write: impl FnOnce(Attributes) -> Attributes) -> Self {
        self.attributes(|a| a.nested(kind, write))
    }

    /// More attributes.
    #[must_use]
    pub fn attributes(mut self, write: impl FnOnce(Attributes) -> Attributes) -> Self {
        self.body = write(self.body);
        self
    }

    /// Appends it as it is sent.
    pub(super) fn write(&self, seq: u32, more: u16, to: &mut Vec<u8>) {
        to.extend(((HEADER + self.body.0.len()) as u32).to_ne_bytes());
        to.extend(self.kind.to_ne_bytes());
        to.extend((self.flags | REQUEST | more).to_ne_bytes());
        to.extend(seq.to_ne_bytes());
        to.extend([0; 4]);
        to.extend(&self.body.0);
        to.resize(to.len().next_multiple_of(4), 0);
    }

    /// For errors.
    pub(super) fn call(&self) -> String {
        if self.about.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}({})", self.name, self.about)
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} bytes", self.call(), self.body.0.len())
    }
}
