//! Training as a whole: it learns, and what should make no difference makes none.

mod common;

use std::collections::BTreeMap;

use common::training::{Folder, ROWS, Steps, train, weights};
use qwen3_vl::backends::device;
use qwen3_vl::train::checkpoint;
use qwen3_vl::train::config::TrainConfig;
use qwen3_vl::train::run::{StepReport, Trainer};

fn assert_close(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>, bound: f32) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, values) in a {
        for (x, y) in values.iter().zip(&b[name]) {
            assert!((x - y).abs() <= bound, "{name}: {x} and {y}");
        }
    }
}

/// Everything is trained. The large epsilon keeps Adam from blowing up rounding where a gradient is nearly zero.
const ALL: &str = "train = { vision = true }\noptimizer = { epsilon = 1e-3 }\n";

#[test]
fn eight_mixed_samples_are_learned_by_heart() {
    let folder = Folder::new();
    let more = "steps = 60\nlr = { base = 3e-3, warmup = 5, schedule = \"constant\" }\nbatch = { tokens = 300 }\n";
    let all = "train = { vision = true }\n";
    let reports = train(folder.config("dense_tied", "run", &format!("{all}{more}")), None);
    let last = reports.last().unwrap();
    assert!(reports[0].loss > 3.0, "{:?}", reports[0]);
    assert!(last.loss < 0.05, "{last:?}");
    assert!(folder.output("run").join("loss.svg").exists());
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_by_bit() {
    let folder = Folder::new();
    let more = "steps = 12\nlr = { base = 1e-3 }\nbatch = { tokens = 100, accumulate = 2 }\nsave = { every = 5 }\nseed = 3\n";
    let whole = train(folder.config("dense_tied", "whole", &format!("{ALL}{more}")), None);
    let mut parts = train(folder.config("dense_tied", "parts", &format!("{ALL}{more}")), Some(7));
    parts.extend(train(folder.config("dense_tied", "parts", &format!("{ALL}{more}")), None));
    let losses = |reports: &[StepReport]| {
        reports.iter().map(|r| (r.step, r.loss.to_bits(), r.targets)).collect::<Vec<_>>()
    };
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(weights(&folder.output("whole")), weights(&folder.output("parts")));
}

#[test]
fn packed_samples_train_like_separate_ones() {
    let folder = Folder::new();
    let more = "steps = 4\nlr = { base = 1e-3 }\n";
    for (name, pack) in [("packed", true), ("separate", false)] {
        let batch = format!("{ALL}{more}batch = {{ tokens = 300, pack = {pack} }}\n");
        train(folder.config("dense_tied", name, &batch), None);
    }
    let weights = ["packed", "separate"].map(|name| weights(&folder.output(name)));
    assert_close(&weights[0], &weights[1], 2e-5);
}

/// With one sample per micro-batch, four micro-batches of one step are one batch of four.
#[test]
fn accumulated_steps_equal_one_batch() {
    let folder = Folder::new();
    let same = ROWS.lines().next().unwrap();
    let rows: String = (0..4).map(|_| format!("{same}\n")).collect();
    std::fs::write(folder.folder.path().join("data.jsonl"), rows).unwrap();
    let more = "steps = 4\nlr = { base = 1e-3 }\n";
    let mut targets = Vec::new();
    for (name, batch) in [("one", "tokens = 100000"), ("four", "tokens = 1, accumulate = 4")] {
        // The large batch takes as many rows as it is allowed, so it is bounded by their tokens.
        let tokens = if name == "one" { sample_tokens(&folder) * 4 } else { 0 };
        let batch = if name == "one" { format!("tokens = {tokens}") } else { batch.to_owned() };
        let config =
            folder.config("dense_tied", name, &format!("{ALL}{more}batch = {{ {batch} }}\n"));
        targets.push(train(config, None).iter().map(|r| r.targets).collect::<Vec<_>>());
    }
    assert_eq!(targets[0], targets[1]);
    let weights = ["one", "four"].map(|name| weights(&folder.output(name)));
    assert_close(&weights[0], &weights[1], 2e-5);
}

fn sample_tokens(folder: &Folder) -> u64 {
    let more = "steps = 1\nlr = { base = 1e-3 }\nbatch = { tokens = 1 }\n";
    train(folder.config("dense_tied", "count", more), None)[0].tokens
}

#[test]
fn recomputing_blocks_trains_the_same_weights() {
    let folder = Folder::new();
    for (name, recompute) in [("plain", "none"), ("again", "block")] {
        let more = format!(
            "{ALL}steps = 4\nlr = {{ base = 1e-3 }}\nbatch = {{ tokens = 300 }}\nmemory = {{ recompute = \"{recompute}\" }}\n"
        );
        train(folder.config("dense_untied", name, &more), None);
    }
    let weights = ["plain", "again"].map(|name| weights(&folder.output(name)));
    assert_close(&weights[0], &weights[1], 2e-5);
}

/// A checkpoint holds what is trained; everything else stays what the source says.
#[test]
fn frozen_groups_stay_bit_equal() {
    let folder = Folder::new();
    let more = "train = { merger = true, llm = false, embed = false, head = false }\nsteps = 10\nlr = { base = 1e-2 }\nbatch = { tokens = 300 }\n";
    let config = folder.config("dense_untied", "run", more);
    let device = device::select(Some("flex")).unwrap();
    train(config.clone(), None);
    let trained = weights(&folder.output("run"));
    assert!(trained.keys().all(|name| name.contains("merger")), "{:?}", trained.keys());
    assert!(trained.keys().any(|name| name.contains("deepstack_merger_list")));
    let resumed = Trainer::new(config, &device).unwrap();
    let before = common::load(&common::fixtures().join("dense_untied"), "flex");
    let bits = |model: &qwen3_vl::model::Qwen3VlModel, name: &str| {
        let tensor = match name {
            "head" => model.head(),
            "embed" => model.language_model.embed_tokens.weight.values(),
            _ => model.visual.patch_embed.proj.weight.values(),
        };
        tensor.into_data().try_to_vec::<f32>().unwrap()
    };
    for name in ["head", "embed", "patches"] {
        assert_eq!(bits(resumed.model(), name), bits(before.model(), name), "{name}");
    }
}

#[test]
fn a_changed_configuration_is_not_resumed() {
    let folder = Folder::new();
    let more =
        |lr: &str| format!("steps = 2\nlr = {{ base = {lr} }}\nbatch = {{ tokens = 300 }}\n");
    train(folder.config("dense_tied", "run", &more("1e-3")), None);
    let device = device::select(Some("flex")).unwrap();
    let error = Trainer::new(folder.config("dense_tied", "run", &more("2e-3")), &device).err();
    let message = error.expect("another rate is another run").to_string();
    assert!(message.contains("`lr` was") && message.contains("0.001"), "{message}");
}

/// What a crash leaves behind is no checkpoint.
#[test]
fn a_checkpoint_cut_short_is_passed_over() {
    let folder = Folder::new();
    let more = "steps = 3\nlr = { base = 1e-3 }\nbatch = { tokens = 300 }\nsave = { every = 1 }\n";
    train(folder.config("dense_tied", "run", more), None);
    let output = folder.output("run");
    let good = checkpoint::newest(&output).unwrap();
    std::fs::create_dir(output.join(".partial-step-00000004")).unwrap();
    std::fs::create_dir(output.join("step-00000009")).unwrap();
    std::fs::write(output.join("step-00000009").join("weights.safetensors"), b"half").unwrap();
    assert_eq!(checkpoint::newest(&output), Some(good));
    assert!(train(folder.config("dense_tied", "run", more), None).is_empty(), "it is finished");
}

/// Without `steps`, every row is seen as often as `epochs` says.
#[test]
fn passes_over_the_data_are_counted() {
    let folder = Folder::new();
    for (epochs, rows) in [("1.0", 8), ("2.5", 20)] {
        let name = format!("run{rows}");
        let more = format!("epochs = {epochs}\nlr = {{ base = 1e-4 }}\nbatch = {{ tokens = 1 }}\n");
        let reports = train(folder.config("dense_tied", &name, &more), None);
        assert_eq!(reports.len(), rows, "one row is a step here");
        let tokens: u64 = reports[..8].iter().map(|r| r.tokens).sum();
        assert_eq!(tokens, 291, "each row once in the first pass");
    }
}

/// Losses by channel, and answers to held-out questions, which here are the rows that were learned.
#[test]
fn evaluations_tell_losses_and_answers_by_channel() {
    let folder = Folder::new();
    let named = |line: &str| match line.contains("\"image\"") {
        true => line.replacen('{', "{\"channel\":\"pictures\",", 1),
        false => line.to_owned(),
    };
    let rows: Vec<String> = ROWS.lines().map(named).collect();
    std::fs::write(folder.folder.path().join("data.jsonl"), rows.join("\n")).unwrap();
    let more = "steps = 60\ntrain = { vision = true }\nlr = { base = 3e-3, vision = 2e-3, warmup = 5, schedule = \"constant\" }\n\
        batch = { tokens = 300 }\neval = { every = 59, generate = 8, answer_tokens = 60, data = [{ path = \"data.jsonl\" }] }\n";
    let reports = train(folder.config("dense_tied", "run", more), None);
    let first = &reports[0];
    let parts = first.channels.values().map(|c| c.loss * c.targets as f64).sum::<f64>();
    assert_eq!(first.channels.keys().collect::<Vec<_>>(), ["data", "pictures"]);
    assert!((parts / first.targets as f64 - first.loss).abs() < 1e-9, "{first:?}");
    assert_eq!((first.rates["llm"], first.rates["vision"]), (first.lr, first.lr * 2.0 / 3.0));
    let groups: Vec<&String> = first.rates.keys().collect();
    assert_eq!(groups, ["embed", "llm", "merger", "vision"], "the head is the embedding here");
    let evaluated: Vec<&StepReport> = reports.iter().filter(|r| r.eval_loss.is_some()).collect();
    assert_eq!(evaluated.iter().map(|r| r.step).collect::<Vec<_>>(), [59, 60]);
    let last = evaluated[1];
    assert!(last.eval_loss.unwrap() < 0.05, "{last:?}");
    assert!(last.eval_channels["pictures"].loss < 0.05, "{last:?}");
    let answers = last.answers.as_ref().unwrap();
    assert_eq!((answers["all"].answers, answers["pictures"].answers), (8, 5), "{answers:?}");
    assert_eq!((answers["all"].exact_match, answers["all"].failed), (1.0, 0), "{answers:?}");
    assert_eq!(answers["pictures"].box_iou, Some(1.0), "{answers:?}");
}

/// The rate is so large that weights leave the range of f32 in the first step.
#[test]
fn a_value_that_is_not_finite_stops_the_run_and_is_named() {
    let folder = Folder::new();
    let more = "steps = 9\nlr = { base = 1e38, warmup = 0, schedule = \"constant\" }\nbatch = { tokens = 1 }\nsave = { every = 1 }\n";
    let config = folder.config("dense_tied", "run", more);
    let device = device::select(Some("flex")).unwrap();
    let result = Trainer::new(config, &device).unwrap().run(&mut Steps::default());
    let message = result.expect_err("no loss is finite any more").to_string();
    assert!(message.contains(": the loss") && message.contains("is not finite"), "{message}");
    assert!(message.contains("data.jsonl, line "), "the rows: {message}");
    assert!(message.contains("(first at "), "the module: {message}");
    let newest = checkpoint::newest(&folder.output("run")).unwrap();
    assert!(
        message.contains(&format!("the last good checkpoint is {}", newest.display())),
        "{message}"
    );
}

/// `%50` and `sample` take a share of the rows in each pass, another one every time; `weight` takes rows more often.
#[test]
fn sources_are_mixed_as_their_shares_say() {
    let folder = Folder::new();
    let model = common::fixtures().join("dense_tied");
    let text = format!(
        "model = {model:?}\noutput = \"run\"\nepochs = 2\nlr = {{ base = 1e-4 }}\nbatch = {{ tokens = 1 }}\ndata = [\n\
         {{ path = \"data.jsonl%50\", channel = \"half\" }},\n\
         {{ path = \"data.jsonl\", sample = 0.25, channel = \"quarter\" }},\n\
         {{ path = \"data.jsonl\", weight = 2.0, channel = \"twice\" }},\n]\n"
    );
    let path = folder.folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    let reports = train(TrainConfig::open(&path).unwrap(), None);
    let steps = |name: &str| {
        let own = reports.iter().filter(|report| report.channels.contains_key(name));
        own.map(|report| report.tokens).collect::<Vec<_>>()
    };
    let counts = ["half", "quarter", "twice"].map(|name| steps(name).len());
    assert_eq!(counts, [8, 4, 32]);
    let tokens = |steps: &[u64]| steps.iter().sum::<u64>();
    assert_eq!(tokens(&steps("twice")), 4 * 291, "every row twice in a pass");
    assert!(tokens(&steps("half")[..4]) != tokens(&steps("half")[4..]), "another half");
}
