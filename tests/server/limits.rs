//! Connections that keep the server waiting, and too many of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Server, ask};

const HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
    content-type: application/json\r\ncontent-length: 1000\r\n\r\n";

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    stream
}

/// What is said until the server closes the connection, and after how many seconds it does.
fn rest(stream: &mut TcpStream, begun: Instant) -> (String, f64) {
    let mut told = Vec::new();
    if let Err(error) = stream.read_to_end(&mut told) {
        // A connection is reset where the server has not read all that was sent.
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is not closed: {error}");
    }
    (String::from_utf8(told).unwrap(), begun.elapsed().as_secs_f64())
}

/// Sends a byte again and again, until the server closes the connection.
fn trickle(stream: &TcpStream) -> std::thread::JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    })
}

/// Reads one answer of a connection that stays open.
fn answer(stream: &mut TcpStream) -> String {
    let mut told = Vec::new();
    while !told.ends_with(b"}") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed too early");
        told.push(byte[0]);
    }
    String::from_utf8(told).unwrap()
}

#[test]
fn slow_connections_are_closed_and_long_answers_are_not() {
    let server = Server::start(
        "dense_tied",
        &["--header-timeout", "1", "--body-timeout", "2", "--keep-alive-timeout", "3"],
    );
    // A connection without a word, and a head that never ends.
    let begun = Instant::now();
    let (mut silent, mut slow) = (connect(&server), connect(&server));
    let dripping = trickle(&slow);
    for stream in [&mut silent, &mut slow] {
        let (told, seconds) = rest(stream, begun);
        assert!(told.is_empty() && seconds > 0.9, "{seconds}: {told}");
    }
    dripping.join().unwrap();

    // A body that never ends is told so.
    let begun = Instant::now();
    let mut slow = connect(&server);
    slow.write_all(HEAD).unwrap();
    let dripping = trickle(&slow);
    let (told, seconds) = rest(&mut slow, begun);
    dripping.join().unwrap();
    assert!(told.starts_with("HTTP/1.1 408 ") && seconds > 1.9, "{seconds}: {told}");
    let error: Value = serde_json::from_str(told.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "body_timeout");

    // A connection may be used again after a pause that is longer than a head may take, but not for ever.
    let mut kept = connect(&server);
    for pause in [0, 1500] {
        std::thread::sleep(Duration::from_millis(pause));
        kept.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        assert!(answer(&mut kept).starts_with("HTTP/1.1 200 "));
    }
    let (told, seconds) = rest(&mut kept, Instant::now());
    assert!(told.is_empty() && seconds > 2.5, "{seconds}: {told}");

    // An answer takes longer than all of that.
    let mut long = ask("Go on.", &[], 3900);
    (long["stream"], long["ignore_eos"]) = (json!(true), json!(true));
    let begun = Instant::now();
    let mut stream = server.open_stream("/v1/chat/completions", &long);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    println!("an answer of {:.1} s", begun.elapsed().as_secs_f64());
    assert!(text.ends_with("data: [DONE]\n\n"));
}

#[test]
fn a_client_that_does_not_read_loses_its_answer() {
    let server = Server::start("dense_tied", &["--write-timeout", "1"]);
    // Some hundred megabytes of answers, more than any buffer between server and client holds.
    let mut body = ask("Go on.", &[], 3900);
    (body["stream"], body["ignore_eos"], body["n"]) = (json!(true), json!(true), json!(16));
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(20));
    let body = body.to_string();
    let mut stalled = connect(&server);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: stalled-1\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stalled.write_all(head.as_bytes()).unwrap();
    let running = || server.metric("qwen3_vl_num_requests_running");
    server.wait_for("running answers", || running() == 16.0);
    server.wait_for("end of what nobody reads", || running() == 0.0);
    assert_eq!(server.metric("qwen3_vl_answers_total"), 0.0, "none was written to its end");
    let told = || server.logged(|line| line.contains("does not read"));
    server.wait_for("line in the log", || !told().is_empty());
    assert!(told().len() == 1 && told()[0].contains("stalled-1"), "{:?}", told());
    let (told, _) = rest(&mut stalled, Instant::now());
    assert!(told.starts_with("HTTP/1.1 200 ") && !told.contains("[DONE]"));
    // Others are served.
    server.chat(&ask("Hello", &[], 2));
}

