use super::*;

#[test]
fn rates_rise_stay_and_fall() {
    let rates = |text: &str| toml::from_str::<Rates>(text).expect("rates");
    let wsd = rates("base = 1.0\nwarmup = 4\nschedule = \"wsd\"\ndecay = 10\nfloor = 0.1");
    let near = |step, steps, wanted: f64| {
        let found = wsd.factor(step, steps);
        assert!((found - wanted).abs() < 1e-12, "step {step}: {found}, not {wanted}");
    };
    near(0, 40, 0.25);
    near(3, 40, 1.0);
    near(30, 40, 1.0);
    near(35, 40, 0.55);
    near(39, 40, 0.19);
    // A longer run is the same up to where the shorter one falls.
    (0..=30).for_each(|step| assert_eq!(wsd.factor(step, 40), wsd.factor(step, 4000)));
    let cosine = rates("base = 1.0\nwarmup = 0.1");
    assert_eq!([cosine.factor(0, 100), cosine.factor(10, 100)], [0.1, 1.0]);
    assert!((cosine.factor(55, 100) - 0.5).abs() < 1e-12 && cosine.factor(99, 100) < 1e-3);
}

fn checked(more: &str) -> Result<TrainConfig, String> {
    checked_data("path = \"d\"", more)
}

fn checked_data(source: &str, more: &str) -> Result<TrainConfig, String> {
    let text = format!("model = \"m\"\ndata = [{{ {source} }}]\n{more}");
    let config: TrainConfig = toml::from_str(&text).map_err(|error| error.to_string())?;
    config.check(Path::new("run.toml")).map_err(|error| error.to_string())?;
    Ok(config)
}

const RATE: &str = "lr = { base = 1e-4 }\n";

#[test]
fn groups_compose() {
    use Training::{Frozen, Full, Lora};
    let groups = |train: &str| {
        let method = if train.contains("lora") { "method = { kind = \"lora\" }\n" } else { "" };
        let config = checked(&format!("{RATE}{method}train = {{ {train} }}\n")).unwrap();
        Group::ALL.map(|group| config.train.of(group))
    };
    assert_eq!(groups(""), [Frozen, Full, Full, Full, Full]);
    assert_eq!(groups("vision = true, llm = false"), [Full, Full, Frozen, Full, Full]);
    // Where one group has LoRA, the others are trained only if they are named.
    assert_eq!(groups("llm = \"lora\""), [Frozen, Frozen, Lora, Frozen, Frozen]);
    assert_eq!(groups("merger = true, llm = \"lora\""), [Frozen, Full, Lora, Frozen, Frozen]);
    assert_eq!(groups("vision = \"lora\", head = true"), [Lora, Frozen, Frozen, Frozen, Full]);
}

#[test]
fn scaling_is_that_of_lora_or_rslora() {
    let table = |text: &str| toml::from_str::<LoraTable>(text).unwrap();
    assert_eq!((table("").rank, table("").alpha(), table("").scale()), (16, 32.0, 2.0));
    assert_eq!(table("rank = 4\nalpha = 6").scale(), 1.5);
    assert_eq!(table("rank = 4\nalpha = 6\nscaling = \"rs\"").scale(), 3.0);
}

/// LoRA+: the rate of `B` is that of its group, a multiple of it.
#[test]
fn the_b_of_a_pair_has_its_own_rate() {
    let rates: Rates = toml::from_str("base = 1e-4\nllm = 2e-4\nb_ratio = 16").unwrap();
    let rate = |path: &str| {
        let group = Group::of(path);
        let id = burn::module::ParamId::new();
        rates.of_parameter(&Parameter { path: path.into(), id, shape: vec![1], group })
    };
    assert_eq!(rate("language_model.layers.0.mlp.up_proj.lora.a"), 2e-4);
    assert_eq!(rate("language_model.layers.0.mlp.up_proj.lora.b"), 32e-4);
    assert_eq!(rate("visual.merger.linear_fc1.lora.b"), 16e-4);
    assert_eq!(rate("visual.merger.linear_fc1.weight"), 1e-4);
}

