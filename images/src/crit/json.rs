//! JSON as Python's `json` module writes it.
//!
//! Text in images need not be UTF-8. Bytes that are not are written as lone surrogates
//! (`\udc80` to `\udcff`), as Python's `surrogateescape` does, and come back as the bytes they were.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 128;

/// A JSON value. Numbers are integers, as there are no others in images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Int(i128),
    Text(Vec<u8>),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

impl Json {
    /// The value of a key of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Writes it in one line, or indented by four columns.
    pub(crate) fn write(&self, out: &mut impl Write, pretty: bool) -> io::Result<()> {
        self.write_at(out, pretty, 0)
    }

    fn write_at(&self, out: &mut impl Write, pretty: bool, depth: usize) -> io::Result<()> {
        match self {
            Self::Null => out.write_all(b"null"),
            Self::Bool(b) => write!(out, "{b}"),
            Self::Int(n) => write!(out, "{n}"),
            Self::Text(text) => out.write_all(quote(text).as_bytes()),
            Self::List(list) if list.is_empty() => out.write_all(b"[]"),
            Self::Map(map) if map.is_empty() => out.write_all(b"{}"),
            Self::List(list) => {
                out.write_all(b"[")?;
                for (i, value) in list.iter().enumerate() {
                    separate(out, pretty, depth + 1, i)?;
                    value.write_at(out, pretty, depth + 1)?;
                }
                close(out, pretty, depth, b"]")
            }
            Self::Map(map) => {
                out.write_all(b"{")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    separate(out, pretty, depth + 1, i)?;
                    out.write_all(quote(key.as_bytes()).as_bytes())?;
                    out.write_all(b": ")?;
                    value.write_at(out, pretty, depth + 1)?;
                }
                close(out, pretty, depth, b"}")
            }
        }
    }

    /// Reads one value that takes all of `text`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(MAX_DEPTH)?;
        parser.space();
        match parser.at == text.len() {
            true => Ok(value),
            false => parser.fail("the end"),
        }
    }
}

fn separate(out: &mut impl Write, pretty: bool, depth: usize, index: usize) -> io::Result<()> {
    match (index, pretty) {
        (0, false) => Ok(()),
        (_, false) => out.write_all(b", "),
        (0, true) => newline(out, depth),
        (_, true) => {
            out.write_all(b",")?;
            newline(out, depth)
        }
    }
}

fn close(out: &mut impl Write, pretty: bool, depth: usize, end: &[u8]) -> io::Result<()> {
    if pretty {
        newline(out, depth)?;
    }
    out.write_all(end)
}

fn newline(out: &mut impl Write, depth: usize) -> io::Result<()> {
    write!(out, "\n{:1$}", "", depth * 4)
}

