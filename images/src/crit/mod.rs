//! `crit`, the image tool: images as JSON, and a look at the tasks of a checkpoint.
//!
//! Output is that of CRIU's own `crit`, character by character; where that one fails (names that
//! are not UTF-8, kinds it does not know) ours goes on:
//!
//! - bytes that are not UTF-8 are lone surrogates in JSON, and come back;
//! - fields of newer versions are kept, as base64 under `unknown_fields`;
//! - padding that is not zero is kept under `padding`;
//! - `info` counts entries with payloads right.

mod codec;
mod explore;
mod image;
mod json;
pub(crate) mod text;
mod view;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use json::{Json, ParseError};

const USAGE: &str = "usage: crit [-h] [--version] {decode,encode,info,x,show} ...";
const HELP: &str = "\n\nCRiu Image Tool\n\npositional arguments:
  {decode,encode,info,x,show}
                        Use crit CMD --help for command-specific help
    decode              convert criu image from binary type to json
    encode              convert criu image from json type to binary
    info                show info about image
    x                   explore image dir
    show                convert criu image from binary to human-readable json

options:
  -h, --help            show this help message and exit
  --version             show program's version number and exit";
const DECODE_USAGE: &str = "usage: crit decode [-h] [--pretty] [--nopl] [-i IN] [-o OUT]";
const DECODE_HELP: &str = "\n\noptions:
  -h, --help         show this help message and exit
  --pretty           Multiline with indents and some numerical fields in
                     field-specific format
  --nopl             do not show entry payload (if exists)
  -i IN, --in IN     criu image in binary format to be decoded (stdin by
                     default)
  -o OUT, --out OUT  where to put criu image in json format (stdout by
                     default)";
const ENCODE_USAGE: &str = "usage: crit encode [-h] [-i IN] [-o OUT]";
const ENCODE_HELP: &str = "\n\noptions:
  -h, --help         show this help message and exit
  -i IN, --in IN     criu image in json format to be encoded (stdin by
                     default)
  -o OUT, --out OUT  where to put criu image in binary format (stdout by
                     default)";
const INFO_USAGE: &str = "usage: crit info [-h] in";
const INFO_HELP: &str = "\n\npositional arguments:
  in

options:
  -h, --help  show this help message and exit";
const SHOW_USAGE: &str = "usage: crit show [-h] [--nopl] in";
const SHOW_HELP: &str = "\n\npositional arguments:
  in

options:
  -h, --help  show this help message and exit
  --nopl      do not show entry payload (if exists)";
const X_USAGE: &str = "usage: crit x [-h] dir {ps,fds,mems,rss}";
const X_HELP: &str = "\n\npositional arguments:
  dir
  {ps,fds,mems,rss}

options:
  -h, --help         show this help message and exit";

/// Version of crit whose output this is.
const VERSION: &str = "4.2.1";

/// Why an image could not be converted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {source}")]
    Open { path: String, source: io::Error },
    #[error("{0}")]
    Io(#[source] io::Error),
    #[error("the image is empty")]
    Empty,
    #[error(
        "Unknown magic {0:#x}.\nMaybe you are feeding me an image with raw data(i.e. pages.img)?"
    )]
    UnknownMagic(u32),
    #[error("{what} {entry} is cut short: {got} of {want} bytes")]
    Short { what: &'static str, entry: u64, got: u64, want: u64 },
    #[error("entry {entry} of {len} bytes is over the limit of {}", crate::MAX_ENTRY_LEN)]
    Long { entry: u64, len: u32 },
    #[error("entry {entry}: {source}")]
    Entry { entry: u64, source: Box<Error> },
    #[error("{message}: {what}")]
    Message { message: String, what: String },
    #[error("{field}: {reason}")]
    Json { field: String, reason: String },
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Image(#[from] crate::Error),
}

impl Error {
    fn json(field: &str, reason: String) -> Self {
        Self::Json { field: field.to_owned(), reason }
    }

    fn message(message: &str, what: &str) -> Self {
        Self::Message { message: message.to_owned(), what: what.to_owned() }
    }
}

/// What the command line asks for.
enum Command {
    Print(String),
    Decode { input: Option<PathBuf>, output: Option<PathBuf>, options: image::Options },
    Encode { input: Option<PathBuf>, output: Option<PathBuf> },
    Info(PathBuf),
    Explore { dir: PathBuf, what: explore::What },
}

/// Runs `crit` with the arguments that follow its name; gives the exit code.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let result = parse(&args).and_then(run);
    match result {
        Ok(()) => 0,
        Err(Error::Usage(text)) => {
            eprintln!("{text}");
            if args.is_empty() { 1 } else { 2 }
        }
        // Whoever reads has read enough.
        Err(Error::Io(e)) if e.kind() == io::ErrorKind::BrokenPipe => 1,
        Err(e) => {
            eprintln!("crit: {e}");
            1
        }
    }
}

