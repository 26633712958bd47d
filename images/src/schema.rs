//! The schema of all messages, flat: what the derived types do not know and crit has to.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{
    Cardinality, DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, Value,
};

/// All messages and enums.
#[derive(Debug)]
pub(crate) struct Schema {
    by_name: HashMap<String, usize>,
    messages: Vec<Message>,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    /// Sorted by number.
    pub(crate) fields: Vec<Field>,
}

/// One field.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) repeated: bool,
    pub(crate) kind: Type,
    pub(crate) view: View,
}

/// Type of a field, as far as it changes the bytes.
#[derive(Debug, Clone)]
pub(crate) enum Type {
    Bool,
    /// Range and whether negative numbers are zigzagged.
    Int {
        min: i128,
        max: i128,
        zigzag: bool,
    },
    Fixed {
        bytes: usize,
        signed: bool,
    },
    Text,
    Bytes,
    Enum(Vec<(String, i32)>),
    Message(usize),
}

/// How crit shows a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// As it is.
    #[default]
    Plain,
    /// Numbers in hexadecimal; also those of a message in it.
    Hex,
    /// Words of an address.
    Ip,
    /// Device number in the kernel's encoding.
    Dev,
    /// Device number in the encoding of `makedev`.
    OldDev,
    /// Bits by name: which table.
    Flags(String),
    /// Numbers by name: which table.
    Dict(String),
    /// Text in quoted-printable.
    UnixName,
}

impl Schema {
    /// The schema that is compiled in.
    pub(crate) fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let bytes = &include_bytes!(concat!(env!("OUT_DIR"), "/criu.desc"))[..];
            Self::new(&DescriptorPool::decode(bytes).expect("build.rs wrote a descriptor set"))
        })
    }

    fn new(pool: &DescriptorPool) -> Self {
        let options = pool.get_extension_by_name("criu").expect("opts.proto is part of it");
        let all: Vec<_> = pool.all_messages().collect();
        let by_name: HashMap<String, usize> =
            all.iter().enumerate().map(|(i, m)| (m.full_name().to_owned(), i)).collect();
        let messages = all
            .iter()
            .map(|message| {
                let mut fields: Vec<Field> =
                    message.fields().map(|f| field(&f, &by_name, &options)).collect();
                fields.sort_by_key(|f| f.number);
                Message { name: message.full_name().to_owned(), fields }
            })
            .collect();
        Self { by_name, messages }
    }

    /// Number of a message.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A message by its number.
    pub(crate) fn message(&self, index: usize) -> &Message {
        &self.messages[index]
    }

    #[cfg(test)]
    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }
}

impl Message {
    /// The field with this number.
    pub(crate) fn field(&self, number: u32) -> Option<&Field> {
        self.fields.binary_search_by_key(&number, |f| f.number).ok().map(|i| &self.fields[i])
    }
}

fn field(f: &FieldDescriptor, names: &HashMap<String, usize>, ext: &ExtensionDescriptor) -> Field {
    let int = |min: i128, max: i128, zigzag| Type::Int { min, max, zigzag };
    let kind = match f.kind() {
        Kind::Bool => Type::Bool,
        Kind::Int32 => int(i32::MIN.into(), i32::MAX.into(), false),
        Kind::Int64 => int(i64::MIN.into(), i64::MAX.into(), false),
        Kind::Sint32 => int(i32::MIN.into(), i32::MAX.into(), true),
        Kind::Sint64 => int(i64::MIN.into(), i64::MAX.into(), true),
        Kind::Uint32 => int(0, u32::MAX.into(), false),
        Kind::Uint64 => int(0, u64::MAX.into(), false),
        Kind::Fixed32 | Kind::Float => Type::Fixed { bytes: 4, signed: false },
        Kind::Sfixed32 => Type::Fixed { bytes: 4, signed: true },
        Kind::Fixed64 | Kind::Double => Type::Fixed { bytes: 8, signed: false },
        Kind::Sfixed64 => Type::Fixed { bytes: 8, signed: true },
        Kind::String => Type::Text,
        Kind::Bytes => Type::Bytes,
        Kind::Enum(e) => {
            Type::Enum(e.values().map(|v| (v.name().to_owned(), v.number())).collect())
        }
        Kind::Message(m) => Type::Message(names[m.full_name()]),
    };
    Field {
        number: f.number(),
        name: f.name().to_owned(),
        required: f.cardinality() == Cardinality::Required,
        repeated: f.is_list(),
        kind,
        view: view(f, ext),
    }
}

/// Reads CRIU's annotation of a field.
fn view(f: &FieldDescriptor, ext: &ExtensionDescriptor) -> View {
    let options = f.options();
    if !options.has_extension(ext) {
        return View::Plain;
    }
    let value = options.get_extension(ext);
    let Value::Message(criu) = &*value else { return View::Plain };
    let on = |name| criu.get_field_by_name(name).is_some_and(|v| v.as_bool() == Some(true));
    let text = |name| {
        let value = criu.get_field_by_name(name)?;
        value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    };
    if let Some(table) = text("flags") {
        View::Flags(table)
    } else if let Some(table) = text("dict") {
        View::Dict(table)
    } else if text("conv").is_some() {
        View::UnixName
    } else if on("odev") {
        View::OldDev
    } else if on("dev") {
        View::Dev
    } else if on("ipadd") {
        View::Ip
    } else if on("hex") {
        View::Hex
    } else {
        View::Plain
    }
}
