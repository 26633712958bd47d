//! Messages as JSON and back, by the schema alone.
//!
//! Fields come in the order of their numbers, which is the order in which CRIU writes them, so that
//! encoding gives the bytes that were decoded.

use std::collections::BTreeMap;

use prost::encoding::{decode_varint, encode_varint};

use crate::crit::Error;
use crate::crit::json::Json;
use crate::crit::{text, view};
use crate::schema::{Field, Schema, Type, View};

/// Deepest nesting of messages.
const MAX_DEPTH: usize = 100;
/// Key for fields that the schema does not have: base64 of their bytes.
const UNKNOWN: &str = "unknown_fields";

/// Shows a message.
pub(crate) fn decode(message: usize, bytes: &[u8], pretty: bool) -> Result<Json, Error> {
    decode_at(message, bytes, pretty.then_some(&View::Plain), MAX_DEPTH).map(Json::Map)
}

/// Raw values of one field, in order.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn decode_at(
    index: usize,
    mut bytes: &[u8],
    pretty: Option<&View>,
    depth: usize,
) -> Result<Vec<(String, Json)>, Error> {
    let schema = Schema::get();
    let message = schema.message(index);
    let broken = |what: &str| Error::message(&message.name, what);
    if depth == 0 {
        return Err(broken("too deep"));
    }
    let mut values: BTreeMap<u32, Vec<Raw<'_>>> = BTreeMap::new();
    let mut unknown = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let key = decode_varint(&mut bytes).map_err(|_| broken("damaged key"))?;
        let number = u32::try_from(key >> 3).map_err(|_| broken("damaged key"))?;
        let len = match key & 7 {
            0 => None,
            1 => Some(8),
            2 => Some(decode_varint(&mut bytes).map_err(|_| broken("damaged length"))?),
            5 => Some(4),
            _ => return Err(broken("unknown wire type")),
        };
        let raw = match len {
            None => Raw::Number(decode_varint(&mut bytes).map_err(|_| broken("damaged number"))?),
            Some(len) => {
                let split = usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len));
                let (value, rest) = split.ok_or_else(|| broken("cut short"))?;
                bytes = rest;
                Raw::Bytes(value)
            }
        };
        match message.field(number) {
            Some(field) if fits(field, &raw) => values.entry(number).or_default().push(raw),
            _ => unknown.extend_from_slice(&start[..start.len() - bytes.len()]),
        }
    }
    let mut map = Vec::with_capacity(values.len());
    for (number, raws) in values {
        let Some(field) = message.field(number) else { continue };
        map.push((field.name.clone(), show_field(field, &raws, pretty, depth)?));
    }
    if !unknown.is_empty() {
        map.push((UNKNOWN.to_owned(), Json::Text(text::base64(&unknown))));
    }
    Ok(map)
}

/// Whether a value has a wire type the field can have.
fn fits(field: &Field, raw: &Raw<'_>) -> bool {
    match (&field.kind, raw) {
        (Type::Bool | Type::Int { .. } | Type::Enum(_), Raw::Number(_))
        | (Type::Text | Type::Bytes | Type::Message(_), Raw::Bytes(_)) => true,
        (Type::Fixed { bytes, .. }, Raw::Bytes(b)) => {
            b.len() == *bytes || (field.repeated && b.len().is_multiple_of(*bytes))
        }
        // Packed numbers.
        (_, Raw::Bytes(_)) => field.repeated,
        (_, Raw::Number(_)) => false,
    }
}

