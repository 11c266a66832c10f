//! A device that another process lends computes what one of this process does, and its loss is an error, not an end.

#![cfg(feature = "remote")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qwen3_vl::backends::DeviceFailure;
use qwen3_vl::model::batch::{Batch, BatchEvent, BatchOptions};
use qwen3_vl::model::generate::{GenerateError, GenerateOptions, Generation, SessionSlot};
use qwen3_vl::model::inputs::ModelInputs;
use qwen3_vl::model::session::Session;
use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::Rounding;
use qwen3_vl::{LoadOptions, Qwen3Vl};
use serde_json::{Value, json};

const TOKEN: &str = "QWEN3_VL_REMOTE_TOKEN";
/// Long enough for a loaded machine, short enough to fail.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that lends devices of this machine on a free port.
struct Lender {
    child: Child,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Lender {
    fn start(token: Option<&str>) -> Self {
        let device = &common::cpu_devices()[0];
        let mut command = program();
        command.args(["serve-device", "--listen", "127.0.0.1:0"]);
        command.args(["--device", device, "--device", device]);
        if let Some(token) = token {
            command.env(TOKEN, token);
        }
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.next().unwrap_or_default();
        let address = said.strip_prefix(&format!("lending {device}, {device} on "));
        let address = address.unwrap_or_else(|| panic!("{said}")).to_owned();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines {
                println!("lender: {line}");
                heard.lock().unwrap().push(line);
            }
        });
        Self { child, address, log }
    }

    /// As `--device` names its first device.
    fn device(&self) -> String {
        format!("remote:{}", self.address)
    }

    /// Ends without a word, as a machine whose power fails.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn has_said(&self, words: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(words))
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program without a device or a token in its environment.
fn program() -> Command {
    let mut command = common::program("");
    command.env_remove(TOKEN);
    command
}

fn output(arguments: &[&str]) -> Output {
    program().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn fixture(model: &str) -> PathBuf {
    common::fixtures().join(model)
}

fn options(map: &str) -> LoadOptions {
    LoadOptions {
        device_map: Some(map.parse().unwrap()),
        dtype: "f32".parse().unwrap(),
        ..LoadOptions::default()
    }
}

fn load(model: &str, map: &str) -> Qwen3Vl {
    Qwen3Vl::load(fixture(model).to_str().unwrap(), options(map)).unwrap()
}

/// The largest difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

fn greedy(tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: tokens, ..GenerateOptions::default() }
}

fn begin<'m>(loaded: &'m Qwen3Vl, inputs: &ModelInputs) -> Result<Generation<'m>, GenerateError> {
    let session = SessionSlot::Owned(Box::new(Session::new(loaded.model())));
    Generation::start(loaded.model(), session, inputs, greedy(12))
}

fn tokens(loaded: &Qwen3Vl, inputs: &ModelInputs) -> Vec<u32> {
    begin(loaded, inputs).unwrap().map(|token| token.unwrap().id).collect()
}

/// Maps in which `@` is the lent device; all models have three layers at least.
const MAPS: [&str; 5] = [
    "@",
    "flex,@",
    "@,flex",
    "vision=@,0-=flex",
    "vision=flex,embed=@,0=flex,1=@/1,2-=flex,head=@",
];

#[test]
fn tokens_are_those_of_one_process() {
    let lender = Lender::start(None);
    for model in ["dense_tied", "moe"] {
        let whole = load(model, "flex");
        let inputs = common::two_images(whole.model(), model);
        let logits = common::logits_of_two_images(whole.model(), model);
        let expected = tokens(&whole, &inputs);
        assert_eq!(expected.len(), 12);
        for map in MAPS {
            let loaded = load(model, &map.replace('@', &lender.device()));
            let apart = distance(&logits, &common::logits_of_two_images(loaded.model(), model));
            assert!(apart < 1e-5, "{model} with {map}: {apart}");
            assert_eq!(tokens(&loaded, &inputs), expected, "{model} with {map}");
        }
    }
}

