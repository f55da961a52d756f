//! A real Prometheus that scrapes a test's gateway.

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use tokio::process::Command;

use super::{
    client::{self, PATIENCE, Reply},
    harness::Gateway,
    metrics::root,
    tool,
};

/// A Prometheus of the test's own that scrapes one gateway.
pub struct Prometheus {
    address: std::net::SocketAddr,
    _process: tokio::process::Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    pub async fn start(gateway: &Gateway) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = std::fs::read_to_string(root().join("deploy/prometheus/prometheus.yaml")).unwrap();
        let config = config.replace("127.0.0.1:9901", &gateway.running().admin.unwrap().to_string()).replace("15s", "200ms");
        std::fs::write(folder.path().join("prometheus.yaml"), config).unwrap();
        std::fs::copy(root().join("deploy/prometheus/alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
        // It does not say which port it got, so one is looked for; should somebody else take it meanwhile, the next try has another.
        for _ in 0..5 {
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = Command::new(tool::find("prometheus"));
            command.arg(format!("--web.listen-address={address}")).args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
            command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let mut process = command.spawn().unwrap();
            while process.try_wait().unwrap().is_none() {
                if tokio::net::TcpStream::connect(address).await.is_ok() {
                    return Self { address, _process: process, _folder: folder };
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("Prometheus does not start");
    }

    pub async fn get(&self, path: &str) -> Reply {
        let request = http::Request::get(path).header("host", "test").body(Full::<Bytes>::default()).unwrap();
        client::http1(self.address, request).await
    }

    /// Asks until the first value of the answer is as expected.
    pub async fn wait_for(&self, query: &str, expected: impl Fn(f64) -> bool) {
        let path = format!("/api/v1/query?{}", form(&[("query", query)]));
        let mut last = Value::Null;
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                // It answers 503 while it starts.
                last = serde_json::from_slice(&self.get(&path).await.body).unwrap_or_default();
                let value = last["data"]["result"][0]["value"][1].as_str().and_then(|v| v.parse().ok());
                if value.is_some_and(&expected) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(asked.await.is_ok(), "{query}: {last}");
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let encode = |text: &str| text.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:02X}", c as u32) }).collect::<String>();
    pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}
