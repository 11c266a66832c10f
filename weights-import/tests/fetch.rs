//! `fetch` against a server of this process: what is returned, what is refused, and in which words.

mod stand_in;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use qwen3_vl_weights::fetch::{FetchError, FetchLimits, data_uri, fetch, read_source};
use stand_in::{Server, respond, respond_head};

fn limits() -> FetchLimits {
    FetchLimits::default()
}

/// The error of fetching `path` from a server with all the faults, and its sentence.
fn refused(path: &str, limits: &FetchLimits) -> (FetchError, String) {
    let url = format!("{}{path}", faulty().url);
    let error = fetch(&url, limits).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&url), "{text} does not name {url}");
    (error, text)
}

fn faulty() -> Server {
    Server::start(|request, stream| match request.path.as_str() {
        "/picture" => respond(stream, "200 OK", &[], b"a picture"),
        "/moved" => respond(stream, "302 Found", &[("Location", "/picture".into())], b""),
        "/lost" => respond(stream, "302 Found", &[], b"no location"),
        "/loop" => respond(stream, "301 Moved", &[("Location", "/loop".into())], b""),
        "/to-file" => {
            respond(stream, "302 Found", &[("Location", "file:///etc/passwd".into())], b"")
        }
        "/to-data" => respond(stream, "307 Moved", &[("Location", "data:,x".into())], b""),
        "/to-nowhere" => respond(stream, "308 Moved", &[("Location", "http://".into())], b""),
        "/large" => respond_head(stream, "200 OK", &[("Content-Length", "5000000".into())]),
        "/endless" => {
            respond_head(stream, "200 OK", &[("Transfer-Encoding", "chunked".into())]);
            while stream.write_all(b"4\r\nabcd\r\n").is_ok() {}
        }
        "/short" => {
            respond_head(stream, "200 OK", &[("Content-Length", "100".into())]);
            let _ = stream.write_all(b"only this");
        }
        "/silent" => drop(stream.read(&mut [0])),
        "/slow" => {
            respond_head(stream, "200 OK", &[("Content-Length", "1000".into())]);
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "/nonsense" => drop(stream.write_all(b"this is not HTTP\r\n\r\n")),
        _ => respond(stream, "404 Not Found", &[], b"nothing here"),
    })
}

#[test]
fn bytes_and_user_agent_arrive() {
    let server = faulty();
    assert_eq!(fetch(&format!("{}/picture", server.url), &limits()).unwrap(), b"a picture");
    let agent = format!("qwen3-vl/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(server.requests()[0].header("user-agent"), Some(agent.as_str()));
}

#[test]
fn redirects_are_followed_up_to_the_limit() {
    let url = format!("{}/moved", faulty().url);
    assert_eq!(fetch(&url, &limits()).unwrap(), b"a picture");
    let one = FetchLimits { max_redirects: 1, ..limits() };
    assert_eq!(fetch(&url, &one).unwrap(), b"a picture");
    let none = FetchLimits { max_redirects: 0, ..limits() };
    assert!(matches!(fetch(&url, &none), Err(FetchError::TooManyRedirects { max: 0, .. })));
    let (error, text) = refused("/loop", &limits());
    assert!(matches!(error, FetchError::TooManyRedirects { max: 5, .. }), "{text}");
    assert!(text.contains("more than 5 redirects"), "{text}");
}

#[test]
fn redirects_do_not_leave_http() {
    for path in ["/to-file", "/to-data", "/to-nowhere"] {
        let (error, text) = refused(path, &limits());
        assert!(matches!(error, FetchError::Transport { .. }), "{error:?}");
        assert!(text.contains("which is no http or https URL"), "{text}");
    }
    let (error, _) = refused("/lost", &limits());
    assert!(matches!(error, FetchError::Status { status: 302, .. }), "{error:?}");
}

#[test]
fn status_404_is_named() {
    let (error, text) = refused("/absent.png", &limits());
    assert!(matches!(error, FetchError::Status { status: 404, .. }), "{error:?}");
    assert!(text.contains("404 Not Found"), "{text}");
}

#[test]
fn too_large_by_announcement_and_by_counting() {
    let small = FetchLimits { max_bytes: 1000, ..limits() };
    let (error, text) = refused("/large", &small);
    assert!(
        matches!(error, FetchError::TooLarge { size: Some(5_000_000), limit: 1000, .. }),
        "{error:?}"
    );
    assert!(text.contains("5000000 bytes and the limit is 1000"), "{text}");
    let (error, text) = refused("/endless", &small);
    assert!(matches!(error, FetchError::TooLarge { size: None, limit: 1000, .. }), "{error:?}");
    assert!(text.contains("more than 1000 bytes"), "{text}");
    let exact = FetchLimits { max_bytes: 9, ..limits() };
    assert_eq!(fetch(&format!("{}/picture", faulty().url), &exact).unwrap(), b"a picture");
    let (error, _) = refused("/picture", &FetchLimits { max_bytes: 8, ..limits() });
    assert!(matches!(error, FetchError::TooLarge { size: Some(9), .. }), "{error:?}");
}

#[test]
fn servers_that_never_finish_time_out() {
    let hasty = FetchLimits { total_timeout: Duration::from_millis(300), ..limits() };
    for path in ["/silent", "/slow"] {
        let (error, text) = refused(path, &hasty);
        assert!(matches!(error, FetchError::Timeout { .. }), "{path}: {error:?}");
        assert!(text.contains("no complete answer within 0.3 s"), "{text}");
    }
}

#[test]
fn broken_answers_are_not_returned() {
    let (error, text) = refused("/short", &limits());
    assert!(matches!(error, FetchError::Interrupted { received: 9, .. }), "{error:?}");
    assert!(text.contains("broke off after 9 bytes"), "{text}");
    let (error, _) = refused("/nonsense", &limits());
    assert!(matches!(error, FetchError::Transport { .. }), "{error:?}");
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/a.png");
    let error = fetch(&url, &limits()).unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
}

#[test]
fn unknown_hosts_are_named() {
    let error = fetch("http://no-such-host.invalid/a.png", &limits()).unwrap_err();
    assert!(
        matches!(&error, FetchError::Dns { host, .. } if host == "no-such-host.invalid"),
        "{error:?}"
    );
    assert!(error.to_string().contains("could not be resolved"), "{error}");
}

#[test]
fn other_schemes_are_refused() {
    for (url, scheme) in [("ftp://host/a.png", "ftp"), ("s3://bucket/a.png", "s3")] {
        for result in [fetch(url, &limits()), read_source(url, &limits())] {
            let error = result.unwrap_err();
            assert!(
                matches!(&error, FetchError::UnsupportedScheme { scheme: s, .. } if s == scheme),
                "{error:?}"
            );
            assert!(error.to_string().contains(url), "{error}");
        }
    }
    assert!(matches!(fetch("http://", &limits()), Err(FetchError::BadUrl { .. })));
    assert!(matches!(fetch("http://[::1", &limits()), Err(FetchError::BadUrl { .. })));
}

#[test]
fn data_uris_are_decoded() {
    let hello: &[u8] = b"hello?>";
    for uri in [
        "data:image/png;base64,aGVsbG8/Pg==",
        "DATA:image/png;name=a;BASE64,aGVsbG8/Pg==",
        "data:;base64,aGVs\n  bG8/\r\nPg==\n",
        "data:image/png;base64,aGVsbG8/Pg",
        "data:image/png;base64,aGVsbG8_Pg",
        "data:image/png;base64,aGVsbG8%2FPg%3D%3D",
        "data:text/plain,hello%3F%3E",
        "data:,hello?>",
    ] {
        assert_eq!(data_uri(uri).unwrap(), hello, "{uri}");
    }
    assert_eq!(data_uri("data:,").unwrap(), b"");
    assert_eq!(data_uri("data:,%ff%00").unwrap(), [255, 0]);
}

#[test]
fn malformed_data_uris_are_quoted_briefly() {
    let long = format!("data:image/png;base64,{}", "!".repeat(10_000));
    for (uri, reason) in [
        (long.as_str(), "base64 is invalid"),
        ("data:image/png;base64", "no comma"),
        ("data:;base64,abcde", "base64 is invalid"),
        ("picture.png", "does not begin with `data:`"),
    ] {
        let error = data_uri(uri).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains(&uri[..uri.len().min(40)]) && error.len() < 160, "{error}");
    }
}

#[test]
fn sources_of_every_kind_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a picture.png");
    std::fs::write(&path, b"a picture").unwrap();
    let path = path.to_str().unwrap();
    let file_url = format!("file://{}", path.replace(' ', "%20"));
    let http_url = format!("{}/picture", faulty().url);
    for source in [path, &file_url, &http_url, "data:,a%20picture"] {
        assert_eq!(read_source(source, &limits()).unwrap(), b"a picture", "{source}");
    }
}

