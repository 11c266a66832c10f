//! Templates, tokens, prompts, detokenising and sampling against stored results of transformers.
//!
//! The stored tables are described in `tests/generate/README.md`. Tests of the official tokenizer and template, which are
//! not ours to ship, read them from the folder named by `QWEN3_VL_ASSETS` and say so when they are skipped.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use qwen3_vl_model::processor::detokenize::StreamDecoder;
use qwen3_vl_model::processor::message::{MediaKind, Message, Role, media, parse_messages};
use qwen3_vl_model::processor::prompt::{
    FrameTokens, MediaTokens, PromptBuilder, PromptIds, RenderedChat, VideoLayout,
};
use qwen3_vl_model::processor::template::{ChatTemplate, RenderOptions};
use qwen3_vl_model::processor::tokenizer::Tokenizer;
use qwen3_vl_model::sample::{
    Candidate, GenerationDefaults, Sampler, SamplingOverrides, SamplingParams, logprobs,
};
use safetensors::SafeTensors;
use serde_json::{Map, Value as Json};

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_text(path: &Path) -> String {
    String::from_utf8(read(path)).unwrap()
}

fn fixture(name: &str) -> Json {
    serde_json::from_slice(&read(&tests_dir().join("fixtures").join(name))).unwrap()
}

fn our_template(edition: &str) -> ChatTemplate {
    let path = tests_dir().join(format!("generate/templates/{edition}.jinja"));
    ChatTemplate::from_source(&read_text(&path)).unwrap()
}

/// A file of the official checkpoint, or `None` with a line that says how to run the test.
fn official(name: &str) -> Option<Vec<u8>> {
    let path = std::env::var_os("QWEN3_VL_ASSETS").map(|folder| PathBuf::from(folder).join(name));
    match path.filter(|path| path.is_file()) {
        Some(path) => Some(read(&path)),
        None => {
            println!("skipped: set QWEN3_VL_ASSETS to a folder that holds the official {name}");
            None
        }
    }
}

fn official_tokenizer() -> Option<Tokenizer> {
    let json = official("tokenizer.json")?;
    let config = official("tokenizer_config.json");
    Some(Tokenizer::from_bytes(&json, config.as_deref()).unwrap())
}

fn tiny_tokenizer(model: &str) -> Tokenizer {
    let folder = tests_dir().join("fixtures").join(model);
    let config = read(&folder.join("tokenizer_config.json"));
    Tokenizer::from_bytes(&read(&folder.join("tokenizer.json")), Some(&config)).unwrap()
}

fn ids(json: &Json) -> Vec<u32> {
    serde_json::from_value(json.clone()).unwrap()
}

fn rows(json: &Json) -> &[Json] {
    json.as_array().unwrap()
}

fn messages(json: &Json) -> Vec<Message> {
    parse_messages(&json.to_string()).unwrap()
}

/// `{"add_generation_prompt": .., "add_vision_id": ..}` as render options.
fn options(kwargs: &Json, tools: &Json) -> RenderOptions {
    let mut extra: Map<String, Json> = kwargs.as_object().unwrap().clone();
    let add_generation_prompt = extra.remove("add_generation_prompt").unwrap().as_bool().unwrap();
    RenderOptions { tools: rows(tools).to_vec(), add_generation_prompt, extra }
}

/// Renders all rows of an edition plainly and with marked placeholders; both must equal the stored rendering.
fn check_renderings(template: &ChatTemplate, edition: &str) {
    let table = fixture("templates.json");
    assert!(rows(&table[edition]).len() >= 50);
    for row in rows(&table[edition]) {
        let (messages, options) =
            (messages(&row["messages"]), options(&row["kwargs"], &row["tools"]));
        let expected = row["rendering"].as_str().unwrap();
        let what = format!("{edition} {} {}", row["name"], row["kwargs"]);
        assert_eq!(template.render(&messages, &options).unwrap(), expected, "{what}");
        let chat = RenderedChat::render(template, &messages, &options).unwrap();
        assert_eq!(chat.text(), expected, "{what}, marked");
        if !row["name"].as_str().unwrap().contains("image_ignored") {
            let given: Vec<MediaKind> = media(&messages).iter().map(|media| media.kind()).collect();
            assert_eq!(chat.placeholders(), given, "{what}");
        }
    }
}