fn usage(usage: &str, reason: &str) -> Error {
    Error::Usage(format!("{usage}\ncrit: error: {reason}"))
}

fn parse(args: &[OsString]) -> Result<Command, Error> {
    let Some((name, rest)) = args.split_first() else {
        return Err(usage(USAGE, "too few arguments"));
    };
    let lossy = name.to_string_lossy();
    match &*lossy {
        "-h" | "--help" => Ok(Command::Print(format!("{USAGE}{HELP}"))),
        "--version" => Ok(Command::Print(VERSION.to_owned())),
        "decode" => {
            let args = Args::parse(rest, DECODE_USAGE, DECODE_HELP, 0, true)?;
            if let Some(help) = args.help {
                return Ok(Command::Print(help));
            }
            let options = image::Options { pretty: args.pretty, no_payload: args.no_payload };
            Ok(Command::Decode { input: args.input, output: args.output, options })
        }
        "encode" => {
            let args = Args::parse(rest, ENCODE_USAGE, ENCODE_HELP, 0, true)?;
            match args.help {
                Some(help) => Ok(Command::Print(help)),
                None => Ok(Command::Encode { input: args.input, output: args.output }),
            }
        }
        "info" => {
            let mut args = Args::parse(rest, INFO_USAGE, INFO_HELP, 1, false)?;
            match args.help.take() {
                Some(help) => Ok(Command::Print(help)),
                None => Ok(Command::Info(args.positional.remove(0).into())),
            }
        }
        "show" => {
            let mut args = Args::parse(rest, SHOW_USAGE, SHOW_HELP, 1, false)?;
            if let Some(help) = args.help.take() {
                return Ok(Command::Print(help));
            }
            let options = image::Options { pretty: true, no_payload: args.no_payload };
            let input = Some(args.positional.remove(0).into());
            Ok(Command::Decode { input, output: None, options })
        }
        "x" => {
            let mut args = Args::parse(rest, X_USAGE, X_HELP, 2, false)?;
            if let Some(help) = args.help.take() {
                return Ok(Command::Print(help));
            }
            let what = args.positional.remove(1);
            let Some(what) = explore::What::parse(&what) else {
                let choices = "(choose from 'ps', 'fds', 'mems', 'rss')";
                let what = what.to_string_lossy();
                let reason = format!("argument what: invalid choice: '{what}' {choices}");
                return Err(usage(X_USAGE, &reason));
            };
            Ok(Command::Explore { dir: args.positional.remove(0).into(), what })
        }
        other => {
            let choices = "(choose from 'decode', 'encode', 'info', 'x', 'show')";
            let argument = "argument {decode,encode,info,x,show}";
            Err(usage(USAGE, &format!("{argument}: invalid choice: '{other}' {choices}")))
        }
    }
}

/// Arguments of one command.
#[derive(Default)]
struct Args {
    help: Option<String>,
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    pretty: bool,
    no_payload: bool,
    positional: Vec<OsString>,
}