/// Asks for `path` on a connection and leaves it open; nothing where it is closed without a word.
fn get(stream: &mut TcpStream, path: &str) -> String {
    // A connection that the server has closed shows it on one side or the other.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (mut told, mut byte) = (String::new(), [0]);
    let ends =
        |told: &str| told.ends_with('}') && told.matches('{').count() == told.matches('}').count();
    while !ends(&told) && matches!(stream.read(&mut byte), Ok(1)) {
        told.push(char::from(byte[0]));
    }
    told
}

/// Opens connections until the next one has no place.
fn fill(server: &Server) -> Vec<TcpStream> {
    let mut kept = Vec::new();
    loop {
        let mut stream = connect(server);
        let told = get(&mut stream, "/v1/models");
        if !told.starts_with("HTTP/1.1 200 ") {
            assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
            assert!(told.contains("\r\nretry-after: 2\r\n"), "{told}");
            assert_eq!(rest(&mut stream, Instant::now()).0, "", "it is closed");
            return kept;
        }
        kept.push(stream);
    }
}

#[test]
fn connections_beyond_the_bound_are_told_so() {
    let server = Server::start("dense_tied", &["--max-connections", "3"]);
    // The harness may keep one open.
    let mut kept = fill(&server);
    assert!((2..=3).contains(&kept.len()), "{} connections were taken", kept.len());
    // Whatever it sends, it can read why it is refused.
    let mut other = connect(&server);
    let long = "x".repeat(1 << 20);
    write!(other, "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    write!(other, "content-length: {}\r\n\r\n{long}", long.len()).unwrap();
    let (told, _) = rest(&mut other, Instant::now());
    let error: Value = serde_json::from_str(told.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert!(told.starts_with("HTTP/1.1 503 ") && error["error"]["code"] == "unavailable", "{told}");
    // Neither many that say nothing nor those that are open hinder one another.
    let silent: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
    let open = |stream: &mut TcpStream| get(stream, "/v1/models").starts_with("HTTP/1.1 200 ");
    assert!(kept.iter_mut().all(open));
    drop((silent, kept));
    server.wait_for("place", || open(&mut connect(&server)));
    let told = || server.logged(|line| line.contains("more are refused"));
    server.wait_for("line in the log", || !told().is_empty());
}

#[test]
fn probes_are_answered_when_all_connections_are_taken() {
    let server = Server::start("dense_tied", &["--max-connections", "3", "--api-key", "secret"]);
    // The harness may keep one open too.
    let mut kept: Vec<TcpStream> = (0..3).map(|_| connect(&server)).collect();
    // More than the reserve holds, none of which says anything.
    let mut silent: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
    for path in ["/health", "/v1/health", "/version"] {
        let mut probe = connect(&server);
        let told = get(&mut probe, path);
        assert!(told.starts_with("HTTP/1.1 200 "), "{path}: {told}");
        assert!(told.contains("\r\nconnection: close\r\n"), "{path}: {told}");
        assert_eq!(rest(&mut probe, Instant::now()).0, "", "{path}: it is closed");
    }
    assert!(get(&mut connect(&server), "/metrics").starts_with("HTTP/1.1 401 "));
    let mut probe = connect(&server);
    write!(probe, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nx-api-key: secret\r\n\r\n").unwrap();
    let (told, _) = rest(&mut probe, Instant::now());
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("qwen3_vl_"), "{told}");
    assert!(get(&mut connect(&server), "/v1/models").starts_with("HTTP/1.1 503 "));
    // The oldest of those that said nothing gave way; those within the bound did not.
    let (told, seconds) = rest(&mut silent[0], Instant::now());
    assert!(told.is_empty() && seconds < 5.0, "{seconds}: {told}");
    assert!(kept.iter_mut().any(|stream| get(stream, "/health").starts_with("HTTP/1.1 200 ")));
}
