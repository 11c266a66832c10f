//! Many clients at once with good, interrupted and malformed requests: every answer is the one that the engine gives
//! alone, none is lost or goes to another client, memory does not grow, and the server stops cleanly under load.
//!
//! The usual run is short. The long one is
//! `QWEN3_VL_SOAK=2000 QWEN3_VL_SOAK_CLIENTS=64 cargo test --release --test server soak -- --nocapture`;
//! `QWEN3_VL_SOAK_MODEL` names what is served instead of a fixture: `nano`, or the folder of a checkpoint.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qwen3_vl::openai::parse_request;
use qwen3_vl::train::synth::{Channel, Mixture, Questions, SynthMedia, SynthOptions};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use serde_json::{Value, json};

use crate::common;
use crate::harness::{Server, agent, ask, ask_of, data_uri, data_uri_of, number, place_of};
use crate::random::Random;

const FIXTURE: &str = "dense_tied";

fn served() -> String {
    std::env::var("QWEN3_VL_SOAK_MODEL").unwrap_or_else(|_| FIXTURE.to_owned())
}

/// A request and the answer that the engine gives to it alone.
struct Question {
    body: Value,
    answer: String,
    usage: (usize, usize),
}

/// Conversations of all kinds, no two alike, so that an answer that went astray would be seen.
fn bodies() -> Vec<Value> {
    let pictures = ["e2e/gradient.png", "e2e/waves.png", "e2e/blocks.png", "e2e/tower.png"];
    let mut all = Vec::new();
    for (n, picture) in pictures.iter().enumerate() {
        for words in ["What is this?", "Name the colours, please."] {
            all.push(ask(words, &[picture], 10 + n));
            all.push(ask(&format!("{words} Be number {n}."), &[], 12 + n));
        }
        let other = pictures[(n + 1) % pictures.len()];
        all.push(ask("Compare.", &[picture, other], 9 + n));
    }
    for (name, kind) in [("animation.gif", "image/gif"), ("constant25.mp4", "video/mp4")] {
        let url = data_uri(&format!("videos/{name}"), kind);
        let mut body = ask("What happens?", &[], 10);
        let parts = body["messages"][0]["content"].as_array_mut().unwrap();
        parts.insert(0, json!({ "type": "video_url", "video_url": { "url": url } }));
        all.push(body);
    }
    all
}

/// Questions on scenes that nano knows; of other pictures it says much the same.
fn drawn() -> impl Iterator<Item = Value> {
    use Channel::{Box, Compare, Describe, Relation, Text};
    let questions = Questions::one_of(&[Box, Text, Describe, Compare, Relation]);
    let options = SynthOptions { rows: 40, seed: 5, mixture: Mixture::default(), questions };
    (0..options.rows).map(move |index| {
        let row = options.row(index);
        let pictures = row.media.iter().map(|medium| {
            let SynthMedia::Picture(drawn) = medium else { panic!("not a picture") };
            let mut png = std::io::Cursor::new(Vec::new());
            let (size, colour) = ((drawn.width, drawn.height), image::ColorType::Rgb8);
            let form = image::ImageFormat::Png;
            image::write_buffer_with_format(&mut png, &drawn.rgb, size.0, size.1, colour, form)
                .unwrap();
            data_uri_of(&png.into_inner(), "image/png")
        });
        ask_of(&row.turns[0].question, pictures, 40)
    })
}

/// The questions, with what the engine answers to them one after the other, without any server; no two have the same answer.
fn questions(model: &str) -> Vec<Question> {
    let mut bodies = bodies();
    if model == "nano" {
        bodies.extend(drawn());
    }
    let device = Some(common::cpu_devices()[0].clone());
    let options = LoadOptions { device, ..LoadOptions::default() };
    let model = Qwen3Vl::load(place_of(model).to_str().unwrap(), options).unwrap();
    let question = |body: Value| {
        let response = model.generate(&parse_request(body.clone()).unwrap()).unwrap();
        let usage = (response.usage.prompt_tokens, response.usage.completion_tokens);
        Question { body, answer: response.text, usage }
    };
    let mut all: Vec<Question> = Vec::new();
    for new in bodies.into_iter().map(question) {
        if !all.iter().any(|old| old.answer == new.answer) {
            all.push(new);
        }
    }
    assert!(all.len() >= 18, "only {} answers differ", all.len());
    all
}

#[derive(Default)]
struct Counts {
    /// Requests are numbered from here.
    next: AtomicUsize,
    right: AtomicUsize,
    left: AtomicUsize,
    refused: AtomicUsize,
}