impl Args {
    fn parse(
        args: &[OsString],
        about: &str,
        help: &str,
        positional: usize,
        files: bool,
    ) -> Result<Self, Error> {
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            let (name, value) = match text.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value)),
                _ => (&*text, None),
            };
            let mut file = || -> Result<Option<PathBuf>, Error> {
                let value = value.map(OsString::from).or_else(|| args.next().cloned());
                match value {
                    Some(value) => Ok(Some(value.into())),
                    None => Err(usage(about, &format!("argument {name}: expected one argument"))),
                }
            };
            match name {
                "-h" | "--help" => {
                    parsed.help = Some(format!("{about}{help}"));
                    return Ok(parsed);
                }
                "--pretty" if files => parsed.pretty = true,
                "--nopl" => parsed.no_payload = true,
                "-i" | "--in" if files => parsed.input = file()?,
                "-o" | "--out" if files => parsed.output = file()?,
                _ if text.starts_with("-i") && files => parsed.input = Some(text[2..].into()),
                _ if text.starts_with("-o") && files => parsed.output = Some(text[2..].into()),
                _ if parsed.positional.len() < positional
                    && !(text.len() > 1 && text.starts_with('-')) =>
                {
                    parsed.positional.push(arg.clone());
                }
                _ => return Err(usage(about, &format!("unrecognized arguments: {text}"))),
            }
        }
        match parsed.positional.len() < positional {
            true => Err(usage(about, "too few arguments")),
            false => Ok(parsed),
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Print(text) => writeln!(io::stdout(), "{text}").map_err(Error::Io),
        Command::Decode { input, output, options } => {
            let json = image::decode(open(input)?, options)?;
            put(&json, output, options.pretty)
        }
        Command::Info(path) => put(&image::info(open(Some(path))?)?, None, true),
        Command::Encode { input, output } => {
            let mut text = Vec::new();
            open(input)?.read_to_end(&mut text).map_err(Error::Io)?;
            let mut image = Vec::new();
            // Encoded before the output is opened: a mistake in it costs no image.
            image::encode(&Json::parse(&text)?, &mut image)?;
            let mut out = create(output)?;
            out.write_all(&image).and_then(|()| out.flush()).map_err(Error::Io)
        }
        Command::Explore { dir, what } => {
            let mut out = create(None)?;
            explore::explore(&crate::Dir::open(dir)?, what, &mut out)?;
            out.flush().map_err(Error::Io)
        }
    }
}

fn put(json: &Json, output: Option<PathBuf>, pretty: bool) -> Result<(), Error> {
    let to_stdout = output.is_none();
    let mut out = create(output)?;
    json.write(&mut out, pretty).map_err(Error::Io)?;
    if to_stdout {
        out.write_all(b"\n").map_err(Error::Io)?;
    }
    out.flush().map_err(Error::Io)
}

fn open(path: Option<PathBuf>) -> Result<Box<dyn Read>, Error> {
    match path.filter(|p| p.as_os_str() != OsStr::new("-")) {
        None => Ok(Box::new(io::stdin().lock())),
        Some(path) => match File::open(&path) {
            Ok(file) => Ok(Box::new(BufReader::new(file))),
            Err(source) => Err(Error::Open { path: path.display().to_string(), source }),
        },
    }
}

fn create(path: Option<PathBuf>) -> Result<Box<dyn Write>, Error> {
    match path {
        None => Ok(Box::new(BufWriter::new(io::stdout()))),
        Some(path) => match File::create(&path) {
            Ok(file) => Ok(Box::new(BufWriter::new(file))),
            Err(source) => Err(Error::Open { path: path.display().to_string(), source }),
        },
    }
}

/// Decodes an image to JSON as `crit decode` does.
pub fn decode(image: &[u8], pretty: bool) -> Result<String, Box<dyn std::error::Error>> {
    let options = image::Options { pretty, no_payload: false };
    let mut out = Vec::new();
    image::decode(image, options)?.write(&mut out, pretty)?;
    Ok(String::from_utf8(out)?)
}

/// Encodes an image from JSON as `crit encode` does.
pub fn encode(json: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut out = Vec::new();
    image::encode(&Json::parse(json.as_bytes())?, &mut out)?;
    Ok(out)
}

/// Looks at a checkpoint as `crit x` does; `what` is `ps`, `fds`, `mems` or `rss`.
pub fn explore(dir: &crate::Dir, what: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let what = explore::What::parse(OsStr::new(what)).ok_or("nothing to look at")?;
    let mut out = Vec::new();
    explore::explore(dir, what, &mut out)?;
    Ok(out)
}
