//! HTTPS with the certificate of the fixtures, which is for localhost and signed by itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use crate::common::fixtures;
use crate::harness::{Server, agent, alone, ask, program};

fn file(name: &str) -> String {
    fixtures().join("tls").join(name).to_str().unwrap().to_owned()
}

/// A client that trusts the certificate of the fixtures and no other.
fn trusting() -> ureq::AgentBuilder {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("cert.pem")).unwrap()).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    agent().tls_config(Arc::new(config))
}

#[test]
fn answers_are_encrypted_whole_and_streamed() {
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    let server = Server::start_for(trusting(), "dense_tied", &flags);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let expected = alone("dense_tied", "Hello", &[], 12);
    let mut body = ask("Hello", &[], 12);
    assert_eq!(server.chat(&body)["choices"][0]["message"]["content"], expected["text"]);
    body["stream"] = json!(true);
    let lines = server.stream("/v1/chat/completions", &body);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"));

    // Who does not trust the certificate says nothing, and who speaks plainly is told nothing.
    let distrusted = agent().build().get(&format!("{}/health", server.url)).call();
    assert!(matches!(distrusted, Err(ureq::Error::Transport(_))), "{distrusted:?}");
    let mut plain = TcpStream::connect(server.url.strip_prefix("https://").unwrap()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut told = Vec::new();
    let _ = plain.read_to_end(&mut told);
    assert!(!told.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&told));
    server.chat(&ask("Hello", &[], 1));
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = (PathBuf::from(file("cert.pem")), PathBuf::from(file("key.pem")));
    let nowhere = folder.path().join("nowhere.pem");
    let empty = made("empty.pem", "no certificate here\n");
    let cut = made("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let nonsense =
        made("nonsense.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let other = PathBuf::from(file("other_key.pem"));
    for (certificate, key, words) in [
        (&nowhere, &key, "cannot read"),
        (&certificate, &nowhere, "cannot read"),
        (&empty, &key, "empty.pem has no certificate"),
        (&certificate, &certificate, "cert.pem has no private key"),
        (&cut, &key, "cut.pem is no valid PEM file"),
        (&nonsense, &key, "nonsense.pem cannot be used with the key"),
        (&certificate, &other, "cert.pem cannot be used with the key"),
    ] {
        let mut command = program();
        command.args(["serve", "/no/such/model", "--port", "0"]);
        command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains("listening"), "{said}");
    }
    let half = program().args(["serve", "/no/such/model", "--tls-cert", "cert.pem"]).output();
    assert_eq!(half.unwrap().status.code(), Some(2));
}