/// Sends requests until `until` have been sent by all clients together.
fn client(server: &Server, questions: &[Question], counts: &Counts, until: usize) {
    loop {
        let number = counts.next.fetch_add(1, Ordering::Relaxed);
        if number >= until {
            return;
        }
        let mut random = Random::new(number as u64);
        let question = &questions[random.below(questions.len())];
        let count = match random.below(8) {
            0 => {
                leave_half_way(server, question);
                &counts.left
            }
            1 => {
                send_nonsense(server, question, &mut random);
                &counts.refused
            }
            2 | 3 => {
                stream(server, question);
                &counts.right
            }
            _ => {
                whole(server, question, number);
                &counts.right
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn whole(server: &Server, question: &Question, number: usize) {
    let id = format!("soak-{number}");
    let request = server.request("/v1/chat/completions").set("content-type", "application/json");
    let reply = request.set("x-request-id", &id).send_string(&question.body.to_string());
    let reply = reply.unwrap_or_else(|error| panic!("request {number}: {error}"));
    assert_eq!(reply.header("x-request-id"), Some(id.as_str()));
    let reply: Value = serde_json::from_str(&reply.into_string().unwrap()).unwrap();
    assert_eq!(reply["id"], format!("chatcmpl-{id}"));
    assert_eq!(reply["choices"][0]["message"]["content"], question.answer, "request {number}");
    let usage = &reply["usage"];
    assert_eq!(usage["prompt_tokens"], question.usage.0, "request {number}");
    assert_eq!(usage["completion_tokens"], question.usage.1, "request {number}");
}

fn stream(server: &Server, question: &Question) {
    let mut body = question.body.clone();
    body["stream"] = json!(true);
    let lines = server.stream("/v1/chat/completions", &body);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{lines:?}");
    let chunk = |line: &String| serde_json::from_str::<Value>(line).unwrap();
    let chunks = lines[..lines.len() - 1].iter().map(chunk);
    let text = chunks.map(|chunk| {
        chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    });
    assert_eq!(text.collect::<String>(), question.answer);
}

/// Goes away while the answer is being written.
fn leave_half_way(server: &Server, question: &Question) {
    let mut body = question.body.clone();
    (body["stream"], body["max_tokens"], body["ignore_eos"]) =
        (json!(true), json!(900), json!(true));
    let mut stream = server.open_stream("/v1/chat/completions", &body);
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
}

fn send_nonsense(server: &Server, question: &Question, random: &mut Random) {
    let mut body = question.body.clone();
    match random.below(5) {
        0 => body["max_tokens"] = json!("many"),
        1 => body["frobnicate"] = json!(1),
        2 => body["messages"][0]["content"] = json!([{ "type": "image_url" }]),
        3 => {
            let url = "data:image/png;base64,AAAA";
            body["messages"][0]["content"][0] =
                json!({ "type": "image_url", "image_url": { "url": url } });
        }
        _ => body = json!([body]),
    }
    let (status, reply) = server.try_post("/v1/chat/completions", &body);
    assert!(status == 400 && reply["error"]["message"].is_string(), "{status}: {reply}");
}

/// Sends requests from `clients` threads until the numbers reach `until`.
fn round(
    server: &Server,
    questions: &[Question],
    counts: &Counts,
    (clients, until): (usize, usize),
) {
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| client(server, questions, counts, until));
        }
    });
    counts.next.store(until, Ordering::Relaxed);
    server.wait_for("idle server", || server.metric("qwen3_vl_num_requests_running") == 0.0);
}

#[test]
fn many_clients_get_their_own_right_answers_and_memory_stays() {
    let requests = number("QWEN3_VL_SOAK", 96);
    let clients = number("QWEN3_VL_SOAK_CLIENTS", 16);
    let model = served();
    let questions = questions(&model);
    // What a third of the requests fills; the last of many clients waits long for a large model.
    let small = [FIXTURE, "nano"].contains(&&*model);
    let (client, limits) = match small {
        true => (agent(), &["--kv-cache-memory", "64MiB"][..]),
        false => (
            agent().timeout(Duration::from_secs(900)),
            &["--kv-cache-memory", "1GiB", "--shutdown-timeout", "600"][..],
        ),
    };
    let arguments = [&["--max-num-seqs", "16"], limits].concat();
    let mut server = Server::start_for(client, &model, &arguments);
    let counts = Counts::default();
    let begun = Instant::now();
    // A third warms up: caches fill within their budget.
    let mut resident = Vec::new();
    for third in 1..=3 {
        round(&server, &questions, &counts, (clients, requests * third / 3));
        resident.push(server.resident_kib());
    }
    let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (right, left, refused) = (read(&counts.right), read(&counts.left), read(&counts.refused));
    println!(
        "{model}, {} questions: {clients} clients, {requests} requests in {:.0} s: {right} right, {left} left, \
         {refused} refused; {resident:?} KiB resident after each third",
        questions.len(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(right + left + refused, requests);
    assert!(right > requests / 2 && left > 0 && refused > 0);
    // Answers that were left may have been complete already.
    let answered = server.metric("qwen3_vl_answers_total") as usize;
    assert!((right..=right + left).contains(&answered), "{answered} answers to {right} requests");
    if let [Some(warm), .., Some(last)] = resident[..] {
        let grown = last.saturating_sub(warm);
        // A third of a short run does not fill the caches.
        let most = if requests >= 1000 { 16 } else { 64 };
        assert!(grown < most * 1024, "{grown} KiB more than {warm} KiB");
    }
    assert_eq!(server.complaints(), Vec::<String>::new());
    #[cfg(unix)]
    stop_under_load(&mut server, &questions, (clients, if small { 60 } else { 600 }));
}

/// Stops the server while every client is being answered: all answers are finished, within so many seconds.
#[cfg(unix)]
fn stop_under_load(server: &mut Server, questions: &[Question], (clients, seconds): (usize, u64)) {
    let mut bodies = questions.iter().map(|question| question.body.clone()).cycle();
    let streams: Vec<_> = (0..clients)
        .map(|_| {
            let mut body = bodies.next().unwrap();
            (body["stream"], body["max_tokens"], body["ignore_eos"]) =
                (json!(true), json!(60), json!(true));
            server.open_stream("/v1/chat/completions", &body)
        })
        .collect();
    server.terminate();
    let begun = Instant::now();
    for mut stream in streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let whole = text.contains("\"finish_reason\":\"length\"");
        assert!(whole && text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    let status = server.child.wait().unwrap();
    println!("stopped in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(status.success() && begun.elapsed() < Duration::from_secs(seconds), "{status}");
    assert_eq!(server.complaints(), Vec::<String>::new());
}
