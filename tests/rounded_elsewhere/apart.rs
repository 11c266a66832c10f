//! Mixtures of experts whose matrices are stored one by one, or all of a layer together in E4M3: written here from the
//! checkpoint `moe`, as the programs write them that round published ones.

use burn::tensor::f16;

use super::*;

const EXPERTS: usize = 6;
const HIDDEN: usize = 48;
/// More than half a block of E4M3, so that both matrices of an expert together have two.
const INNER: usize = 96;

/// How the experts of a checkpoint are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// As floats, all of a layer together.
    Together,
    /// As floats, one by one.
    Apart,
    /// E4M3, all of a layer together, in transformers' order or in that of published files.
    Float8 { transposed: bool },
    /// E4M3, one by one.
    Float8Apart,
    /// The last matrices by AutoAWQ, one by one, and the others as floats.
    Awq,
    /// The last matrices by compressed-tensors, one by one, and the others as floats.
    Packed,
}

/// A number of E4M3 that is no NaN.
fn of_float8(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let value = match exponent {
        0 => mantissa / 8.0 * (-6f32).exp2(),
        _ => (1.0 + mantissa / 8.0) * ((exponent - 7) as f32).exp2(),
    };
    sign * value
}

/// A matrix of rows of so many inputs, as codes.
struct Matrix {
    inputs: usize,
    codes: Vec<u8>,
}

impl Matrix {
    fn new(rows: usize, inputs: usize, seed: usize, code: impl Fn(usize) -> u8) -> Self {
        let at = |i: usize| code((i + 1).wrapping_mul(2_654_435_761 + 2 * seed) >> 7);
        Self { inputs, codes: (0..rows * inputs).map(at).collect() }
    }

