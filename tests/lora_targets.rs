//! Which layers LoRA changes, and how it begins.

mod common;

use common::training::parsed;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::train::config::TrainConfig;
use qwen3_vl::train::lora::Plan;
use qwen3_vl::weights::checkpoint::read_config;

fn with(train: &str, targets: &str) -> TrainConfig {
    let method = format!("method = {{ kind = \"lora\", rank = 4, targets = {targets} }}");
    parsed(&format!("train = {{ {train} }}\n{method}"))
}

fn plan(model: &str, config: &TrainConfig) -> Result<Plan, String> {
    let shape = read_config(&common::fixtures().join(model)).unwrap();
    Plan::new(config, &shape).map(Option::unwrap).map_err(|error| error.to_string())
}

fn paths(model: &str, train: &str, targets: &str) -> Vec<String> {
    let plan = plan(model, &with(train, targets)).unwrap();
    plan.paths().into_iter().map(str::to_owned).collect()
}

/// `dense_tied` has 4 text layers, 5 vision blocks, a merger and 3 DeepStack mergers.
#[test]
fn targets_are_parts_of_groups_or_endings_of_names() {
    let count = |train, targets| paths("dense_tied", train, targets).len();
    assert_eq!(count("llm = \"lora\"", "[]"), 4 * 7);
    assert_eq!(count("llm = \"lora\"", "[\"all-linear\"]"), 4 * 7);
    assert_eq!(count("llm = \"lora\"", "[\"llm.attention\"]"), 4 * 4);
    assert_eq!(count("llm = \"lora\"", "[\"llm.attention\", \"llm.mlp\", \"q_proj\"]"), 4 * 7);
    assert_eq!(count("llm = \"lora\"", "[\"q_proj\", \"self_attn.v_proj\"]"), 4 * 2);
    assert_eq!(
        paths("dense_tied", "llm = \"lora\"", "[\"layers.2.self_attn.q_proj\"]"),
        ["language_model.layers.2.self_attn.q_proj"]
    );
    let towers = "vision = \"lora\", merger = \"lora\"";
    assert_eq!(count(towers, "[]"), 4 * 5 + 2 * 4);
    assert_eq!(count(towers, "[\"vision.attention\", \"merger\"]"), 2 * 5 + 2 * 4);
    // A name that several groups have means those with LoRA.
    assert_eq!(count("merger = \"lora\"", "[\"linear_fc1\"]"), 4);
}

#[test]
fn layers_of_experts_have_attention_alone() {
    let found = paths("moe", "llm = \"lora\"", "[]");
    // Layer 1 is dense.
    assert_eq!(found.len(), 3 * 4 + 3);
    let part = |path: &&String| path.contains(".self_attn.") || path.contains("layers.1.mlp.");
    assert!(found.iter().all(|path| part(&path)), "{found:?}");
}

#[test]
fn what_cannot_be_a_target_is_said() {
    let cases = [
        ("dense_tied", "llm = \"lora\"", "[\"q_prj\"]", "the nearest name is `q_proj`"),
        ("dense_tied", "llm = \"lora\"", "[\"llm.atention\"]", "nearest name is `llm.attention`"),
        ("dense_tied", "llm = \"lora\"", "[\"zzzz\"]", "names `zzzz`, which is no linear layer"),
        ("dense_tied", "llm = \"lora\"", "[\"\"]", "names ``"),
        ("dense_tied", "llm = \"lora\"", "[\"qkv\"]", "only where `train.vision` is \"lora\""),
        ("dense_tied", "llm = \"lora\"", "[\"merger\"]", "in group merger"),
        ("dense_tied", "llm = \"lora\"", "[\"lm_head\"]", "the embedding table and the head"),
        ("dense_tied", "llm = \"lora\"", "[\"patch_embed.proj\"]", "convolution"),
        ("moe", "llm = \"lora\"", "[\"llm.mlp\"]", "mixtures of experts"),
        ("moe", "llm = \"lora\"", "[\"experts\"]", "fused weights"),
        ("moe", "llm = \"lora\"", "[\"mlp.gate\"]", "router"),
        (
            "dense_tied",
            "llm = \"lora\", vision = \"lora\"",
            "[\"q_proj\"]",
            "`train.vision` is \"lora\", but `method.targets` names no layer",
        ),
    ];
    for (model, train, targets, expected) in cases {
        let error = plan(model, &with(train, targets)).unwrap_err();
        assert!(error.contains(expected), "{targets}: {error}");
    }
    let wide = parsed("train = { llm = \"lora\" }\nmethod = { kind = \"lora\", rank = 33 }");
    let error = plan("dense_tied", &wide).unwrap_err();
    assert!(error.contains("`method.rank` is 33") && error.contains("k_proj"), "{error}");
}

/// As peft: `A` uniform between plus and minus one over the root of the inputs, `B` zero; the seed decides.
#[test]
fn pairs_begin_as_those_of_peft() {
    let base = common::load(&common::fixtures().join("dense_tied"), &common::cpu_devices()[0]);
    let begin = |seed, targets| {
        let config = TrainConfig { seed, ..with("llm = \"lora\"", targets) };
        plan("dense_tied", &config).unwrap().attach(base.model().clone())
    };
    let pair = |mut model: Qwen3VlModel, path: &str| {
        let found = model.linears_mut().into_iter().find(|(name, _)| name.ends_with(path));
        let lora = found.unwrap().1.lora.clone().expect("a side path");
        let values = |param: &burn::module::Param<burn::tensor::Tensor<2>>| {
            param.val().into_data().try_to_vec::<f32>().unwrap()
        };
        (values(&lora.a), values(&lora.b))
    };
    let (a, b) = pair(begin(1, "[]"), "layers.3.mlp.up_proj");
    assert_eq!((a.len(), b), (4 * 48, vec![0.0; 96 * 4]));
    let bound = 1.0 / 48f32.sqrt();
    assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > 0.9 * bound));
    let variance = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32;
    assert!((variance * 3.0 / (bound * bound) - 1.0).abs() < 0.3, "{variance}");
    let first = |seed, targets, path| pair(begin(seed, targets), path).0;
    assert_eq!(a, first(1, "[\"up_proj\"]", "layers.3.mlp.up_proj"), "whatever else is chosen");
    assert_ne!(a, first(2, "[]", "layers.3.mlp.up_proj"));
    assert_ne!(a, first(1, "[]", "layers.2.mlp.up_proj"));
}
