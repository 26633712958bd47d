//! Reading: messages and their attributes. Cut or wrong lengths end a list.

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `RTM_*`, or subsystem and number.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Which request it answers.
    pub seq: u32,
    /// What follows the header.
    pub body: &'a [u8],
    /// All of it, padded as it was.
    pub raw: &'a [u8],
}

impl<'a> Message<'a> {
    /// What follows the fixed struct of `fixed` bytes: attributes.
    #[must_use]
    pub fn after(&self, fixed: usize) -> &'a [u8] {
        self.body.get(fixed.next_multiple_of(4)..).unwrap_or_default()
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without the bits for nesting and byte order.
    pub kind: u16,
    /// Payload.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// As a number of the machine's byte order; 0 if it is too short.
    #[must_use]
    pub fn u32(&self) -> u32 {
        self.value.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
    }

    /// As a number of the machine's byte order; 0 if it is too short.
    #[must_use]
    pub fn u16(&self) -> u16 {
        self.value.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b))
    }

    /// As a byte; 0 if there is none.
    #[must_use]
    pub fn u8(&self) -> u8 {
        self.value.first().copied().unwrap_or(0)
    }

    /// As text, up to its NUL.
    #[must_use]
    pub fn text(&self) -> &'a [u8] {
        self.value.split(|b| *b == 0).next().unwrap_or_default()
    }
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

/// The messages in what a socket or an image gave.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            seq: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..len)?,
            raw: bytes.get(..len.next_multiple_of(4)).unwrap_or(bytes),
        };
        bytes = &bytes[message.raw.len()..];
        Some(message)
    })
}

/// The attributes in the rest of a message, or in a nested attribute.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

/// The last attribute of this type, which is the one that the kernel would take.
#[must_use]
pub fn attribute(bytes: &[u8], kind: u16) -> Option<Attribute<'_>> {
    attributes(bytes).filter(|a| a.kind == kind).last()
}