    fn numbers(&self, number: impl Fn(u8, usize, usize) -> f32) -> Vec<f32> {
        let all = self.codes.iter().enumerate();
        all.map(|(i, code)| number(*code, i / self.inputs, i % self.inputs)).collect()
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `[rows, columns]` elements of a byte or more with the axes swapped.
fn turned<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

fn scale_of(seed: usize, row: usize, column: usize) -> f32 {
    // Of the block, and a power of two, for products to be exact.
    f32::from_bits(((114 + (seed + row / 128 * 3 + column / 128) % 4) as u32) << 23)
}

/// The matrices `rows` by `inputs` of all experts in E4M3: those of `each` parts of an expert one after the other, as a checkpoint
/// holds them in `form`, and as floats `[experts, rows, inputs]`.
fn float8(
    layer: &str,
    parts: &[&str],
    [rows, inputs]: [usize; 2],
    form: Form,
) -> (Tensors, Vec<f32>) {
    let (mut tensors, mut numbers) = (Tensors::new(), Vec::new());
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    let joined = if parts.len() == 2 { "gate_up_proj" } else { "down_proj" };
    for expert in 0..EXPERTS {
        let matrix = Matrix::new(rows, inputs, expert, |i| {
            let code = (i & 0xff) as u8;
            if code & 0x7f == 0x7f { 0x11 } else { code }
        });
        // One by one, blocks begin with each part.
        let length = if form == Form::Float8Apart { rows / parts.len() } else { rows };
        let scale =
            |row: usize, column: usize| scale_of(expert + row / length, row % length, column);
        numbers.extend(matrix.numbers(|code, row, column| of_float8(code) * scale(row, column)));
        let blocks = [length.div_ceil(128), inputs.div_ceil(128)];
        let of_part = |first: usize| -> Vec<f32> {
            let at = |a: usize, b: usize| scale(first + a * 128, b * 128);
            (0..blocks[0]).flat_map(|a| (0..blocks[1]).map(move |b| at(a, b))).collect()
        };
        if form == Form::Float8Apart {
            for (index, part) in parts.iter().enumerate() {
                let name = format!("{layer}.{expert}.{part}.weight");
                let size = length * inputs;
                let codes = matrix.codes[index * size..][..size].to_vec();
                tensors.insert(name.clone(), (Dtype::F8_E4M3, vec![length, inputs], codes));
                let scales = (Dtype::F32, blocks.to_vec(), bytes(&of_part(index * length)));
                tensors.insert(format!("{name}_scale_inv"), scales);
            }
            continue;
        }
        let turn = form == Form::Float8 { transposed: true };
        codes.extend(if turn { turned(&matrix.codes, inputs) } else { matrix.codes.clone() });
        scales.extend(if turn { turned(&of_part(0), blocks[1]) } else { of_part(0) });
    }
    if let Form::Float8 { transposed } = form {
        let way =
            |[a, b]: [usize; 2]| if transposed { vec![EXPERTS, b, a] } else { vec![EXPERTS, a, b] };
        let name = format!("{layer}.{joined}");
        let blocks = way([rows.div_ceil(128), inputs.div_ceil(128)]);
        tensors.insert(format!("{name}_scale_inv"), (Dtype::F32, blocks, bytes(&scales)));
        tensors.insert(name, (Dtype::F8_E4M3, way([rows, inputs]), codes));
    }
    (tensors, numbers)
}

fn words(values: impl Iterator<Item = u32>) -> Vec<u8> {
    values.flat_map(u32::to_le_bytes).collect()
}

/// The same of the last matrices in four bits, groups of 32, scales in f16.
fn four_bits(layer: &str, [rows, inputs]: [usize; 2], form: Form) -> (Tensors, Vec<f32>) {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let (mut tensors, mut numbers) = (Tensors::new(), Vec::new());
    let groups = inputs / 32;
    for expert in 0..EXPERTS {
        let matrix = Matrix::new(rows, inputs, 50 + expert, |i| (i & 15) as u8);
        let scale = |row: usize, group: usize| (1 + (row + 2 * group + expert) % 5) as f32 / 128.0;
        let zero = |row: usize, group: usize| ((row * 3 + group + expert) % 16) as u8;
        let offset = |row, group| if form == Form::Awq { f32::from(zero(row, group)) } else { 8.0 };
        numbers.extend(matrix.numbers(|code, row, column| {
            (f32::from(code) - offset(row, column / 32)) * scale(row, column / 32)
        }));
        let mut add = |end: &str, dtype: Dtype, shape: [usize; 2], bytes: Vec<u8>| {
            let name = format!("{layer}.{expert}.down_proj.{end}");
            tensors.insert(name, (dtype, shape.to_vec(), bytes));
        };
        let half = |value: f32| f16::from_f32(value).to_le_bytes();
        let code = |row: usize, input: usize| u32::from(matrix.codes[row * inputs + input]);
        if form == Form::Packed {
            let eight =
                |at: usize| (0..8).map(|i| u32::from(matrix.codes[8 * at + i]) << (4 * i)).sum();
            add(
                "weight_packed",
                Dtype::I32,
                [rows, inputs / 8],
                words((0..rows * inputs / 8).map(eight)),
            );
            let scales = (0..rows * groups).flat_map(|i| half(scale(i / groups, i % groups)));
            add("weight_scale", Dtype::F16, [rows, groups], scales.collect());
            continue;
        }
        let word = |of: &dyn Fn(usize) -> u32, column: usize| -> u32 {
            ORDER.iter().enumerate().map(|(half, row)| of(8 * column + row) << (4 * half)).sum()
        };
        let columns = rows / 8;
        let of_input = |i: usize| word(&|row| code(row, i / columns), i % columns);
        add("qweight", Dtype::I32, [inputs, columns], words((0..inputs * columns).map(of_input)));
        let of_group = |i: usize| word(&|row| u32::from(zero(row, i / columns)), i % columns);
        add("qzeros", Dtype::I32, [groups, columns], words((0..groups * columns).map(of_group)));
        let scales = (0..groups * rows).flat_map(|i| half(scale(i % rows, i / rows)));
        add("scales", Dtype::F16, [groups, rows], scales.collect());
    }
    (tensors, numbers)
}

/// Floats `[experts, rows, inputs]` one by one, or together.
fn floats(
    layer: &str,
    parts: &[&str],
    [rows, inputs]: [usize; 2],
    numbers: &[f32],
    form: Form,
) -> Tensors {
    if form == Form::Together {
        let joined = if parts.len() == 2 { "gate_up_proj" } else { "down_proj" };
        let whole = (Dtype::F32, vec![EXPERTS, rows, inputs], bytes(numbers));
        return Tensors::from([(format!("{layer}.{joined}"), whole)]);
    }
    let length = rows / parts.len();
    let matrices = numbers.chunks(length * inputs).enumerate().map(|(i, numbers)| {
        let name = format!("{layer}.{}.{}.weight", i / parts.len(), parts[i % parts.len()]);
        (name, (Dtype::F32, vec![length, inputs], bytes(numbers)))
    });
    matrices.collect()
}

/// The checkpoint `moe` with wider experts, two times the same numbers: in `form`, and as floats all together.
fn written(form: Form) -> [tempfile::TempDir; 2] {
    let folders = [common::copy_of("moe"), common::copy_of("moe")];
    let held = std::fs::read(folders[0].path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&held).unwrap();
    let owned = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    let others = file.tensors().into_iter().filter(|(name, _)| !name.contains(".experts."));
    let others: Tensors = others.map(owned).collect();
    let [mut stored, mut plain] = [others.clone(), others];
    for layer in [0, 2].map(|i| format!("model.language_model.layers.{i}.mlp.experts")) {
        for (parts, size) in [
            (&["gate_proj", "up_proj"][..], [2 * INNER, HIDDEN]),
            (&["down_proj"], [HIDDEN, INNER]),
        ] {
            let four = matches!(form, Form::Awq | Form::Packed) && parts.len() == 1;
            let eight = matches!(form, Form::Float8 { .. } | Form::Float8Apart);
            let (tensors, numbers) = match (four, eight) {
                (true, _) => four_bits(&layer, size, form),
                (_, true) => float8(&layer, parts, size, form),
                _ => {
                    let (_, numbers) =
                        float8(&layer, parts, size, Form::Float8 { transposed: false });
                    (floats(&layer, parts, size, &numbers, Form::Apart), numbers)
                }
            };
            stored.extend(tensors);
            plain.extend(floats(&layer, parts, size, &numbers, Form::Together));
        }
    }
    let settings = match form {
        Form::Awq => {
            json!({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": true})
        }
        Form::Packed => json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": true}}},
        }),
        Form::Float8 { .. } | Form::Float8Apart => {
            json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})
        }
        _ => Value::Null,
    };
    for (folder, (tensors, settings)) in
        folders.iter().zip([(stored, settings), (plain, Value::Null)])
    {
        let mut config = read_json(&folder.path().join("config_v4.json"));
        config["text_config"]["moe_intermediate_size"] = json!(INNER);
        if !settings.is_null() {
            config["quantization_config"] = settings;
        }
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        in_two_files(folder.path(), &tensors);
    }
    folders
}