fn show_field(
    field: &Field,
    raws: &[Raw<'_>],
    pretty: Option<&View>,
    depth: usize,
) -> Result<Json, Error> {
    let mut list = Vec::new();
    let mut words = Vec::new();
    for raw in raws {
        match (raw, &field.kind) {
            (Raw::Bytes(bytes), Type::Message(inner)) => {
                // What is shown in hexadecimal is shown so all the way down.
                let inherited = if field.view == View::Plain { pretty } else { Some(&field.view) };
                let below = pretty.and(inherited);
                list.push(Json::Map(decode_at(*inner, bytes, below, depth - 1)?));
            }
            (Raw::Bytes(bytes), Type::Text) => list.push(Json::Text(bytes.to_vec())),
            (Raw::Bytes(bytes), Type::Bytes) if field.view == View::UnixName => {
                list.push(Json::Text(text::quoted(bytes)));
            }
            (Raw::Bytes(bytes), Type::Bytes) => list.push(Json::Text(text::base64(bytes))),
            (Raw::Number(n), kind) => words.push(number(kind, *n)),
            (Raw::Bytes(bytes), Type::Fixed { bytes: size, .. }) => {
                for chunk in bytes.chunks(*size) {
                    let mut word = [0; 8];
                    word[..*size].copy_from_slice(chunk);
                    words.push(number(&field.kind, u64::from_le_bytes(word)));
                }
            }
            (Raw::Bytes(bytes), kind) => {
                let mut bytes = *bytes;
                while !bytes.is_empty() {
                    let n = decode_varint(&mut bytes);
                    let n = n.map_err(|_| Error::message(&field.name, "damaged number"))?;
                    words.push(number(kind, n));
                }
            }
        }
    }
    let view = match pretty {
        Some(inherited) if field.view == View::Plain => inherited,
        Some(_) => &field.view,
        None => &View::Plain,
    };
    if *view == View::Ip && !words.is_empty() {
        match view::show_ip(&words) {
            Json::List(words) => list.extend(words),
            address => list.push(address),
        }
    } else {
        list.extend(words.into_iter().map(|n| show_number(field, view, n)));
    }
    // Of a field that may come once the last one counts.
    Ok(if field.repeated { Json::List(list) } else { list.pop().unwrap_or(Json::Null) })
}

/// The value of a number as it lies in an image.
fn number(kind: &Type, raw: u64) -> i128 {
    match *kind {
        Type::Int { zigzag: true, .. } => ((raw >> 1) as i64 ^ -((raw & 1) as i64)).into(),
        Type::Int { min, max, .. } if min < 0 && max <= i32::MAX.into() => (raw as i32).into(),
        Type::Int { min, .. } if min < 0 => (raw as i64).into(),
        Type::Int { max, .. } if max <= u32::MAX.into() => (raw as u32).into(),
        Type::Enum(_) => (raw as i32).into(),
        Type::Fixed { bytes: 4, signed: true } => (raw as i32).into(),
        Type::Fixed { signed: true, .. } => (raw as i64).into(),
        _ => raw.into(),
    }
}

fn show_number(field: &Field, view: &View, n: i128) -> Json {
    match &field.kind {
        Type::Bool => Json::Bool(n != 0),
        Type::Enum(values) => match values.iter().find(|(_, v)| i128::from(*v) == n) {
            Some((name, _)) => Json::from(&**name),
            None => Json::Int(n),
        },
        _ => view::show(view, &field.name, n),
    }
}

/// Makes a message of what [`decode`] shows.
pub(crate) fn encode(message: usize, json: &Json) -> Result<Vec<u8>, Error> {
    let Json::Map(map) = json else {
        let name = &Schema::get().message(message).name;
        return Err(Error::json(name, "is no object".into()));
    };
    let mut out = Vec::new();
    encode_at(message, map, &mut out)?;
    Ok(out)
}

fn encode_at(index: usize, map: &[(String, Json)], out: &mut Vec<u8>) -> Result<(), Error> {
    let message = Schema::get().message(index);
    let known = |key: &str| key == UNKNOWN || message.fields.iter().any(|f| f.name == key);
    if let Some((key, _)) = map.iter().find(|(key, _)| !known(key)) {
        return Err(Error::json(&message.name, format!("has no field {key:?}")));
    }
    for field in &message.fields {
        // As with Python's, the last of equal keys counts.
        match map.iter().rev().find(|(key, _)| *key == field.name).map(|(_, value)| value) {
            None | Some(Json::Null) if field.required => {
                let reason = format!("required field {:?} is missing", field.name);
                return Err(Error::json(&message.name, reason));
            }
            None | Some(Json::Null) => {}
            Some(Json::List(list)) if field.repeated => {
                for value in list {
                    encode_field(field, value, out)?;
                }
            }
            Some(_) if field.repeated => {
                return Err(Error::json(&field.name, "is no list".into()));
            }
            Some(value) => encode_field(field, value, out)?,
        }
    }
    if let Some((_, unknown)) = map.iter().find(|(key, _)| key == UNKNOWN) {
        out.extend(bytes_of(UNKNOWN, unknown)?);
    }
    Ok(())
}

fn encode_field(field: &Field, value: &Json, out: &mut Vec<u8>) -> Result<(), Error> {
    let wrong = |want: &str| Error::json(&field.name, format!("is no {want}"));
    let key = |wire: u64, out: &mut Vec<u8>| {
        encode_varint(u64::from(field.number) << 3 | wire, out);
    };
    let bytes = match (&field.kind, value) {
        (Type::Message(inner), Json::Map(map)) => {
            let mut bytes = Vec::new();
            encode_at(*inner, map, &mut bytes)?;
            bytes
        }
        (Type::Message(_), _) => return Err(wrong("object")),
        (Type::Text, Json::Text(text)) => text.clone(),
        (Type::Bytes, Json::Text(text)) if field.view == View::UnixName => text::from_quoted(text),
        (Type::Bytes, value) => bytes_of(&field.name, value)?,
        (Type::Text, _) => return Err(wrong("text")),
        _ => {
            for n in numbers(field, value)? {
                match field.kind {
                    Type::Fixed { bytes, .. } => {
                        key(if bytes == 8 { 1 } else { 5 }, out);
                        out.extend_from_slice(&(n as u64).to_le_bytes()[..bytes]);
                    }
                    Type::Int { zigzag: true, .. } => {
                        key(0, out);
                        let n = n as i64;
                        encode_varint((n << 1 ^ n >> 63) as u64, out);
                    }
                    _ => {
                        key(0, out);
                        encode_varint(n as i64 as u64, out);
                    }
                }
            }
            return Ok(());
        }
    };
    key(2, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(&bytes);
    Ok(())
}

/// The numbers that one JSON value of a field stands for, checked for their range.
fn numbers(field: &Field, value: &Json) -> Result<Vec<i128>, Error> {
    let wrong = |what: &str| Error::json(&field.name, what.to_owned());
    let text = match value {
        Json::Text(text) => Some(std::str::from_utf8(text).map_err(|_| wrong("is no number"))?),
        _ => None,
    };
    let all = match (&field.kind, value, text) {
        (Type::Bool, Json::Bool(b), _) => vec![i128::from(*b)],
        (Type::Enum(values), _, Some(name)) => match values.iter().find(|(n, _)| n == name) {
            Some((_, value)) => vec![i128::from(*value)],
            None => return Err(wrong(&format!("{name:?} is no value of it"))),
        },
        (_, Json::Int(n), _) => vec![*n],
        (_, Json::Bool(b), _) => vec![i128::from(*b)],
        (_, _, Some(text)) if field.view == View::Ip => view::read_ip(&field.name, text)?,
        (_, _, Some(text)) => vec![view::read(&field.view, &field.name, text)?],
        _ => return Err(wrong("is no number")),
    };
    let range = match field.kind {
        Type::Bool => 0..=1,
        Type::Int { min, max, .. } => min..=max,
        Type::Fixed { bytes: 4, signed: true } | Type::Enum(_) => {
            i128::from(i32::MIN)..=i128::from(i32::MAX)
        }
        Type::Fixed { bytes: 4, .. } => 0..=u32::MAX.into(),
        Type::Fixed { signed: true, .. } => i128::from(i64::MIN)..=i128::from(i64::MAX),
        _ => 0..=u64::MAX.into(),
    };
    match all.iter().find(|n| !range.contains(n)) {
        Some(n) => Err(wrong(&format!("{n} is out of range"))),
        None => Ok(all),
    }
}

/// Bytes of a base64 text.
pub(crate) fn bytes_of(field: &str, value: &Json) -> Result<Vec<u8>, Error> {
    let Json::Text(text) = value else { return Err(Error::json(field, "is no text".into())) };
    text::from_base64(text).ok_or_else(|| Error::json(field, "is no base64".into()))
}
