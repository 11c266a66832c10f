use super::*;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_backends::{Precision, device};

const HIDDEN: usize = 24;

/// A block of six experts, of which three are used.
fn block(device: &burn::tensor::Device) -> MoeBlock {
    let config = MoeConfig {
        experts: 6,
        experts_per_token: 3,
        intermediate_size: 12,
        sparse_step: 1,
        dense_layers: Vec::new(),
    };
    let init = Init { std: 0.5, ..Init::new(device, Precision::F32) };
    MoeBlock::new(HIDDEN, &config, &init)
}

/// One on every device of this build that is a processor.
fn blocks() -> Vec<(MoeBlock, burn::tensor::Device)> {
    let processors = device::present().into_iter().filter(|found| found.kind.is_cpu());
    processors.map(|found| (block(&found.device), found.device)).collect()
}

fn rows(count: usize, device: &burn::tensor::Device) -> Tensor<2> {
    let values: Vec<f32> = (0..count * HIDDEN).map(|i| (i as f32 * 0.7713).sin()).collect();
    Tensor::from_data(TensorData::new(values, [count, HIDDEN]), device)
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn experts_together_compute_what_one_after_the_other_does() {
    let blocks = blocks();
    assert!(!blocks.is_empty());
    for (block, device) in blocks {
        for count in [1, 2, 37] {
            let x = rows(count, &device);
            let routing = || Routing::new(block.gate.forward(x.clone()), 3);
            let together = values(block.sorted(x.clone(), &routing()));
            let apart = values(block.one_by_one(x.clone(), &routing()));
            let size = apart.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let far = together.iter().zip(&apart).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, f32::max);
            assert!(size > 0.1 && far < 1e-5 * size, "{count} rows: {far} of {size}");
        }
    }
}

/// Cards of this machine.
fn cards() -> impl Iterator<Item = device::SelectedDevice> {
    device::present().into_iter().filter(|found| !found.kind.is_cpu())
}

/// What a card computes by itself is what one expert after the other does, and the whole block does no other thing.
fn check_on_card(block: &MoeBlock, count: usize, device: &burn::tensor::Device) {
    let x = rows(count, device);
    let logits = block.gate.forward(x.clone());
    let alone = block.on_card(&x, &logits).map(values);
    let expected = values(block.one_by_one(x.clone(), &Routing::new(logits, 3)));
    let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let whole = values(block.forward(x, 0, &mut Probe::off()));
    for y in [alone.expect("without the host"), whole] {
        let far = y.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(far.fold(0.0, f32::max) < 1e-5 * size, "{count} rows");
    }
}

/// Few, as prompts have, and more than are computed at one time.
#[test]
fn a_card_computes_any_number_of_rows_without_the_host() {
    for found in cards() {
        let block = block(&found.device);
        for count in [1, 5, 128, 129, 300, 6000] {
            check_on_card(&block, count, &found.device);
        }
    }
}

/// Gradients flow through what the host sorts, and a probe is told what it chose.
#[test]
fn training_and_probes_ask_the_host() {
    for found in cards() {
        let block = block(&found.device);
        let device = found.device.clone().autodiff();
        let x = rows(5, &device);
        let logits = x.clone().narrow(1, 0, 6);
        assert!(block.on_card(&x, &logits).is_none());
        let mut probe = Probe::on();
        block.forward(rows(200, &found.device), 0, &mut probe);
        let records = probe.into_records();
        assert!(records.iter().any(|(name, _)| name == "router_index.0"));
    }
}

/// The same experts, rounded.
fn rounded(stack: &Stack, scheme: QuantScheme) -> Stack {
    let ([experts, rows, inputs], device) = (stack.shape(), stack.values().device());
    let values = stack.values().into_data().try_to_vec::<f32>().unwrap();
    let found = scheme.round(&values, inputs).unwrap();
    let shape = vec![experts * rows, scheme.row_bytes(inputs)];
    let codes = TensorData::from_bytes_vec(found.codes, shape, scheme.code_dtype());
    let scales = TensorData::new(found.scales, [experts * rows, scheme.groups(inputs)]);
    let scales = scales.convert_dtype(DType::F32);
    let codes = Tensor::from_data(codes, (&device, scheme.code_dtype()));
    let scales = Tensor::from_data(scales, (&device, DType::F32));
    Stack::Quantised(Quantised::new(codes, scales, scheme, inputs).stacked(experts))
}

#[test]
fn a_card_computes_with_rounded_experts_without_the_host_too() {
    for (found, scheme) in cards().flat_map(|found| {
        ["int8-g64", "int4-g32"].map(|name| (found.clone(), name.parse().unwrap()))
    }) {
        let mut block = block(&found.device);
        block.experts.gate_up_proj = rounded(&block.experts.gate_up_proj, scheme);
        block.experts.down_proj = rounded(&block.experts.down_proj, scheme);
        for count in [1, 37, 129, 300] {
            check_on_card(&block, count, &found.device);
        }
    }
}

/// Batches change nothing, though rows of other prompts go to the same experts. (The products of ndarray differ in
/// their last bits with the number of rows.)
#[test]
fn a_row_gets_the_same_bits_among_others_as_alone() {
    let on_flex = |(_, device): &(MoeBlock, burn::tensor::Device)| {
        device::open("flex").is_ok_and(|flex| flex.device == *device)
    };
    for (block, device) in blocks().into_iter().filter(on_flex) {
        let x = rows(5, &device);
        let of = |x: Tensor<2>| values(block.forward(x, 0, &mut Probe::off()));
        let together = of(x.clone());
        for row in 0..5 {
            let alone = of(x.clone().narrow(0, row, 1));
            assert_eq!(alone, together[row * HIDDEN..][..HIDDEN], "row {row}");
        }
    }
}

#[test]
fn pairs_are_sorted_by_expert_and_found_again() {
    let experts = vec![vec![3, 1], vec![1, 0], vec![3, 4]];
    let weights = Tensor::zeros([6, 1], &blocks()[0].1);
    let Sorted { shares, from, to } = Routing { experts, weights }.sorted(6);
    let found: Vec<_> = shares.iter().map(|share| (share.expert, share.rows)).collect();
    assert_eq!(found, [(0, 1), (1, 2), (3, 2), (4, 1)]);
    assert_eq!(from, [1, 0, 1, 0, 2, 2]);
    assert_eq!(to, [3, 1, 2, 0, 4, 5]);
}

#[test]
fn the_best_experts_are_chosen_and_of_equal_ones_the_first() {
    let (_, device) = blocks().remove(0);
    let logits = TensorData::new(vec![0.5f32, 2.0, 2.0, -1.0, 2.0, 3.0], [1, 6]);
    for (k, expected) in [(1, vec![5]), (3, vec![5, 1, 2]), (6, vec![5, 1, 2, 4, 0, 3])] {
        let routing = Routing::new(Tensor::from_data(logits.clone(), &device), k);
        assert_eq!(routing.experts, [expected]);
        let sum: f32 = routing.weights.sum().into_scalar::<f32>();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }
}