/// Writes tensors into two files in turn, so that those of a layer lie in both.
fn in_two_files(folder: &Path, tensors: &Tensors) {
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let file = |index: usize| format!("{}.safetensors", ["a", "b"][index % 2]);
    for which in 0..2 {
        let some = tensors.iter().enumerate().filter(|(i, _)| i % 2 == which);
        let views = some.map(|(_, (name, (dtype, shape, bytes)))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(folder.join(file(which)), safetensors::serialize(views, None).unwrap())
            .unwrap();
    }
    let map: BTreeMap<&String, String> =
        tensors.keys().enumerate().map(|(i, name)| (name, file(i))).collect();
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

const FORMS: [Form; 6] = [
    Form::Apart,
    Form::Float8 { transposed: false },
    Form::Float8 { transposed: true },
    Form::Float8Apart,
    Form::Awq,
    Form::Packed,
];

#[test]
fn experts_are_read_however_they_are_stored() {
    for form in FORMS {
        let [folder, original] = written(form);
        for device in common::devices() {
            let case = format!("{form:?} on {device}");
            let loaded = load(folder.path(), &device).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert!(loaded.report().unexpected.is_empty(), "{case}: {:?}", loaded.report());
            let original = common::load(original.path(), &device);
            // The numbers themselves, and how many matrices stay rounded.
            let (found, expected) = (weights(loaded.model()), weights(original.model()));
            let experts = expected.iter().filter(|(name, _)| name.contains(".experts."));
            for (name, values) in experts {
                assert!(&found[name] == values, "{case}: {name}");
            }
            let rounded = match form {
                Form::Apart | Form::Together => 0,
                Form::Awq | Form::Packed => 2,
                Form::Float8 { .. } | Form::Float8Apart => 4,
            };
            assert_eq!(dense(loaded.model()).1, rounded, "{case}");
            let of = |loaded: &Qwen3Vl| common::logits_of_two_images(loaded.model(), "moe");
            let (found, expected) = (of(&loaded), of(&original));
            let size = largest(expected.iter().copied());
            let far = largest(found.iter().zip(&expected).map(|(a, b)| a - b));
            // Flex rounds the activations of few rows where codes are integers.
            let integers = matches!(form, Form::Awq | Form::Packed);
            let bound = if device == "flex" && integers { 0.1 } else { 1e-5 };
            assert!(far <= bound * size, "{case}: {far} of {size}");
        }
    }
}

/// Experts on the host are copied from where they lie, each from its own parts.
#[test]
fn experts_that_are_stored_one_by_one_are_streamed() {
    for form in FORMS {
        let [folder, _] = written(form);
        let of = |expert_memory: Option<u64>| {
            let options = LoadOptions {
                device: Some("ndarray".into()),
                dtype: "f32".parse().unwrap(),
                expert_memory,
                ..LoadOptions::default()
            };
            let loaded = Qwen3Vl::load(folder.path().to_str().unwrap(), options).unwrap();
            common::logits_of_two_images(loaded.model(), "moe")
        };
        // Room for two matrices of an expert.
        let one = (2 * INNER * HIDDEN * 4) as u64;
        assert_eq!(of(Some(2 * one)), of(None), "{form:?}");
    }
}

/// Also those that are copied as they are.
#[test]
fn experts_that_are_stored_one_by_one_can_be_rounded() {
    let folders = written(Form::Apart);
    let options = QuantizeOptions {
        rounding: Rounding {
            exclude: vec!["down_proj".to_owned()],
            ..Rounding::new("int8-g32".parse().unwrap())
        },
        max_shard_bytes: 1 << 30,
    };
    let [apart, together] = folders.each_ref().map(|folder| {
        let out = folder.path().join("out");
        quantize_checkpoint(folder.path(), &out, &options, &mut ()).unwrap();
        logits(load(&out, "flex").unwrap().model())
    });
    assert_eq!(apart, together);
}

#[test]
fn what_is_wrong_with_one_expert_is_named() {
    let spoiled = |form: Form, change: &dyn Fn(&mut Tensors)| {
        let [folder, _] = written(form);
        let mut tensors = Tensors::new();
        for file in ["a", "b"].map(|file| folder.path().join(format!("{file}.safetensors"))) {
            let bytes = std::fs::read(&file).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                tensors.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
            }
        }
        change(&mut tensors);
        std::fs::write(folder.path().join("model.safetensors"), []).unwrap();
        in_two_files(folder.path(), &tensors);
        load(folder.path(), "flex").map(|_| ()).unwrap_err()
    };
    let expert = "model.language_model.layers.2.mlp.experts";
    for (message, words) in [
        (
            spoiled(Form::Awq, &|t| {
                drop(t.remove(&format!("{expert}.3.down_proj.qweight")).unwrap())
            }),
            ["experts.3.down_proj.weight", "experts.0.down_proj"],
        ),
        (
            spoiled(Form::Float8Apart, &|t| {
                drop(t.remove(&format!("{expert}.3.up_proj.weight_scale_inv")).unwrap());
            }),
            ["experts.3.up_proj.weight", "weight_scale_inv"],
        ),
        (
            spoiled(Form::Float8 { transposed: false }, &|t| {
                drop(t.remove(&format!("{expert}.down_proj_scale_inv")).unwrap());
            }),
            ["experts.down_proj`", "experts.down_proj_scale_inv"],
        ),
        (
            spoiled(Form::Float8 { transposed: true }, &|t| {
                t.get_mut(&format!("{expert}.down_proj")).unwrap().2[7] = 0x7f;
            }),
            ["experts.down_proj", "not finite"],
        ),
        (
            spoiled(Form::Apart, &|t| {
                drop(t.remove(&format!("{expert}.5.up_proj.weight")).unwrap())
            }),
            ["experts.gate_up_proj", "missing"],
        ),
        (
            spoiled(Form::Apart, &|t| {
                let matrix = t.get_mut(&format!("{expert}.5.up_proj.weight")).unwrap();
                *matrix = (Dtype::BF16, matrix.1.clone(), vec![0; matrix.2.len() / 2]);
            }),
            ["experts.5.up_proj.weight", "experts of a layer have one dtype"],
        ),
        (
            spoiled(Form::Packed, &|t| {
                let scales = t.get_mut(&format!("{expert}.4.down_proj.weight_scale")).unwrap();
                *scales = (Dtype::F32, scales.1.clone(), vec![0; 2 * scales.2.len()]);
            }),
            ["experts.4.down_proj.weight", "F32"],
        ),
    ] {
        let missing = words.iter().find(|word| !message.contains(*word));
        assert_eq!(missing, None, "{message}");
    }
}