fn quote(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(c),
                _ => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        for byte in chunk.invalid() {
            _ = write!(out, "\\udc{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// What is wrong with a JSON text.
#[derive(Debug, thiserror::Error)]
#[error("json: {want} expected at byte {at}")]
pub(crate) struct ParseError {
    want: &'static str,
    at: usize,
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn fail<T>(&self, want: &'static str) -> Result<T, ParseError> {
        Err(ParseError { want, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json, ParseError> {
        if depth == 0 {
            return self.fail("less nesting");
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.map(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Json::Text(self.text()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.take(b"true") => Ok(Json::Bool(true)),
            _ if self.take(b"false") => Ok(Json::Bool(false)),
            _ if self.take(b"null") => Ok(Json::Null),
            _ => self.fail("a value"),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Json, ParseError> {
        let mut map = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b"}") {
            return Ok(Json::Map(map));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fail("a key");
            }
            let Ok(key) = String::from_utf8(self.text()?) else { return self.fail("a UTF-8 key") };
            self.space();
            if !self.take(b":") {
                return self.fail("a colon");
            }
            map.push((key, self.value(depth - 1)?));
            self.space();
            if self.take(b"}") {
                return Ok(Json::Map(map));
            }
            if !self.take(b",") {
                return self.fail("a comma");
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, ParseError> {
        let mut list = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b"]") {
            return Ok(Json::List(list));
        }
        loop {
            list.push(self.value(depth - 1)?);
            self.space();
            if self.take(b"]") {
                return Ok(Json::List(list));
            }
            if !self.take(b",") {
                return self.fail("a comma");
            }
        }
    }

    fn number(&mut self) -> Result<Json, ParseError> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        let integer = !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        let digits = std::str::from_utf8(&self.text[start..self.at]).ok();
        match digits.and_then(|d| d.parse().ok()).filter(|_| integer) {
            Some(n) => Ok(Json::Int(n)),
            None => self.fail("an integer"),
        }
    }

    /// A string, as the bytes it had in the image.
    fn text(&mut self) -> Result<Vec<u8>, ParseError> {
        let mut out = Vec::new();
        self.at += 1;
        loop {
            let Some(byte) = self.peek() else { return self.fail("a quote") };
            self.at += 1;
            match byte {
                b'"' => return Ok(out),
                b'\\' => self.escape(&mut out)?,
                _ => out.push(byte),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        let Some(byte) = self.peek() else { return self.fail("an escape") };
        self.at += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode(out),
            _ => return self.fail("an escape"),
        };
        out.push(plain);
        Ok(())
    }

    fn unicode(&mut self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        let first = self.hex4()?;
        if let 0xdc80..=0xdcff = first {
            out.push((first & 0xff) as u8);
            return Ok(());
        }
        let units = match first {
            0xd800..=0xdbff if self.take(b"\\u") => vec![first, self.hex4()?],
            _ => vec![first],
        };
        match String::from_utf16(&units) {
            Ok(text) => out.extend(text.bytes()),
            Err(_) => return self.fail("a pair of surrogates"),
        }
        Ok(())
    }

    fn hex4(&mut self) -> Result<u16, ParseError> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        match digits.and_then(|d| u16::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()) {
            Some(unit) => {
                self.at += 4;
                Ok(unit)
            }
            None => self.fail("four hexadecimal digits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &Json, pretty: bool) -> String {
        let mut out = Vec::new();
        json.write(&mut out, pretty).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_looks_like_that_of_python() {
        let json = Json::Map(vec![
            ("a".into(), Json::List(vec![Json::Int(1), Json::Int(-2)])),
            ("b".into(), Json::Map(vec![])),
            ("c".into(), Json::from("ü\n\"\\/\u{2028}\u{7f}\u{1}😀")),
            ("d".into(), Json::Bool(true)),
        ]);
        let c = r#""\u00fc\n\"\\/\u2028\u007f\u0001\ud83d\ude00""#;
        assert_eq!(
            text(&json, false),
            format!(r#"{{"a": [1, -2], "b": {{}}, "c": {c}, "d": true}}"#)
        );
        let pretty = format!(
            "{{\n    \"a\": [\n        1,\n        -2\n    ],\n    \"b\": {{}},\n    \"c\": {c},\n    \"d\": true\n}}"
        );
        assert_eq!(text(&json, true), pretty);
        assert_eq!(Json::parse(pretty.as_bytes()).unwrap(), json);
    }

    #[test]
    fn bytes_that_are_no_utf8_survive() {
        let json = Json::Text(b"wor\xffker \xf0\x9f".to_vec());
        assert_eq!(text(&json, false), r#""wor\udcffker \udcf0\udc9f""#);
        assert_eq!(Json::parse(text(&json, false).as_bytes()).unwrap(), json);
    }

    #[test]
    fn damaged_text_is_an_error_with_a_place() {
        for (bad, at) in [
            ("", 0),
            ("{\"a\" 1}", 5),
            ("[1,]", 3),
            ("[1.5]", 2),
            ("\"\\ud83d\"", 7),
            ("\"\\udc00\"", 7),
            ("\"\\u12\"", 3),
            ("1 2", 2),
            ("nul", 0),
            ("99999999999999999999999999999999999999999", 41),
        ] {
            assert_eq!(Json::parse(bad.as_bytes()).unwrap_err().at, at, "{bad}");
        }
        assert!(Json::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
