//! TLS on the public listener, with real clients and real certificates.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{
    client::{self, Http1},
    frames,
    harness::{Gateway, Site},
    turns::wait_until,
};

const EXPIRY: &str = "fengda_tls_certificate_expiry_timestamp_seconds";
const TLS: &str = "tls: { cert: chain.pem, key: key.pem }";

pub fn pki(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/pki", name].iter().collect()
}

/// Puts a certificate and a key where [`TLS`] names them.
pub fn install(site: &Site, cert: &str, key: &str) {
    std::fs::copy(pki(cert), site.path("chain.pem")).unwrap();
    std::fs::copy(pki(key), site.path("key.pem")).unwrap();
}

/// A gateway that speaks TLS with the first certificate.
pub fn encrypted(more: &str) -> Gateway {
    let site = Site::new().extra(&format!("{TLS}\n{more}"));
    install(&site, "first.pem", "first-key.pem");
    site.start()
}

/// Shakes hands as a client that trusts the tests' authority.
pub async fn connect(
    addr: SocketAddr,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio::time::timeout(client::PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("a handshake in time")
}

pub async fn connected(gateway: &Gateway, alpn: &[&str]) -> TlsStream<TcpStream> {
    connect(gateway.public(), alpn, rustls::ALL_VERSIONS).await.unwrap()
}

fn certificate(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn file(name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(pki(name)).unwrap().to_vec()
}

#[tokio::test]
async fn clients_speak_either_http_over_either_tls() {
    let gateway = encrypted("");
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        for alpn in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
            let stream = connect(gateway.public(), alpn, versions).await.unwrap();
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            assert_eq!(http2, alpn.contains(&"h2"));
            let request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
            let reply = if http2 { client::http2_over(stream, request).await } else { Http1::over(stream).await.send(request).await };
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }
    // A kept connection, a large body, a stream.
    let mut kept = Http1::over(connected(&gateway, &[]).await).await;
    let large = json!({ "query": "q", "attachments": ["长".repeat(300_000)] });
    assert_eq!(kept.send(gateway.chat("alpha", "u", &large)).await.json()["seq"], 7);
    let stream = kept.send(gateway.chat("alpha", "u", &json!({ "query": "q", "stream": true }))).await;
    assert!(stream.text().contains("event: done"), "{}", stream.text());
    assert!(connect(gateway.public(), &["smtp"], rustls::ALL_VERSIONS).await.is_err());
    wait_until(|| gateway.running().gateway.metrics.tls_failures.get() == 1).await;
}

#[tokio::test]
async fn a_reload_takes_a_changed_certificate_for_new_connections() {
    let gateway = encrypted("");
    let old = connected(&gateway, &[]).await;
    assert_eq!(certificate(&old), file("first.pem"));
    // The first of the year 2120.
    assert_eq!(gateway.metric(EXPIRY).await, 4_733_510_400.0);
    let mut old = Http1::over(old).await;
    let before = gateway.admin("GET", "/status").await.json();
    install(&gateway.site, "second.pem", "second-key.pem");
    let report = gateway.admin("POST", "/reload").await.json();
    assert_ne!(report["config_hash"], before["config_hash"]);
    let new = connected(&gateway, &[]).await;
    assert_eq!(certificate(&new), file("second.pem"));
    assert_eq!(old.send(gateway.chat("alpha", "u", &json!({ "query": "q" }))).await.status, 200, "old connections go on");

    // What does not fit is refused with its place, and what is in force stays.
    let place = |line: &str| format!("config.yaml:{}:", gateway.site.config().lines().position(|l| l.starts_with(line)).unwrap() + 1);
    for (cert, key, says) in [
        ("first.pem", "second-key.pem", "the key is not the certificate's"),
        ("second-key.pem", "second-key.pem", "there is no certificate in it"),
        ("second.pem", "second.pem", "there is no private key in it"),
    ] {
        install(&gateway.site, cert, key);
        let refused = gateway.admin("POST", "/reload").await;
        assert_eq!(refused.status, 422);
        let problems = refused.json()["problems"].to_string();
        assert!(problems.contains(&place("tls:")) && problems.contains(says) && problems.contains("hint"), "{problems}");
    }
    std::fs::remove_file(gateway.site.path("key.pem")).unwrap();
    let problems = gateway.admin("POST", "/reload").await.json()["problems"].to_string();
    assert!(problems.contains("`tls.key` names") || problems.contains("cannot be read"), "{problems}");
    assert_eq!(certificate(&connected(&gateway, &[]).await), file("second.pem"));
}

#[tokio::test]
async fn tls_is_turned_off_and_on_by_a_reload() {
    let gateway = encrypted("");
    let config = gateway.site.config();
    gateway.site.write(&config.replace(TLS, ""));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!(gateway.ask("alpha", "u", "in the clear").await["seq"], 1);
    assert!(!gateway.admin("GET", "/metrics").await.text().contains(&format!("\n{EXPIRY} ")));
    gateway.site.write(&config);
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    let reply = Http1::over(connected(&gateway, &[]).await).await.send(gateway.chat("alpha", "u", &json!({ "query": "q" }))).await;
    assert_eq!(reply.json()["seq"], 2);
}

#[tokio::test]
async fn who_does_not_come_to_speak_tls_or_http_is_let_go() {
    let gateway = encrypted("limits: { header_deadline: 150ms, keepalive: 1s }");
    // Nothing, the beginning of a hello, and another protocol.
    assert_eq!(client::raw(gateway.public(), b"").await, "");
    assert_eq!(client::raw(gateway.public(), b"\x16\x03\x01\x02\x00\x01\x00").await, "");
    assert!(!client::raw(gateway.public(), b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.contains("HTTP"));
    wait_until(|| gateway.running().gateway.metrics.tls_failures.get() == 3).await;
    // Hands were shaken, and then: silence, half a preface, another preface, half a head.
    for (alpn, words) in [
        (&["h2"][..], &b""[..]),
        (&["h2"], b"PRI * HTTP/2.0\r\n"),
        (&["h2"], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        (&["h2"], b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"),
        (&["http/1.1"], b""),
        (&["http/1.1"], b"GET / HTTP/1.1\r\nhost:"),
    ] {
        let mut stream = connected(&gateway, alpn).await;
        stream.write_all(words).await.unwrap();
        assert_eq!(client::rest(stream).await, "", "{alpn:?} {words:?}");
    }
    // The preface of a protocol that was not agreed upon is no request.
    let mut stream = connected(&gateway, &["http/1.1"]).await;
    stream.write_all(frames::PREFACE).await.unwrap();
    assert!(client::rest(stream).await.starts_with("HTTP/1.1 400 "));
    wait_until(|| gateway.running().gateway.connections.is_empty()).await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_first_still_reads_its_answer() {
    let gateway = encrypted("");
    let mut stream = connected(&gateway, &[]).await;
    let token = gateway.token("alpha", "u");
    let head = format!("POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n");
    stream.write_all(format!("{head}content-length: 13\r\n\r\n{{\"query\":\"q\"}}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    // Ends with the server's goodbye, not with a cut.
    tokio::time::timeout(client::PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"seq\":1"), "{answer}");
}
