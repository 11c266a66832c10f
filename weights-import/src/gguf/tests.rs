//! Headers that are damaged or claim what is not there, and blocks whose numbers can be told by hand.

use super::*;

/// A header of one key and one tensor, which a test then spoils.
struct Draft {
    version: u32,
    keys: u64,
    tensors: u64,
    body: Vec<u8>,
}

impl Draft {
    fn new() -> Self {
        Self { version: 3, keys: 0, tensors: 0, body: Vec::new() }
    }

    fn text(mut self, text: &str) -> Self {
        self.body.extend((text.len() as u64).to_le_bytes());
        self.body.extend(text.as_bytes());
        self
    }

    fn u32(mut self, number: u32) -> Self {
        self.body.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.body.extend(number.to_le_bytes());
        self
    }

    fn key(self, name: &str, kind: u32) -> Self {
        let keys = self.keys + 1;
        Self { keys, ..self }.text(name).u32(kind)
    }

    fn tensor(self, name: &str, kind: u32, shape: &[u64], offset: u64) -> Self {
        let tensors = self.tensors + 1;
        let draft = Self { tensors, ..self }.text(name).u32(shape.len() as u32);
        shape.iter().fold(draft, |draft, side| draft.u64(*side)).u32(kind).u64(offset)
    }

    /// The file, with `data` bytes behind the header.
    fn file(self, data: usize) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(self.body);
        file.resize(file.len().next_multiple_of(32) + data, 0);
        file
    }
}

fn error(draft: Draft) -> String {
    Header::read(&draft.file(64)).unwrap_err().to_string()
}

#[test]
fn keys_and_tensors_are_read() {
    let draft = Draft::new().key("general.architecture", 8).text("qwen3vl").key("a", 9).u32(4);
    let draft = draft.u64(2).u32(7).u32(8).key("b", 6).u32(1.5f32.to_bits());
    let draft = draft.tensor("w", 8, &[32, 1], 0).tensor("v", 30, &[4], 64);
    let header = Header::read(&draft.file(72)).unwrap();
    assert_eq!(header.text("general.architecture"), Some("qwen3vl"));
    assert_eq!((header.numbers("a"), header.number("b")), (Some(&[7.0, 8.0][..]), Some(1.5)));
    let [w, v] = &header.tensors[..] else { panic!("two tensors") };
    assert_eq!(
        (w.storage, &w.shape[..], w.range.len()),
        (Storage::Blocks(BlockType::Q8_0), &[1, 32][..], 34)
    );
    assert_eq!((v.range.start - w.range.start, v.range.len()), (64, 8));
}

#[test]
fn what_is_wrong_with_a_header_is_named() {
    let tensor = |kind, shape: &[u64], offset| Draft::new().tensor("w", kind, shape, offset);
    for (draft, words) in [
        (Draft { version: 1, ..Draft::new() }, &["version 1"][..]),
        (Draft { version: 3 << 24, ..Draft::new() }, &["little-endian"]),
        (Draft { keys: u64::MAX, ..Draft::new() }, &["keys"]),
        (Draft { tensors: 1 << 40, ..Draft::new() }, &["tensors"]),
        (Draft { keys: 1000, ..Draft::new() }, &["truncated"]),
        (Draft::new().key("k", 8).u64(u64::MAX), &["`k`", "inside k"][1..]),
        (Draft::new().key("k", 9).u32(4).u64(1 << 60), &["list"]),
        (Draft::new().key("k", 9).u32(8).u64(1 << 20), &["inside k"]),
        (Draft::new().key("k", 77), &["`k`", "type 77"]),
        (Draft::new().key("k", 9).u32(9).u64(1), &["`k`", "type 9"]),
        (Draft::new().key("general.alignment", 4).u32(7), &["alignment is 7"]),
        (Draft::new().key("split.count", 4).u32(3), &["part 1 of 3", "--merge"]),
        (tensor(10, &[256], 0), &["`w`", "Q2_K", "Q5_K and Q6_K", "F16"]),
        (tensor(999, &[256], 0), &["`w`", "999"]),
        (tensor(12, &[128], 0), &["`w`", "128", "256"]),
        (tensor(0, &[17], 0), &["tensor `w`", "truncated"]),
        (tensor(0, &[1], 8), &["`w`", "multiple of 32"]),
        (tensor(0, &[u64::MAX, 2], 0), &["values of one tensor"]),
        (tensor(0, &[1], u64::MAX / 32 * 32), &["values of one tensor"]),
        (tensor(0, &[1; 5], 0), &["5 axes"]),
    ] {
        let message = error(draft);
        let missing = words.iter().find(|word| !message.contains(**word));
        assert_eq!(missing, None, "{message}");
    }
    assert_eq!(Header::read(b"GGML"), Err(GgufError::Magic));
    assert!(Header::read(b"GG").unwrap_err().to_string().contains("truncated"));
}

/// The value of each code by ggml's formula, for blocks of one code and one scale.
#[test]
fn blocks_mean_what_ggml_says() {
    let one = half::ONE;
    let expand = |block: BlockType, bytes: &[u8]| {
        let scheme = block.scheme();
        let count = if bytes.len() > 100 { 256 } else { 32 };
        let mut codes = vec![0; scheme.row_bytes(count)];
        let (mut scales, mut out) = (vec![0.0; scheme.scale_columns(count)], vec![0.0; count]);
        block.unpack(bytes, &mut codes, &mut scales);
        scheme.expand_row(&codes, &scales, &mut out);
        out
    };
    let eight = expand(BlockType::Q8_0, &[&one[..], &[0x80; 32]].concat());
    assert_eq!(eight, [-128.0; 32]);
    let four = expand(BlockType::Q4_0, &[&one[..], &[0xf1; 16]].concat());
    assert_eq!((four[0], four[15], four[16], four[31]), (-7.0, -7.0, 7.0, 7.0));
    let with_minimum = expand(BlockType::Q4_1, &[&one[..], &one[..], &[0x20; 16]].concat());
    assert_eq!((with_minimum[0], with_minimum[16]), (1.0, 3.0));
    let five = expand(BlockType::Q5_0, &[&one[..], &[1, 0, 0, 0x80], &[0x10; 16]].concat());
    assert_eq!((five[0], five[1], five[16], five[31]), (0.0, -16.0, -15.0, 1.0));
    let fifths = [1, 0, 0, 0x80];
    let five = expand(BlockType::Q5_1, &[&one[..], &one[..], &fifths, &[0x10; 16]].concat());
    assert_eq!((five[0], five[1], five[16], five[31]), (17.0, 1.0, 2.0, 18.0));
}

mod half {
    pub const ONE: [u8; 2] = 0x3c00u16.to_le_bytes();
}