#[test]
fn every_stage_is_what_transformers_computes() {
    let lender = Lender::start(None);
    for (model, map) in [("dense_tied", "@"), ("dense_untied", "@/1,flex"), ("moe", "@")] {
        let loaded = load(model, &map.replace('@', &lender.device()));
        let reference = fixture(model).join("ref_mixed.safetensors");
        let outcome = verify(loaded.model(), &reference, Tolerance::Exact).unwrap();
        assert!(outcome.passed(), "{model} with {map}: {:?}", outcome.worst());
    }
}

/// Prompts through stages beside each other, and answers of a batch.
#[test]
fn long_prompts_and_batches_are_answered_alike() {
    let lender = Lender::start(None);
    let text = |n: u32| ModelInputs::text((0..n).map(|i| 3 + i * 13 % 200).collect());
    let answers = |loaded: &Qwen3Vl| {
        let mut batch = Batch::new(loaded.model(), BatchOptions::default());
        let submit = |n| batch.submit(&text(n), greedy(4)).unwrap();
        // The last two are read together, in pieces.
        let ids = [9, 2, 40, 700, 600].map(submit);
        let mut answers = vec![Vec::new(); ids.len()];
        while !batch.is_empty() {
            for (id, event) in batch.step() {
                let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
                answers[ids.iter().position(|other| *other == id).unwrap()].push(token.id);
            }
        }
        answers.push(tokens(loaded, &text(1100)));
        answers
    };
    let expected = answers(&load("dense_tied", "flex"));
    assert_eq!(answers(&load("dense_tied", &format!("{},flex", lender.device()))), expected);
}

#[test]
fn rounded_weights_are_lent_too_but_for_experts() {
    let lender = Lender::start(None);
    let rounded = |model: &str, scheme: &str, map: &str| {
        let quant = Some(Rounding::new(scheme.parse().unwrap()));
        let options = LoadOptions { quant, ..options(map) };
        Qwen3Vl::load(fixture(model).to_str().unwrap(), options)
    };
    for scheme in ["int8", "int4"] {
        let logits = |map: &str| {
            let loaded = rounded("dense_tied", scheme, map).unwrap();
            common::logits_of_two_images(loaded.model(), "dense_tied")
        };
        let lent = logits(&lender.device());
        // Flex rounds activations beside such weights, reference bodies do not.
        let apart = distance(&logits("flex"), &lent);
        assert!(apart > 0.0 && apart < 0.1, "{scheme}: {apart}");
        if common::cpu_devices().len() == 2 {
            let apart = distance(&logits("ndarray"), &lent);
            assert!(apart < 1e-5, "{scheme}: {apart}");
        }
    }
    let error = rounded("moe", "int8", &lender.device()).unwrap_err().to_string();
    assert!(error.contains("rounded experts") && error.contains(&lender.device()), "{error}");
}

