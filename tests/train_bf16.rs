//! Training with Muon and with products of rounded operands. The rounding is a switch of the whole process, so these
//! tests have a process of their own.

mod common;

use common::training::{Folder, train, weights};
use qwen3_vl::backends::device;
use qwen3_vl::train::run::{StepReport, Trainer};

/// Everything is trained, as the nano model is.
const FAST: &str = "train = { vision = true }\nmemory = { compute = \"bf16\" }\noptimizer = { kind = \"muon\", beta2 = 0.98 }\n";

#[test]
fn eight_mixed_samples_are_learned_by_heart() {
    let folder = Folder::new();
    let more = "steps = 60\nlr = { base = 3e-3, warmup = 5, schedule = \"wsd\", decay = 20 }\nbatch = { tokens = 300 }\n";
    let reports = train(folder.config("dense_tied", "run", &format!("{FAST}{more}")), None);
    let last = reports.last().unwrap();
    assert!(reports[0].loss > 3.0, "{:?}", reports[0]);
    assert!(last.loss < 0.05, "{last:?}");
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_by_bit() {
    let folder = Folder::new();
    let more = "steps = 8\nlr = { base = 1e-3 }\nbatch = { tokens = 100, accumulate = 2 }\nsave = { every = 5 }\nseed = 3\n";
    let whole = train(folder.config("dense_tied", "whole", &format!("{FAST}{more}")), None);
    let mut parts = train(folder.config("dense_tied", "parts", &format!("{FAST}{more}")), Some(5));
    parts.extend(train(folder.config("dense_tied", "parts", &format!("{FAST}{more}")), None));
    let losses = |reports: &[StepReport]| {
        reports.iter().map(|r| (r.step, r.loss.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(weights(&folder.output("whole")), weights(&folder.output("parts")));
}

#[test]
fn rounded_products_are_refused_where_there_are_none() {
    let Ok(device) = device::select(Some("ndarray")) else {
        println!("skipped: ndarray is not compiled in");
        return;
    };
    let folder = Folder::new();
    let config =
        folder.config("dense_tied", "run", &format!("{FAST}steps = 1\nlr = {{ base = 1e-3 }}\n"));
    let error = Trainer::new(config, &device).err().expect("a refusal").to_string();
    assert!(error.contains("memory.compute") && error.contains("flex"), "{error}");
}
