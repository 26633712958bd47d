//! A whole image as JSON and back, payloads included.

use std::io::{Read, Write};

use crate::crit::Error;
use crate::crit::codec::{self, bytes_of};
use crate::crit::json::Json;
use crate::crit::text::base64;
use crate::kind::{COMMON_MAGIC, Head, Kind, SERVICE_MAGIC};
use crate::reader::MAX_ENTRY_LEN;
use crate::schema::Schema;

/// Key of the bytes that follow a record.
const EXTRA: &str = "extra";
/// Key of padding behind them, if it is not zeroes: only then do the bytes need it to come back.
const PADDING: &str = "padding";

/// How an image is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Numbers in the format of their field.
    pub(crate) pretty: bool,
    /// Lengths in place of payloads.
    pub(crate) no_payload: bool,
}

/// An image that is read from somewhere.
struct Source<R> {
    input: R,
    options: Options,
    entry: u64,
}

/// Name of the magic and all entries.
pub(crate) fn decode(input: impl Read, options: Options) -> Result<Json, Error> {
    let (kind, entries) = entries(input, options)?;
    Ok(Json::Map(vec![
        ("magic".into(), Json::from(kind.magic_name)),
        ("entries".into(), Json::List(entries)),
    ]))
}

/// Name of the magic and number of entries, without the head of a pagemap.
pub(crate) fn info(input: impl Read) -> Result<Json, Error> {
    let (kind, entries) = entries(input, Options { pretty: false, no_payload: true })?;
    let head = kind.framing == crate::Framing::HeadThenMany;
    let count = entries.len().saturating_sub(usize::from(head));
    Ok(Json::Map(vec![
        ("magic".into(), Json::from(kind.magic_name)),
        ("count".into(), Json::Int(count as i128)),
    ]))
}

/// All entries of an image.
pub(crate) fn entries(
    input: impl Read,
    options: Options,
) -> Result<(&'static Kind, Vec<Json>), Error> {
    let mut source = Source { input, options, entry: 0 };
    let kind = source.head()?;
    let mut entries = Vec::new();
    let mut message = kind.messages[0];
    while let Some(body) = source.record()? {
        let mut entry = source.message(message, &body)?;
        source.payload(kind, message, &mut entry)?;
        entries.push(entry);
        source.entry += 1;
        // Only in pagemaps and chunked ghosts are later entries of another type.
        if matches!(kind.framing, crate::Framing::HeadThenMany | crate::Framing::OneThenMany) {
            message = kind.messages[1];
        }
    }
    Ok((kind, entries))
}