#[test]
fn every_kind_of_source_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    std::fs::write(&path, b"a picture").unwrap();
    let small = FetchLimits { max_bytes: 8, ..limits() };
    let long = format!("data:,{}", "x".repeat(2000));
    let http_url = format!("{}/picture", faulty().url);
    for source in [path.to_str().unwrap(), &http_url, "data:,a%20picture", &long] {
        let error = read_source(source, &small).unwrap_err();
        assert!(matches!(error, FetchError::TooLarge { limit: 8, .. }), "{error:?}");
    }
}

#[test]
#[cfg(unix)]
fn endless_files_are_bounded() {
    let small = FetchLimits { max_bytes: 1000, ..limits() };
    let error = read_source("/dev/zero", &small).unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { size: None, limit: 1000, .. }), "{error:?}");
}

#[test]
fn file_errors_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.png");
    let error = read_source(missing.to_str().unwrap(), &limits()).unwrap_err();
    assert!(matches!(error, FetchError::NoFile { .. }), "{error:?}");
    assert!(error.to_string().contains("missing.png"), "{error}");
    let error = read_source(dir.path().to_str().unwrap(), &limits()).unwrap_err();
    assert!(matches!(error, FetchError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("is a directory"), "{error}");
    let below_a_file = dir.path().join("f");
    std::fs::write(&below_a_file, b"").unwrap();
    let error = read_source(below_a_file.join("x").to_str().unwrap(), &limits()).unwrap_err();
    assert!(matches!(error, FetchError::File { .. }), "{error:?}");
    assert!(read_source(below_a_file.to_str().unwrap(), &limits()).unwrap().is_empty());
}