#[test]
fn our_templates_render_as_in_transformers() {
    check_renderings(&our_template("instruct"), "instruct");
    check_renderings(&our_template("thinking"), "thinking");
}

#[test]
fn the_official_template_renders_as_in_transformers() {
    let Some(source) = official("chat_template.jinja") else { return };
    let template = ChatTemplate::from_source(&String::from_utf8(source).unwrap()).unwrap();
    check_renderings(&template, "instruct");
}

/// The renderings that were recorded from the official templates are among the stored ones.
#[test]
fn stored_renderings_hold_the_recorded_ones() {
    let (golden, stored) = (fixture("golden.json"), fixture("templates.json"));
    for (key, edition, count) in
        [("template", "instruct", 10), ("template_thinking", "thinking", 14)]
    {
        assert_eq!(rows(&golden[key]).len(), count);
        for recorded in rows(&golden[key]) {
            let same = |row: &&Json| row["name"] == recorded[0] && row["kwargs"] == recorded[1];
            let row = rows(&stored[edition]).iter().find(same).unwrap();
            assert_eq!(row["rendering"], recorded[2], "{edition} {}", row["name"]);
        }
    }
}

#[test]
fn content_null_renders_as_nothing() {
    let call = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": null,
                    "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}]"#;
    let empty = call.replace("null", "\"\"");
    for edition in ["instruct", "thinking"] {
        let render = |file: &str| {
            our_template(edition)
                .render(&parse_messages(file).unwrap(), &RenderOptions::generation())
        };
        assert_eq!(render(call).unwrap(), render(&empty).unwrap());
        assert!(render(call).unwrap().contains("{\"name\": \"f\", \"arguments\": {\"x\": 1}}"));
    }
}

/// Every stored request: rendering, ids with expanded images, and the text of the answer, whole and streamed.
#[test]
fn requests_become_the_ids_and_texts_of_transformers() {
    let table = fixture("e2e.json");
    assert!(rows(&table["requests"]).len() >= 40);
    for request in rows(&table["requests"]) {
        let what = format!("{} {}", request["model"], request["name"]);
        let model = request["model"].as_str().unwrap();
        let tokenizer = tiny_tokenizer(model);
        let source =
            read_text(&tests_dir().join("fixtures").join(model).join("chat_template.jinja"));
        let template = ChatTemplate::from_source(&source).unwrap();
        let messages = messages(&request["messages"]);
        let chat =
            RenderedChat::render(&template, &messages, &RenderOptions::generation()).unwrap();
        assert_eq!(chat.text(), request["prompt"].as_str().unwrap(), "{what}");
        let pad = |token| tokenizer.token_to_id(token).unwrap();
        let builder =
            PromptBuilder::new(&tokenizer, pad("<|image_pad|>"), pad("<|video_pad|>")).unwrap();
        let prompt = builder.build(&chat, &image_tokens(&request["image_grid_thw"])).unwrap();
        assert_eq!(prompt.ids, ids(&request["prompt_token_ids"]), "{what}");
        check_spans(&prompt, &tokenizer);
        let answer = ids(&request["token_ids"]);
        check_stream(&tokenizer, &answer);
        let text = tokenizer.decode(&answer, true).unwrap();
        assert_eq!(text, request["text_of_all_ids"].as_str().unwrap(), "{what}");
        let stopped = request["finish_reason"] == "stop";
        let shown = &answer[..answer.len() - usize::from(stopped)];
        assert_eq!(
            tokenizer.decode(shown, true).unwrap(),
            request["text"].as_str().unwrap(),
            "{what}"
        );
    }
}

fn image_tokens(grids: &Json) -> Vec<MediaTokens> {
    let grids: Vec<[usize; 3]> = serde_json::from_value(grids.clone()).unwrap_or_default();
    grids.iter().map(|[t, h, w]| MediaTokens::Image(t * h * w / 4)).collect()
}