impl<R: Read> Source<R> {
    fn head(&mut self) -> Result<&'static Kind, Error> {
        let mut magic = self.word("magic")?.ok_or(Error::Empty)?;
        let head = match magic {
            COMMON_MAGIC => Some(Head::Normal),
            SERVICE_MAGIC => Some(Head::Service),
            _ => None,
        };
        if head.is_some() {
            magic = self.word("magic")?.ok_or(Error::Empty)?;
        }
        Kind::by_magic(magic).ok_or(Error::UnknownMagic(magic))
    }

    /// A little-endian word, or `None` at the end of the image.
    fn word(&mut self, what: &'static str) -> Result<Option<u32>, Error> {
        match *self.up_to(4)? {
            [] => Ok(None),
            [a, b, c, d] => Ok(Some(u32::from_le_bytes([a, b, c, d]))),
            ref part => Err(self.short(what, part.len() as u64, 4)),
        }
    }

    fn record(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(len) = self.word("size of entry")? else { return Ok(None) };
        if len > MAX_ENTRY_LEN {
            return Err(Error::Long { entry: self.entry, len });
        }
        self.exactly("entry", len.into()).map(Some)
    }

    fn up_to(&mut self, len: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut bytes).map_err(Error::Io)?;
        Ok(bytes)
    }

    fn exactly(&mut self, what: &'static str, len: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.up_to(len)?;
        match bytes.len() as u64 {
            got if got < len => Err(self.short(what, got, len)),
            _ => Ok(bytes),
        }
    }

    fn short(&self, what: &'static str, got: u64, want: u64) -> Error {
        Error::Short { what, entry: self.entry, got, want }
    }

    fn message(&self, name: &str, body: &[u8]) -> Result<Json, Error> {
        let index = Schema::get().find(name).expect("the registry names known messages");
        codec::decode(index, body, self.options.pretty)
            .map_err(|e| Error::Entry { entry: self.entry, source: Box::new(e) })
    }

    /// Reads what follows an entry and hangs it on the entry.
    fn payload(&mut self, kind: &Kind, message: &str, entry: &mut Json) -> Result<(), Error> {
        let number = |name: &str| match entry.get(name) {
            Some(Json::Int(n)) => u64::try_from(*n).unwrap_or(0),
            _ => 0,
        };
        let on = |name: &str| entry.get(name) == Some(&Json::Bool(true));
        let mut padding = None;
        let extra = match message {
            "pipe_data_entry" => self.bytes(number("bytes"))?,
            "sk_packet_entry" => self.bytes(number("length"))?,
            "bpfmap_data_entry" => self.bytes(number("keys_bytes") + number("values_bytes"))?,
            "tcp_stream_entry" => {
                let (inq, outq) = (number("inq_len"), number("outq_len"));
                if self.options.no_payload {
                    self.bytes(inq + outq)?
                } else {
                    let inq = ("inq".into(), self.bytes(inq)?);
                    Json::Map(vec![inq, ("outq".into(), self.bytes(outq)?)])
                }
            }
            "ghost_file_entry" if on("chunks") => return Ok(()),
            "ghost_file_entry" if self.options.no_payload => return self.up_to(u64::MAX).map(drop),
            "ghost_file_entry" => Json::Text(base64(&self.up_to(u64::MAX)?)),
            "ghost_chunk_entry" => {
                let body = self.bytes(number("len"))?;
                if self.options.no_payload {
                    return Ok(());
                }
                body
            }
            "ipc_shm_entry" => {
                let size = number("size");
                let len = if on("in_pagemaps") { 0 } else { size };
                let body = self.bytes(len)?;
                padding = Some(self.padding(len, 4)?);
                if self.options.no_payload { length(size) } else { body }
            }
            "ipc_sem_entry" => {
                let len = number("nsems") * 2;
                let values = self.exactly("payload of entry", len)?;
                padding = Some(self.padding(len, 8)?);
                let values = values.chunks_exact(2).map(|v| u16::from_le_bytes([v[0], v[1]]));
                match self.options.no_payload {
                    true => length(len),
                    false => Json::List(values.map(|v| Json::Int(v.into())).collect()),
                }
            }
            "ipc_msg_entry" => self.messages(kind, number("qnum"))?,
            _ => return Ok(()),
        };
        let Json::Map(map) = entry else { return Ok(()) };
        map.push((EXTRA.into(), extra));
        if let Some(padding) = padding.filter(|p| p.iter().any(|b| *b != 0)) {
            map.push((PADDING.into(), Json::Text(base64(&padding))));
        }
        Ok(())
    }

    fn bytes(&mut self, len: u64) -> Result<Json, Error> {
        let bytes = self.exactly("payload of entry", len)?;
        Ok(if self.options.no_payload { length(len) } else { Json::Text(base64(&bytes)) })
    }

    fn padding(&mut self, len: u64, to: u64) -> Result<Vec<u8>, Error> {
        let padded = len.checked_next_multiple_of(to).unwrap_or(len);
        self.exactly("padding of entry", padded - len)
    }

    /// A queue of messages: heads and bodies take turns.
    fn messages(&mut self, kind: &Kind, count: u64) -> Result<Json, Error> {
        let mut list = Vec::new();
        let mut total = 0;
        for _ in 0..count {
            let head = self.record()?.ok_or_else(|| self.short("message of entry", 0, 4))?;
            let mut head = self.message(kind.messages[1], &head)?;
            let len = match head.get("msize") {
                Some(Json::Int(n)) => u64::try_from(*n).unwrap_or(0),
                _ => 0,
            };
            let body = self.bytes(len)?;
            let padding = self.padding(len, 8)?;
            if let Json::Map(map) = &mut head
                && padding.iter().any(|b| *b != 0)
            {
                map.push((PADDING.into(), Json::Text(base64(&padding))));
            }
            // Counted with the padding.
            total += len + padding.len() as u64;
            list.extend([head, body]);
        }
        Ok(if self.options.no_payload { length(total) } else { Json::List(list) })
    }
}

fn length(len: u64) -> Json {
    let units = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"), (1, "")];
    let (unit, name) = units.into_iter().find(|(unit, _)| len >= *unit).unwrap_or((1, ""));
    let number = match len % unit {
        0 => (len / unit).to_string(),
        _ => format!("{:.1}", len as f64 / unit as f64),
    };
    Json::from(&*format!("... <{number}{name}B>"))
}

/// Writes the image that [`decode`] shows.
pub(crate) fn encode(json: &Json, out: &mut impl Write) -> Result<(), Error> {
    let Some(Json::Text(name)) = json.get("magic") else {
        return Err(Error::json("magic", "is no text".into()));
    };
    let kind = crate::KINDS.iter().find(|k| k.magic != 0 && k.magic_name.as_bytes() == &**name);
    let kind = kind.ok_or_else(|| Error::json("magic", "is not known".into()))?;
    let Some(Json::List(entries)) = json.get("entries") else {
        return Err(Error::json("entries", "is no list".into()));
    };
    let first = match kind.head {
        Head::Service => Some(SERVICE_MAGIC),
        Head::Inventory => None,
        Head::Normal | Head::Raw => Some(COMMON_MAGIC),
    };
    for magic in first.into_iter().chain([kind.magic]) {
        out.write_all(&magic.to_le_bytes()).map_err(Error::Io)?;
    }
    let mut message = kind.messages[0];
    for (i, entry) in entries.iter().enumerate() {
        encode_entry(kind, message, entry, out)
            .map_err(|e| Error::Entry { entry: i as u64, source: Box::new(e) })?;
        if matches!(kind.framing, crate::Framing::HeadThenMany | crate::Framing::OneThenMany) {
            message = kind.messages[1];
        }
    }
    Ok(())
}

