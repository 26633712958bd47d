//! Checks that proto2 `required` fields are there.
//!
//! prost decodes a message without them to zeroes. CRIU refuses it, and so do we: a `pid` of 0
//! made up by a decoder is worse than an error.

use prost::encoding::decode_varint;

use crate::schema::{Schema, Type};

/// Deepest nesting that is followed; prost itself stops at 100.
const MAX_DEPTH: usize = 100;

/// Path of the first required field that `bytes`, a valid `message`, does not have.
pub(crate) fn missing(message: &str, bytes: &[u8]) -> Option<String> {
    let schema = Schema::get();
    missing_in(schema, schema.find(message)?, bytes, MAX_DEPTH)
}

fn missing_in(schema: &Schema, index: usize, mut bytes: &[u8], depth: usize) -> Option<String> {
    let message = schema.message(index);
    // No message has as many required fields.
    let mut seen = 0u64;
    while !bytes.is_empty() {
        // Where there is no number, prost has reported an error before.
        let key = decode_varint(&mut bytes).ok()?;
        let number = u32::try_from(key >> 3).ok()?;
        let at = message.fields.binary_search_by_key(&number, |f| f.number).ok();
        if let Some(i) = at.filter(|i| *i < 64) {
            seen |= 1 << i;
        }
        let len = match key & 7 {
            0 => {
                decode_varint(&mut bytes).ok()?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(decode_varint(&mut bytes).ok()?).ok()?,
            5 => 4,
            // Groups do not occur in the schema; prost has checked what an unknown one holds.
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        let Some(field) = at.map(|i| &message.fields[i]) else { continue };
        if let Type::Message(inner) = field.kind
            && key & 7 == 2
            && depth > 0
            && let Some(path) = missing_in(schema, inner, value, depth - 1)
        {
            return Some(format!("{}.{path}", field.name));
        }
    }
    let absent =
        |(i, field): &(usize, &crate::schema::Field)| field.required && seen & (1 << i) == 0;
    message.fields.iter().enumerate().find(absent).map(|(_, field)| field.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;
    use prost::Message as _;

    #[test]
    fn a_whole_message_lacks_nothing() {
        let entry = proto::PstreeEntry { pid: 1, threads: vec![1, 2], ..Default::default() };
        assert_eq!(missing("pstree_entry", &entry.encode_to_vec()), None);
    }

    #[test]
    fn the_field_that_lacks_is_named() {
        assert_eq!(missing("pstree_entry", &[8, 1]), Some("ppid".into()));
        // core_entry { mtype, tc {} }
        assert_eq!(missing("core_entry", &[8, 1, 0x1a, 0]), Some("tc.task_state".into()));
    }

    #[test]
    fn required_fields_are_among_those_that_are_counted() {
        for message in Schema::get().messages() {
            let uncounted = message.fields.iter().skip(64).any(|f| f.required);
            assert!(!uncounted, "{}", message.name);
        }
    }
}