/// Spans are exactly the runs of placeholder ids, in order and without overlap.
fn check_spans(prompt: &PromptIds, tokenizer: &Tokenizer) {
    let pads =
        ["<|image_pad|>", "<|video_pad|>"].map(|token| tokenizer.token_to_id(token).unwrap());
    let inside: Vec<usize> =
        prompt.spans.iter().flat_map(|span| span.start..span.start + span.len).collect();
    let found: Vec<usize> =
        (0..prompt.ids.len()).filter(|i| pads.contains(&prompt.ids[*i])).collect();
    assert_eq!(inside, found);
}

fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip_special in [true, false] {
        let mut decoder = StreamDecoder::new(tokenizer, skip_special);
        let mut text: String = ids.iter().filter_map(|id| decoder.push(*id)).collect();
        text.extend(decoder.finish());
        assert_eq!(text, tokenizer.decode(ids, skip_special).unwrap(), "{ids:?}");
    }
}

/// Random ids, also beyond the vocabulary.
fn random_rows(count: usize, length: usize, vocab: usize) -> Vec<Vec<u32>> {
    let mut state = 7_u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    (0..count).map(|_| (0..length).map(|_| (random() % (vocab + 300)) as u32).collect()).collect()
}

#[test]
fn streams_equal_the_whole_text() {
    let tokenizer = tiny_tokenizer("dense_tied");
    for row in random_rows(400, 40, tokenizer.vocab_size()) {
        check_stream(&tokenizer, &row);
    }
}

#[test]
fn the_official_tokenizer_gives_the_recorded_ids() {
    let Some(tokenizer) = official_tokenizer() else { return };
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_token_id()), (151_669, Some(151_645)));
    assert!(
        tokenizer.is_special(151_655)
            && !tokenizer.is_special(151_667)
            && !tokenizer.is_special(151_800)
    );
    let golden = fixture("golden.json");
    assert_eq!(rows(&golden["tokens"]).len(), 21);
    for row in rows(&golden["tokens"]) {
        let (text, expected) = (row[0].as_str().unwrap(), ids(&row[1]));
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        check_stream(&tokenizer, &expected);
    }
    assert_eq!(tokenizer.decode(&[9707, 151_800, 151_935, u32::MAX, 0], true).unwrap(), "Hello!");
    let plain = tokenizer.encode_plain("a <|image_pad|> b").unwrap();
    assert!(plain.iter().all(|id| *id < 151_643));
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), "a <|image_pad|> b");
}

#[test]
fn the_official_tokenizer_streams_every_text() {
    let Some(tokenizer) = official_tokenizer() else { return };
    for row in random_rows(400, 60, tokenizer.vocab_size()) {
        check_stream(&tokenizer, &row);
    }
    for text in ["日本語テスト。🤔👍🏽 é vs e\u{301}", "الْعَرَبِيَّة <think>\n\n</think>\n\nok"]
    {
        check_stream(&tokenizer, &tokenizer.encode(text).unwrap());
    }
}

#[test]
fn the_official_prompts_have_the_recorded_ids() {
    let Some(tokenizer) = official_tokenizer() else { return };
    let golden = fixture("golden.json");
    let build = |messages: &[Message], media: &[MediaTokens], layout| {
        let chat =
            RenderedChat::render(&our_template("instruct"), messages, &RenderOptions::generation())
                .unwrap();
        let builder = PromptBuilder::new(&tokenizer, 151_655, 151_656).unwrap().with_layout(layout);
        let prompt = builder.build(&chat, media).unwrap();
        check_spans(&prompt, &tokenizer);
        prompt.ids
    };
    let image = [
        Message::new(Role::System).text("S1").text("S2"),
        Message::user("").image("a").text("what?"),
    ];
    let tokens = image_tokens(&golden["image_prompt_ids"]["grid"]);
    assert_eq!(build(&image, &tokens, VideoLayout::Hf4), ids(&golden["image_prompt_ids"]["ids"]));
    let video = [Message::user("").video("a").text("Hi")];
    let frames = [0.125, 0.625, 1.0].map(|seconds| FrameTokens { seconds, tokens: 4 });
    let tokens = [MediaTokens::Video(frames.to_vec())];
    let golden = &golden["video_prompt_ids"];
    assert_eq!(build(&video, &tokens, VideoLayout::Hf4), ids(&golden["stripped_4_57"]));
    assert_eq!(build(&video, &tokens, VideoLayout::Hf5), ids(&golden["nested_5_23"]));
}

