//! Checks that proto2 `required` fields are there.
//!
//! prost decodes a message without them to zeroes. CRIU refuses it, and so do we: a `pid` of 0
//! made up by a decoder is worse than an error.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{Cardinality, DescriptorPool, Kind};

/// Deepest nesting that is followed; prost itself stops at 100.
const MAX_DEPTH: usize = 100;

/// The descriptors of all messages, with CRIU's annotations.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/criu.desc"))[..])
            .expect("build.rs wrote a valid descriptor set")
    })
}

/// What has to be known of a message to check it: flat, so that checking costs no lookups.
#[derive(Debug, Default)]
struct Shape {
    required: Vec<(u32, String)>,
    nested: Vec<(u32, String, usize)>,
}

#[derive(Debug)]
struct Shapes {
    by_name: HashMap<String, usize>,
    all: Vec<Shape>,
}

fn shapes() -> &'static Shapes {
    static SHAPES: OnceLock<Shapes> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let messages: Vec<_> = pool().all_messages().collect();
        let by_name: HashMap<String, usize> =
            messages.iter().enumerate().map(|(i, m)| (m.full_name().to_owned(), i)).collect();
        let shape = |message: &prost_reflect::MessageDescriptor| {
            let mut shape = Shape::default();
            for field in message.fields() {
                if field.cardinality() == Cardinality::Required {
                    shape.required.push((field.number(), field.name().to_owned()));
                }
                if let Kind::Message(inner) = field.kind() {
                    let name = field.name().to_owned();
                    shape.nested.push((field.number(), name, by_name[inner.full_name()]));
                }
            }
            shape
        };
        let all = messages.iter().map(shape).collect();
        Shapes { by_name, all }
    })
}

/// Path of the first required field that `bytes`, a valid `message`, does not have.
pub(crate) fn missing(message: &str, bytes: &[u8]) -> Option<String> {
    let shapes = shapes();
    let shape = *shapes.by_name.get(message)?;
    missing_in(shapes, shape, bytes, MAX_DEPTH)
}

fn missing_in(shapes: &Shapes, shape: usize, mut bytes: &[u8], depth: usize) -> Option<String> {
    let shape = &shapes.all[shape];
    // 22 is the highest count of required fields in one message but for register sets; those with
    // more than 64 do not exist.
    let mut seen = 0u64;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok()?;
        if let Some(i) = shape.required.iter().position(|(n, _)| *n == number) {
            seen |= 1 << i;
        }
        let len = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            // Groups do not occur in the schema; prost has checked what an unknown one holds.
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        let Some((_, name, inner)) = shape.nested.iter().find(|(n, ..)| *n == number) else {
            continue;
        };
        if key & 7 == 2
            && depth > 0
            && let Some(field) = missing_in(shapes, *inner, value, depth - 1)
        {
            return Some(format!("{name}.{field}"));
        }
    }
    let absent = shape.required.iter().enumerate().find(|(i, _)| seen & (1 << i) == 0)?;
    Some(absent.1.1.clone())
}

/// One base-128 number; `None` where there is none, which prost has reported before.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
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
    fn no_message_has_more_required_fields_than_are_counted() {
        assert!(shapes().all.iter().all(|s| s.required.len() <= 64));
    }
}
