use super::*;

/// Writes BTF.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
    }

    fn kind(&mut self, name: &str, kind: u32, vlen: usize, size_or_type: u32) {
        let name = self.name(name);
        self.words(&[name, kind << 24 | vlen as u32, size_or_type]);
    }

    /// Members: name, type, offset in bits.
    fn group(&mut self, name: &str, kind: u32, members: &[(&str, u32, u32)]) {
        self.kind(name, kind, members.len(), 64);
        for (name, id, offset) in members {
            let name = self.name(name);
            self.words(&[name, *id, *offset]);
        }
    }

    fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_ne_bytes());
        out.extend([1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        out.extend([24, 0, types, types, strings].iter().flat_map(|w: &u32| w.to_ne_bytes()));
        out.extend(self.types);
        out.extend(self.strings);
        out
    }
}

fn made() -> Vec<u8> {
    let mut w = Writer::default();
    w.kind("long", INT, 0, 8); // 1
    w.words(&[64]);
    w.kind("int", INT, 0, 4); // 2
    w.words(&[32]);
    w.kind("vm_flags_t", TYPEDEF, 0, 1); // 3
    w.kind("", CONST, 0, 3); // 4
    w.kind("", PTR, 0, 7); // 5
    w.group("", UNION, &[("flags", 4, 0), ("__flags", 3, 0)]); // 6
    w.group("area", STRUCT, &[("start", 1, 0), ("", 6, 64), ("peer", 5, 128), ("small", 2, 192)]); // 7
    w.kind("area", FUNC, 0, 9); // 8
    w.kind("", 13, 1, 0); // 9
    w.words(&[0, 5]);
    w.group("twice", STRUCT, &[]); // 10
    w.group("twice", STRUCT, &[]); // 11
    w.group("", STRUCT, &[("", 12, 0), ("", 12, 0)]); // 12: within itself
    w.group("endless", STRUCT, &[("", 12, 0), ("", 0, 0), ("last", 1, 64)]); // 13
    w.finish()
}

#[test]
fn members_are_found_where_they_are() {
    let bytes = made();
    let btf = Btf::parse(&bytes).unwrap();
    let wanted = [(Kind::Struct, "area"), (Kind::Func, "area"), (Kind::Struct, "are")];
    assert_eq!(btf.find(wanted), [7, 8, 0]);
    assert_eq!(btf.find([(Kind::Struct, "twice")]), [0], "which of them is not known");
    let of = |name| btf.word(7, name);
    assert_eq!([of("start"), of("flags"), of("peer")], [Some(0), Some(8), Some(16)]);
    assert_eq!([of("small"), of("none"), of("")], [None; 3]);
    assert_eq!([btf.word(0, "start"), btf.word(99, "start"), btf.word(1, "start")], [None; 3]);
    assert_eq!(btf.word(13, "last"), None, "after all that may be looked at");
}

#[test]
fn torn_btf_is_none() {
    let bytes = made();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_none(), "{len}");
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xff;
        if let Some(btf) = Btf::parse(&bytes) {
            let [id] = btf.find([(Kind::Struct, "area")]);
            btf.word(id, "flags");
        }
    }
}

#[test]
fn this_kernel_tells_its_types() {
    let Ok(types) = sys::bpf::Types::of_kernel() else { return };
    let begun = std::time::Instant::now();
    let btf = Btf::parse(types.bytes()).unwrap();
    let [vma, meta] = btf.find([(Kind::Struct, "vm_area_struct"), (Kind::Struct, "bpf_iter_meta")]);
    println!("{} types in {:?}", btf.starts.len(), begun.elapsed());
    assert_eq!((btf.word(vma, "vm_start"), btf.word(vma, "vm_end")), (Some(0), Some(8)));
    assert!(btf.word(vma, "vm_flags").is_some_and(|at| at > 8));
    assert!(btf.word(vma, "anon_vma").is_some());
    assert_eq!(btf.word(meta, "seq"), Some(0));
}