/// Tokenising between placeholders equals tokenising the string with all placeholders written out.
#[test]
fn expanding_ids_equals_expanding_text() {
    let tokenizers = [Some(tiny_tokenizer("dense_tied")), official_tokenizer()];
    for tokenizer in tokenizers.iter().flatten() {
        let pads =
            ["<|image_pad|>", "<|video_pad|>"].map(|token| tokenizer.token_to_id(token).unwrap());
        for text in ["", " a ", "x=", "\n\n", "é\u{301}", "<", "1 <", "日\t"] {
            let messages = [Message::user(text).image("i").text(text).video("v").text(text)];
            let chat = RenderedChat::render(
                &our_template("instruct"),
                &messages,
                &RenderOptions::generation(),
            );
            let frame = FrameTokens { seconds: 3.75, tokens: 2 };
            let media = [MediaTokens::Image(3), MediaTokens::Video(vec![frame, frame])];
            let builder = PromptBuilder::new(tokenizer, pads[0], pads[1]).unwrap();
            let prompt = builder.build(&chat.unwrap(), &media).unwrap();
            let (start, end) = ("<|vision_start|>", "<|vision_end|>");
            let image = format!("{start}{}{end}", "<|image_pad|>".repeat(3));
            let group = format!("<3.8 seconds>{start}{}{end}", "<|video_pad|>".repeat(2));
            let whole = format!(
                "<|im_start|>user\n{text}{image}{text}{group}{group}{text}<|im_end|>\n<|im_start|>assistant\n"
            );
            assert_eq!(prompt.ids, tokenizer.encode(&whole).unwrap(), "{text:?}");
        }
    }
}

/// Parameters of a stored case: what is not named is switched off.
fn params(json: &Json) -> SamplingParams {
    let number = |name: &str, off: f64| json.get(name).map_or(off, |value| value.as_f64().unwrap());
    SamplingParams {
        do_sample: true,
        temperature: number("temperature", 1.0),
        top_k: json["top_k"].as_u64().unwrap() as usize,
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        presence_penalty: number("presence_penalty", 0.0),
        frequency_penalty: number("frequency_penalty", 0.0),
        seed: Some(1),
        logit_bias: Vec::new(),
    }
}

fn assert_close(found: f32, expected: f32, what: &str) {
    let tolerance = 1e-6 * expected.abs().max(1.0);
    assert!((found - expected).abs() <= tolerance, "{what}: {found} instead of {expected}");
}

#[test]
fn sampling_steps_equal_those_of_transformers() {
    let table = fixture("sampling.json");
    let floats = |json: &Json| serde_json::from_value::<Vec<f32>>(json.clone()).unwrap();
    assert!(rows(&table["cases"]).len() >= 60);
    for case in rows(&table["cases"]) {
        let row = case["row"].as_u64().unwrap() as usize;
        let (logits, params) = (floats(&table["logits"][row]), params(&case["params"]));
        let (prompt, answer) = (ids(&table["prompts"][row]), ids(&table["answers"][row]));
        let what = format!("row {row}, {}", case["params"]);
        let mut sampler = Sampler::new(params.clone()).unwrap();
        let mut candidates = sampler.candidates(&logits, &prompt, &answer).unwrap();
        if case["kept"].is_null() {
            candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        } else {
            let kept: Vec<u32> = candidates.iter().map(|candidate| candidate.id).collect();
            assert_eq!(kept, ids(&case["kept"]), "{what}");
        }
        let (scores, probabilities) = (floats(&case["scores"]), floats(&case["probabilities"]));
        assert_eq!(candidates.len(), scores.len(), "{what}");
        for ((candidate, score), probability) in candidates.iter().zip(scores).zip(probabilities) {
            assert_close(candidate.score, score, &what);
            assert_close(softmax(candidate, &candidates), probability, &what);
        }
        let drawn = sampler.sample(&logits, &prompt, &answer).unwrap();
        assert!(candidates.iter().any(|candidate| candidate.id == drawn), "{what}");
        let mut greedy = Sampler::new(SamplingParams { do_sample: false, ..params }).unwrap();
        let chosen = greedy.sample(&logits, &prompt, &answer).unwrap();
        assert_eq!(u64::from(chosen), case["greedy"].as_u64().unwrap(), "{what}");
    }
}

