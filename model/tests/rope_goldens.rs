//! Positions, frequencies and interpolation against the tables that transformers made.

use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::inputs::{MediaItem, ModelInputs, Pixels, PlaceholderIds};
use qwen3_vl_model::processor::image::Grid;
use qwen3_vl_model::text::mrope::Mrope;
use qwen3_vl_model::text::positions::Positions;
use qwen3_vl_model::vision::VisionPlan;
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn config(rope: &str) -> Qwen3VlConfig {
    let json = format!(
        r#"{{"model_type":"qwen3_vl","text_config":{{"max_position_embeddings":262144,{rope}}},
            "vision_config":{{"out_hidden_size":4096}}}}"#
    );
    Qwen3VlConfig::from_json(&json).unwrap()
}

fn check_frequencies(rope: &str, key: &str) -> Mrope {
    let config = config(rope);
    let mrope = Mrope::new(&config.text.rope, config.text.head_dim);
    let expected: Vec<f64> = serde_json::from_value(golden()[key].clone()).unwrap();
    assert_eq!(expected.len(), mrope.frequencies().len());
    for (k, (found, expected)) in mrope.frequencies().iter().zip(&expected).enumerate() {
        let error = (*found as f64 - expected).abs() / expected;
        assert!(error < 2e-7, "{key}[{k}]: {found} against {expected}");
    }
    mrope
}

#[test]
fn frequencies_are_those_of_transformers() {
    let plain =
        r#""rope_theta":5000000,"rope_scaling":{"rope_type":"default","mrope_section":[24,20,20]}"#;
    let mrope = check_frequencies(plain, "inv_freq_default");
    let axes: Vec<usize> = serde_json::from_value(golden()["mrope_axis_of_freq"].clone()).unwrap();
    assert_eq!(mrope.axes(), axes);
}

#[test]
fn yarn_frequencies_are_those_of_transformers() {
    let yarn = r#""rope_parameters":{"rope_theta":5000000,"rope_type":"yarn","factor":3.0,
        "original_max_position_embeddings":262144,"mrope_section":[24,20,20]}"#;
    let mrope = check_frequencies(yarn, "inv_freq_yarn3");
    let factor = golden()["yarn3_attention_factor"].as_f64().unwrap();
    assert!((mrope.attention_factor() as f64 - factor).abs() < 1e-6);
}

#[test]
fn interpolation_taps_are_those_of_transformers() {
    let config = config(r#""rope_theta":5000000"#);
    for case in golden()["pos_interp"].as_array().unwrap() {
        let [t, h, w]: [usize; 3] = serde_json::from_value(case[0].clone()).unwrap();
        let rows: Vec<[i64; 4]> = serde_json::from_value(case[1].clone()).unwrap();
        let weights: Vec<[f32; 4]> = serde_json::from_value(case[2].clone()).unwrap();
        let plan = VisionPlan::new(&config.vision, &[Grid { t, h, w }]);
        let (found_rows, found_weights) = plan.taps();
        let n = plan.patches();
        for (patch, (rows, weights)) in rows.iter().zip(&weights).enumerate() {
            for tap in 0..4 {
                let at = tap * n + patch;
                let same = found_rows[at] == rows[tap] || weights[tap] == 0.0;
                assert!(same, "grid {h}x{w}, patch {patch}, tap {tap}");
                assert!((found_weights[at] - weights[tap]).abs() < 1e-6, "{h}x{w} {patch} {tap}");
            }
        }
    }
}

fn grids(value: &Value) -> Vec<Grid> {
    let rows: Option<Vec<[usize; 3]>> = serde_json::from_value(value.clone()).unwrap();
    rows.unwrap_or_default().into_iter().map(|[t, h, w]| Grid { t, h, w }).collect()
}

/// Takes the grids whose placeholders the ids of one row hold.
fn take(queue: &mut Vec<Grid>, ids: &[u32], token: u32) -> Vec<Grid> {
    let mut open = ids.iter().filter(|id| **id == token).count();
    let mut taken = Vec::new();
    while open > 0 {
        let grid = queue.remove(0);
        open -= grid.tokens(2);
        taken.push(grid);
    }
    taken
}

#[test]
fn positions_are_those_of_transformers() {
    let golden = golden();
    let cases = golden["rope_index"].as_array().unwrap();
    assert!(cases.len() >= 30);
    for (number, case) in cases.iter().enumerate() {
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["input_ids"].clone()).unwrap();
        let masks: Vec<Vec<u8>> = serde_json::from_value(case["attention_mask"].clone()).unwrap();
        let expected: Vec<Vec<Vec<u32>>> =
            serde_json::from_value(case["position_ids"].clone()).unwrap();
        let deltas = case["rope_deltas"].as_array().unwrap();
        let mut images = grids(&case["image_grid_thw"]);
        let mut videos = grids(&case["video_grid_thw"]);
        for (row, ids) in ids.iter().enumerate() {
            let live: Vec<usize> = (0..ids.len()).filter(|at| masks[row][*at] == 1).collect();
            let ids: Vec<u32> = live.iter().map(|at| ids[*at]).collect();
            let item = |grid: Grid| MediaItem::from_patches(grid, vec![0.0; grid.patches()]);
            let pixels = |grids: Vec<Grid>| Pixels { items: grids.into_iter().map(item).collect() };
            let images = pixels(take(&mut images, &ids, 505));
            let videos = pixels(take(&mut videos, &ids, 506));
            let tokens = PlaceholderIds { image: 505, video: 506, merge_size: 2 };
            let inputs = ModelInputs::from_ids(ids, images, videos, tokens).unwrap();
            let found = Positions::new(inputs.ids.len(), &inputs.spans);
            for (position, at) in found.prompt.iter().zip(&live) {
                let wanted = [0, 1, 2].map(|axis| expected[axis][row][*at]);
                assert_eq!(position.0, wanted, "case {number}, row {row}, token {at}");
            }
            let delta = deltas[row].as_i64().or_else(|| deltas[row][0].as_i64());
            assert_eq!(Some(found.delta()), delta, "case {number}, row {row}");
        }
    }
}
