//! What is refused, and in which words.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::fixtures;
use crate::harness::{Server, ask};

/// The error of a chat about `url`.
fn refused(server: &Server, url: &str) -> Value {
    let part = json!({ "type": "image_url", "image_url": { "url": url } });
    let body = json!({ "messages": [{ "role": "user", "content": [part] }], "max_tokens": 1 });
    let (status, reply) = server.try_post("/v1/chat/completions", &body);
    assert_eq!(status, 400, "{url}: {reply}");
    reply["error"].clone()
}

#[test]
fn bad_requests_are_told_by_field() {
    let server = Server::start("dense_tied", &["--max-body-size", "100KB"]);
    let nonsense =
        json!({ "type": "json_schema", "json_schema": { "schema": { "type": "nonsense" } } });
    for (field, value, param) in [
        ("temperature", json!(-1), None),
        ("temperature", json!("hot"), Some("temperature")),
        ("frobnicate", json!(1), Some("frobnicate")),
        ("best_of", json!(2), Some("best_of")),
        ("n", json!(1000), Some("n")),
        ("top_p", json!(2), None),
        ("stop", json!([""]), Some("stop")),
        ("response_format", nonsense, Some("response_format")),
        ("stop", json!(vec!["x"; 300]), Some("stop")),
        ("stop_token_ids", json!([512]), Some("stop_token_ids")),
        ("logit_bias", json!({ "512": 1 }), Some("logit_bias")),
        ("messages", json!([]), Some("messages")),
        ("messages", json!([{ "role": "king", "content": "x" }]), Some("messages[0].role")),
        ("max_tokens", json!(0), Some("max_tokens")),
    ] {
        let mut body = ask("x", &[], 2);
        body[field] = value;
        let (status, reply) = server.try_post("/v1/chat/completions", &body);
        assert_eq!(status, 400, "{field}: {reply}");
        assert_eq!(reply["error"]["type"], "invalid_request_error");
        assert_eq!(reply["error"]["param"].as_str(), param, "{reply}");
        body["stream"] = json!(true);
        assert_eq!(server.try_post("/v1/chat/completions", &body), (400, reply));
    }
    let mut other = ask("x", &[], 2);
    other["model"] = json!("gpt-9");
    assert_eq!(server.try_post("/v1/chat/completions", &other).0, 404);
    let large = ask(&"x".repeat(200_000), &[], 2);
    // The refusal is read however much there was to send.
    for _ in 0..20 {
        assert_eq!(server.try_post("/v1/chat/completions", &large).0, 413);
    }
    let larger = ask(&"x".repeat(5_000_000), &[], 2);
    assert_eq!(server.try_post("/v1/chat/completions", &larger).0, 413);
    let long = ask(&"word ".repeat(9000), &[], 2);
    let (status, reply) = server.try_post("/v1/chat/completions", &long);
    assert_eq!((status, reply["error"]["param"].as_str()), (400, Some("messages")), "{reply}");
    let plain = server.request("/v1/chat/completions").set("content-type", "text/plain");
    assert!(matches!(plain.send_string("{}"), Err(ureq::Error::Status(415, _))));
    let packed = server.request("/v1/chat/completions").set("content-type", "application/json");
    let packed = packed.set("content-encoding", "gzip").send_string("{}");
    assert!(matches!(packed, Err(ureq::Error::Status(415, _))), "{packed:?}");
    let broken = server.request("/v1/chat/completions").set("content-type", "application/json");
    assert!(matches!(broken.send_string("{"), Err(ureq::Error::Status(400, _))));
    // None of this has hurt the server.
    server.chat(&ask("Hello", &[], 2));
}

#[test]
fn media_come_only_from_where_they_may() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let private = format!("http://{}/a.png", listener.local_addr().unwrap());
    let photo = fixtures().join("images/photo.jpg");
    let file = |path: &std::path::Path| format!("file://{}", path.display());
    let closed = Server::start("dense_tied", &[]);
    for url in
        [&private, "http://localhost/a.png", "http://169.254.169.254/latest", "http://[::1]/a.png"]
    {
        let error = refused(&closed, url);
        assert!(error["message"].as_str().unwrap().contains("may not be fetched"), "{error}");
    }
    refused(&closed, &file(&photo));
    refused(&closed, photo.to_str().unwrap());
    refused(&closed, "ftp://example.org/a.png");
    refused(&closed, "data:image/png;base64,AAAA");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "the private address was asked");

    let images = fixtures().join("images");
    let open =
        Server::start("dense_tied", &["--allowed-local-media-path", images.to_str().unwrap()]);
    let part = json!({ "type": "image_url", "image_url": { "url": file(&photo) } });
    let body = json!({ "messages": [{ "role": "user", "content": [part] }], "max_tokens": 1 });
    open.chat(&body);
    refused(&open, &file(&fixtures().join("e2e/waves.png")));
    refused(&open, &format!("file://{}/../e2e/waves.png", images.display()));
    let bomb = refused(&open, &file(&images.join("bomb_20000x20000.png")));
    assert!(bomb["message"].as_str().unwrap().contains("pixels"), "{bomb}");
}

#[test]
fn slow_servers_of_pictures_keep_nobody_else_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.png", listener.local_addr().unwrap());
    let server = Server::start("dense_tied", &["--allow-private-media"]);
    let part = json!({ "type": "image_url", "image_url": { "url": url } });
    let body = json!({ "messages": [{ "role": "user", "content": [part] }], "max_tokens": 1 });
    let body = body.to_string();
    // One for each thread that reads media; none is ever answered.
    let many = std::thread::available_parallelism().map_or(2, usize::from);
    let address = server.url.strip_prefix("http://").unwrap();
    let waiting: Vec<TcpStream> = (0..many)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            let length = body.len();
            write!(
                stream,
                "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
                 content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            stream
        })
        .collect();
    let fetched: Vec<_> = (0..many.min(16)).map(|_| listener.accept().unwrap()).collect();
    let begun = Instant::now();
    server.chat(&ask("Hello", &["e2e/waves.png"], 2));
    server.post("/tokenize", &json!({ "prompt": "Hello" }));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    drop((waiting, fetched));
}

#[test]
fn keys_are_asked_for() {
    let server = Server::start(
        "dense_tied",
        &["--api-key", "secret", "--allowed-origins", "https://a.example"],
    );
    assert_eq!(server.get("/v1/models").0, 401);
    assert_eq!(server.get("/metrics").0, 401);
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.try_post("/v1/chat/completions", &ask("x", &[], 1)).0, 401);
    for (header, key) in [("authorization", "Bearer secret"), ("x-api-key", "secret")] {
        let request =
            server.request("/v1/chat/completions").set("content-type", "application/json");
        let reply = request.set(header, key).set("origin", "https://a.example");
        let reply = reply.send_string(&ask("x", &[], 1).to_string()).unwrap();
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.example"));
        assert!(reply.header("x-request-id").is_some());
    }
    let wrong = server.request("/v1/chat/completions").set("authorization", "Bearer secreT");
    assert!(matches!(wrong.send_string("{}"), Err(ureq::Error::Status(401, _))));
    // Anthropic's clients look for their own form of errors.
    let (status, error) = server.try_post("/v1/messages", &json!({}));
    assert_eq!((status, &error["type"]), (401, &json!("error")));
    assert_eq!(error["error"]["type"], "authentication_error");
    let (status, error) = server.get("/v1/messages/count_tokens");
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!((status, &error["type"]), (405, &json!("error")), "{error}");
}