fn softmax(one: &Candidate, all: &[Candidate]) -> f32 {
    let weight = |candidate: &Candidate| f64::from(candidate.score - one.score).exp();
    (1.0 / all.iter().map(weight).sum::<f64>()) as f32
}

/// Float and integer tensors of `sampler.safetensors` as rows.
struct Golden(HashMap<String, Vec<Vec<f32>>>);

impl Golden {
    fn read() -> Self {
        let bytes = read(&tests_dir().join("fixtures/sampler.safetensors"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, tensor)| {
            let data = tensor.data();
            let flat: Vec<f32> = match tensor.dtype() {
                safetensors::Dtype::F32 => {
                    data.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
                }
                _ => data.as_chunks().0.iter().map(|x| i64::from_le_bytes(*x) as f32).collect(),
            };
            (name.to_owned(), flat.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect())
        });
        Self(tensors.collect())
    }

    /// Compares the candidates of every row with a masked row of scores: same positions, same scores.
    fn check(&self, key: &str, params: &SamplingParams) {
        for (row, expected) in self.0[key].iter().enumerate() {
            let history: Vec<u32> = self.0["history"][row].iter().map(|id| *id as u32).collect();
            let mut sampler = Sampler::new(params.clone()).unwrap();
            let found = sampler.candidates(&self.0["logits"][row], &[], &history).unwrap();
            let kept: Vec<usize> =
                (0..expected.len()).filter(|id| expected[*id] > f32::NEG_INFINITY).collect();
            assert_eq!(
                found.iter().map(|one| one.id as usize).collect::<Vec<_>>(),
                kept,
                "{key}, row {row}"
            );
            for one in found {
                assert_close(
                    one.score,
                    expected[one.id as usize],
                    &format!("{key}, row {row}, id {}", one.id),
                );
            }
        }
    }
}

#[test]
fn sampler_tensors_are_reproduced() {
    let golden = Golden::read();
    let off = SamplingParams { do_sample: true, top_k: 0, ..SamplingParams::default() };
    let repetition = SamplingParams { repetition_penalty: 1.3, ..off.clone() };
    let temperature = SamplingParams { temperature: 0.7, ..repetition.clone() };
    let top_k = SamplingParams { top_k: 20, ..temperature.clone() };
    let top_p = SamplingParams { top_p: 0.8, ..top_k.clone() };
    golden.check("logits", &off);
    golden.check("rep_1.3", &repetition);
    golden.check("then_temp_0.7", &temperature);
    golden.check("then_topk_20", &top_k);
    golden.check("then_topp_0.8", &top_p);
    golden.check("minp_0.05_on_logits", &SamplingParams { min_p: 0.05, ..off.clone() });
    golden.check("presence_1.5", &SamplingParams { presence_penalty: 1.5, ..off });
}

/// Log probabilities are those of the raw logits: the stored ones against a vocabulary of 512.
#[test]
fn log_probabilities_are_the_log_softmax() {
    let golden = Golden::read();
    for logits in &golden.0["logits"] {
        let found = logprobs(logits, 3, 64).unwrap();
        let total: f64 = found.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        let gaps = found.top.windows(2).all(|pair| pair[0].1 >= pair[1].1);
        assert!(gaps && found.top.iter().any(|(id, logprob)| *id == 3 && *logprob == found.chosen));
        let (best, second) = (found.top[0], found.top[1]);
        assert_close(best.1 - second.1, logits[best.0 as usize] - logits[second.0 as usize], "gap");
    }
}

#[test]
fn the_official_generation_config_is_read() {
    let Some(file) = official("generation_config.json") else { return };
    let defaults = GenerationDefaults::from_json(std::str::from_utf8(&file).unwrap()).unwrap();
    assert_eq!(defaults.eos_token_ids, [151_645, 151_643]);
    assert!(defaults.unsupported.is_empty());
    let params = defaults.resolve(&SamplingOverrides::default()).unwrap();
    assert!(
        (params.do_sample, params.top_k, params.top_p, params.temperature) == (true, 20, 0.8, 0.7)
    );
}