fn encode_entry(
    kind: &Kind,
    message: &str,
    entry: &Json,
    out: &mut impl Write,
) -> Result<(), Error> {
    let mut fields = entry.clone();
    if let Json::Map(map) = &mut fields {
        map.retain(|(key, _)| key != EXTRA && key != PADDING);
    }
    let index = Schema::get().find(message).expect("the registry names known messages");
    let mut bytes = codec::encode(index, &fields)?;
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if len > MAX_ENTRY_LEN {
        return Err(Error::Long { entry: 0, len });
    }
    bytes.splice(..0, len.to_le_bytes());
    // What comes out is what a reader will see: numbers may be written in any way, and unknown
    // fields are only bytes.
    let shown = codec::decode(index, &bytes[4..], false)?;
    let number = |name: &str| match shown.get(name) {
        Some(Json::Int(n)) => u64::try_from(*n).unwrap_or(0),
        _ => 0,
    };
    let on = |name: &str| shown.get(name) == Some(&Json::Bool(true));
    let none = Json::Text(Vec::new());
    let extra = entry.get(EXTRA).unwrap_or(&none);
    let mut payload = Vec::new();
    match (message, extra) {
        ("tcp_stream_entry", extra) => {
            for (queue, len) in [("inq", number("inq_len")), ("outq", number("outq_len"))] {
                let bytes = extra.get(queue).map_or(Ok(Vec::new()), |q| bytes_of(queue, q))?;
                fits(queue, bytes.len(), len)?;
                payload.extend(bytes);
            }
        }
        ("ipc_sem_entry", Json::List(values)) => {
            fits(EXTRA, values.len(), number("nsems"))?;
            for value in values {
                let n = match value {
                    Json::Int(n) => u16::try_from(*n).ok(),
                    _ => None,
                };
                let n = n.ok_or_else(|| Error::json(EXTRA, "is no semaphore's value".into()))?;
                payload.extend(n.to_le_bytes());
            }
            pad(entry, 8, &mut payload)?;
        }
        ("ipc_msg_entry", Json::List(list)) => {
            fits(EXTRA, list.len(), number("qnum") * 2)?;
            for pair in list.chunks_exact(2) {
                encode_queued(kind, &pair[0], &pair[1], &mut payload)?;
            }
        }
        ("ipc_sem_entry" | "ipc_msg_entry", _) => {
            let len = if message == "ipc_sem_entry" { number("nsems") } else { number("qnum") };
            fits(EXTRA, 0, len)?;
        }
        (_, extra) => {
            payload = bytes_of(EXTRA, extra)?;
            let len = match message {
                "pipe_data_entry" => number("bytes"),
                "sk_packet_entry" => number("length"),
                "bpfmap_data_entry" => number("keys_bytes") + number("values_bytes"),
                "ghost_chunk_entry" => number("len"),
                "ipc_shm_entry" if !on("in_pagemaps") => number("size"),
                "ghost_file_entry" if !on("chunks") => payload.len() as u64,
                _ => 0,
            };
            fits(EXTRA, payload.len(), len)?;
            if message == "ipc_shm_entry" {
                pad(entry, 4, &mut payload)?;
            }
        }
    }
    out.write_all(&bytes).and_then(|()| out.write_all(&payload)).map_err(Error::Io)
}

/// One message of a queue.
fn encode_queued(kind: &Kind, head: &Json, body: &Json, out: &mut Vec<u8>) -> Result<(), Error> {
    let body = bytes_of(EXTRA, body)?;
    let start = out.len();
    encode_entry(kind, kind.messages[1], &without(head, PADDING), out)?;
    let index = Schema::get().find(kind.messages[1]).expect("the registry names known messages");
    let shown = codec::decode(index, &out[start + 4..], false)?;
    let len = match shown.get("msize") {
        Some(Json::Int(n)) => u64::try_from(*n).unwrap_or(0),
        _ => 0,
    };
    fits(EXTRA, body.len(), len)?;
    let mut body = body;
    pad(head, 8, &mut body)?;
    out.extend(body);
    Ok(())
}

/// A payload has to be as long as its entry tells, or what follows cannot be read.
fn fits(field: &str, got: usize, want: u64) -> Result<(), Error> {
    match got as u64 == want {
        true => Ok(()),
        false => Err(Error::json(field, format!("has length {got}, the entry tells of {want}"))),
    }
}

fn without(json: &Json, key: &str) -> Json {
    match json {
        Json::Map(map) => Json::Map(map.iter().filter(|(k, _)| k != key).cloned().collect()),
        other => other.clone(),
    }
}

/// Fills up a payload to a multiple of `to`.
fn pad(entry: &Json, to: usize, payload: &mut Vec<u8>) -> Result<(), Error> {
    let len = payload.len().next_multiple_of(to);
    match entry.get(PADDING) {
        Some(padding) => {
            let padding = bytes_of(PADDING, padding)?;
            fits(PADDING, padding.len(), (len - payload.len()) as u64)?;
            payload.extend(padding);
        }
        None => payload.resize(len, 0),
    }
    Ok(())
}
