//! Every stage of every reference case against what transformers computed.

mod common;

use burn::tensor::DType;
use qwen3_vl::backends::ops::Products;
use qwen3_vl::verify::{Stage, Tolerance, verify, verify_without_kernels};

const CASES: [&str; 6] = ["text", "image", "two_images", "video", "mixed", "batch_leftpad"];

fn check(model: &str) {
    for device in common::devices() {
        let folder = common::fixtures().join(model);
        let loaded = common::load(&folder, &device);
        let tolerance = Tolerance::for_device(loaded.device().kind, loaded.model().precision());
        for case in CASES {
            let reference = folder.join(format!("ref_{case}.safetensors"));
            let outcome = verify(loaded.model(), &reference, tolerance).unwrap();
            assert!(outcome.stages.len() >= 4, "{model}/{case}: {} stages", outcome.stages.len());
            let failed: Vec<_> = outcome.stages.iter().filter(|stage| !stage.passed).collect();
            assert!(failed.is_empty(), "{model}/{case} on {device}: {failed:#?}");
            let worst = outcome.worst().unwrap();
            println!("{model}/{case} on {device}: worst {} {:.1e}", worst.key, worst.error);
        }
    }
}

#[test]
fn dense_tied_is_computed_as_by_transformers() {
    check("dense_tied");
}

#[test]
fn dense_untied_is_computed_as_by_transformers() {
    check("dense_untied");
}

#[test]
fn experts_are_computed_as_by_transformers() {
    check("moe");
}

#[test]
fn yarn_is_computed_as_by_transformers() {
    check("dense_yarn");
}

/// A comparison that cannot fail shows nothing: the wrong model must be found out.
#[test]
fn another_model_is_told_apart() {
    let device = &common::cpu_devices()[0];
    let loaded = common::load(&common::fixtures().join("dense_yarn"), device);
    let reference = common::fixtures().join("dense_tied/ref_image.safetensors");
    let outcome = verify(loaded.model(), &reference, Tolerance::Exact).unwrap();
    let passed = |key: &str| outcome.stages.iter().find(|s| s.key == key).unwrap().passed;
    assert!(
        passed("vision.image.embeds") && passed("position_ids"),
        "the vision tower is the same"
    );
    assert!(!passed("text.rope_cos") && !passed("logits") && !outcome.passed());
}

/// The oracle of the kernels, over the whole model.
#[test]
fn the_reference_bodies_alone_conform_too() {
    for device in common::cpu_devices() {
        let folder = common::fixtures().join("moe");
        let loaded = common::load(&folder, &device);
        let reference = folder.join("ref_mixed.safetensors");
        let outcome = verify_without_kernels(loaded.model(), &reference, Tolerance::Exact).unwrap();
        assert!(outcome.passed(), "{device}: {:#?}", outcome.worst());
    }
}

/// Half-width weights stay close to the f32 reference at every stage, on every device that has them.
#[test]
fn lower_precision_stays_close() {
    for device in common::devices() {
        let held = qwen3_vl::backends::device::select(Some(&device)).unwrap();
        for (dtype, wanted) in [("bf16", DType::BF16), ("f16", DType::F16)] {
            if !held.holds(wanted) {
                println!("skipped: {device} has no {dtype}");
                continue;
            }
            let folder = common::fixtures().join("dense_tied");
            let options = qwen3_vl::LoadOptions {
                device: Some(device.clone()),
                dtype: dtype.parse().unwrap(),
                ..Default::default()
            };
            let loaded = qwen3_vl::Qwen3Vl::load(folder.to_str().unwrap(), options).unwrap();
            let reference = folder.join("ref_two_images.safetensors");
            let outcome = verify(loaded.model(), &reference, Tolerance::Cosine(0.9995)).unwrap();
            let failed = |stage: &&Stage| !stage.passed && stage.key != "greedy_ids";
            let failed: Vec<&Stage> = outcome.stages.iter().filter(failed).collect();
            assert!(failed.is_empty(), "{dtype} on {device}: {failed:#?}");
            let logits = outcome.stages.iter().find(|s| s.key == "logits").unwrap();
            assert!(logits.error > 1e-5, "{dtype} should differ from f32 somewhere");
        }
    }
}

/// With AMX, split and rounded products are other sums; without, they are the exact ones. Not the experts: which of them random
/// weights in half the width choose is another matter.
#[test]
fn half_width_weights_conform_however_they_are_multiplied() {
    for name in ["dense_tied", "dense_untied", "dense_yarn"] {
        let folder = common::fixtures().join(name);
        let options = qwen3_vl::LoadOptions {
            device: Some("flex".to_owned()),
            dtype: "bf16".parse().unwrap(),
            ..Default::default()
        };
        let loaded = qwen3_vl::Qwen3Vl::load(folder.to_str().unwrap(), options).unwrap();
        for products in [Products::Exact, Products::Split, Products::Rounded] {
            let model = loaded.model().clone().with_products(products);
            for case in CASES {
                let reference = folder.join(format!("ref_{case}.safetensors"));
                let outcome = verify(&model, &reference, Tolerance::Cosine(0.9995)).unwrap();
                // Weights in half the width choose other tokens, where those of random weights are nearly as probable.
                let failed = |stage: &&Stage| !stage.passed && stage.key != "greedy_ids";
                let failed: Vec<&Stage> = outcome.stages.iter().filter(failed).collect();
                assert!(failed.is_empty(), "{name}/{case} {products:?}: {failed:#?}");
                let worst = outcome.worst().unwrap();
                println!("{name}/{case} {products:?}: worst {} {:.1e}", worst.key, worst.error);
            }
        }
    }
}
