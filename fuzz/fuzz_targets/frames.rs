//! Compressed pages images; the first byte chooses the codec, and whether these are such an image
//! or pages to make one of.
#![no_main]

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use images::pages::{
    Codec, Compressed, Compression, Decoder, Encoder, FrameWriter, Frames, PAGE_SIZE,
};

const LARGE: u32 = 1 << 20;

fn file() -> File {
    tempfile::tempfile_in("/dev/shm").unwrap()
}

fn decode(codec: Codec, bytes: &[u8]) {
    let mut file = file();
    file.write_all(bytes).unwrap();
    let Ok(frames) = Frames::open(&file, "pages-1.img", codec) else { return };
    let mut decoder = Decoder::default();
    for (n, frame) in frames.frames().iter().enumerate().filter(|(_, f)| f.size <= LARGE) {
        drop(frames.decode(&file, n, &mut decoder, &mut vec![0; frame.size as usize]));
    }
    if frames.frames().iter().all(|f| f.size <= LARGE) {
        let len = frames.len_bytes();
        for at in [0, len / 2, len.saturating_sub(PAGE_SIZE), u64::MAX - 100] {
            drop(frames.read_at(&file, at, &mut [0; 5000]));
        }
    }
}

fn encode(compression: Compression, pages: &[u8]) {
    let file = Arc::new(file());
    let codec = compression.codec;
    let writer = FrameWriter::new(Arc::clone(&file), "pages-1.img".into(), codec, 1 << 20);
    let made = Encoder::new(compression).unwrap().encode(pages, Compressed::default()).unwrap();
    let mut plain = Vec::new();
    match codec {
        Codec::Lz4 => {
            drop(lz4_flex::frame::FrameDecoder::new(&*made.bytes).read_to_end(&mut plain).unwrap())
        }
        Codec::Zstd => drop(
            zstd::stream::read::Decoder::new(&*made.bytes)
                .unwrap()
                .read_to_end(&mut plain)
                .unwrap(),
        ),
    }
    assert_eq!(plain, pages);
    writer.put(0, pages.len() as u64, made, false).unwrap();
    writer.finish().unwrap();
    let frames = Frames::open(&file, "pages-1.img", codec).unwrap();
    let mut back = vec![0; pages.len()];
    frames.read_at(&file, 0, &mut back).unwrap();
    assert_eq!(back, pages);
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, bytes @ ..] = input else { return };
    let codec = Codec::ALL[usize::from(which & 1)];
    match which >> 1 & 1 {
        0 => decode(codec, bytes),
        _ if bytes.is_empty() => {}
        _ => encode(Compression { codec, level: i32::from(which >> 2 & 3) }, bytes),
    }
});
