//! Training as a whole: it learns, and what should make no difference makes none.

mod common;

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::Tensor;
use common::training::{Folder, ROWS, Steps, all_values, parsed, train, weights};
use qwen3_vl::backends::device;
use qwen3_vl::train::checkpoint;
use qwen3_vl::train::config::TrainConfig;
use qwen3_vl::train::gradients::ModelGradients;
use qwen3_vl::train::groups::parameters;
use qwen3_vl::train::optim::ModelOptimizer;
use qwen3_vl::train::run::{StepReport, Trainer};
use qwen3_vl::train::trainable::trainable;

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

/// Ten steps of a run, with weight decay, move the mergers and not one bit of anything else; the checkpoint holds the mergers.
#[test]
fn frozen_groups_stay_bit_equal() {
    let folder = Folder::new();
    let more = "train = { merger = true, llm = false, embed = false, head = false }\nsteps = 10\nlr = { base = 1e-2 }\nbatch = { tokens = 300 }\noptimizer = { weight_decay = 0.1 }\n";
    let config = folder.config("dense_untied", "run", more);
    let device = device::select(Some("flex")).unwrap();
    let mut trainer = Trainer::new(config, &device).unwrap();
    let before = all_values(trainer.model());
    trainer.run(&mut Steps::default()).unwrap();
    let after = all_values(trainer.model());
    assert!(before.keys().eq(after.keys()) && before.len() > 100, "{}", before.len());
    for (path, values) in &before {
        assert_eq!(*values != after[path], path.contains("merger"), "{path}");
    }
    let stored = weights(&folder.output("run"));
    assert!(stored.keys().all(|name| name.contains("merger")), "{:?}", stored.keys());
    assert!(stored.iter().all(|(name, values)| after[name] == *values));
    assert!(stored.keys().any(|name| name.contains("deepstack_merger_list")));
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
    assert!(message.contains(": `lr.base` was 0.001 and is 0.002; put that back"), "{message}");
    // The same settings with another row in the file.
    let data = folder.folder.path().join("data.jsonl");
    std::fs::write(&data, ROWS.replace("Say hi", "Say ho")).unwrap();
    let error = Trainer::new(folder.config("dense_tied", "run", &more("1e-3")), &device).err();
    let message = error.expect("other data is another run").to_string();
    let expected = format!("the file of `data[0]`, {}, had {} bytes", data.display(), ROWS.len());
    assert!(message.contains(&expected), "{message}");
    std::fs::write(&data, ROWS).unwrap();
    Trainer::new(folder.config("dense_tied", "run", &more("1e-3")), &device).unwrap();
}