#[test]
fn settings_of_lora_that_do_not_fit_are_refused() {
    let lora = "train = { llm = \"lora\" }\n";
    let cases = [
        ("train = { llm = \"lora\" }", "`train.llm` is \"lora\"; it needs LoRA"),
        ("method = { kind = \"lora\" }", "`train` is without \"lora\"; LoRA needs a group"),
        ("train = { llm = \"qlora\" }", "expected true, false or \"lora\""),
        ("train = { llm = 1 }", "expected true, false or \"lora\""),
        ("train = { language = \"lora\" }", "unknown field `language`"),
        ("train = { merger = false, llm = false, embed = false, head = false }", "all false"),
        ("method = { kind = \"lora\", rank = 0 }@", "`method.rank` is 0"),
        ("method = { kind = \"lora\", rank = -1 }@", "rank"),
        ("method = { kind = \"lora\", alpha = 0 }@", "`method.alpha` is 0"),
        ("method = { kind = \"lora\", alpha = -3 }@", "`method.alpha` is -3"),
        ("method = { kind = \"lora\", alpha = nan }@", "`method.alpha` is NaN"),
        ("method = { kind = \"lora\", dropout = 0.05 }@", "`method.dropout` is 0.05; it must be 0"),
        ("method = { kind = \"lora\", scaling = \"sqrt\" }@", "unknown variant `sqrt`"),
        ("method = { kind = \"lora\", target = [] }@", "unknown field `target`"),
        ("method = { kind = \"dora\" }@", "unknown variant `dora`"),
        ("method = { kind = \"lora\" }\ninit = \"random\"@", "`init` is \"random\""),
        ("method = { kind = \"lora\" }\ntrain = { embed = \"lora\" }", "`train.embed` is \"lora\""),
        ("method = { kind = \"lora\" }\ntrain = { llm = \"lora\", head = \"lora\" }", "train.head"),
    ];
    for (text, expected) in cases {
        let text = text.replace('@', &format!("\n{lora}"));
        let error = checked(&format!("{RATE}{text}\n")).expect_err(&text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let rate = |more: &str| format!("lr = {{ base = 1e-4, b_ratio = {more} }}\n");
    let error = checked(&rate("4")).unwrap_err();
    assert!(error.contains("`lr.b_ratio` is 4; it needs LoRA"), "{error}");
    let error = checked(&format!("{}{lora}method = {{ kind = \"lora\" }}", rate("0"))).unwrap_err();
    assert!(error.contains("`lr.b_ratio` is 0; it must be a number above 0"), "{error}");
    checked(&format!("{RATE}{lora}method = {{ kind = \"lora\", dropout = 0.0 }}")).unwrap();
}

/// Runs that were begun before there was a method go on.
#[test]
fn older_states_are_read() {
    let config = checked(RATE).unwrap();
    let mut json = serde_json::to_value(&config).unwrap();
    let object = json.as_object_mut().unwrap();
    assert_eq!(object.remove("method").unwrap(), serde_json::json!({ "kind": "full" }));
    assert_eq!(object["train"]["vision"], serde_json::json!(false));
    assert_eq!(serde_json::from_value::<TrainConfig>(json).unwrap(), config);
}

#[test]
fn questions_of_a_row_need_channels_and_a_bound() {
    let more = format!("{RATE}steps = 1\n");
    let drawn =
        |text: &str| checked_data(&format!("synth = {{ rows = 1, seed = 1, {text} }}"), &more);
    drawn("channels = [\"shape\"], questions = 20, crowded = true, alike = true, sideways = true")
        .expect("it is fine");
    for text in ["questions = 2", "channels = [\"shape\"], questions = 0"] {
        let error = drawn(text).expect_err("an error");
        assert!(error.contains("questions") && error.contains("1 to 20"), "{error}");
    }
}

/// Every number and count has bounds, and what is outside is named by its field.
#[test]
fn values_out_of_range_are_refused_by_their_field() {
    const STEPS: &str = "steps = 1\n";
    let positive = "it must be a number above 0";
    let cases = [
        ("lr = { base = 0.0 }", "`lr.base` is 0", positive),
        ("lr = { base = 1e-4, vision = -1e-4 }", "`lr.vision` is -0.0001", positive),
        ("lr = { base = 1e-4, merger = nan }", "`lr.merger` is NaN", positive),
        ("lr = { base = 1e-4, llm = -1e-2 }", "`lr.llm` is -0.01", "a group is frozen by `train`"),
        ("lr = { base = 1e-4, embed = inf }", "`lr.embed` is inf", positive),
        ("lr = { base = 1e-4, head = 0.0 }", "`lr.head` is 0", positive),
        ("lr = { base = 1e-4, floor = 1.5 }", "`lr.floor` is 1.5", "0 to 1"),
        ("lr = { base = 1e-4, floor = -0.1 }", "`lr.floor` is -0.1", "0 to 1"),
        ("lr = { base = 1e-4, warmup = -1 }", "`lr.warmup` is -1", "a number of steps"),
        ("lr = { base = 1e-4, decay = nan }", "`lr.decay` is NaN", "a number of steps"),
        ("optimizer = { beta1 = 1.5 }", "`optimizer.beta1` is 1.5", "at least 0 and below 1"),
        ("optimizer = { beta2 = 1.0 }", "`optimizer.beta2` is 1", "at least 0 and below 1"),
        ("optimizer = { beta2 = -0.1 }", "`optimizer.beta2` is -0.1", "at least 0 and below 1"),
        ("optimizer = { epsilon = 0.0 }", "`optimizer.epsilon` is 0", positive),
        (
            "optimizer = { weight_decay = -0.1 }",
            "`optimizer.weight_decay` is -0.1",
            "0 or a number",
        ),
        ("optimizer = { clip = -1.0 }", "`optimizer.clip` is -1", "0 or a number above 0"),
        ("optimizer = { clip = nan }", "`optimizer.clip` is NaN", "0 or a number above 0"),
        ("optimizer = { momentum = 1.0 }", "`optimizer.momentum` is 1", "at least 0 and below 1"),
        ("router_aux = -0.1", "`router_aux` is -0.1", "0 or a number above 0"),
        ("limits = { sequence = 0 }", "`limits.sequence` is 0", "at least 1"),
        ("limits = { image_tokens = 0 }", "`limits.image_tokens` is 0", "at least 1"),
        ("limits = { video_tokens = 0 }", "`limits.video_tokens` is 0", "at least 1"),
        ("limits = { frames = 0 }", "`limits.frames` is 0", "at least 1"),
        ("limits = { fps = -1.0 }", "`limits.fps` is -1", positive),
        ("batch = { tokens = 0 }", "`batch.tokens` is 0", "at least 1"),
        ("batch = { accumulate = 0 }", "`batch.accumulate` is 0", "at least 1"),
        ("save = { every = 0 }", "`save.every` is 0", "at least 1"),
        ("save = { keep = 0 }", "`save.keep` is 0", "at least 1"),
        ("eval = { rows = 0 }", "`eval.rows` is 0", "at least 1"),
        ("eval = { every = 1 }", "`eval.data` is empty", "not trained on"),
        ("epochs = -1.0", "`epochs` is -1", positive),
        ("epochs = inf", "`epochs` is inf", positive),
        (
            "eval = { data = [{ path = \"d\", sample = 7.0 }] }",
            "`eval.data[0].sample` is 7",
            "up to 1",
        ),
    ];
    for (text, value, expected) in cases {
        let rate = if text.starts_with("lr") { "" } else { RATE };
        let error = checked(&format!("{STEPS}{rate}{text}\n")).expect_err(text);
        assert!(error.contains(value) && error.contains(expected), "{text}: {error}");
    }
    let error = checked(&format!("{RATE}steps = 0\n")).unwrap_err();
    assert!(error.contains("`steps` is 0; it must be at least 1"), "{error}");
    let edges = "lr = { base = 1e-4, floor = 1.0, warmup = 0 }\nlimits = { sequence = 1, fps = 0.1 }\n\
        optimizer = { beta1 = 0.0, weight_decay = 0.0, clip = 0.0 }\n";
    checked(&format!("{STEPS}{edges}")).expect("all are allowed");
}

#[test]
fn shares_of_a_source_lie_between_nothing_and_all() {
    let refused = [
        ("path = \"d%0\"", "`data[0].path` is \"d%0\"; the share after % lies above 0"),
        ("path = \"d%150\"", "`data[0].path` is \"d%150\""),
        ("path = \"d%-5\"", "`data[0].path` is \"d%-5\""),
        ("path = \"d%nan\"", "`data[0].path` is \"d%nan\""),
        ("path = \"d\", sample = 0.0", "`data[0].sample` is 0; a share lies above 0"),
        ("path = \"d\", weight = -1.0", "`data[0].weight` is -1; it must be a number above 0"),
        ("path = \"d\", synth = { rows = 1, seed = 1 }", "`data[0]` is ambiguous"),
        (
            "synth = { rows = 1, seed = 1, mixture = { films = -1.0 } }",
            "`data[0].synth.mixture.films` is -1",
        ),
    ];
    for (source, expected) in refused {
        let error = checked_data(source, &format!("{RATE}steps = 1\n")).expect_err(source);
        assert!(error.contains(expected), "{source}: {error}");
    }
    for source in ["path = \"d%50\"", "path = \"d%100\"", "path = \"a%b.jsonl\""] {
        checked_data(source, RATE).expect(source);
    }
}

/// A name stays a name where no folder has it, and a path is one beside the file.
#[test]
fn models_are_folders_or_names() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("here/model")).unwrap();
    let model = |name: &str| {
        let file = folder.path().join("run.toml");
        let text = format!("model = {name:?}\ndata = [{{ path = \"d\" }}]\n{RATE}");
        std::fs::write(&file, text).unwrap();
        TrainConfig::open(&file).unwrap().model
    };
    for name in ["nano", "Qwen/Qwen3-VL-2B-Instruct"] {
        assert_eq!(model(name), Path::new(name));
    }
    for path in ["here/model", "other", "./nano", "../a", "a/b/c", "m.gguf"] {
        assert_eq!(model(path), folder.path().join(path), "{path}");
    }
}