#[test]
fn the_program_answers_alike() {
    let lender = Lender::start(None);
    let model = fixture("moe").to_str().unwrap().to_owned();
    let picture = common::fixtures().join("e2e/blocks.png").to_str().unwrap().to_owned();
    let question = ["run", &model, "--image", &picture, "-p", "What?", "-n", "12"];
    let question = [&question[..], &["--ignore-eos", "--json", "--dtype", "f32"]].concat();
    let asked = |more: &[&str]| -> Value {
        let output = output(&[&question[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    // Few logits decide, more than are looked for far away, or all.
    let drawn = ["--temperature", "0.7", "--top-k", "20", "--seed", "7"];
    let penalised = ["--greedy", "--repetition-penalty", "1.1", "--speculative", "ngram"];
    for how in [&["--greedy"][..], &drawn, &penalised] {
        let whole = asked(&[how, &["--device", "flex"]].concat());
        let lent = asked(&[how, &["--device", &lender.device()]].concat());
        assert_eq!(lent["token_ids"], whole["token_ids"], "{how:?}");
        assert_eq!(lent["device"], lender.device());
    }
    let experts = ["--greedy", "--expert-memory", "1MB", "--device", &lender.device()];
    assert_eq!(asked(&experts)["token_ids"], asked(&["--greedy", "--device", "flex"])["token_ids"]);
}

#[test]
fn plan_tells_who_holds_what() {
    let lender = Lender::start(None);
    let (model, device) = (fixture("dense_untied"), lender.device());
    let map = format!("vision={device},embed=flex,0-1=flex,2={device}/1,head=flex");
    let plan = |more: &[&str]| {
        let plan = ["plan", model.to_str().unwrap(), "-p", "Hello", "--device-map", &map];
        let output = output(&[&plan[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let told: Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    let [vision, flex, last] = &told["devices"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&vision["device"], &vision["parts"]), (&json!(device), &json!(["vision"])));
    assert_eq!(flex["parts"], json!(["embed", "0-1", "head"]));
    assert_eq!((&last["device"], &last["parts"]), (&json!(format!("{device}/1")), &json!(["2"])));
    let text = plan(&[]);
    let unknown = format!("the memory of {device} and {device}/1 is not known");
    for words in ["HOLDS", "embed, layers 0-1, head", &format!("{device}/1  layer 2"), &unknown] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn lenders_that_cannot_be_used_are_told() {
    let lender = Lender::start(Some("a secret"));
    let nobody = format!("remote:{}", free_address());
    let other = format!("remote:{}", something_else());
    let model = fixture("dense_tied").to_str().unwrap().to_owned();
    let fails = |device: &str, token: &str, words: &[&str]| {
        let begun = Instant::now();
        let mut command = program();
        command.args(["run", &model, "-p", "x", "--device", device]).env(TOKEN, token);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{device}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        for word in words {
            assert!(message.contains(word), "{device} should say {word}: {message}");
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    let missing = format!("{}/7", lender.device());
    fails(&nobody, "", &[&nobody, "nothing takes connections", "serve-device"]);
    fails(&other, "", &[&other, "cannot be used"]);
    fails("remote:no-such-host.invalid:3000", "", &["no-such-host.invalid"]);
    fails("remote", "", &["`remote`", "remote:HOST:PORT"]);
    fails("remote:host", "", &["`remote:host`", "remote:HOST:PORT"]);
    fails(&lender.device(), "", &[&lender.device(), TOKEN]);
    fails(&lender.device(), "another", &[&lender.device(), TOKEN]);
    fails(&missing, "a secret", &[&missing, "2 device"]);
    assert!(lender.has_said("refused"));
    let mut command = program();
    command.args(["run", &model, "-p", "x", "-n", "2", "--device", &lender.device()]);
    let output = command.env(TOKEN, "a secret").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An address at which nobody listens.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The address of an HTTP server that has nothing.
fn something_else() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
    });
    address
}

/// Waits for the end of a child, and returns its code.
fn ended(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the program hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lender_that_is_killed_in_the_middle_of_an_answer_is_an_error() {
    for map in ["@", "flex,@", "@,flex"] {
        let mut lender = Lender::start(None);
        let map = map.replace('@', &lender.device());
        let model = fixture("dense_tied");
        let mut command = program();
        command.args(["run", model.to_str().unwrap(), "-p", "Hello", "--device-map", &map]);
        command.args(["--greedy", "--ignore-eos", "-n", "4000", "--quiet"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 8]).unwrap();
        lender.kill();
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        assert_eq!(ended(&mut child), Some(1), "{map}");
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        println!("{map}: {message}");
        let lost = format!("device `{}` was lost", lender.device());
        assert!(message.contains(&lost) && !message.contains("panicked"), "{map}: {message}");
    }
}

/// The library has an error for it, wherever it meets the loss, and so it has the next time.
#[test]
fn a_lost_device_is_an_error_of_the_library() {
    for map in ["@", "@,flex"] {
        let mut lender = Lender::start(None);
        let loaded = load("dense_tied", &map.replace('@', &lender.device()));
        let device = lender.device();
        let is_lost = |error: &GenerateError| match error {
            GenerateError::Device(DeviceFailure::Lost(lost)) => {
                assert_eq!(lost.device, device, "{map}");
            }
            other => panic!("{map}: {other}"),
        };
        let text = |n: u32| ModelInputs::text((0..n).map(|i| 3 + i * 13 % 200).collect());
        let mut batch = Batch::new(loaded.model(), BatchOptions::default());
        for n in [3, 5] {
            batch.submit(&text(n), greedy(8)).unwrap();
        }
        assert_eq!(batch.step().len(), 2);
        let mut begun = begin(&loaded, &text(7)).unwrap();
        assert!(begun.next().unwrap().is_ok());
        lender.kill();
        is_lost(&begun.find_map(Result::err).unwrap());
        assert!(begun.next().is_none());
        let fails = |batch: &mut Batch<'_>| {
            let failed = batch.step();
            assert_eq!(failed.len(), 2);
            for (_, event) in failed {
                let BatchEvent::Failed(error) = event else { panic!("{event:?}") };
                is_lost(&error);
            }
            assert!(batch.is_empty());
        };
        fails(&mut batch);
        // So many rows that stages are beside each other.
        for n in [700, 600] {
            batch.submit(&text(n), greedy(8)).unwrap();
        }
        fails(&mut batch);
        // Short, and long enough for stages beside each other.
        for n in [4, 1100] {
            is_lost(&begin(&loaded, &text(n)).err().unwrap());
        }
        let error = Qwen3Vl::load(fixture("dense_tied").to_str().unwrap(), options(&device));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&device), "{error}");
    }
}

#[cfg(feature = "server")]
#[test]
fn a_server_outlives_its_device_and_says_so() {
    let mut lender = Lender::start(None);
    let model = fixture("dense_tied");
    let map = format!("flex,{}", lender.device());
    let mut command = program();
    command.args(["serve", model.to_str().unwrap(), "--port", "0", "--device-map", &map]);
    command.args(["--quiet", "--alias", "fixture"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let url = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let url = url.unwrap();
    std::thread::spawn(move || lines.for_each(|line| println!("server: {line}")));
    let agent = ureq::AgentBuilder::new().timeout(PATIENCE).build();
    let told = |response: Result<ureq::Response, ureq::Error>| match response {
        Ok(response) | Err(ureq::Error::Status(_, response)) => {
            (response.status(), response.into_string().unwrap())
        }
        Err(error) => panic!("{error}"),
    };
    let get = |path: &str| told(agent.get(&format!("{url}{path}")).call());
    let ask = |tokens: u32| {
        let body = json!({
            "messages": [{ "role": "user", "content": "Hello" }],
            "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        });
        let post = agent.post(&format!("{url}/v1/chat/completions"));
        told(post.set("content-type", "application/json").send_string(&body.to_string()))
    };
    let begun = Instant::now();
    while get("/health").0 != 200 {
        assert!(begun.elapsed() < PATIENCE, "the server does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ask(3).0, 200);
    let lost = format!("device `{}` was lost", lender.device());
    let is_lost = |(status, text): (u16, String)| {
        assert_eq!(status, 503, "{text}");
        assert!(text.contains(&lost) && text.contains("device_lost"), "{text}");
    };
    std::thread::scope(|threads| {
        let answer = threads.spawn(|| ask(4000));
        std::thread::sleep(Duration::from_millis(1500));
        lender.kill();
        is_lost(answer.join().unwrap());
    });
    is_lost(ask(3));
    is_lost(get("/health"));
    assert_eq!(get("/version").0, 200);
    assert!(server.try_wait().unwrap().is_none(), "the server has ended");
    server.kill().unwrap();
    server.wait().unwrap();
}