/// States of older versions have neither counts nor what their data held, and go on.
#[test]
fn older_checkpoints_are_resumed() {
    let folder = Folder::new();
    let more = "steps = 2\nlr = { base = 1e-3 }\nbatch = { tokens = 100 }\nsave = { every = 1 }\n";
    let whole = train(folder.config("dense_tied", "run", more), None);
    let output = folder.output("run");
    std::fs::remove_dir_all(checkpoint::newest(&output).unwrap()).unwrap();
    let state = checkpoint::newest(&output).unwrap().join("state.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    assert!(json.as_object_mut().unwrap().remove("data").is_some());
    for key in ["shrunk", "trimmed"] {
        assert!(json["position"].as_object_mut().unwrap().remove(key).is_some());
    }
    std::fs::write(&state, json.to_string()).unwrap();
    let rest = train(folder.config("dense_tied", "run", more), None);
    assert_eq!(rest[0].loss.to_bits(), whole[1].loss.to_bits());
}

/// Another number of steps is allowed, and told on screen and in the log.
#[test]
fn a_longer_run_says_so() {
    let folder = Folder::new();
    let more =
        |length: &str| format!("{length}\nlr = {{ base = 1e-3 }}\nbatch = {{ tokens = 1 }}\n");
    train(folder.config("dense_tied", "run", &more("epochs = 1")), None);
    let device = device::select(Some("flex")).unwrap();
    let config = folder.config("dense_tied", "run", &more("epochs = 1.25"));
    let mut trainer = Trainer::new(config, &device).unwrap();
    let note = "the run has 10 steps now and had 8; rates follow the new number";
    assert_eq!(trainer.notes(), [note]);
    trainer.run(&mut Steps::default()).unwrap();
    let log = qwen3_vl::train::report::read(&folder.output("run").join("log.jsonl"));
    let notes: Vec<usize> = log.iter().map(|report| report.notes.len()).collect();
    assert_eq!(notes, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(log[8].notes, [note]);
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_one_before() {
    let folder = Folder::new();
    let more = "steps = 2\nlr = { base = 1e-3 }\nbatch = { tokens = 300 }\nsave = { every = 1 }\n";
    train(folder.config("dense_tied", "run", more), None);
    let output = folder.output("run");
    let newest = checkpoint::newest(&output).unwrap();
    let device = device::select(Some("flex")).unwrap();
    for file in ["weights.safetensors", "moments.safetensors", "state.json"] {
        let path = newest.join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = Trainer::new(folder.config("dense_tied", "run", more), &device).err();
        let message = error.expect("half a file").to_string();
        let before = output.join("step-00000001");
        for part in [
            path.display().to_string(),
            format!("the checkpoint {} is damaged", newest.display()),
            format!("remove that folder, and the run goes on from {}", before.display()),
        ] {
            assert!(message.contains(&part), "{part}: {message}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    std::fs::remove_dir_all(output.join("step-00000001")).unwrap();
    std::fs::write(newest.join("weights.safetensors"), b"").unwrap();
    let error = Trainer::new(folder.config("dense_tied", "run", more), &device).err();
    let message = error.expect("an empty file").to_string();
    assert!(message.contains("there is none before it"), "{message}");
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

/// Passes end with their last row, even inside a micro-batch and inside an optimiser step.
#[test]
fn every_row_is_used_as_often_as_asked() {
    let folder = Folder::new();
    // A channel per row, so that uses can be counted.
    let named =
        |(at, line): (usize, &str)| line.replacen('{', &format!("{{\"channel\":\"{at}\","), 1);
    let rows: Vec<String> = ROWS.lines().enumerate().map(named).collect();
    std::fs::write(folder.folder.path().join("data.jsonl"), rows.join("\n")).unwrap();
    let once = train(
        folder.config(
            "dense_tied",
            "once",
            "epochs = 1\nlr = { base = 1e-4 }\nbatch = { tokens = 1 }\n",
        ),
        None,
    );
    let targets = |reports: &[StepReport]| {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (name, channel) in reports.iter().flat_map(|report| &report.channels) {
            *sums.entry(name.clone()).or_default() += channel.targets;
        }
        sums
    };
    let once = targets(&once);
    assert_eq!(once.len(), 8);
    for (name, batch, steps) in [
        ("wide", "tokens = 2048", 1),
        ("deep", "tokens = 2048, accumulate = 3", 1),
        ("some", "tokens = 100, accumulate = 2", 4),
    ] {
        let more = format!("epochs = 2\nlr = {{ base = 1e-4 }}\nbatch = {{ {batch} }}\n");
        let reports = train(folder.config("dense_tied", name, &more), None);
        assert!(reports.len() >= steps, "{name}: {}", reports.len());
        let twice: BTreeMap<String, u64> =
            once.iter().map(|(name, targets)| (name.clone(), 2 * targets)).collect();
        assert_eq!(targets(&reports), twice, "{name}");
        assert_eq!(reports.iter().map(|r| r.tokens).sum::<u64>(), 2 * 291, "{name}");
    }
}

/// `steps` alone ends a run that has it, in the middle of a pass or behind it.
#[test]
fn steps_take_rows_as_they_come() {
    let folder = Folder::new();
    let more = "steps = 2\nlr = { base = 1e-4 }\nbatch = { tokens = 1000 }\n";
    let reports = train(folder.config("dense_tied", "run", more), None);
    assert!(reports.iter().all(|report| report.tokens > 900), "{reports:?}");
}

/// What is done to samples that are too long is counted over all passes, also behind a resumption.
#[test]
fn samples_that_were_too_long_are_counted() {
    for (policy, counts) in [("drop", [2, 0, 0]), ("shrink", [0, 2, 0]), ("trim_text", [0, 0, 2])] {
        let folder = Folder::new();
        image::RgbImage::new(256, 256).save(folder.folder.path().join("big.png")).unwrap();
        let text = "a ".repeat(20);
        let big = format!(
            "{{\"image\":\"big.png\",\"conversations\":[{{\"from\":\"human\",\"value\":\"<image>Q\"}},{{\"from\":\"gpt\",\"value\":\"{text}\"}}]}}\n"
        );
        let hi = ROWS.lines().nth(2).unwrap();
        std::fs::write(folder.folder.path().join("data.jsonl"), format!("{big}{hi}\n")).unwrap();
        let more = format!(
            "epochs = 2\nlr = {{ base = 1e-4 }}\nbatch = {{ tokens = 1 }}\nlimits = {{ sequence = 90, too_long = \"{policy}\" }}\n"
        );
        let mut reports = train(folder.config("dense_tied", "run", &more), Some(1));
        reports.extend(train(folder.config("dense_tied", "run", &more), None));
        let last = reports.last().unwrap();
        assert_eq!([last.dropped, last.shrunk, last.trimmed], counts, "{policy}: {reports:?}");
        let state = checkpoint::read_state(&checkpoint::newest(&folder.output("run")).unwrap());
        let position = state.unwrap().position;
        assert_eq!([position.dropped, position.shrunk, position.trimmed], counts, "{policy}");
    }
}

/// A head that is the embedding table has no parameter of its own.
#[test]
fn a_tied_head_alone_trains_nothing_and_is_refused() {
    let folder = Folder::new();
    let rest = "steps = 1\nlr = { base = 1e-3 }\nbatch = { tokens = 1 }\n";
    let alone =
        format!("{rest}train = {{ merger = false, llm = false, embed = false, head = true }}\n");
    let device = device::select(Some("flex")).unwrap();
    let error = Trainer::new(folder.config("dense_tied", "run", &alone), &device).err();
    let message = error.expect("nothing would be trained").to_string();
    assert!(message.contains("embedding table") && message.contains("`embed = true`"), "{message}");
    Trainer::new(folder.config("dense_untied", "untied", &alone), &device).unwrap();
    for (train, note) in [
        (
            "merger = true, llm = true, embed = false, head = true",
            "`train.head = true` changes nothing",
        ),
        ("embed = true, head = false", "`train.head = false` changes nothing"),
    ] {
        let more = format!("{rest}train = {{ {train} }}\n");
        let trainer = Trainer::new(folder.config("dense_tied", "run", &more), &device).unwrap();
        assert!(trainer.notes().len() == 1 && trainer.notes()[0].contains(note), "{train}");
        let untied = folder.config("dense_untied", "untied", &more);
        assert!(Trainer::new(untied, &device).unwrap().notes().is_empty(), "{train}");
    }
}

/// Two gradients of 3 and 4 have the norm 5 together, so that a clip of 1 leaves 0.6 and 0.8 (torch `clip_grad_norm_`).
/// AdamW's first step then is `rate · g / (|g| + epsilon)`: with an epsilon of 1, 0.6 / 1.6 and 0.8 / 1.8.
#[test]
fn gradients_are_clipped_by_their_norm_together() {
    let base = common::load(&common::fixtures().join("dense_untied"), "flex");
    let paths = ["visual.merger.norm.weight", "language_model.norm.weight"];
    let model = trainable(base.model().clone(), |p| paths.contains(&p.path.as_str()));
    let first = |values: Param<Tensor<1>>, factor: f64| values.val().narrow(0, 0, 1).sum() * factor;
    let moved = |clip: f64| {
        let loss = first(model.visual.merger.norm.weight.clone(), 3.0)
            + first(model.language_model.norm.weight.clone(), -4.0);
        let mut gradients = ModelGradients::default();
        gradients.collect(&model, &mut loss.backward());
        let norm = gradients.norm();
        assert!((norm - 5.0).abs() < 1e-6, "{norm}");
        let mut settings = parsed("optimizer = { epsilon = 1.0 }");
        settings.optimizer.clip = clip;
        let list: Vec<_> = parameters(&model);
        let list: Vec<_> = list.into_iter().filter(|p| paths.contains(&p.path.as_str())).collect();
        let mut optimizer = ModelOptimizer::new(settings.optimizer, &settings.lr, &list);
        let (before, after) =
            (all_values(&model), all_values(&optimizer.step(model.clone(), gradients, norm, 1.0)));
        // The rate is 1e-3.
        paths.map(|path| f64::from(before[path][0] - after[path][0]) / 1e-3)
    };
    let near = |found: [f64; 2], wanted: [f64; 2]| {
        found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 2e-3)
    };
    for (clip, wanted) in [
        (1.0, [0.6 / 1.6, -0.8 / 1.8]),
        (2.5, [1.5 / 2.5, -2.0 / 3.0]),
        (10.0, [3.0 / 4.0, -4.0 / 5.0]),
        (0.0, [3.0 / 4.0, -4.0 / 5.0]),
    ] {
        let found = moved(clip);
        assert!(near(found, wanted), "clip {clip}: {found:?}, not {wanted:?}");
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
