//! `fengda proxy` before an application as people write them: what its own client sees is the same with and without it.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use super::{
    bad_upstreams::{ALL, Bad, Fault, nowhere},
    client::{self, PATIENCE},
    process::{Process, output},
    turns::wait_until,
};

fn python() -> Command {
    let root: PathBuf = [env!("CARGO_MANIFEST_DIR"), ".."].iter().collect();
    let python = root.join("target/tools/py/bin/python");
    assert!(python.exists(), "{} is missing: run `make tools`", python.display());
    let mut command = Command::new(python);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/app", name].iter().collect()
}

/// Starts the application and returns it with its URL.
async fn application() -> (Child, String) {
    let mut app = python().arg(script("server.py")).spawn().unwrap();
    let mut lines = BufReader::new(app.stderr.take().unwrap()).lines();
    let url = tokio::time::timeout(PATIENCE, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the application to start");
            if let Some((_, rest)) = line.split_once("running on ") {
                return rest.split_whitespace().next().unwrap().to_owned();
            }
        }
    });
    let url = url.await.expect("the application to start in time");
    // It goes on logging.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (app, url)
}

async fn checks(url: &str) -> Output {
    python().arg(script("client.py")).arg(url).output().await.unwrap()
}

#[tokio::test]
async fn an_application_behind_the_proxy_passes_its_own_client_s_checks_unchanged() {
    let (_app, url) = application().await;
    let folder = tempfile::tempdir().unwrap();
    let proxy = Process::spawn(&["proxy", &url, "--listen", "127.0.0.1:0"], folder.path()).await;
    let direct = checks(&url).await;
    assert!(direct.status.success(), "{}", String::from_utf8_lossy(&direct.stderr));
    let through = checks(&format!("http://{}", proxy.public)).await;
    assert!(through.status.success(), "{}", String::from_utf8_lossy(&through.stderr));
    assert_eq!(String::from_utf8_lossy(&through.stdout), String::from_utf8_lossy(&direct.stdout));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
}

#[tokio::test]
async fn the_proxy_keeps_nothing_open_after_any_fault() {
    for fault in ALL {
        let bad = Bad::start(fault).await;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("http://{}", bad.addr);
        let mut proxy = Process::spawn(&["proxy", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], folder.path()).await;
        let before = open_files(&proxy);
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut client = TcpStream::connect(proxy.public).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
            open.push(client);
        }
        bad.wait_for(20).await;
        drop(open);
        // Connections whose framing the fault did not touch may be kept.
        let kept = if matches!(fault, Fault::Failure | Fault::Long) { 20 } else { 0 };
        wait_until(|| open_files(&proxy) <= before + kept).await;
        proxy.signal("-TERM");
        assert_eq!(proxy.exit_code().await, Some(0), "{fault:?}");
    }
}

fn open_files(process: &Process) -> usize {
    std::fs::read_dir(Path::new("/proc").join(process.id().to_string()).join("fd")).unwrap().count()
}

#[tokio::test]
async fn the_proxy_says_what_is_wrong_with_its_arguments() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (&["proxy", "nonsense"][..], "`nonsense` is no URL"),
        (&["proxy", "http://127.0.0.1:1/base"], "without a path"),
        (&["proxy", "ftp://127.0.0.1"], "begins with `http://` or `https://`"),
        (&["proxy", "http://127.0.0.1:1", "--listen", "here"], "invalid"),
    ] {
        let output = output(arguments, folder.path()).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(said), "{said} in {stderr}");
    }
}

#[tokio::test]
async fn the_proxy_has_an_admin_listener_only_if_asked() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = nowhere().await;
    let url = format!("http://{nowhere}");
    let without = Process::spawn(&["proxy", &url, "--listen", "127.0.0.1:0"], folder.path()).await;
    assert_eq!(without.admin, None);
    let with = Process::spawn(&["proxy", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], folder.path()).await;
    let request = || http::Request::get("/status").header("host", "t").body(http_body_util::Full::default()).unwrap();
    let status = client::http1(with.admin.unwrap(), request()).await.json();
    assert_eq!(status["upstreams"]["app"][0]["endpoint"], nowhere.to_string());
    client::http1(with.public, request()).await.error(502, "upstream_unreachable");
}
